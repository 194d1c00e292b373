//! What a matrix seems to be that is not what it should be.

use super::Examination;
use super::expected::{self, Tensor};
use super::tally::{Outlier, Sample, Tally};
use crate::graph::Weight;

/// Two rows are the same up to four-bit rounding where the cosine between them is at least this.
pub(super) const ALIKE: f32 = 0.95;

impl Outlier {
    /// In words.
    fn cause(&self, weight: &Weight) -> String {
        let place = format!("row {}, block {}", self.row, self.block);
        let scales = weight.scales.as_deref();
        let small = |left: f64, of: f64| left <= 0.03 * of;
        if self.zero && self.square > 0.0 {
            return format!("{place} is all zero");
        }
        if small(self.beside, self.ratio * self.ratio * self.square) && (self.ratio - 1.0).abs() > 0.05 {
            let what = if self.ratio < 0.0 { "has its sign flipped and is" } else { "is" };
            let tensor = scales.map_or_else(String::new, |name| format!(": its scale in `{name}` is wrong"));
            return format!("{place} {what} {:.3} times what it should be{tensor}", self.ratio);
        }
        if self.unshifted <= 0.35 * self.error {
            let tensor = weight.zero_points.as_deref();
            let tensor = tensor.map_or_else(String::new, |name| format!(": its zero point in `{name}` is wrong"));
            return format!("{place} is shifted as a whole by {:+.3e}{tensor}", self.mean);
        }
        format!(
            "{place} is damaged: its values are off by up to {:.3e}, the largest of them is {:.3e}",
            self.worst, self.largest
        )
    }
}

