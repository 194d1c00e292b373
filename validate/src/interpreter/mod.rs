//! A slow but sure f32 forward pass of a [`DecoderSpec`]: the reference that needs neither Python nor ONNX.
//!
//! ```text
//!  ids ─► embed ─► [ norm ─► mixer ─► + ─► norm ─► mlp ─► + ] x layers ─► norm ─► head ─► logits
//! ```
//!
//! (Where norms stand and what is added when is up to each layer's [`Residual`](genai_architectures::Residual).)
//!
//! - Independent: it shares no code with the builder, so an error of lowering cannot hide in both.
//! - Plain: one function per kind of module, no cache, no fusion. Weights and activations are f32; norms, softmax and
//!   attention accumulate in f64, the matrix products in f32.
//! - Bounded: every weight is read in tiles of at most [`product::TILE_BYTES`] and dropped. Held at a time are some
//!   matrices of `[tokens, widest module]` and the logits, never the model.
//! - All sequences go through a layer together, so each weight byte is read once per pass.
//!
//! A new variant of the spec fails to compile here: no match has a catch-all arm.

mod attention;
mod embedding;
mod layer;
mod layer_inputs;
mod lm_head;
mod mlp;
mod norm;
mod pass;
mod product;
mod rotation;
mod streams;
mod weights;

use genai_architectures::{DecoderSpec, Mixer};
use std::ops::Range;

use crate::matrix::argmax;
use crate::{Error, Matrix, Result};
use attention::Keys;
use embedding::embed;
use layer::add_layer;
use layer_inputs::layer_inputs;
use lm_head::lm_head;
use norm::norm;
use pass::Pass;
pub use weights::{Adapted, Rounded, Rounding, Update, Weights};

/// The logits of every position of every sequence, `[length, vocab_size]` each.
///
/// `weights` is a [`genai_checkpoint::Checkpoint`] under the names of the spec, or what a package makes of one: see
/// [`Rounded`].
///
/// Errors: a sequence that is empty, longer than the model's context or has an id outside the vocabulary; a tensor
/// that is missing or of another shape; a failed read.
pub fn logits(spec: &DecoderSpec, weights: &dyn Weights, sequences: &[&[u32]]) -> Result<Vec<Matrix>> {
    let batch = Batch::new(spec, sequences)?;
    let hidden = hidden_states(spec, weights, &batch, None)?;
    let logits = lm_head(spec, weights, &hidden)?;
    Ok(batch.spans.iter().map(|span| logits.slice(span.clone())).collect())
}

/// What can be seen of a layer from outside of it. Rows are the tokens of one sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerTrace {
    /// `[tokens, num_kv_heads * head_dim]` as a cache holds them: normed and turned. `None` where the layer reads another
    /// layer's.
    pub key: Option<Matrix>,
    pub value: Option<Matrix>,
    /// The stream that enters the layer, `[tokens, hidden_size]`; `None` where there are several.
    pub residual: Option<Matrix>,
}

/// [`logits`], with the layers of the first sequence.
///
/// Held at the end are the traces: per layer and token `hidden_size` and twice `num_kv_heads * head_dim` values.
///
/// # Errors
/// Those of [`logits`].
pub fn traced(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    sequences: &[&[u32]],
) -> Result<(Vec<Matrix>, Vec<LayerTrace>)> {
    let batch = Batch::new(spec, sequences)?;
    let mut layers = Vec::new();
    let hidden = hidden_states(spec, weights, &batch, Some(&mut layers))?;
    let logits = lm_head(spec, weights, &hidden)?;
    let logits = batch.spans.iter().map(|span| logits.slice(span.clone())).collect();
    Ok((logits, layers))
}

