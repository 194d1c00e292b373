//! What a package's logits are compared with.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::as_conversions,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::BTreeMap;
use std::path::Path;

use genai_architectures::{DecoderSpec, Rope};
use genai_checkpoint::{Adapter, Checkpoint};

use crate::interpreter::{Adapted, Weights};
use crate::npz::{self, Array, Elements};
use crate::{Error, Matrix, Result, argmax, interpreter};

/// Logits that are held to be right, for some prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Where they come from, for the report.
    pub name: String,
    /// In the order of their names; never empty.
    pub prompts: Vec<PromptReference>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PromptReference {
    pub name: String,
    /// The prompt, never empty.
    pub input_ids: Vec<u32>,
    /// `[input_ids.len(), vocab_size]`, all finite.
    pub logits: Matrix,
    /// The tokens that greedy search appends to the prompt; may be empty.
    pub greedy: Vec<u32>,
}

/// A prompt, and the tokens that a package puts behind it in greedy search.
#[derive(Debug, Clone, PartialEq)]
pub struct Continued {
    pub name: String,
    pub prompt: Vec<u32>,
    pub continuation: Vec<u32>,
}

impl Continued {
    /// The tokens to be read: the last one of the continuation says nothing of the others.
    fn sequence(&self, spec: &DecoderSpec) -> Vec<u32> {
        let read = self.continuation.split_last().map_or(&[][..], |(_, read)| read);
        let whole = [self.prompt.as_slice(), read].concat();
        let same_rope =
            |rope: &Rope| rope.inverse_frequencies(self.prompt.len()) == rope.inverse_frequencies(whole.len());
        if spec.ropes.iter().all(same_rope) { whole } else { self.prompt.clone() }
    }

    /// `logits` are those of the sequence.
    fn reference(&self, logits: &Matrix) -> Result<PromptReference> {
        let mut rows = logits.data().chunks_exact(logits.cols().max(1));
        let of_prompt: Vec<f32> = rows.by_ref().take(self.prompt.len()).flatten().copied().collect();
        let of_prompt = Matrix::new(self.prompt.len(), logits.cols(), of_prompt)?;
        let last = of_prompt.last_row();
        let chosen = std::iter::once(last).chain(rows).take(self.continuation.len());
        let greedy = chosen.map(|row| argmax(row).and_then(|token| u32::try_from(token).ok())).collect::<Option<_>>();
        let problem = "the reference's own logits hold a value that is not a number";
        Ok(PromptReference {
            name: self.name.clone(),
            input_ids: self.prompt.clone(),
            logits: of_prompt,
            greedy: greedy.ok_or_else(|| Error::reference(self.name.clone(), problem))?,
        })
    }
}

