//! Grouped-query attention over whole sequences.

use genai_architectures::{Attention, DecoderSpec, Position, Rope, RopeLayout};
use std::ops::Range;

use super::{Batch, Weights, expect_width, linear, norm_groups};
use crate::{Error, Matrix, Result};

/// `[tokens, hidden_size]`
pub(super) fn attention(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    attention: &Attention,
    hidden: &Matrix,
) -> Result<Matrix> {
    check(spec, attention)?;
    let mut q = linear(weights, &attention.q, hidden)?;
    let mut k = linear(weights, &attention.k, hidden)?;
    let v = linear(weights, &attention.v, hidden)?;
    if let Some(norm) = &attention.q_norm {
        norm_groups(weights, norm, attention.head_dim, &mut q)?;
    }
    if let Some(norm) = &attention.k_norm {
        norm_groups(weights, norm, attention.head_dim, &mut k)?;
    }
    match attention.position {
        Position::Rope(id) => {
            let rope = spec.rope(id);
            for span in &batch.spans {
                rotate(rope, attention.head_dim, span, &mut q);
                rotate(rope, attention.head_dim, span, &mut k);
            }
        }
    }
    let mut mixed = Matrix::zeros(q.rows(), q.cols());
    for span in &batch.spans {
        for head in 0..attention.num_heads {
            attend(attention, head, span, &q, &k, &v, &mut mixed);
        }
    }
    linear(weights, &attention.o, &mixed)
}

/// Turns every head of a sequence's rows by their positions.
pub(super) fn rotate(rope: &Rope, head_dim: usize, span: &Range<usize>, heads: &mut Matrix) {
    let inverse_frequencies = rope.inverse_frequencies(span.len());
    let factor = rope.attention_factor();
    for (position, row) in span.clone().enumerate() {
        let turns: Vec<(f32, f32)> = inverse_frequencies
            .iter()
            .map(|frequency| {
                // The angle is rounded to f32 as models are trained with it; at far positions that is a visible part
                // of a radian.
                let (sin, cos) = libm::sincos(f64::from(position as f32 * frequency));
                (cos as f32 * factor, sin as f32 * factor)
            })
            .collect();
        for head in heads.row_mut(row).chunks_exact_mut(head_dim) {
            match rope.layout {
                RopeLayout::Half => {
                    let (left, right) = head[..rope.dim].split_at_mut(rope.dim / 2);
                    for ((a, b), (cos, sin)) in left.iter_mut().zip(right).zip(&turns) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        }
    }
}

/// The positions that position `position` sees; the last is itself.
pub(super) fn visible(position: usize, window: Option<usize>) -> Range<usize> {
    let first = match window {
        Some(window) => (position + 1).saturating_sub(window),
        None => 0,
    };
    first..position + 1
}

/// Writes the head's columns of `mixed` for each row of a sequence.
fn attend(
    attention: &Attention,
    head: usize,
    span: &Range<usize>,
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    mixed: &mut Matrix,
) {
    let dim = attention.head_dim;
    let kv_head = head / (attention.num_heads / attention.num_kv_heads);
    let (columns, kv_columns) = (head * dim..(head + 1) * dim, kv_head * dim..(kv_head + 1) * dim);
    let mut sum = vec![0.0f64; dim];
    for position in 0..span.len() {
        let query = &q.row(span.start + position)[columns.clone()];
        // Positions out of sight are never read, so a NaN there cannot come back through a zero weight.
        let seen = visible(position, attention.window);
        let mut shares: Vec<f64> = seen
            .clone()
            .map(|other| dot(query, &k.row(span.start + other)[kv_columns.clone()]) * f64::from(attention.scale))
            .collect();
        softmax(&mut shares);
        sum.fill(0.0);
        for (other, share) in seen.zip(&shares) {
            for (sum, v) in sum.iter_mut().zip(&v.row(span.start + other)[kv_columns.clone()]) {
                *sum += share * f64::from(*v);
            }
        }
        for (mixed, sum) in mixed.row_mut(span.start + position)[columns.clone()].iter_mut().zip(&sum) {
            *mixed = *sum as f32;
        }
    }
}

fn softmax(scores: &mut [f64]) {
    let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = libm::exp(*score - greatest);
        total += *score;
    }
    for score in scores.iter_mut() {
        *score /= total;
    }
}

/// Eight partial sums, so that the compiler can keep them in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut partial = [0.0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((partial, a), b) in partial.iter_mut().zip(a).zip(b) {
            *partial += f64::from(*a) * f64::from(*b);
        }
    }
    partial.iter().sum()
}

fn check(spec: &DecoderSpec, attention: &Attention) -> Result<()> {
    let Attention { num_heads, num_kv_heads, head_dim, .. } = *attention;
    if num_kv_heads == 0 || head_dim == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(Error::argument("num_heads", num_heads, format!("a multiple of num_kv_heads, {num_kv_heads}")));
    }
    expect_width("q.out_features", attention.q.out_features, num_heads * head_dim)?;
    expect_width("k.out_features", attention.k.out_features, num_kv_heads * head_dim)?;
    expect_width("v.out_features", attention.v.out_features, num_kv_heads * head_dim)?;
    expect_width("o.out_features", attention.o.out_features, spec.hidden_size)?;
    match attention.position {
        Position::Rope(id) => match spec.ropes.get(id.0) {
            Some(rope) if rope.dim <= head_dim => {}
            Some(rope) => return Err(Error::argument("rope.dim", rope.dim, format!("at most {head_dim}, a head"))),
            None => return Err(Error::argument("a rope id", id.0, format!("less than {}", spec.ropes.len()))),
        },
    }
    if attention.window == Some(0) {
        return Err(Error::argument("window", 0, "at least 1"));
    }
    Ok(())
}
