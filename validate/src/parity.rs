//! Runs a package on the prompts of a reference and compares.

use std::sync::Arc;

use crate::metrics::{Prediction, compare, greedy_match, predictions};
use crate::{
    Adapter, CacheMode, Error, Matrix, Model, PromptParity, PromptReference, Reference, Result, Sequence,
    SequenceOptions, sampling,
};

/// Prefill logits and greedy continuation of every prompt, compared with the reference's.
///
/// The prompt goes in at once and the continuation token by token, so both ways through the cache are compared.
///
/// # Errors
/// Those of [`Sequence::append`]; a reference whose prompts do not fit the context or the vocabulary of the package.
pub fn compare_prompts(
    model: &Arc<Model>,
    reference: &Reference,
    cache: CacheMode,
    adapter: Option<&Adapter>,
) -> Result<Vec<PromptParity>> {
    let compared = reference.prompts.iter().map(|prompt| compare_prompt(model, prompt, cache, adapter));
    compared.map(|compared| compared.map(|compared| compared.parity)).collect()
}

/// A prompt, compared, with what the figures were made from.
pub(crate) struct Compared {
    pub(crate) parity: PromptParity,
    /// Of each position that the package gives logits of.
    pub(crate) predictions: Vec<Prediction>,
    /// What the package puts behind the prompt.
    pub(crate) chosen: Vec<u32>,
}

/// The `steps` tokens that greedy search puts behind a prompt, or fewer where the logits stop being numbers.
///
/// # Errors
/// Those of [`Sequence::append`].
pub fn continue_greedily(
    model: &Arc<Model>,
    prompt: &[u32],
    steps: usize,
    cache: CacheMode,
    adapter: Option<&Adapter>,
) -> Result<Vec<u32>> {
    let max_length = prompt.len().saturating_add(steps);
    let mut sequence = Sequence::new(model, SequenceOptions { max_length, cache, adapter })?;
    let logits = sequence.append(prompt)?;
    let (chosen, _) = search_greedily(&mut sequence, &logits, steps)?;
    Ok(chosen)
}

/// One prompt of [`compare_prompts`].
pub(crate) fn compare_prompt(
    model: &Arc<Model>,
    prompt: &PromptReference,
    cache: CacheMode,
    adapter: Option<&Adapter>,
) -> Result<Compared> {
    let length = prompt.input_ids.len() + prompt.greedy.len();
    if length > model.context_length() {
        let expected = format!("at most the context length {}", model.context_length());
        return Err(Error::argument("the length of a reference prompt with its continuation", length, expected));
    }
    let mut sequence = Sequence::new(model, SequenceOptions { max_length: length, cache, adapter })?;
    let logits = sequence.append(&prompt.input_ids)?;
    // A pruned graph returns the last row alone; the others cannot be compared.
    let first = if logits.rows() == 1 { prompt.logits.rows().saturating_sub(1) } else { 0 };
    let expected = prompt.logits.slice(first..prompt.logits.rows());
    let metrics = compare(&expected, &logits)?;
    let (chosen, steps) = search_greedily(&mut sequence, &logits, prompt.greedy.len())?;
    let greedy = if prompt.greedy.is_empty() { None } else { Some(greedy_match(&prompt.greedy, &chosen, &steps)?) };
    let parity = PromptParity { name: prompt.name.clone(), logits: metrics, greedy };
    Ok(Compared { parity, predictions: predictions(&expected, &logits, &prompt.input_ids[first + 1..]), chosen })
}

/// At most `steps` tokens chosen greedily from the last of `logits` on, with the logits `[tokens, vocab_size]` that each
/// was chosen from; fewer where the logits stop being numbers.
fn search_greedily(sequence: &mut Sequence, logits: &Matrix, steps: usize) -> Result<(Vec<u32>, Matrix)> {
    let (mut chosen, mut rows) = (Vec::new(), Vec::new());
    let mut next = logits.last_row().to_vec();
    while chosen.len() < steps && next.iter().all(|logit| logit.is_finite()) {
        let id = sampling::greedy(&next)?;
        chosen.push(id);
        rows.extend_from_slice(&next);
        next = sequence.append(&[id])?.last_row().to_vec();
    }
    let rows = Matrix::new(chosen.len(), logits.cols(), rows)?;
    Ok((chosen, rows))
}