impl Reference {
    /// Reads a file that `numpy.savez` wrote with three arrays for each prompt: `NAME.input_ids` i64 `[S]`,
    /// `NAME.logits` f32 `[S, V]` and `NAME.greedy` i64 `[steps]`.
    ///
    /// Errors: a file that is not an npz file, an array that is missing, unknown, of another dtype or shape, ids
    /// outside the vocabulary, logits that are not finite, prompts of different vocabularies, no prompt at all.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut arrays = npz::read(path)?;
        let names: Vec<String> =
            arrays.keys().filter_map(|key| key.strip_suffix(".input_ids")).map(str::to_owned).collect();
        let prompts = names.iter().map(|prompt| take_prompt(&name, prompt, &mut arrays)).collect::<Result<Vec<_>>>()?;
        if let Some(unknown) = arrays.keys().next() {
            return Err(Error::reference(name, format!("array `{unknown}` belongs to no prompt")));
        }
        Self { name, prompts }.checked()
    }

    /// The reference that the spec and the checkpoint themselves give, in one forward pass of the [`interpreter`] over
    /// prompts and continuations: it says of each token of a continuation what it would have chosen in its place. Up to
    /// the first token that differs this is greedy search.
    ///
    /// Where a continuation is long enough to change the rope of its prompt, it is left out. `adapter` is one of the
    /// checkpoint's, whose updates are added.
    pub fn interpret(
        spec: &DecoderSpec,
        checkpoint: &Checkpoint,
        adapter: Option<&Adapter>,
        continued: &[Continued],
    ) -> Result<Self> {
        let weights = checkpoint.renamed(|stored| spec.name_of(stored))?;
        let adapted = adapter.map(|adapter| Adapted::new(spec, &weights, adapter));
        let weights: &dyn Weights = match &adapted {
            Some(adapted) => adapted,
            None => &weights,
        };
        let sequences: Vec<Vec<u32>> = continued.iter().map(|continued| continued.sequence(spec)).collect();
        let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let logits = interpreter::logits(spec, weights, &views)?;
        let prompts = continued.iter().zip(logits).map(|(continued, logits)| continued.reference(&logits));
        Self { name: "f32 interpreter".to_owned(), prompts: prompts.collect::<Result<_>>()? }.checked()
    }

    pub(crate) fn checked(self) -> Result<Self> {
        let Some(first) = self.prompts.first() else {
            return Err(Error::reference(self.name, "has no prompt; expected arrays named NAME.input_ids"));
        };
        let vocab_size = first.logits.cols();
        for prompt in &self.prompts {
            let at = || format!("{}: {}", self.name, prompt.name);
            if prompt.input_ids.is_empty() {
                return Err(Error::reference(at(), "the prompt is empty"));
            }
            if prompt.logits.rows() != prompt.input_ids.len() || prompt.logits.cols() != vocab_size {
                let problem = format!(
                    "logits have shape [{}, {}], expected [{}, {vocab_size}]",
                    prompt.logits.rows(),
                    prompt.logits.cols(),
                    prompt.input_ids.len()
                );
                return Err(Error::reference(at(), problem));
            }
            let mut ids = prompt.input_ids.iter().chain(&prompt.greedy);
            if let Some(id) = ids.find(|&&id| usize::try_from(id).is_ok_and(|id| id >= vocab_size)) {
                return Err(Error::reference(at(), format!("id {id} is outside the vocabulary of {vocab_size}")));
            }
            if let Some(value) = prompt.logits.data().iter().find(|value| !value.is_finite()) {
                return Err(Error::reference(at(), format!("logits hold {value}, expected finite values")));
            }
        }
        Ok(self)
    }
}

fn take_prompt(file: &str, prompt: &str, arrays: &mut BTreeMap<String, Array>) -> Result<PromptReference> {
    let mut take = |part: &str| -> Result<(Array, String)> {
        let name = format!("{prompt}.{part}");
        let problem = || Error::reference(file, format!("array `{name}` is missing"));
        Ok((arrays.remove(&name).ok_or_else(problem)?, format!("{file}: {name}")))
    };
    let input_ids = ids(take("input_ids")?)?;
    let logits = logits(take("logits")?)?;
    let greedy = ids(take("greedy")?)?;
    Ok(PromptReference { name: prompt.to_owned(), input_ids, logits, greedy })
}

fn ids((array, name): (Array, String)) -> Result<Vec<u32>> {
    let Elements::I64(values) = &array.elements else {
        return Err(Error::reference(name, "is f32, expected i64"));
    };
    if array.shape.len() != 1 {
        return Err(Error::reference(name, format!("has shape {:?}, expected one dimension", array.shape)));
    }
    values
        .iter()
        .map(|&id| {
            u32::try_from(id).map_err(|_| Error::reference(name.as_str(), format!("holds {id}, expected a token id")))
        })
        .collect()
}

