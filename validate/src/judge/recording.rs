//! A reference as a file: logits of prompts, and possibly what passes between layers.
//!
//! A safetensors file with, for each prompt, tensors as in `reference.npz`, and further ones that may be left out:
//!
//! | tensor | |
//! | --- | --- |
//! | `NAME.input_ids` | `[S]`, I64 or I32 |
//! | `NAME.logits` | `[S, V]`, F32, F16 or BF16 |
//! | `NAME.greedy` | `[steps]`, I64 or I32: the tokens of greedy search behind the prompt |
//! | `NAME.layers.N.key`, `.value` | `[S, heads * head size]`: the N-th cache, keys turned |
//! | `NAME.layers.N.residual` | `[S, hidden size]`: the stream that enters the layer |
//!
//! The metadata entry `genai-build` is a JSON object: `source` says where the logits come from, `texts` gives the text of
//! prompts by their names. In place of names there may be the two tensors `input_ids` `[N, S]` and `logits` `[N, S, V]`
//! of one length for all.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::load::Loaded;
use super::logits::GREEDY_STEPS;
use super::{Text, layers};
use crate::interpreter::LayerTrace;
use crate::{Error, LoadOptions, Matrix, Precision, PromptReference, Reference, Result, Runtime, continue_greedily};

/// Files of recorded logits are small; this only keeps a hostile one from exhausting memory.
const LARGEST: u64 = 8 << 30;

/// The entry of the metadata that is ours.
const ABOUT: &str = "genai-build";

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct About {
    source: Option<String>,
    texts: BTreeMap<String, String>,
}

/// What a package is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    pub reference: Reference,
    /// Of the first prompt; empty where they are not known.
    pub layers: Vec<LayerTrace>,
    /// Texts of prompts, by their names, where they are known.
    pub texts: BTreeMap<String, String>,
}

impl Recording {
    /// Reads `.npz` as [`Reference::read`], anything else as safetensors.
    ///
    /// # Errors
    /// [`Error::Reference`] for a file that breaks its format, lacks a tensor, or has one of another type or shape;
    /// [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "npz") {
            let reference = Reference::read(path)?;
            return Ok(Self {
                reference: Reference { name: called(path), ..reference },
                layers: Vec::new(),
                texts: BTreeMap::new(),
            });
        }
        let size = path.metadata().map_err(Error::io(path))?.len();
        if size > LARGEST {
            return Err(Error::reference(called(path), format!("has {size} bytes, expected at most {LARGEST}")));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::from_bytes(&bytes, &called(path))
    }

    /// Reads a safetensors file; reports call it by the name.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        let refuse =
            |error: safetensors::SafeTensorError| Error::reference(name, format!("is no safetensors file: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get(ABOUT));
        let about: About = match about.map(|text| serde_json::from_str(text)) {
            None => About::default(),
            Some(Ok(about)) => about,
            Some(Err(error)) => return Err(Error::reference(name, format!("metadata `{ABOUT}`: {error}"))),
        };
        let tensors = SafeTensors::deserialize(bytes).map_err(refuse)?;
        let file = File { name, tensors: &tensors };
        let prompts = match tensors.tensor("input_ids") {
            Ok(_) => file.table()?,
            Err(_) => file.prompts()?,
        };
        let source = about.source.map_or_else(|| name.to_owned(), |source| format!("{name} ({source})"));
        let reference = Reference { name: source, prompts }.checked()?;
        let layers = match reference.prompts.first() {
            Some(prompt) => file.layers(prompt)?,
            None => Vec::new(),
        };
        Ok(Self { layers, texts: about.texts, reference })
    }

    /// Writes what [`Recording::read`] reads. The same recording gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_bytes(&called(path))?).map_err(Error::io(path))
    }

    /// What [`Self::write`] writes; errors call it by the name.
    ///
    /// # Errors
    /// [`Error::Reference`] for prompts that no safetensors file can hold.
    pub fn to_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let ids = |ids: &[u32]| {
            let bytes = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
            (Dtype::I64, vec![ids.len()], bytes)
        };
        let matrix = |matrix: &Matrix| {
            let bytes = matrix.data().iter().flat_map(|value| value.to_le_bytes()).collect();
            (Dtype::F32, vec![matrix.rows(), matrix.cols()], bytes)
        };
        for prompt in &self.reference.prompts {
            let name = &prompt.name;
            tensors.insert(format!("{name}.input_ids"), ids(&prompt.input_ids));
            tensors.insert(format!("{name}.logits"), matrix(&prompt.logits));
            tensors.insert(format!("{name}.greedy"), ids(&prompt.greedy));
        }
        if let Some(prompt) = self.reference.prompts.first() {
            for (index, layer) in self.layers.iter().enumerate() {
                for (tap, tensor) in [("key", &layer.key), ("value", &layer.value), ("residual", &layer.residual)] {
                    if let Some(tensor) = tensor {
                        tensors.insert(format!("{}.layers.{index}.{tap}", prompt.name), matrix(tensor));
                    }
                }
            }
        }
        let refuse = |error: safetensors::SafeTensorError| Error::reference(name, error.to_string());
        let mut views = Vec::new();
        for (name, (dtype, shape, bytes)) in &tensors {
            views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(refuse)?));
        }
        let about = About { source: Some(self.reference.name.clone()), texts: self.texts.clone() };
        let about = serde_json::to_string(&about).map_err(|error| Error::reference(name, error.to_string()))?;
        // One entry: a map of several would be written in another order each time.
        let metadata = HashMap::from([(ABOUT.to_owned(), about)]);
        safetensors::serialize(views, Some(metadata)).map_err(refuse)
    }
}