/// The `steps` most likely tokens after each prompt, one after the other; of equal logits, the lowest id.
///
/// Every step is a whole forward pass over prompts and continuations, and reads all weights: meant for small
/// models. Under dynamic and long rope past the original context every step turns all keys by the current length, as a
/// model without a cache does; generation with a cache keeps the keys that it has.
///
/// Errors: those of [`logits`], and logits that are not numbers.
pub fn greedy(spec: &DecoderSpec, weights: &dyn Weights, prompts: &[&[u32]], steps: usize) -> Result<Vec<Vec<u32>>> {
    let mut sequences: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    for step in 0..steps {
        let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let batch = Batch::new(spec, &views)?;
        let hidden = hidden_states(spec, weights, &batch, None)?;
        let logits = lm_head(spec, weights, &last_rows(&hidden, &batch))?;
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let token = argmax(logits.row(index)).and_then(|token| u32::try_from(token).ok()).ok_or_else(|| {
                let name = format!("greedy step {step} of sequence {index}");
                Error::reference(name, "the reference's own logits hold a value that is not a number")
            })?;
            sequence.push(token);
        }
    }
    Ok(sequences.iter().zip(prompts).map(|(sequence, prompt)| sequence[prompt.len()..].to_vec()).collect())
}

/// Sequences end to end: row `spans[s].start + i` of a hidden state is position `i` of sequence `s`.
struct Batch {
    ids: Vec<u32>,
    spans: Vec<Range<usize>>,
}

impl Batch {
    fn new(spec: &DecoderSpec, sequences: &[&[u32]]) -> Result<Self> {
        let mut batch = Self { ids: Vec::new(), spans: Vec::new() };
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > spec.context_length {
                let expected = format!("1 to {}, the model's context", spec.context_length);
                return Err(Error::argument("the length of a sequence", sequence.len(), expected));
            }
            if let Some(id) = sequence.iter().find(|&&id| id as usize >= spec.vocab_size) {
                return Err(Error::argument("a token id", id, format!("less than {}", spec.vocab_size)));
            }
            let start = batch.ids.len();
            batch.ids.extend_from_slice(sequence);
            batch.spans.push(start..batch.ids.len());
        }
        Ok(batch)
    }
}

/// The hidden states after the final norm, `[tokens, hidden_size]`. `seen` gets the layers of the first sequence.
fn hidden_states(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    mut seen: Option<&mut Vec<LayerTrace>>,
) -> Result<Matrix> {
    if spec.hidden_size == 0 {
        return Err(Error::argument("hidden_size", 0, "at least 1"));
    }
    let embedded = embed(spec, weights, batch)?;
    let inputs = layer_inputs(spec, weights, batch, &embedded)?;
    let mut hidden = streams::expand(spec, weights, embedded)?;
    let mut keys = Keys::keeping(seen.is_some());
    let first = batch.spans.first().cloned().unwrap_or_default();
    for index in 0..spec.layers.len() {
        let one_stream = hidden.rows() == batch.ids.len() && hidden.cols() == spec.hidden_size;
        let residual = (seen.is_some() && one_stream).then(|| hidden.slice(first.clone()));
        let pass = Pass { spec, weights, batch, index, input: inputs.get(index) };
        add_layer(&pass, &mut keys, &mut hidden)?;
        if let Some(seen) = &mut seen {
            let Mixer::Attention(attention) = &pass.layer().mixer;
            let own = keys.of(index).filter(|_| attention.key_value.is_own());
            let key = own.map(|own| own.k.slice(first.clone()));
            let value = own.map(|own| own.v.slice(first.clone()));
            seen.push(LayerTrace { key, value, residual });
        }
    }
    norm(weights, &spec.final_norm, &streams::merge(spec, weights, hidden)?)
}

fn last_rows(hidden: &Matrix, batch: &Batch) -> Matrix {
    let mut last = Matrix::zeros(batch.spans.len(), hidden.cols());
    for (row, span) in batch.spans.iter().enumerate() {
        last.row_mut(row).copy_from_slice(hidden.row(span.end - 1));
    }
    last
}

/// Bends `x` so that it stays between `-cap` and `cap`.
fn soft_cap(cap: f32, x: f64) -> f64 {
    let cap = f64::from(cap);
    cap * libm::tanh(x / cap)
}

/// A spec is a plain value that anyone can make, so its widths are checked where they meet.
fn expect_width(name: &'static str, is: usize, expected: usize) -> Result<()> {
    if is == expected { Ok(()) } else { Err(Error::argument(name, is, expected.to_string())) }
}

fn expect_positive(name: &'static str, is: f32) -> Result<()> {
    if is > 0.0 { Ok(()) } else { Err(Error::argument(name, is, "a number above 0")) }
}

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
