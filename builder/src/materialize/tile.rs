//! One tile: some rows of a matrix, from the checkpoint to the data file.

use genai_architectures::Rope;
use genai_checkpoint::{Checkpoint, Dtype as Stored};
use genai_quantize::{Error as Unfaithful, IntScheme, ScaleDtype, convert, quantize_rows};

use super::DataFile;
use crate::{
    Error, Result,
    graph::Dtype,
    plan::{Job, RotaryPart, Rows, Segment, Sink, Slot},
};

/// The buffers of a worker, kept from tile to tile.
#[derive(Default)]
pub(super) struct Tile {
    source: Vec<u8>,
    values: Vec<f32>,
    turned: Vec<f32>,
    stored: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

/// A run of rows of the tile and the tensor rows that it comes from.
struct Piece<'a> {
    tensor: Option<&'a str>,
    /// Within the tensor.
    first_row: usize,
    rows: usize,
}

impl Tile {
    /// Makes rows `first_row..first_row + rows` of a job.
    pub(super) fn make(
        &mut self,
        job: &Job,
        first_row: usize,
        rows: usize,
        checkpoint: &Checkpoint,
        slots: &[Slot],
        file: &DataFile,
    ) -> Result<()> {
        self.values.clear();
        match &job.rows {
            Rows::Checkpoint(segments) => {
                for piece in pieces(segments, first_row, rows) {
                    self.read(&piece, job.k, checkpoint)?;
                }
            }
            Rows::Rotary { rope, part } => self.rotary(rope, *part, first_row, rows),
        }
        let blame = |error: Unfaithful| blame(&error, job, first_row);
        let at = |slot: usize, row_bytes: usize| slots[slot].offset + (first_row * row_bytes) as u64;
        match job.sink {
            Sink::Dense { slot, dtype } => {
                self.narrow(dtype).map_err(blame)?;
                file.write_at(&self.stored, at(slot, job.k * dtype.bytes() as usize))
            }
            Sink::Transposed { slot, dtype } => {
                self.transpose(job.k, rows);
                // An index of the transposed tile says nothing of the row; overflow is looked up in the rows.
                self.narrow(dtype).map_err(|error| blame(transposed_back(error, job.k, rows)))?;
                let stretch = rows * dtype.bytes() as usize;
                let column_bytes = (job.n * dtype.bytes() as usize) as u64;
                let start = slots[slot].offset + first_row as u64 * dtype.bytes();
                if rows == job.n {
                    return file.write_at(&self.stored, start);
                }
                for (column, bytes) in self.stored.chunks_exact(stretch).enumerate() {
                    file.write_at(bytes, start + column as u64 * column_bytes)?;
                }
                Ok(())
            }
            Sink::Blocks { scheme, scale_dtype, codes, scales, zero_points } => {
                self.quantize(scheme, scale_dtype, job.k, rows).map_err(blame)?;
                file.write_at(&self.stored, at(codes, scheme.code_bytes_per_row(job.k)))?;
                file.write_at(&self.scales, at(scales, scheme.blocks(job.k) * scale_dtype.size()))?;
                match zero_points {
                    Some(slot) => file.write_at(&self.zero_points, at(slot, scheme.zero_point_bytes_per_row(job.k))),
                    None => Ok(()),
                }
            }
        }
    }