/// What a report says of a file: its name without the folder, which is of one machine.
fn called(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

struct File<'a> {
    name: &'a str,
    tensors: &'a SafeTensors<'a>,
}

impl File<'_> {
    fn prompts(&self) -> Result<Vec<PromptReference>> {
        let mut names: Vec<&str> =
            self.tensors.names().into_iter().filter_map(|name| name.strip_suffix(".input_ids")).collect();
        names.sort_unstable();
        let prompt = |name: &str| {
            let greedy = format!("{name}.greedy");
            Ok(PromptReference {
                name: name.to_owned(),
                input_ids: self.ids(&format!("{name}.input_ids"))?.1,
                logits: self.matrix(&format!("{name}.logits"))?,
                greedy: if self.tensors.tensor(&greedy).is_ok() { self.ids(&greedy)?.1 } else { Vec::new() },
            })
        };
        names.into_iter().map(prompt).collect()
    }

    /// Prompts of one length, named by their number.
    fn table(&self) -> Result<Vec<PromptReference>> {
        let (shape, ids) = self.ids("input_ids")?;
        let (logits_shape, logits) = self.floats("logits")?;
        let ([count, length], [rows, positions, vocab]) = (shape.as_slice(), logits_shape.as_slice()) else {
            let problem = format!(
                "input_ids and logits have shapes {shape:?} and {logits_shape:?}, expected [N, S] and [N, S, V]"
            );
            return Err(Error::reference(self.name, problem));
        };
        if (count, length) != (rows, positions) || *length == 0 || *vocab == 0 {
            let problem =
                format!("input_ids and logits have shapes {shape:?} and {logits_shape:?}, expected the same N and S");
            return Err(Error::reference(self.name, problem));
        }
        let prompts = ids.chunks_exact(*length).zip(logits.chunks_exact(length.saturating_mul(*vocab)));
        prompts
            .enumerate()
            .map(|(index, (ids, logits))| {
                Ok(PromptReference {
                    name: format!("{index:04}"),
                    input_ids: ids.to_vec(),
                    logits: Matrix::new(*length, *vocab, logits.to_vec())?,
                    greedy: Vec::new(),
                })
            })
            .collect()
    }

    fn layers(&self, prompt: &PromptReference) -> Result<Vec<LayerTrace>> {
        let tap = |layer: usize, tap: &str| -> Result<Option<Matrix>> {
            let name = format!("{}.layers.{layer}.{tap}", prompt.name);
            if self.tensors.tensor(&name).is_err() {
                return Ok(None);
            }
            let matrix = self.matrix(&name)?;
            if matrix.rows() != prompt.input_ids.len() {
                let problem =
                    format!("tensor `{name}` has {} rows, expected {}", matrix.rows(), prompt.input_ids.len());
                return Err(Error::reference(self.name, problem));
            }
            Ok(Some(matrix))
        };
        let prefix = format!("{}.layers.", prompt.name);
        let numbers = self
            .tensors
            .names()
            .into_iter()
            .filter_map(|name| name.strip_prefix(&prefix)?.split_once('.')?.0.parse::<usize>().ok());
        let count = numbers.max().map_or(0, |last| last.saturating_add(1));
        // A number out of a file is no reason to make that many layers.
        let count = count.min(self.tensors.len());
        (0..count)
            .map(|layer| {
                Ok(LayerTrace {
                    key: tap(layer, "key")?,
                    value: tap(layer, "value")?,
                    residual: tap(layer, "residual")?,
                })
            })
            .collect()
    }

    fn view(&self, tensor: &str) -> Result<TensorView<'_>> {
        self.tensors.tensor(tensor).map_err(|_| Error::reference(self.name, format!("tensor `{tensor}` is missing")))
    }

    fn ids(&self, tensor: &str) -> Result<(Vec<usize>, Vec<u32>)> {
        let view = self.view(tensor)?;
        let ids: Option<Vec<u32>> = match view.dtype() {
            Dtype::I64 => {
                view.data().as_chunks().0.iter().map(|b| u32::try_from(i64::from_le_bytes(*b)).ok()).collect()
            }
            Dtype::I32 => {
                view.data().as_chunks().0.iter().map(|b| u32::try_from(i32::from_le_bytes(*b)).ok()).collect()
            }
            other => {
                let problem = format!("tensor `{tensor}` is {other:?}, expected I64 or I32");
                return Err(Error::reference(self.name, problem));
            }
        };
        let ids =
            ids.ok_or_else(|| Error::reference(self.name, format!("tensor `{tensor}` holds what is no token id")))?;
        Ok((view.shape().to_vec(), ids))
    }

    fn floats(&self, tensor: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let view = self.view(tensor)?;
        let values = match view.dtype() {
            Dtype::F32 => view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F16 => view.data().as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
            Dtype::BF16 => view.data().as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
            other => {
                let problem = format!("tensor `{tensor}` is {other:?}, expected F32, F16 or BF16");
                return Err(Error::reference(self.name, problem));
            }
        };
        Ok((view.shape().to_vec(), values))
    }

    fn matrix(&self, tensor: &str) -> Result<Matrix> {
        let (shape, values) = self.floats(tensor)?;
        let [rows, cols] = shape[..] else {
            return Err(Error::reference(
                self.name,
                format!("tensor `{tensor}` has shape {shape:?}, expected two sizes"),
            ));
        };
        Matrix::new(rows, cols, values)
    }
}

