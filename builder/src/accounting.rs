//! Do the tensors of a checkpoint match the plan, one to one? Asked of the headers, before any weight is read.

use std::collections::BTreeMap;

use genai_architectures::DecoderSpec;
use genai_checkpoint::{Checkpoint, Dtype, Tensor};

use crate::{Error, Plan, Result, plan::Sink};

/// A tensor that must hold the same bytes as another, since the model uses one for both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Copy {
    pub(crate) copy: String,
    pub(crate) original: String,
}

/// What became of the tensors that the plan does not read.
#[derive(Debug, Default)]
pub(crate) struct Accounting {
    /// Stored copies whose equality the data must show.
    pub(crate) copies: Vec<Copy>,
    /// Names in the file of tensors of the model that the package leaves out.
    pub(crate) left_out: Vec<String>,
    /// Of tensors that are no part of the model: those that its family knows and those that the user allowed, by the
    /// pattern that did.
    pub(crate) known: Vec<String>,
    pub(crate) allowed: Vec<(String, String)>,
}

/// Checks that every tensor that the plan reads is there in the right shape and a float dtype, and that nothing is left
/// over but what the whole model reads, and what matches a pattern of `allow_unused`, in which `*` stands for anything.
/// And that the jobs fill every stretch of the data file.
///
/// # Errors
/// All problems at once.
pub(crate) fn account(
    plan: &Plan,
    spec: &DecoderSpec,
    whole: &BTreeMap<String, Vec<u64>>,
    checkpoint: &Checkpoint,
    allow_unused: &[String],
) -> Result<Accounting> {
    check_slots(plan)?;
    let mut problems = Vec::new();
    for (name, shape) in &plan.tensors {
        match checkpoint.tensor(name) {
            None => problems.push(format!("tensor {name:?} is missing, expected shape {shape:?}")),
            Some(tensor) => problems.extend(mismatch(tensor, shape)),
        }
    }
    let mut accounting = Accounting::default();
    let mut unused = Vec::new();
    for tensor in checkpoint.tensors() {
        let stored = tensor.stored_name();
        if plan.tensors.contains_key(&tensor.name) || spec.constants.iter().any(|(name, _)| *name == tensor.name) {
            continue;
        }
        if whole.contains_key(&tensor.name) {
            accounting.left_out.push(stored.to_owned());
        } else if spec.unused_tensors.iter().any(|pattern| pattern.matches(&tensor.name)) {
            accounting.known.push(stored.to_owned());
        } else if let Some((copy, original)) = spec.copies.iter().find(|(copy, _)| *copy == tensor.name) {
            accounting.copies.push(Copy { copy: copy.clone(), original: original.clone() });
        } else if let Some(pattern) = allow_unused.iter().find(|pattern| matches(pattern, stored)) {
            accounting.allowed.push((stored.to_owned(), pattern.clone()));
        } else {
            unused.push(stored);
        }
    }
    for pattern in allow_unused {
        if !accounting.allowed.iter().any(|(name, _)| matches(pattern, name)) {
            problems.push(format!("--allow-unused {pattern:?} matches no tensor that would be unused"));
        }
    }
    // A foreign checkpoint has thousands of strangers; a few show which kind it is.
    const SHOWN: usize = 8;
    problems.extend(unused.iter().take(SHOWN).map(|name| format!("tensor {name:?} is used by no part of the model")));
    if unused.len() > SHOWN {
        problems.push(format!("{} more tensors are used by no part of the model", unused.len() - SHOWN));
    }
    if problems.is_empty() { Ok(accounting) } else { Err(Error::Tensors { problems }) }
}

/// Fails unless every initializer is made by exactly one job: a defect of the lowering otherwise.
fn check_slots(plan: &Plan) -> Result<()> {
    let mut makers = vec![0_usize; plan.slots.len()];
    for job in &plan.jobs {
        let slots = match job.sink {
            Sink::Dense { slot, .. } | Sink::Transposed { slot, .. } => vec![slot],
            Sink::Blocks { codes, scales, zero_points, .. } => [codes, scales].into_iter().chain(zero_points).collect(),
        };
        slots.into_iter().for_each(|slot| makers[slot] += 1);
    }
    for initializer in &plan.graph.initializers {
        if makers[initializer.slot] != 1 {
            let reason = format!("its bytes are made {} times, expected once", makers[initializer.slot]);
            return Err(Error::graph(plan.graph.name(initializer.value), reason));
        }
    }
    Ok(())
}

/// Whether `name` is what `pattern` says, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    // The earliest place of each part leaves the most for the others.
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(end)
}

fn mismatch(tensor: &Tensor, shape: &[u64]) -> Option<String> {
    let name = tensor.stored_name();
    if tensor.shape != shape {
        return Some(format!("tensor {name:?} has shape {:?}, expected {shape:?}", tensor.shape));
    }
    match tensor.dtype {
        Dtype::Bf16 | Dtype::F16 | Dtype::F32 => None,
        other => Some(format!("tensor {name:?} is {}, expected BF16, F16 or F32", other.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("a*", "a"),
            ("*.b", "a.b"),
            ("a*c*e", "abcde"),
            ("*a*", "bab"),
            ("a**b", "ab"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", "b"), ("a", "ab"), ("", "a"), ("a*", "ba"), ("*.b", "a.bc"), ("ab*ba", "aba"), ("a*c*e", "aec")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