    /// Appends rows of a tensor, widened to f32.
    fn read(&mut self, piece: &Piece, k: usize, checkpoint: &Checkpoint) -> Result<()> {
        let start = self.values.len();
        self.values.resize(start + piece.rows * k, 0.0);
        let Some(name) = piece.tensor else { return Ok(()) };
        let values = &mut self.values[start..];
        let tensor = checkpoint
            .tensor(name)
            .ok_or_else(|| Error::Tensors { problems: vec![format!("tensor {name:?} is missing")] })?;
        let element = (tensor.dtype.bits() / 8) as usize;
        self.source.resize(values.len() * element, 0);
        checkpoint.read(tensor, (piece.first_row * k * element) as u64, &mut self.source)?;
        match tensor.dtype {
            Stored::Bf16 => convert::bf16_to_f32(&self.source, values),
            Stored::F16 => convert::f16_to_f32(&self.source, values),
            Stored::F32 => {
                for (value, bytes) in values.iter_mut().zip(self.source.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
                Ok(())
            }
            other => {
                return Err(Error::Tensors { problems: vec![format!("tensor {name:?} is {}", other.name())] });
            }
        }
        .map_err(|error| Error::graph(name, error))?;
        match convert::first_non_finite(values) {
            None => Ok(()),
            Some(index) => Err(Error::Weight {
                tensor: name.to_owned(),
                row: (piece.first_row + index / k) as u64,
                reason: format!("column {} is {}, expected a finite number", index % k, values[index]),
                hint: Some("the weights are damaged, or come from a training run that diverged"),
            }),
        }
    }

    fn rotary(&mut self, rope: &Rope, part: RotaryPart, first_row: usize, rows: usize) {
        let frequencies = rope.inverse_frequencies(0);
        let factor = rope.attention_factor();
        for position in first_row..first_row + rows {
            self.values.extend(frequencies.iter().map(|frequency| {
                // Angles are rounded to f32, as the reference computes them.
                let angle = f64::from(position as f32 * frequency);
                let value = match part {
                    RotaryPart::Cos => libm::cos(angle),
                    RotaryPart::Sin => libm::sin(angle),
                };
                value as f32 * factor
            }));
        }
    }

    /// `[rows, k]` to `[k, rows]`, in blocks that stay in cache.
    fn transpose(&mut self, k: usize, rows: usize) {
        const BLOCK: usize = 32;
        self.turned.resize(self.values.len(), 0.0);
        for row_block in (0..rows).step_by(BLOCK) {
            for column_block in (0..k).step_by(BLOCK) {
                for column in column_block..(column_block + BLOCK).min(k) {
                    for row in row_block..(row_block + BLOCK).min(rows) {
                        self.turned[column * rows + row] = self.values[row * k + column];
                    }
                }
            }
        }
        std::mem::swap(&mut self.values, &mut self.turned);
    }

    /// Rounds the values to a float dtype.
    fn narrow(&mut self, dtype: Dtype) -> Result<(), Unfaithful> {
        self.stored.resize(self.values.len() * dtype.bytes() as usize, 0);
        match dtype {
            Dtype::F16 => convert::f32_to_f16(&self.values, &mut self.stored),
            Dtype::Bf16 => convert::f32_to_bf16(&self.values, &mut self.stored),
            _ => {
                for (bytes, value) in self.stored.as_chunks_mut::<4>().0.iter_mut().zip(&self.values) {
                    *bytes = value.to_le_bytes();
                }
                Ok(())
            }
        }
    }

    fn quantize(
        &mut self,
        scheme: IntScheme,
        scale_dtype: ScaleDtype,
        k: usize,
        rows: usize,
    ) -> Result<(), Unfaithful> {
        self.stored.resize(rows * scheme.code_bytes_per_row(k), 0);
        self.scales.resize(rows * scheme.blocks(k) * scale_dtype.size(), 0);
        self.zero_points.resize(rows * scheme.zero_point_bytes_per_row(k), 0);
        let (codes, scales, zero_points) = (&mut self.stored, &mut self.scales, &mut self.zero_points);
        quantize_rows(scheme, scale_dtype, &self.values, k, codes, scales, zero_points)
    }
}

/// The runs of tensor rows that make up rows `first_row..first_row + rows` of a matrix.
fn pieces(segments: &[Segment], first_row: usize, rows: usize) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for segment in segments {
        let end = start + segment.rows;
        let (from, to) = (first_row.max(start), (first_row + rows).min(end));
        if from < to {
            pieces.push(Piece { tensor: segment.tensor.as_deref(), first_row: from - start, rows: to - from });
        }
        start = end;
    }
    pieces
}

/// The error with the tensor, the row and the column that it is about: the quantizer knows the tile alone.
fn blame(error: &Unfaithful, job: &Job, first_row: usize) -> Error {
    let (row, reason) = match *error {
        Unfaithful::NonFinite { row, column, value } => {
            (row, format!("column {column} is {value}, expected a finite number"))
        }
        Unfaithful::ScaleOverflow { row, column, scale, dtype } => {
            (row, format!("the block at column {column} needs the scale {scale}, which overflows {dtype}"))
        }
        Unfaithful::ValueOverflow { index, value, dtype, max } => {
            let column = index % job.k;
            (
                index / job.k,
                format!("column {column} is {value}, which overflows {dtype}, whose largest value is {max}"),
            )
        }
        _ => (0, error.to_string()),
    };
    let piece = match &job.rows {
        Rows::Checkpoint(segments) => pieces(segments, first_row + row, 1).into_iter().next(),
        Rows::Rotary { .. } => None,
    };
    Error::Weight {
        tensor: piece.as_ref().and_then(|piece| piece.tensor).unwrap_or(job.subject()).to_owned(),
        row: piece.map_or(first_row + row, |piece| piece.first_row) as u64,
        reason,
        hint: error.hint(),
    }
}

/// An index of `[k, rows]` as one of `[rows, k]`.
fn transposed_back(error: Unfaithful, k: usize, rows: usize) -> Unfaithful {
    match error {
        Unfaithful::ValueOverflow { index, value, dtype, max } => {
            Unfaithful::ValueOverflow { index: index % rows * k + index / rows, value, dtype, max }
        }
        other => other,
    }
}
