//! One tile: some rows of a matrix, from the checkpoint to the data file.

use std::ops::Range;

use genai_architectures::Rope;
use genai_checkpoint::{Checkpoint, Dtype as Stored};
use genai_quantize::{Buffers, Error as Unfaithful, IntScheme, ScaleDtype, Simd, convert, quantize_rows_with};

use super::{
    Package, Span,
    batch::{Batch, Taker},
    codes::lay_out,
};
use crate::{
    Error, Result,
    graph::Dtype,
    plan::{Factor, FactorSource, Job, RotaryPart, RotaryTable, Rows, Segment, Sink, Source},
};

/// The buffers of a worker, kept from tile to tile of a batch.
pub(super) struct Tile {
    simd: Simd,
    source: Vec<u8>,
    values: Vec<f32>,
    /// Values of a matrix that is stored the other way round, as they were read.
    columns: Vec<f32>,
    stored: Vec<u8>,
    /// For each taker that stores its rows as columns, these columns.
    turned: Vec<Vec<u8>>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

impl Tile {
    pub(super) fn new(simd: Simd) -> Self {
        let (source, stored, turned) = (Vec::new(), Vec::new(), Vec::new());
        let (scales, zero_points) = (Vec::new(), Vec::new());
        Self { simd, source, values: Vec::new(), columns: Vec::new(), stored, turned, scales, zero_points }
    }

    /// Makes the rows of a span for all who take some. Only what is stored as columns is as large as the span: values
    /// pass through in strips.
    pub(super) fn make(
        &mut self,
        batch: &Batch,
        span: &Span,
        checkpoint: &Checkpoint,
        packages: &[Package],
    ) -> Result<()> {
        let end = span.first_row + span.rows;
        let shares: Vec<Share> =
            batch.takers.iter().filter_map(|taker| Share::of(taker, span.first_row..end, packages)).collect();
        self.turned.resize(shares.len(), Vec::new());
        for first_row in (span.first_row..end).step_by(span.strip) {
            let strip = first_row..(first_row + span.strip).min(end);
            self.fill(batch, strip.clone(), checkpoint)?;
            for (number, share) in shares.iter().enumerate() {
                if let Some((rows, at)) = share.taker.part(strip.clone()) {
                    let values = (rows.start - first_row) * batch.k..(rows.end - first_row) * batch.k;
                    self.store(number, share, values, at)?;
                }
            }
        }
        shares.iter().zip(&self.turned).try_for_each(|(share, turned)| share.write_columns(turned))
    }

    /// Gives some of the values their stored form, as rows of a job from its row `at` on, and writes them, or keeps them
    /// as columns.
    fn store(&mut self, number: usize, share: &Share, values: Range<usize>, at: usize) -> Result<()> {
        let (job, file) = (share.job, share.package.file);
        match job.sink {
            Sink::Dense { dtype, .. } | Sink::Transposed { dtype, .. } => self.narrow(values, dtype),
            Sink::Blocks { scheme, scale_dtype, .. } => self.quantize(scheme, scale_dtype, job.k, values),
        }
        .map_err(|error| blame(&error, job, at))?;
        let place = |slot: usize, row_bytes: usize| share.slot(slot) + (at * row_bytes) as u64;
        match job.sink {
            Sink::Dense { slot, dtype } => file.write_at(&self.stored, place(slot, job.k * dtype.bytes() as usize)),
            Sink::Transposed { dtype, .. } => {
                self.turn(number, share, at - share.at, dtype);
                Ok(())
            }
            Sink::Blocks { scheme, layout, scale_dtype, codes, scales, zero_points } => {
                let rows = self.scales.len() / (scheme.blocks(job.k) * scale_dtype.size());
                lay_out(layout, scheme, job.k, rows, &mut self.stored, &mut self.zero_points);
                let [codes_before, zero_points_before] = layout.bytes_of_rows(scheme, job.k, at);
                file.write_at(&self.stored, share.slot(codes) + codes_before as u64)?;
                file.write_at(&self.scales, place(scales, scheme.blocks(job.k) * scale_dtype.size()))?;
                match zero_points {
                    Some(slot) => file.write_at(&self.zero_points, share.slot(slot) + zero_points_before as u64),
                    None => Ok(()),
                }
            }
        }
    }

