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
    /// All of the fused tensor that a linear is a part of, in its order.
    Stored(&'a Linear),
    Table {
        name: &'a str,
        rows: usize,
        columns: usize,
    },
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

/// The fused tensor of which these are all rows, in another order than its own.
pub(super) fn fused<'a>(tensors: &[Tensor<'a>]) -> Option<Tensor<'a>> {
    let Some(Tensor::Linear(first @ Linear { view: View::Rows { total, .. }, .. })) = tensors.first() else {
        return None;
    };
    let (mut rows, mut in_order) = (0, true);
    for tensor in tensors {
        let Tensor::Linear(linear) = tensor else { return None };
        for range in linear.ranges() {
            in_order &= range.start == rows;
            rows += range.len();
        }
    }
    let of_one = tensors.iter().all(|tensor| tensor.path() == first.path);
    (of_one && !in_order && rows == *total).then_some(Tensor::Stored(first))
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
            Self::Linear(linear) | Self::Stored(linear) => &linear.path,
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
            Self::Stored(linear) => linear.weight_shape().first().copied().unwrap_or(0),
            Self::Table { rows, .. } => *rows,
        }
    }

    pub(super) fn columns(&self) -> usize {
        match self {
            Self::Linear(linear) | Self::Stored(linear) => linear.in_features,
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
            Self::Stored(linear) => {
                weights.read(&linear.weight(), &linear.weight_shape(), first.saturating_mul(columns), out)
            }
        }
    }

    /// The bias, where there is one.
    pub(super) fn bias(&self, weights: &dyn Weights) -> Result<Option<Vec<f32>>> {
        let (Self::Linear(linear) | Self::Stored(linear)) = self else { return Ok(None) };
        if !linear.bias {
            return Ok(None);
        }
        let mut stored = vec![0.0; linear.bias_length()];
        weights.read(&linear.bias_name(), &[stored.len()], 0, &mut stored)?;
        if matches!(self, Self::Stored(_)) {
            return Ok(Some(stored));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tensor holds 0, 1, 2, … in its row-major order.
    struct Counted;

    impl Weights for Counted {
        fn read(&self, _: &str, shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            assert!(first + out.len() <= shape.iter().product());
            out.iter_mut().zip(first..).for_each(|(value, place)| *value = place as f32);
            Ok(())
        }
    }

    fn read(view: View, count: usize) -> Vec<f32> {
        let (out_features, in_features, bias) = (count, 2, false);
        let linear = Linear { path: "l".to_owned(), out_features, in_features, bias, view };
        let mut rows = Vec::new();
        // All but the first.
        Tensor::Linear(&linear).read(&Counted, 1, count - 1, &mut rows).unwrap();
        rows
    }

    #[test]
    fn parts_of_fused_tensors_are_read_where_they_lie() {
        assert_eq!(read(View::Whole, 3), [2.0, 3.0, 4.0, 5.0]);
        // Heads that lie apart: rows 1, 2 and 5.
        let ranges = vec![1..3, 5..6];
        assert_eq!(read(View::Rows { ranges: ranges.clone(), total: 6 }, 3), [4.0, 5.0, 10.0, 11.0]);
        let part = |ranges: &[std::ops::Range<usize>]| Linear {
            view: View::Rows { ranges: ranges.to_vec(), total: 4 },
            ..Linear::whole("l", 2, 2, false)
        };
        let (even, odd) = (part(&[0..1, 2..3]), part(&[1..2, 3..4]));
        let whole = fused(&[Tensor::Linear(&even), Tensor::Linear(&odd)]).unwrap();
        assert_eq!((whole.rows(), whole.columns()), (4, 2));
        let (first, last) = (part(&[0..1, 1..2]), part(&[2..3, 3..4]));
        assert!(fused(&[Tensor::Linear(&first), Tensor::Linear(&last)]).is_none(), "in its own order");
        assert!(fused(&[Tensor::Linear(&even)]).is_none(), "not all of it");
        // Stored `[in, out]`: columns 2 and 5 of two rows of six.
        assert_eq!(read(View::Columns { ranges, total: 6 }, 3), [2.0, 8.0, 5.0, 11.0]);
    }
}
