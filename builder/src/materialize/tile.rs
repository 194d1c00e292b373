//! One tile: some rows of a matrix, from the checkpoint to the data file.

use std::ops::Range;

use genai_architectures::Rope;
use genai_checkpoint::{Checkpoint, Dtype as Stored};
use genai_quantize::{Buffers, Error as Unfaithful, IntScheme, ScaleDtype, Simd, convert, quantize_rows_with};

use super::{Span, codes::lay_out};
use crate::{
    Error, Result,
    graph::Dtype,
    output::DataFile,
    plan::{Factor, FactorSource, Job, RotaryPart, RotaryTable, Rows, Segment, Sink, Slot, Source},
};

/// The buffers of a worker, kept from tile to tile of a job.
pub(super) struct Tile {
    simd: Simd,
    source: Vec<u8>,
    values: Vec<f32>,
    /// Values of a matrix that is stored the other way round, as they were read.
    columns: Vec<f32>,
    stored: Vec<u8>,
    turned: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Tile {
    pub(super) fn new(simd: Simd) -> Self {
        let (source, stored, turned) = (Vec::new(), Vec::new(), Vec::new());
        let (scales, zero_points) = (Vec::new(), Vec::new());
        Self { simd, source, values: Vec::new(), columns: Vec::new(), stored, turned, scales, zero_points }
    }

    /// Makes the rows of a span.
    pub(super) fn make(
        &mut self,
        job: &Job,
        span: &Span,
        checkpoint: &Checkpoint,
        slots: &[Slot],
        file: &DataFile,
    ) -> Result<()> {
        let (first_row, rows) = (span.first_row, span.rows);
        let at = |slot: usize, row_bytes: usize| slots[slot].offset + (first_row * row_bytes) as u64;
        match job.sink {
            Sink::Dense { slot, dtype } => {
                self.fill(job, first_row, rows, checkpoint)?;
                self.narrow(dtype).map_err(|error| blame(&error, job, first_row))?;
                file.write_at(&self.stored, at(slot, job.k * dtype.bytes() as usize))
            }
            Sink::Transposed { slot, dtype } => {
                self.turn(job, span, dtype, checkpoint)?;
                let stretch = rows * dtype.bytes() as usize;
                let column_bytes = (job.n * dtype.bytes() as usize) as u64;
                let start = slots[slot].offset + first_row as u64 * dtype.bytes();
                if rows == job.n {
                    return file.write_at(&self.turned, start);
                }
                for (column, bytes) in self.turned.chunks_exact(stretch).enumerate() {
                    file.write_at(bytes, start + column as u64 * column_bytes)?;
                }
                Ok(())
            }
            Sink::Blocks { scheme, layout, scale_dtype, codes, scales, zero_points } => {
                self.fill(job, first_row, rows, checkpoint)?;
                self.quantize(scheme, scale_dtype, job.k, rows).map_err(|error| blame(&error, job, first_row))?;
                lay_out(layout, scheme, job.k, rows, &mut self.stored, &mut self.zero_points);
                let [codes_before, zero_points_before] = layout.bytes_of_rows(scheme, job.k, first_row);
                file.write_at(&self.stored, slots[codes].offset + codes_before as u64)?;
                file.write_at(&self.scales, at(scales, scheme.blocks(job.k) * scale_dtype.size()))?;
                match zero_points {
                    Some(slot) => file.write_at(&self.zero_points, slots[slot].offset + zero_points_before as u64),
                    None => Ok(()),
                }
            }
        }
    }

    /// The rows of a span in their stored form, as columns. Only the stored form is as large as the span: values pass
    /// through in strips.
    fn turn(&mut self, job: &Job, span: &Span, dtype: Dtype, checkpoint: &Checkpoint) -> Result<()> {
        resize(&mut self.turned, span.rows * job.k * dtype.bytes() as usize);
        for done in (0..span.rows).step_by(span.strip) {
            let (first_row, rows) = (span.first_row + done, span.strip.min(span.rows - done));
            self.fill(job, first_row, rows, checkpoint)?;
            self.narrow(dtype).map_err(|error| blame(&error, job, first_row))?;
            if dtype.bytes() == 2 {
                let (stored, turned) = (self.stored.as_chunks::<2>().0, self.turned.as_chunks_mut::<2>().0);
                transpose(stored, job.k, &mut turned[done..], span.rows);
            } else {
                let (stored, turned) = (self.stored.as_chunks::<4>().0, self.turned.as_chunks_mut::<4>().0);
                transpose(stored, job.k, &mut turned[done..], span.rows);
            }
        }
        Ok(())
    }

    /// The values of rows `first_row..first_row + rows` of a job.
    fn fill(&mut self, job: &Job, first_row: usize, rows: usize, checkpoint: &Checkpoint) -> Result<()> {
        resize(&mut self.values, rows * job.k);
        match &job.rows {
            Rows::Checkpoint { segments, plus } => {
                let mut start = 0;
                for piece in pieces(segments, first_row, rows) {
                    let end = start + piece.rows * job.k;
                    self.read(&piece, job.k, start..end, checkpoint)?;
                    start = end;
                }
                if *plus != 0.0 {
                    self.values.iter_mut().for_each(|value| *value += plus);
                }
            }
            Rows::Rotary { rope, part, tables } => self.rotary(rope, *part, tables, first_row, rows),
            Rows::Factors(factors) => {
                self.values.fill(0.0);
                for (start, rows, source) in factor_pieces(factors, first_row, rows) {
                    self.factor(&source, rows, start * job.k, job.k, checkpoint)?;
                }
            }
        }
        Ok(())
    }

    /// Reads rows of a second factor, scaled, into values that are zero, from `start` on, `k` apart.
    fn factor(
        &mut self,
        source: &FactorSource,
        rows: usize,
        start: usize,
        k: usize,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        let FactorSource { tensor, first, rank, column, scale } = source;
        resize(&mut self.columns, rows * rank);
        let stretch = (first * rank, self.columns.len());
        widen(self.simd, checkpoint, tensor, [stretch], &mut self.source, &mut self.columns)?;
        check_finite(self.simd, &self.columns, *rank, tensor, |row, column| (first + row, column))?;
        let lines = self.values[start..].chunks_exact_mut(k);
        for (line, own) in lines.zip(self.columns.chunks_exact(*rank)) {
            for (value, own) in line[*column..].iter_mut().zip(own) {
                *value = own * scale;
            }
        }
        Ok(())
    }

    /// Reads rows, widened to f32, into a range of the values.
    fn read(&mut self, piece: &Segment, k: usize, range: Range<usize>, checkpoint: &Checkpoint) -> Result<()> {
        let values = &mut self.values[range];
        match &piece.source {
            Source::Constant(value) => values.fill(*value),
            Source::Rows { tensor, first } => {
                let stretch = (first * k, values.len());
                widen(self.simd, checkpoint, tensor, [stretch], &mut self.source, values)?;
                check_finite(self.simd, values, k, tensor, |row, column| (first + row, column))?;
            }
            Source::Columns { tensor, first, total } => {
                resize(&mut self.columns, values.len());
                let stretches = (0..k).map(|line| (line * total + first, piece.rows));
                widen(self.simd, checkpoint, tensor, stretches, &mut self.source, &mut self.columns)?;
                check_finite(self.simd, &self.columns, piece.rows, tensor, |line, column| (line, first + column))?;
                transpose(&self.columns, piece.rows, values, k);
            }
        }
        Ok(())
    }

    fn rotary(&mut self, rope: &Rope, part: RotaryPart, tables: &[RotaryTable], first_row: usize, rows: usize) {
        let width = self.values.len() / rows;
        let mut lines = self.values.chunks_exact_mut(width);
        let mut start = 0;
        for table in tables {
            let end = start + table.rows;
            let (from, to) = (first_row.max(start), (first_row + rows).min(end));
            if from < to {
                let frequencies = rope.inverse_frequencies(table.length);
                let factor = rope.attention_factor(table.length);
                for (position, line) in (from - start..to - start).zip(&mut lines) {
                    for (value, frequency) in line.iter_mut().zip(&frequencies) {
                        // Angles are rounded to f32, as the reference computes them.
                        let angle = f64::from(position as f32 * frequency);
                        let exact = match part {
                            RotaryPart::Cos => libm::cos(angle),
                            RotaryPart::Sin => libm::sin(angle),
                        };
                        *value = exact as f32 * factor;
                    }
                }
            }
            start = end;
        }
    }

    /// Rounds the values to a float dtype.
    fn narrow(&mut self, dtype: Dtype) -> Result<(), Unfaithful> {
        resize(&mut self.stored, self.values.len() * dtype.bytes() as usize);
        match dtype {
            Dtype::F16 => convert::f32_to_f16(self.simd, &self.values, &mut self.stored),
            Dtype::Bf16 => convert::f32_to_bf16(self.simd, &self.values, &mut self.stored),
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
        resize(&mut self.stored, rows * scheme.code_bytes_per_row(k));
        resize(&mut self.scales, rows * scheme.blocks(k) * scale_dtype.size());
        resize(&mut self.zero_points, rows * scheme.zero_point_bytes_per_row(k));
        let (codes, scales, zero_points) = (&mut *self.stored, &mut *self.scales, &mut *self.zero_points);
        quantize_rows_with(self.simd, scheme, scale_dtype, &self.values, k, Buffers { codes, scales, zero_points })
    }
}

/// Makes a buffer this long and not longer: a vector left to itself would double, past the budget.
fn resize<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) {
    buffer.reserve_exact(length.saturating_sub(buffer.len()));
    buffer.resize(length, T::default());
}

/// Reads stretches of a tensor, pairs of a first element and a count, one after another, as f32.
fn widen(
    simd: Simd,
    checkpoint: &Checkpoint,
    name: &str,
    stretches: impl IntoIterator<Item = (usize, usize)>,
    source: &mut Vec<u8>,
    values: &mut [f32],
) -> Result<()> {
    let missing = || Error::Tensors { problems: vec![format!("tensor {name:?} is missing")] };
    let tensor = checkpoint.tensor(name).ok_or_else(missing)?;
    let element = (tensor.dtype.bits() / 8) as usize;
    resize(source, values.len() * element);
    let mut start = 0;
    for (first, count) in stretches {
        let end = start + count * element;
        checkpoint.read(tensor, (first * element) as u64, &mut source[start..end])?;
        start = end;
    }
    match tensor.dtype {
        Stored::Bf16 => convert::bf16_to_f32(simd, source, values),
        Stored::F16 => convert::f16_to_f32(simd, source, values),
        Stored::F32 => {
            for (value, bytes) in values.iter_mut().zip(source.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            Ok(())
        }
        other => return Err(Error::Tensors { problems: vec![format!("tensor {name:?} is {}", other.name())] }),
    }
    .map_err(|error| Error::graph(name, error))
}

/// `at` turns a line and a place in it into the row and column of the tensor.
fn check_finite(
    simd: Simd,
    values: &[f32],
    width: usize,
    tensor: &str,
    at: impl Fn(usize, usize) -> (usize, usize),
) -> Result<()> {
    let Some(index) = convert::first_non_finite(simd, values) else { return Ok(()) };
    let (row, column) = at(index / width, index % width);
    Err(Error::Weight {
        tensor: tensor.to_owned(),
        row: row as u64,
        reason: format!("column {column} is {}, expected a finite number", values[index]),
        hint: Some("the weights are damaged, or come from a training run that diverged"),
    })
}

/// Writes rows of `columns` elements as columns: an element goes to `column * stride + row`.
///
/// Blocks are copied together before they are turned: the lines of a block are often a power of two apart, and so many
/// of them do not fit in the first-level cache side by side.
fn transpose<T: Copy + Default>(from: &[T], columns: usize, to: &mut [T], stride: usize) {
    const BLOCK: usize = 32;
    let mut together = [[T::default(); BLOCK]; BLOCK];
    for (block, rows) in from.chunks(BLOCK * columns).enumerate() {
        let height = rows.len() / columns;
        for first in (0..columns).step_by(BLOCK) {
            let width = BLOCK.min(columns - first);
            for (copy, row) in together.iter_mut().zip(rows.chunks_exact(columns)) {
                copy[..width].copy_from_slice(&row[first..first + width]);
            }
            for column in 0..width {
                let line = &mut to[(first + column) * stride + block * BLOCK..][..height];
                for (element, row) in line.iter_mut().zip(&together) {
                    *element = row[column];
                }
            }
        }
    }
}

/// The segments cut to rows `first_row..first_row + rows` of the matrix.
fn pieces(segments: &[Segment], first_row: usize, rows: usize) -> Vec<Segment> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for segment in segments {
        let end = start + segment.rows;
        let (from, to) = (first_row.max(start), (first_row + rows).min(end));
        if from < to {
            pieces.push(Segment { source: segment.source.skip(from - start), rows: to - from });
        }
        start = end;
    }
    pieces
}

/// What there is to read for rows `first_row..first_row + rows`: at which of these rows it begins, how many, and whence.
fn factor_pieces(factors: &[Factor], first_row: usize, rows: usize) -> Vec<(usize, usize, FactorSource)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for factor in factors {
        let end = start + factor.rows;
        let (from, to) = (first_row.max(start), (first_row + rows).min(end));
        if let Some(source) = factor.source.as_ref().filter(|_| from < to) {
            let source = FactorSource { first: source.first + from - start, ..source.clone() };
            pieces.push((from - first_row, to - from, source));
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
    let source = match &job.rows {
        Rows::Checkpoint { segments, .. } => {
            match pieces(segments, first_row + row, 1).into_iter().next().map(|segment| segment.source) {
                Some(Source::Rows { tensor, first } | Source::Columns { tensor, first, .. }) => Some((tensor, first)),
                Some(Source::Constant(_)) | None => None,
            }
        }
        Rows::Rotary { .. } => None,
        Rows::Factors(factors) => {
            let piece = factor_pieces(factors, first_row + row, 1).into_iter().next();
            piece.map(|(_, _, source)| (source.tensor, source.first))
        }
    };
    let (tensor, row) = source.unwrap_or_else(|| (job.subject().to_owned(), first_row + row));
    Error::Weight { tensor, row: row as u64, reason, hint: error.hint() }
}