impl Examination<'_> {
    /// What the matrix seems to be; `None` for noise.
    pub(super) fn suspect(&self, weight: &Weight, tensor: &Tensor<'_>, tally: &Tally) -> Option<String> {
        let most = tally.count.div_ceil(2);
        if tally.bad_rows >= most.max(2) {
            let whole = self.whole(tensor, &tally.samples);
            if whole.is_some() {
                return whole;
            }
        }
        if tally.bad_rows == 0 {
            return None;
        }
        if let Some(rows) = self.rows(tensor, tally) {
            return Some(rows);
        }
        // Every block by the same factor or shift is one mistake.
        let blocks = tally.bad_blocks;
        let first = tally.blocks.first()?;
        if tally.bad_rows >= most && self.is_noise(tensor, tally) {
            return None;
        }
        let more =
            if blocks > 1 { format!(" ({blocks} blocks of {} rows in all)", tally.bad_rows) } else { String::new() };
        Some(format!("{}{more}", first.cause(weight)))
    }

    fn is_noise(&self, tensor: &Tensor<'_>, tally: &Tally) -> bool {
        let mut own = Vec::new();
        tally.samples.iter().all(|sample| {
            tensor.read(self.weights, sample.row, 1, &mut own).is_ok() && cosine(&sample.values, &own).abs() < 0.5
        })
    }

    /// All rows are wrong: those of another tensor, or of this one in another order.
    fn whole(&self, tensor: &Tensor<'_>, samples: &[Sample]) -> Option<String> {
        let (rows, columns) = (tensor.rows(), tensor.columns());
        let all_like = |of: &dyn Fn(usize, &mut Vec<f32>) -> bool, sign: f32| {
            let mut other = Vec::new();
            !samples.is_empty()
                && samples.iter().all(|sample| {
                    other.clear();
                    of(sample.row, &mut other) && sign * cosine(&sample.values, &other) >= ALIKE
                })
        };
        let read = |of: &Tensor<'_>, row: usize, out: &mut Vec<f32>| {
            row < of.rows() && of.columns() == columns && of.read(self.weights, row, 1, out).is_ok()
        };
        if samples.iter().all(|sample| sample.values.iter().all(|value| *value == 0.0)) {
            return Some("all of it is zero".to_owned());
        }
        if all_like(&|row, out| read(tensor, row, out), -1.0) {
            return Some("its sign is flipped".to_owned());
        }
        if all_like(&|row, out| read(tensor, row, out), 1.0) {
            return None;
        }
        let label = tensor.label();
        let others = expected::all(self.spec);
        for other in others.iter().filter(|other| other.label() != label && other.rows() >= rows.min(other.rows())) {
            if all_like(&|row, out| read(other, row, out), 1.0) {
                let whose = self.where_used(other, tensor);
                return Some(format!("it holds `{}`{whose} in its place", other.label()));
            }
        }
        for (shift, words) in [(rows - 1, "one row late"), (1, "one row early")] {
            if rows > 1 && all_like(&|row, out| read(tensor, (row + shift) % rows, out), 1.0) {
                return Some(format!("its rows stand {words}"));
            }
        }
        if rows == columns {
            let transposed = |column: usize, out: &mut Vec<f32>| {
                let mut row = Vec::new();
                (0..rows).all(|index| {
                    let read = tensor.read(self.weights, index, 1, &mut row).is_ok();
                    out.extend(row.get(column));
                    read
                })
            };
            if all_like(&transposed, 1.0) {
                return Some("it is transposed".to_owned());
            }
        }
        let neighbours = |row: usize, out: &mut Vec<f32>| {
            let known = read(tensor, row, out);
            out.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.reverse());
            known
        };
        if all_like(&neighbours, 1.0) {
            return Some("neighbouring columns have changed places: low and high codes of a byte".to_owned());
        }
        self.relaid(tensor, samples).or_else(|| self.scattered(tensor, samples))
    }

    /// Which part of the layer another tensor is, where it is of the same layer.
    fn where_used(&self, other: &Tensor<'_>, tensor: &Tensor<'_>) -> &'static str {
        let layer = |path: &str| path.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        if layer(other.path()) == layer(tensor.path()) { " of the same layer" } else { "" }
    }

    /// Rows of a head in the order of the other layout of rotated pairs.
    fn relaid(&self, tensor: &Tensor<'_>, samples: &[Sample]) -> Option<String> {
        let genai_architectures::Mixer::Attention(attention) = &self.spec.layers.first()?.mixer;
        let head = attention.head_dim;
        if head < 4 || !tensor.rows().is_multiple_of(head) {
            return None;
        }
        let half = head / 2;
        let to_half = |row: usize| row - row % head + (row % head / half) + 2 * (row % half);
        let to_pairs = |row: usize| row - row % head + (row % 2) * half + row % head / 2;
        let mut own = Vec::new();
        for place in [&to_half as &dyn Fn(usize) -> usize, &to_pairs] {
            let moved = samples.iter().filter(|sample| place(sample.row) != sample.row).count();
            let like = samples.iter().all(|sample| {
                tensor.read(self.weights, place(sample.row), 1, &mut own).is_ok()
                    && cosine(&sample.values, &own) >= ALIKE
            });
            if like && moved > 0 {
                return Some("the rows of its heads are in the order of the other layout of rotated pairs".to_owned());
            }
        }
        None
    }

    /// The rows of this tensor in an order that nothing explains.
    fn scattered(&self, tensor: &Tensor<'_>, samples: &[Sample]) -> Option<String> {
        let sample = samples.first()?;
        // A whole pass over the tensor, for one row: not for large ones.
        if tensor.rows().saturating_mul(tensor.columns()) > expected::NUMBERS {
            return None;
        }
        let mut own = Vec::new();
        let place = (0..tensor.rows()).find(|row| {
            tensor.read(self.weights, *row, 1, &mut own).is_ok() && cosine(&sample.values, &own) >= ALIKE
        })?;
        Some(format!("its rows are out of order: row {} holds row {place}", sample.row))
    }

    /// Some rows are wrong as a whole.
    fn rows(&self, tensor: &Tensor<'_>, tally: &Tally) -> Option<String> {
        let more = |words: String| {
            if tally.bad_rows > 1 { format!("{words} ({} rows are wrong in all)", tally.bad_rows) } else { words }
        };
        let sample = tally.rows.first()?;
        let mut own = Vec::new();
        tensor.read(self.weights, sample.row, 1, &mut own).ok()?;
        if sample.values.iter().all(|value| *value == 0.0) {
            return Some(more(format!("row {} is all zero", sample.row)));
        }
        let like = cosine(&sample.values, &own);
        if like <= -ALIKE {
            return Some(more(format!("row {} has its sign flipped", sample.row)));
        }
        if like >= 0.5 {
            return None;
        }
        let neighbours = [sample.row.checked_sub(1), sample.row.checked_add(1)].into_iter().flatten();
        let candidates = tally.rows.iter().skip(1).map(|other| other.row).chain(neighbours);
        for row in candidates.filter(|row| *row < tensor.rows()) {
            if tensor.read(self.weights, row, 1, &mut own).is_ok() && cosine(&sample.values, &own) >= ALIKE {
                return Some(more(format!("row {} holds row {row}: rows have changed places", sample.row)));
            }
        }
        None
    }
}

pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let (mut product, mut left, mut right) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        product += a * b;
        left += a * a;
        right += b * b;
    }
    let size = (left * right).sqrt();
    #[allow(clippy::as_conversions)]
    let cosine = (product / size) as f32;
    // Of nothing with anything.
    if size > 0.0 { cosine } else { 0.0 }
}
