//! Grouped-query attention over whole sequences.

use genai_architectures::{
    AlibiRounding, Attention, BlockSparsity, DecoderSpec, HeadNorm, KeyValue, NormOrder, Position, QueryScaling,
    alibi_slopes,
};
use half::bf16;
use std::{collections::BTreeMap, ops::Range, rc::Rc};

use super::norm::norm_heads;
use super::product::linear;
use super::{Batch, Weights, expect_positive, expect_width, rotation, soft_cap};
use crate::{Error, Matrix, Result};

/// Keys and values of the layers so far, for layers that read them again, or of all layers for whoever wants to see
/// them.
#[derive(Default)]
pub(super) struct Keys {
    of_layers: BTreeMap<usize, Rc<KeysAndValues>>,
    keeps_all: bool,
}

impl Keys {
    /// Keeps what other layers read.
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Keeps all layers' where `all` is wanted.
    pub(super) fn keeping(all: bool) -> Self {
        Self { keeps_all: all, ..Self::default() }
    }

    /// Those of a layer that has its own.
    pub(super) fn of(&self, layer: usize) -> Option<&KeysAndValues> {
        self.of_layers.get(&layer).map(Rc::as_ref)
    }
}

/// Each `[tokens, num_kv_heads * head_dim]`, keys turned.
pub(super) struct KeysAndValues {
    pub(super) k: Matrix,
    pub(super) v: Matrix,
}

/// What layer `index` makes of `hidden`: `[tokens, hidden_size]`.
pub(super) fn attention(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    (index, keys): (usize, &mut Keys),
    attention: &Attention,
    hidden: &Matrix,
) -> Result<Matrix> {
    check(spec, attention)?;
    let queries = clipped(attention, linear(weights, &attention.q, hidden)?);
    let mut q = turned_heads(spec, weights, batch, attention, (&attention.q_norm, attention.num_heads), queries)?;
    if let Some(scaling) = &attention.query_scaling {
        scale_queries(scaling, batch, &mut q);
    }
    let kv = match &attention.key_value {
        KeyValue::Own { k, v } => {
            let v = clipped(attention, linear(weights, v, hidden)?);
            let k = clipped(attention, linear(weights, k, hidden)?);
            Rc::new(keys_and_values(spec, weights, batch, attention, k, v)?)
        }
        KeyValue::Same(both) => {
            let both = clipped(attention, linear(weights, both, hidden)?);
            Rc::new(keys_and_values(spec, weights, batch, attention, both.clone(), both)?)
        }
        KeyValue::OfLayer(layer) => Rc::clone(keys.of_layers.get(layer).ok_or_else(|| {
            Error::argument("the layer whose keys another reads", layer, "one before it that has its own")
        })?),
    };
    if keys.keeps_all || spec.shares_keys(index) {
        keys.of_layers.insert(index, Rc::clone(&kv));
    }
    expect_width("k.out_features", kv.k.cols(), attention.num_kv_heads * attention.head_dim)?;
    let slopes = match attention.position {
        Position::Alibi(_) => alibi_slopes(attention.num_heads),
        Position::Rope(_) | Position::None => vec![0.0; attention.num_heads],
    };
    let mut mixed = Matrix::zeros(q.rows(), q.cols());
    for span in &batch.spans {
        for (head, slope) in slopes.iter().enumerate() {
            attend(attention, head, *slope, span, (&q, &kv), &mut mixed);
        }
    }
    linear(weights, &attention.o, &mixed)
}

fn keys_and_values(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    attention: &Attention,
    k: Matrix,
    mut v: Matrix,
) -> Result<KeysAndValues> {
    if let Some(norm) = &attention.v_norm {
        norm_heads(weights, norm, attention.num_kv_heads, attention.head_dim, &mut v)?;
    }
    let k = turned_heads(spec, weights, batch, attention, (&attention.k_norm, attention.num_kv_heads), k)?;
    Ok(KeysAndValues { k, v })
}

/// Queries or keys, normed and rotated; a norm comes with the number of heads.
fn turned_heads(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    attention: &Attention,
    (norm, heads): (&Option<HeadNorm>, usize),
    mut values: Matrix,
) -> Result<Matrix> {
    let norm = |values: &mut Matrix| match norm {
        Some(norm) => norm_heads(weights, norm, heads, attention.head_dim, values),
        None => Ok(()),
    };
    let turn = |values: &mut Matrix| match attention.position {
        Position::Rope(id) => {
            for span in &batch.spans {
                rotation::rotate(spec.rope(id), attention.head_dim, span, values);
            }
        }
        Position::Alibi(_) | Position::None => {}
    };
    match attention.norm_order {
        NormOrder::BeforeRotation => {
            norm(&mut values)?;
            turn(&mut values);
        }
        NormOrder::AfterRotation => {
            turn(&mut values);
            norm(&mut values)?;
        }
    }
    Ok(values)
}