    /// Puts the rows in their stored form into the columns of a share, from its row `done` on.
    fn turn(&mut self, number: usize, share: &Share, done: usize, dtype: Dtype) {
        let turned = &mut self.turned[number];
        resize(turned, share.rows * share.job.k * dtype.bytes() as usize);
        if dtype.bytes() == 2 {
            let (stored, turned) = (self.stored.as_chunks::<2>().0, turned.as_chunks_mut::<2>().0);
            transpose(stored, share.job.k, &mut turned[done..], share.rows);
        } else {
            let (stored, turned) = (self.stored.as_chunks::<4>().0, turned.as_chunks_mut::<4>().0);
            transpose(stored, share.job.k, &mut turned[done..], share.rows);
        }
    }

    /// The values of some rows of a batch.
    fn fill(&mut self, batch: &Batch, rows: Range<usize>, checkpoint: &Checkpoint) -> Result<()> {
        resize(&mut self.values, rows.len() * batch.k);
        match &batch.rows {
            Rows::Checkpoint { segments, plus } => {
                let mut start = 0;
                for piece in pieces(segments, rows.start, rows.len()) {
                    let end = start + piece.rows * batch.k;
                    self.read(&piece, batch.k, start..end, checkpoint)?;
                    start = end;
                }
                if *plus != 0.0 {
                    self.values.iter_mut().for_each(|value| *value += plus);
                }
            }
            Rows::Rotary { rope, part, tables } => self.rotary(rope, *part, tables, rows.start, rows.len()),
            Rows::Factors(factors) => {
                self.values.fill(0.0);
                for (start, rows, source) in factor_pieces(factors, rows.start, rows.len()) {
                    self.factor(&source, rows, start * batch.k, batch.k, checkpoint)?;
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

    /// Rounds some of the values to a float dtype.
    fn narrow(&mut self, values: Range<usize>, dtype: Dtype) -> Result<(), Unfaithful> {
        resize(&mut self.stored, values.len() * dtype.bytes() as usize);
        let values = &self.values[values];
        match dtype {
            Dtype::F16 => convert::f32_to_f16(self.simd, values, &mut self.stored),
            Dtype::Bf16 => convert::f32_to_bf16(self.simd, values, &mut self.stored),
            _ => {
                for (bytes, value) in self.stored.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                    *bytes = value.to_le_bytes();
                }
                Ok(())
            }
        }
    }

    /// Turns some of the values, rows of `k`, into codes.
    fn quantize(
        &mut self,
        scheme: IntScheme,
        scale_dtype: ScaleDtype,
        k: usize,
        values: Range<usize>,
    ) -> Result<(), Unfaithful> {
        let rows = values.len() / k;
        resize(&mut self.stored, rows * scheme.code_bytes_per_row(k));
        resize(&mut self.scales, rows * scheme.blocks(k) * scale_dtype.size());
        resize(&mut self.zero_points, rows * scheme.zero_point_bytes_per_row(k));
        let (codes, scales, zero_points) = (&mut *self.stored, &mut *self.scales, &mut *self.zero_points);
        let buffers = Buffers { codes, scales, zero_points };
        quantize_rows_with(self.simd, scheme, scale_dtype, &self.values[values], k, buffers)
    }
}

/// What a job takes of a span: `rows` rows, its own from `at` on.
struct Share<'a> {
    package: &'a Package<'a>,
    job: &'a Job,
    taker: &'a Taker,
    rows: usize,
    at: usize,
}

impl<'a> Share<'a> {
    fn of(taker: &'a Taker, span: Range<usize>, packages: &'a [Package]) -> Option<Self> {
        let (rows, at) = taker.part(span)?;
        let package = &packages[taker.plan];
        Some(Self { package, job: &package.plan.jobs[taker.job], taker, rows: rows.len(), at })
    }

    /// Where a slot begins in the data file.
    fn slot(&self, slot: usize) -> u64 {
        self.package.plan.slots[slot].offset
    }

    /// Writes its columns, where it is stored so: all at once, or each to its place.
    fn write_columns(&self, turned: &[u8]) -> Result<()> {
        let (job, file) = (self.job, self.package.file);
        let Sink::Transposed { slot, dtype } = job.sink else { return Ok(()) };
        let stretch = self.rows * dtype.bytes() as usize;
        let column_bytes = job.n as u64 * dtype.bytes();
        let start = self.slot(slot) + self.at as u64 * dtype.bytes();
        if self.rows == job.n {
            return file.write_at(turned, start);
        }
        for (column, bytes) in turned.chunks_exact(stretch).enumerate() {
            file.write_at(bytes, start + column as u64 * column_bytes)?;
        }
        Ok(())
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