/// Runs a package on texts and records what it gives: the reference for another one.
///
/// # Errors
/// Those of loading and running; [`Error::Unsupported`] for a graph that gives the last row of logits only.
pub fn record(folder: &Path, texts: &[Text], runtime: &Runtime, options: LoadOptions) -> Result<Recording> {
    let (loaded, ..) = Loaded::load(folder, runtime, options, Some(Precision::Fp32))?;
    let model: &Arc<_> = &loaded.model;
    let (mut prompts, mut recorded) = (Vec::new(), BTreeMap::new());
    let mut first = Vec::new();
    for text in texts {
        let mut ids = loaded.words.encode(&text.text)?;
        ids.truncate(model.context_length().saturating_sub(GREEDY_STEPS));
        if ids.is_empty() {
            continue;
        }
        let logits = loaded.sequence(ids.len())?.append(&ids)?;
        if logits.rows() != ids.len() {
            let what = "a reference that gives the logits of the last token only";
            return Err(Error::unsupported(what, "packages with logits of all tokens"));
        }
        let greedy = continue_greedily(model, &ids, GREEDY_STEPS, crate::CacheMode::plainest(model), None)?;
        if prompts.is_empty() {
            first = ids.clone();
        }
        recorded.insert(text.name.clone(), text.text.clone());
        prompts.push(PromptReference { name: text.name.clone(), input_ids: ids, logits, greedy });
    }
    let layers = layers::of_package(&loaded, &first).unwrap_or_default();
    let name = format!("package on ONNX Runtime {}", runtime.version.as_deref().unwrap_or("of unknown version"));
    let reference = Reference { name, prompts }.checked()?;
    Ok(Recording { reference, layers, texts: recorded })
}