fn clipped(attention: &Attention, mut values: Matrix) -> Matrix {
    if let Some(bound) = attention.clip_qkv {
        values.data_mut().iter_mut().for_each(|x| *x = x.clamp(-bound, bound));
    }
    values
}

fn scale_queries(scaling: &QueryScaling, batch: &Batch, q: &mut Matrix) {
    for span in &batch.spans {
        for (position, row) in span.clone().enumerate() {
            let periods = (position / scaling.context) as f64;
            let factor = (1.0 + f64::from(scaling.beta) * libm::log1p(periods)) as f32;
            q.row_mut(row).iter_mut().for_each(|x| *x *= factor);
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

/// Whether `other`, which does not lie behind `position`, is in a block that the head sees from there.
fn in_seen_block(blocks: &BlockSparsity, head: usize, position: usize, other: usize) -> bool {
    let BlockSparsity { size, local, stride, head_step } = *blocks;
    let block = other / size;
    position / size < block + local || (block + head * head_step + 1).is_multiple_of(stride)
}

/// Writes the head's columns of `mixed` for each row of a sequence.
///
/// A score is scaled, then capped, then biased.
fn attend(
    attention: &Attention,
    head: usize,
    slope: f32,
    span: &Range<usize>,
    (q, kv): (&Matrix, &KeysAndValues),
    mixed: &mut Matrix,
) {
    let KeysAndValues { k, v } = kv;
    let dim = attention.head_dim;
    let kv_head = head / (attention.num_heads / attention.num_kv_heads);
    let (columns, kv_columns) = (head * dim..(head + 1) * dim, kv_head * dim..(kv_head + 1) * dim);
    let mut sum = vec![0.0f64; dim];
    for position in 0..span.len() {
        let query = &q.row(span.start + position)[columns.clone()];
        // Positions out of sight are never read, so a NaN there cannot come back through a zero weight.
        let mut seen: Vec<usize> = visible(position, attention.window).collect();
        if let Some(blocks) = &attention.blocks {
            seen.retain(|other| in_seen_block(blocks, head, position, *other));
        }
        let mut shares: Vec<f64> = seen
            .iter()
            .map(|&other| {
                let score = dot(query, &k.row(span.start + other)[kv_columns.clone()]) * f64::from(attention.scale);
                let capped = attention.softcap.map_or(score, |cap| soft_cap(cap, score));
                capped + key_bias(attention.position, slope, other)
            })
            .collect();
        softmax(&mut shares);
        sum.fill(0.0);
        for (other, share) in seen.iter().zip(&shares) {
            for (sum, v) in sum.iter_mut().zip(&v.row(span.start + other)[kv_columns.clone()]) {
                *sum += share * f64::from(*v);
            }
        }
        for (mixed, sum) in mixed.row_mut(span.start + position)[columns.clone()].iter_mut().zip(&sum) {
            *mixed = *sum as f32;
        }
    }
}

/// What the position of a key adds to its scores: against its own query's position that is a fall with the distance,
/// and the softmax sees no more of it than that.
fn key_bias(position: Position, slope: f32, key: usize) -> f64 {
    let Position::Alibi(alibi) = position else { return 0.0 };
    let bias = match alibi.rounding {
        AlibiRounding::None => f64::from(slope) * key as f64,
        AlibiRounding::Bfloat16 => {
            let (slope, key) = (bf16::from_f32(slope).to_f32(), bf16::from_f32(key as f32).to_f32());
            // Two bfloat16 factors have an exact product in f32.
            bf16::from_f32(slope * key).to_f64()
        }
    };
    f64::from(alibi.scale) * bias
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
    for (linear, name) in attention.key_value.linears().into_iter().zip(["k.out_features", "v.out_features"]) {
        expect_width(name, linear.out_features, num_kv_heads * head_dim)?;
    }
    expect_width("o.out_features", attention.o.out_features, spec.hidden_size)?;
    match attention.position {
        Position::Rope(id) => match spec.ropes.get(id.0) {
            Some(rope) => rotation::check(rope, head_dim)?,
            None => return Err(Error::argument("a rope id", id.0, format!("less than {}", spec.ropes.len()))),
        },
        Position::Alibi(_) | Position::None => {}
    }
    if let Some(bound) = attention.clip_qkv {
        expect_positive("clip_qkv", bound)?;
    }
    if let Some(cap) = attention.softcap {
        expect_positive("softcap", cap)?;
    }
    if attention.query_scaling.is_some_and(|scaling| scaling.context == 0) {
        return Err(Error::argument("query_scaling.context", 0, "at least 1"));
    }
    if attention.window == Some(0) {
        return Err(Error::argument("window", 0, "at least 1"));
    }
    if let Some(BlockSparsity { size, local, stride, .. }) = attention.blocks {
        for (name, value) in [("blocks.size", size), ("blocks.local", local), ("blocks.stride", stride)] {
            if value == 0 {
                return Err(Error::argument(name, 0, "at least 1"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