fn logits((array, name): (Array, String)) -> Result<Matrix> {
    let Elements::F32(values) = array.elements else {
        return Err(Error::reference(name, "is i64, expected f32"));
    };
    let [rows, cols] = array.shape[..] else {
        return Err(Error::reference(name, format!("has shape {:?}, expected [S, V]", array.shape)));
    };
    Matrix::new(rows, cols, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::npz::tests::{header, npy, npz};

    fn ids_npy(ids: &[i64]) -> Vec<u8> {
        let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        npy(&header("<i8", &format!("({},)", ids.len())), &data)
    }

    fn logits_npy(rows: usize, cols: usize, values: &[f32]) -> Vec<u8> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        npy(&header("<f4", &format!("({rows}, {cols})")), &data)
    }

    fn read(entries: &[(&str, Vec<u8>)]) -> Result<Reference> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        std::fs::write(&path, npz(entries)).unwrap();
        Reference::read(&path)
    }

    #[test]
    fn reads_prompts_by_name() {
        let reference = read(&[
            ("b.input_ids.npy", ids_npy(&[1])),
            ("b.logits.npy", logits_npy(1, 2, &[0.5, -0.5])),
            ("b.greedy.npy", ids_npy(&[])),
            ("a.input_ids.npy", ids_npy(&[0, 1])),
            ("a.logits.npy", logits_npy(2, 2, &[1.0, 2.0, 3.0, 4.0])),
            ("a.greedy.npy", ids_npy(&[1, 0, 1])),
        ])
        .unwrap();
        let [a, b] = &reference.prompts[..] else { panic!("{} prompts", reference.prompts.len()) };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("a", "b"));
        assert_eq!((&a.input_ids[..], &a.greedy[..]), (&[0, 1][..], &[1, 0, 1][..]));
        assert_eq!(a.logits.row(1), [3.0, 4.0]);
        assert_eq!(b.logits.row(0), [0.5, -0.5]);
        assert!(b.greedy.is_empty());
    }

    #[test]
    fn every_contradiction_is_named() {
        let good = || {
            BTreeMap::from([
                ("a.input_ids.npy", ids_npy(&[0, 1])),
                ("a.logits.npy", logits_npy(2, 2, &[1.0, 2.0, 3.0, 4.0])),
                ("a.greedy.npy", ids_npy(&[1])),
            ])
        };
        let cases: [(&str, Option<Vec<u8>>, &str); 12] = [
            ("a.greedy.npy", None, "array `a.greedy` is missing"),
            ("a.logits.npy", None, "array `a.logits` is missing"),
            ("a.input_ids.npy", None, "array `a.greedy` belongs to no prompt"),
            ("other.npy", Some(ids_npy(&[1])), "array `other` belongs to no prompt"),
            ("readme.txt", Some(vec![]), "is not an array"),
            ("a.input_ids.npy", Some(ids_npy(&[0, 1, 1])), "logits have shape [2, 2], expected [3, 2]"),
            ("a.input_ids.npy", Some(ids_npy(&[0, -1])), "holds -1, expected a token id"),
            ("a.input_ids.npy", Some(ids_npy(&[0, 2])), "id 2 is outside the vocabulary of 2"),
            ("a.greedy.npy", Some(ids_npy(&[5_000_000_000])), "holds 5000000000, expected a token id"),
            ("a.greedy.npy", Some(logits_npy(1, 1, &[0.0])), "is f32, expected i64"),
            ("a.logits.npy", Some(ids_npy(&[0, 1])), "is i64, expected f32"),
            ("a.logits.npy", Some(logits_npy(2, 2, &[1.0, f32::NAN, 3.0, 4.0])), "logits hold NaN"),
        ];
        for (entry, bytes, expected) in cases {
            let mut entries = good();
            match bytes {
                Some(bytes) => entries.insert(entry, bytes),
                None => entries.remove(entry),
            };
            let error = read(&entries.into_iter().collect::<Vec<_>>()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Reference);
            assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
        }
        assert!(read(&[]).unwrap_err().to_string().contains("has no prompt"));
    }
}
