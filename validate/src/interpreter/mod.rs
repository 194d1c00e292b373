//! A slow but sure f32 forward pass of a [`DecoderSpec`]: the reference that needs neither Python nor ONNX.
//!
//! ```text
//!  ids ─► embed ─► [ norm ─► mixer ─► + ─► norm ─► mlp ─► + ] x layers ─► norm ─► head ─► logits
//! ```
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
mod product;
mod weights;

use genai_architectures::{Activation, DecoderSpec, LmHead, Mixer, Mlp, Norm, NormKind, Residual};
use std::ops::Range;

use crate::matrix::argmax;
use crate::{Error, Matrix, Result};
use product::{linear, product};
pub use weights::{Rounded, Rounding, Weights};

/// The logits of every position of every sequence, `[length, vocab_size]` each.
///
/// `weights` is a [`genai_checkpoint::Checkpoint`], or what a package makes of one: see [`Rounded`].
///
/// Errors: a sequence that is empty, longer than the model's context or has an id outside the vocabulary; a tensor
/// that is missing or of another shape; a failed read.
pub fn logits(spec: &DecoderSpec, weights: &dyn Weights, sequences: &[&[u32]]) -> Result<Vec<Matrix>> {
    let batch = Batch::new(spec, sequences)?;
    let hidden = hidden_states(spec, weights, &batch)?;
    let logits = head(spec, weights, &hidden)?;
    batch.spans.iter().map(|span| rows(&logits, span.clone())).collect()
}

/// The `steps` most likely tokens after each prompt, one after the other; of equal logits, the lowest id.
///
/// Every step is a whole forward pass over prompts and continuations, and reads all weights: meant for small
/// models. Under dynamic rope scaling past the original context every step turns all keys by the current length, as a
/// model without a cache does; generation with a cache keeps the keys that it has.
///
/// Errors: those of [`logits`], and logits that are not numbers.
pub fn greedy(spec: &DecoderSpec, weights: &dyn Weights, prompts: &[&[u32]], steps: usize) -> Result<Vec<Vec<u32>>> {
    let mut sequences: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    for step in 0..steps {
        let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
        let batch = Batch::new(spec, &views)?;
        let hidden = hidden_states(spec, weights, &batch)?;
        let logits = head(spec, weights, &last_rows(&hidden, &batch))?;
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

/// The hidden states after the final norm, `[tokens, hidden_size]`.
fn hidden_states(spec: &DecoderSpec, weights: &dyn Weights, batch: &Batch) -> Result<Matrix> {
    if spec.hidden_size == 0 {
        return Err(Error::argument("hidden_size", 0, "at least 1"));
    }
    let mut hidden = embed(spec, weights, batch)?;
    for layer in &spec.layers {
        match &layer.residual {
            Residual::PreNorm { mixer_norm, mlp_norm } => {
                let mixed = mixer(spec, weights, batch, &layer.mixer, &norm(weights, mixer_norm, &hidden)?)?;
                add(&mut hidden, &mixed);
                let fed = mlp(weights, &layer.mlp, &norm(weights, mlp_norm, &hidden)?)?;
                add(&mut hidden, &fed);
            }
        }
    }
    norm(weights, &spec.final_norm, &hidden)
}

fn embed(spec: &DecoderSpec, weights: &dyn Weights, batch: &Batch) -> Result<Matrix> {
    let table = spec.embedding.weight();
    let mut hidden = Matrix::zeros(batch.ids.len(), spec.hidden_size);
    for (row, &id) in batch.ids.iter().enumerate() {
        let first = id as usize * spec.hidden_size;
        weights.read(&table, &[spec.vocab_size, spec.hidden_size], first, hidden.row_mut(row))?;
    }
    Ok(hidden)
}

fn mixer(spec: &DecoderSpec, weights: &dyn Weights, batch: &Batch, mixer: &Mixer, hidden: &Matrix) -> Result<Matrix> {
    match mixer {
        Mixer::Attention(attention) => attention::attention(spec, weights, batch, attention, hidden),
    }
}

fn mlp(weights: &dyn Weights, mlp: &Mlp, hidden: &Matrix) -> Result<Matrix> {
    match mlp {
        Mlp::Gated { gate, up, down, activation } => {
            let mut inner = linear(weights, gate, hidden)?;
            let up = linear(weights, up, hidden)?;
            expect_width("up.out_features", up.cols(), inner.cols())?;
            expect_width("down.out_features", down.out_features, hidden.cols())?;
            for (gate, up) in inner.data_mut().iter_mut().zip(up.data()) {
                *gate = activate(*activation, *gate) * up;
            }
            linear(weights, down, &inner)
        }
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match activation {
        Activation::Silu => x / (1.0 + libm::exp(-x)),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + libm::tanh(inner))
        }
        // `f64::max` would turn a NaN into 0.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    };
    y as f32
}

/// The norm of each row.
fn norm(weights: &dyn Weights, norm: &Norm, hidden: &Matrix) -> Result<Matrix> {
    let mut normed = hidden.clone();
    norm_groups(weights, norm, hidden.cols(), &mut normed)?;
    Ok(normed)
}

/// The norm of each run of `width` values, in place; `width` divides a row.
fn norm_groups(weights: &dyn Weights, norm: &Norm, width: usize, values: &mut Matrix) -> Result<()> {
    let mut weight = vec![0.0; width];
    weights.read(&norm.weight(), &[width], 0, &mut weight)?;
    for group in values.data_mut().chunks_exact_mut(width) {
        match norm.kind {
            NormKind::Rms => {
                let mean_square = group.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / width as f64;
                let factor = 1.0 / (mean_square + f64::from(norm.eps)).sqrt();
                for (x, weight) in group.iter_mut().zip(&weight) {
                    *x = (f64::from(*x) * factor) as f32 * weight;
                }
            }
        }
    }
    Ok(())
}

/// `[rows, vocab_size]`
fn head(spec: &DecoderSpec, weights: &dyn Weights, hidden: &Matrix) -> Result<Matrix> {
    match &spec.lm_head {
        LmHead::Own(own) => {
            expect_width("lm_head.out_features", own.out_features, spec.vocab_size)?;
            linear(weights, own, hidden)
        }
        LmHead::Tied => product(weights, &spec.embedding.weight(), spec.vocab_size, hidden),
    }
}

fn add(to: &mut Matrix, from: &Matrix) {
    for (to, from) in to.data_mut().iter_mut().zip(from.data()) {
        *to += from;
    }
}

fn rows(matrix: &Matrix, rows: Range<usize>) -> Result<Matrix> {
    let cols = matrix.cols();
    Matrix::new(rows.len(), cols, matrix.data()[rows.start * cols..rows.end * cols].to_vec())
}

fn last_rows(hidden: &Matrix, batch: &Batch) -> Matrix {
    let mut last = Matrix::zeros(batch.spans.len(), hidden.cols());
    for (row, span) in batch.spans.iter().enumerate() {
        last.row_mut(row).copy_from_slice(hidden.row(span.end - 1));
    }
    last
}

/// A spec is a plain value that anyone can make, so its widths are checked where they meet.
fn expect_width(name: &'static str, is: usize, expected: usize) -> Result<()> {
    if is == expected { Ok(()) } else { Err(Error::argument(name, is, expected.to_string())) }
}

#[cfg(test)]
mod tests;
