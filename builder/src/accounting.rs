//! Do the tensors of a checkpoint match the plan, one to one? Asked of the headers, before any weight is read.

use genai_architectures::DecoderSpec;
use genai_checkpoint::{Checkpoint, Dtype, Tensor};

use crate::{Error, Plan, Result};

/// A tensor that must hold the same bytes as another, since the model uses one for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) copy: String,
    pub(crate) original: String,
}

/// Checks that every tensor that the plan reads is there in the right shape and a float dtype, and that nothing is left
/// over. Returns the stored copies whose equality the data must show.
///
/// # Errors
/// All problems at once.
pub(crate) fn account(plan: &Plan, spec: &DecoderSpec, checkpoint: &Checkpoint) -> Result<Vec<Copy>> {
    let mut problems = Vec::new();
    for (name, shape) in &plan.tensors {
        match checkpoint.tensor(name) {
            None => problems.push(format!("tensor {name:?} is missing, expected shape {shape:?}")),
            Some(tensor) => problems.extend(mismatch(tensor, shape)),
        }
    }
    let mut copies = Vec::new();
    let mut unused = Vec::new();
    for tensor in checkpoint.tensors() {
        if plan.tensors.contains_key(&tensor.name)
            || spec.unused_tensors.iter().any(|pattern| pattern.matches(&tensor.name))
            || spec.constants.iter().any(|(name, _)| *name == tensor.name)
        {
            continue;
        }
        match spec.copies.iter().find(|(copy, _)| *copy == tensor.name) {
            Some((copy, original)) => copies.push(Copy { copy: copy.clone(), original: original.clone() }),
            None => unused.push(tensor.stored_name()),
        }
    }
    // A foreign checkpoint has thousands of strangers; a few show which kind it is.
    const SHOWN: usize = 8;
    problems.extend(unused.iter().take(SHOWN).map(|name| format!("tensor {name:?} is used by no part of the model")));
    if unused.len() > SHOWN {
        problems.push(format!("{} more tensors are used by no part of the model", unused.len() - SHOWN));
    }
    if problems.is_empty() { Ok(copies) } else { Err(Error::Tensors { problems }) }
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
