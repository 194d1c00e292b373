//! What a matrix of the graph should hold: rows of the checkpoint's tensors.

use genai_architectures::{DecoderSpec, KeyValue, Linear, LmHead, Mixer, Mlp, View};

use crate::interpreter::Weights;
use crate::{Error, Result};

/// Numbers that are held at a time.
pub(super) const NUMBERS: usize = 1 << 20;

/// What a matrix does in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Embedding,
    /// Queries, keys and values one after another.
    Qkv(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    Output(usize),
    Gate(usize),
    Up(usize),
    /// One after the other.
    GateUp(usize),
    Down(usize),
    Head,
}

/// A matrix of the checkpoint, `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tensor<'a> {
    Linear(&'a Linear),
    Table { name: &'a str, rows: usize, columns: usize },
}

/// The path of the embedding's module, and its table.
fn embedding<'a>(spec: &'a DecoderSpec) -> Tensor<'a> {
    Tensor::Table { name: &spec.embedding.path, rows: spec.vocab_size, columns: spec.hidden_size }
}

fn head(spec: &DecoderSpec) -> Tensor<'_> {
    match &spec.lm_head {
        LmHead::Own(linear) => Tensor::Linear(linear),
        LmHead::Tied => embedding(spec),
    }
}

/// The tensors whose rows make up a matrix, one after another; none where the spec has no such matrix.
pub(super) fn of(spec: &DecoderSpec, part: Part) -> Vec<Tensor<'_>> {
    let layer = |layer: usize| spec.layers.get(layer);
    let attention = |index: usize| {
        layer(index).map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention
        })
    };
    let key_value = |index: usize, value: bool| match attention(index).map(|attention| &attention.key_value) {
        Some(KeyValue::Own { k, v }) => vec![if value { v } else { k }],
        Some(KeyValue::Same(linear)) => vec![linear],
        Some(KeyValue::OfLayer(_)) | None => Vec::new(),
    };
    let query = |index: usize| attention(index).map(|attention| &attention.q).into_iter().collect::<Vec<_>>();
    let linears = match part {
        Part::Embedding => return vec![embedding(spec)],
        Part::Head => return vec![head(spec)],
        Part::Query(index) => query(index),
        Part::Key(index) => key_value(index, false),
        Part::Value(index) => key_value(index, true),
        Part::Qkv(index) => {
            query(index).into_iter().chain(key_value(index, false)).chain(key_value(index, true)).collect()
        }
        Part::Output(index) => attention(index).map(|attention| &attention.o).into_iter().collect(),
        Part::Gate(index) | Part::Up(index) | Part::GateUp(index) | Part::Down(index) => {
            match (layer(index).map(|layer| &layer.mlp), part) {
                (Some(Mlp::Gated { gate, .. }), Part::Gate(_)) => vec![gate],
                (Some(Mlp::Gated { up, .. } | Mlp::Plain { up, .. }), Part::Up(_)) => vec![up],
                (Some(Mlp::Gated { gate, up, .. }), Part::GateUp(_)) => vec![gate, up],
                (Some(Mlp::ClampedGate { gate_up, .. }), Part::GateUp(_)) => vec![gate_up],
                (
                    Some(Mlp::Gated { down, .. } | Mlp::Plain { down, .. } | Mlp::ClampedGate { down, .. }),
                    Part::Down(_),
                ) => {
                    vec![down]
                }
                _ => Vec::new(),
            }
        }
    };
    linears.into_iter().map(Tensor::Linear).collect()
}

/// Every matrix that a mistake could have put in the place of another.
pub(super) fn all(spec: &DecoderSpec) -> Vec<Tensor<'_>> {
    let layers = 0..spec.layers.len();
    let parts = layers.flat_map(|layer| {
        [Part::Qkv(layer), Part::Output(layer), Part::Gate(layer), Part::Up(layer), Part::Down(layer)]
    });
    [Part::Embedding, Part::Head].into_iter().chain(parts).flat_map(|part| of(spec, part)).collect()
}

impl Tensor<'_> {
    /// The module that has it.
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Linear(linear) => &linear.path,
            Self::Table { name, .. } => name,
        }
    }

    /// Tells it from others: two parts of one fused tensor have one path.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Linear(Linear { path, view: View::Rows { ranges, .. } | View::Columns { ranges, .. }, .. }) => {
                match (ranges.first(), ranges.last()) {
                    (Some(first), Some(last)) => format!("{path}[{}..{}]", first.start, last.end),
                    _ => path.clone(),
                }
            }
            _ => self.path().to_owned(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.out_features,
            Self::Table { rows, .. } => *rows,
        }
    }

    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.in_features,
            Self::Table { columns, .. } => *columns,
        }
    }

    /// Replaces `out` by `count` rows from `first` on.
    pub(super) fn read(&self, weights: &dyn Weights, first: usize, count: usize, out: &mut Vec<f32>) -> Result<()> {
        let columns = self.columns();
        out.clear();
        out.resize(count.saturating_mul(columns), 0.0);
        match self {
            Self::Table { name, rows, .. } => {
                weights.read(&format!("{name}.weight"), &[*rows, columns], first.saturating_mul(columns), out)
            }
            Self::Linear(linear) => read_linear(weights, linear, first, count, out),
        }
    }

    /// The bias, where there is one.
    pub(super) fn bias(&self, weights: &dyn Weights) -> Result<Option<Vec<f32>>> {
        let Self::Linear(linear) = self else { return Ok(None) };
        if !linear.bias {
            return Ok(None);
        }
        let mut stored = vec![0.0; linear.bias_length()];
        weights.read(&linear.bias_name(), &[stored.len()], 0, &mut stored)?;
        let ranges = linear.ranges();
        Ok(Some(ranges.into_iter().filter_map(|range| stored.get(range)).flatten().copied().collect()))
    }
}

fn read_linear(weights: &dyn Weights, linear: &Linear, first: usize, count: usize, out: &mut [f32]) -> Result<()> {
    let (name, shape, columns) = (linear.weight(), linear.weight_shape(), linear.in_features);
    let stretches = stretches(linear, first, count);
    if let View::Columns { total, .. } = linear.view {
        let mut stored = Vec::new();
        for input in 0..columns {
            let mut row = 0;
            for (start, length) in &stretches {
                stored.resize(*length, 0.0);
                weights.read(&name, &shape, input.saturating_mul(total).saturating_add(*start), &mut stored)?;
                for value in &stored {
                    if let Some(cell) = out.get_mut(columns.saturating_mul(row).saturating_add(input)) {
                        *cell = *value;
                    }
                    row += 1;
                }
            }
        }
        return Ok(());
    }
    let mut rest = out;
    for (start, length) in stretches {
        let Some((here, after)) = rest.split_at_mut_checked(length.saturating_mul(columns)) else {
            return Err(Error::weight(&name, "has fewer rows than its spec says"));
        };
        weights.read(&name, &shape, start.saturating_mul(columns), here)?;
        rest = after;
    }
    Ok(())
}

/// Where the outputs from `first` on are stored: starts and lengths.
fn stretches(linear: &Linear, first: usize, count: usize) -> Vec<(usize, usize)> {
    let (mut skip, mut left, mut stretches) = (first, count, Vec::new());
    for range in linear.ranges() {
        if skip >= range.len() {
            skip -= range.len();
            continue;
        }
        let length = left.min(range.len() - skip);
        if length > 0 {
            stretches.push((range.start + skip, length));
        }
        (skip, left) = (0, left - length);
    }
    stretches
}
