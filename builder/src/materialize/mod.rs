//! Fills the data file: reads, converts, quantizes and writes in tiles of rows, under a byte budget.
//!
//! ```text
//! workers ─► next span ─► read rows ─► f32 ─► round or quantize ──────────────► write at the slot's offset
//!                            └─ a strip at a time ─► round ─► turn, for [k, n] ─┘
//! ```
//!
//! Several packages of one checkpoint are filled in one pass: rows that more than one of them wants are read once, and
//! each stores them in its own way.
//!
//! A worker holds one span at a time, so memory is `workers × span`, whatever the size of the model. What is f32 at a
//! time stays in the second-level cache; only the stored form of a matrix that is turned is larger. A span writes to
//! places that no other span writes to, so the bytes do not depend on the order of the work. While one worker waits for
//! the disk, another computes; written pages go to the disk in the background.
//!
//! Every weight is read once, with positioned reads: mapped pages would count as memory of the process, and a file that
//! is cut short would end it. Pages of the source are not dropped behind the cursor: they belong to the system, which
//! takes them back when it needs them, and the next build of the same checkpoint finds them.

mod batch;
mod codes;
mod tile;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use genai_checkpoint::Checkpoint;
use genai_quantize::Simd;

use batch::{Batch, Taker, batches};
use tile::Tile;

use crate::{
    Error, Plan, Result,
    accounting::Copy,
    output::DataFile,
    plan::{Job, Rows, Sink, Source},
};

/// What the work may take. None of it changes a byte.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all tiles in flight.
    pub max_memory: u64,
    /// Worker threads; at least 1.
    pub threads: usize,
    /// Vector instructions of the loops over weights.
    pub simd: Simd,
}

/// After so many bytes the system is told to write them, while the work goes on. Left alone it would begin when a tenth
/// of its memory is full of them, for most packages at the sync at the end.
const WRITEBACK: u64 = 16 << 20;

/// A package in the making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package<'a> {
    pub(crate) plan: &'a Plan,
    /// Of `plan.data_bytes` bytes.
    pub(crate) file: &'a DataFile,
}

/// Rows of one batch that are made together.
#[derive(Debug, Clone, Copy)]
struct Span {
    batch: usize,
    first_row: usize,
    rows: usize,
    /// How many of them are f32 at a time.
    strip: usize,
}

/// Fills the data files of packages that are made of one checkpoint.
///
/// `progress` is told how many bytes of all of them are done so far. A weight that cannot be stored does not stop the
/// work, so that all tensors with such weights are told.
pub(crate) fn materialize(
    packages: &[Package],
    checkpoint: &Checkpoint,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let plans: Vec<&Plan> = packages.iter().map(|package| package.plan).collect();
    let batches = batches(&plans);
    let workers = workers(&plans, &batches, limits)?;
    let spans = spans(&plans, &batches, limits.max_memory / workers as u64);
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(spans.len()) {
            scope.spawn(|| {
                let mut tile = Tile::new(limits.simd);
                let mut tile_of = usize::MAX;
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(span) = spans.get(index) else { break };
                    let batch = &batches[span.batch];
                    if tile_of != span.batch {
                        // Buffers of one batch would take their room beside those of the next.
                        tile = Tile::new(limits.simd);
                        tile_of = span.batch;
                    }
                    match tile.make(batch, span, checkpoint, packages) {
                        Ok(()) => {
                            let bytes = span_bytes(&plans, batch, span);
                            let before = done.fetch_add(bytes, Ordering::Relaxed);
                            progress(before + bytes);
                            if before / WRITEBACK != (before + bytes) / WRITEBACK {
                                packages.iter().for_each(|package| package.file.begin_writeback());
                            }
                        }
                        Err(error) => {
                            if !matches!(error, Error::Weight { .. }) {
                                failed.store(true, Ordering::Relaxed);
                            }
                            errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, error));
                        }
                    }
                }
            });
        }
    });
    let mut errors = errors.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    errors.sort_by_key(|(index, _)| *index);
    match first_of_each_tensor(errors.into_iter().map(|(_, error)| error)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// What stopped the work, the earliest tile first; else all tensors with weights that cannot be stored.
fn first_of_each_tensor(errors: impl Iterator<Item = Error>) -> Option<Error> {
    // More say nothing new.
    const SHOWN: usize = 20;
    let (weights, mut others): (Vec<_>, Vec<_>) = errors.partition(|error| matches!(error, Error::Weight { .. }));
    if !others.is_empty() {
        return Some(others.remove(0));
    }
    let mut seen = BTreeSet::new();
    let mut first: Vec<Error> = weights
        .into_iter()
        .filter(|error| matches!(error, Error::Weight { tensor, .. } if seen.insert(tensor.clone())))
        .collect();
    if first.len() < 2 {
        return first.pop();
    }
    let hint = match first.first() {
        Some(Error::Weight { hint, .. }) => *hint,
        _ => None,
    };
    let mut problems: Vec<String> = first.iter().take(SHOWN).map(ToString::to_string).collect();
    if first.len() > SHOWN {
        problems.push(format!("and {} more", first.len() - SHOWN));
    }
    Some(Error::Weights { problems, hint })
}

/// The most that the tiles in flight take, in bytes, when packages of these plans are made together.
pub fn peak_tile_bytes(plans: &[&Plan], limits: &Limits) -> Result<u64> {
    let batches = batches(plans);
    let workers = workers(plans, &batches, limits)?;
    let spans = spans(plans, &batches, limits.max_memory / workers as u64);
    let largest = spans.iter().map(|span| span_cost(plans, &batches[span.batch], span)).max().unwrap_or(0);
    Ok(largest * workers.min(spans.len()) as u64)
}

/// Fails unless tensors that stand for one another hold the same bytes.
pub(crate) fn check_copies(copies: &[&Copy], checkpoint: &Checkpoint) -> Result<()> {
    const CHUNK: u64 = 1 << 20;
    for Copy { copy, original } in copies {
        let (Some(a), Some(b)) = (checkpoint.tensor(copy), checkpoint.tensor(original)) else { continue };
        let differ = || Error::Tensors {
            problems: vec![format!(
                "tensor {copy:?} differs from {original:?}, which the config says the model uses in its place; a head of \
                 its own needs `tie_word_embeddings: false`"
            )],
        };
        if a.shape != b.shape || a.dtype != b.dtype {
            return Err(differ());
        }
        let mut offset = 0;
        while offset < a.byte_len() {
            let length = CHUNK.min(a.byte_len() - offset) as usize;
            let (mut left, mut right) = (vec![0; length], vec![0; length]);
            checkpoint.read(a, offset, &mut left)?;
            checkpoint.read(b, offset, &mut right)?;
            if left != right {
                return Err(differ());
            }
            offset += length as u64;
        }
    }
    Ok(())
}

/// Fails unless tensors that hold a number of the spec hold just that.
pub(crate) fn check_constants(constants: &[(String, f32)], checkpoint: &Checkpoint) -> Result<()> {
    // No dtype rounds a number by more than this share; a smaller difference is of no effect either.
    const ROUNDING: f32 = 1.0 / 32.0;
    let mut problems = Vec::new();
    for (name, expected) in constants {
        let Some(tensor) = checkpoint.tensor(name) else { continue };
        let mut found = [0.0];
        if tensor.elements() != 1 {
            problems.push(format!("tensor {name:?} has shape {:?}, expected one element", tensor.shape));
            continue;
        }
        checkpoint.read_f32(tensor, 0, &mut found)?;
        let same = (found[0] - expected).abs() <= ROUNDING * expected.abs();
        if !same {
            problems.push(format!("tensor {name:?} is {}, expected {expected}, the only value supported", found[0]));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Tensors { problems }) }
}

/// As many as asked for, unless the longest row of the model leaves room for fewer.
fn workers(plans: &[&Plan], batches: &[Batch], limits: &Limits) -> Result<usize> {
    let costs = batches.iter().map(|batch| (row_cost(plans, batch), batch));
    let Some((cost, costliest)) = costs.max_by_key(|(cost, _)| *cost) else { return Ok(1) };
    let room = limits.max_memory / cost;
    if room == 0 {
        let subject = costliest.takers.first().map_or("a constant", |taker| job(plans, taker).subject());
        return Err(Error::Memory { what: format!("one row of {subject}"), needed: cost, limit: limits.max_memory });
    }
    Ok(limits.threads.clamp(1, usize::try_from(room).unwrap_or(usize::MAX)))
}

fn job<'a>(plans: &[&'a Plan], taker: &Taker) -> &'a Job {
    &plans[taker.plan].jobs[taker.job]
}

/// Memory of the smallest span.
fn row_cost(plans: &[&Plan], batch: &Batch) -> u64 {
    batch.rows_at_a_time(plans) as u64 * (strip_row_cost(plans, batch) + turned_row_cost(plans, batch))
}

fn span_cost(plans: &[&Plan], batch: &Batch, span: &Span) -> u64 {
    span.strip as u64 * strip_row_cost(plans, batch) + span.rows as u64 * turned_row_cost(plans, batch)
}

/// Memory that a row takes while it is f32: source bytes, values, these as columns where they are read so, stored bytes.
fn strip_row_cost(plans: &[&Plan], batch: &Batch) -> u64 {
    let k = batch.k as u64;
    let source = match &batch.rows {
        Rows::Checkpoint { .. } | Rows::Factors(_) => 4 * k,
        Rows::Rotary { .. } => 0,
    };
    let columns = if reads_columns(batch) || matches!(batch.rows, Rows::Factors(_)) { 4 * k } else { 0 };
    (source + 4 * k + columns + stored_row_bytes(plans, batch, |_| true)).max(1)
}

/// Memory that a row takes until its span is written: its stored form as a column.
fn turned_row_cost(plans: &[&Plan], batch: &Batch) -> u64 {
    stored_row_bytes(plans, batch, is_turned)
}

/// Bytes of a row in all packages. A package has it once, in one job or in another.
fn stored_row_bytes(plans: &[&Plan], batch: &Batch, counts: impl Fn(&Job) -> bool) -> u64 {
    let of_plan = |plan: usize| {
        let jobs = batch.takers.iter().filter(|taker| taker.plan == plan).map(|taker| job(plans, taker));
        jobs.filter(|job| counts(job)).map(Job::stored_row_bytes).max().unwrap_or(0)
    };
    (0..plans.len()).map(of_plan).sum()
}

/// Bytes that a span writes.
fn span_bytes(plans: &[&Plan], batch: &Batch, span: &Span) -> u64 {
    let rows = span.first_row..span.first_row + span.rows;
    let shares = batch.takers.iter().filter_map(|taker| Some((taker, taker.part(rows.clone())?.0)));
    shares.map(|(taker, rows)| rows.len() as u64 * job(plans, taker).stored_row_bytes()).sum()
}

fn is_turned(job: &Job) -> bool {
    matches!(job.sink, Sink::Transposed { .. })
}

fn reads_columns(batch: &Batch) -> bool {
    batch.rows.segments().iter().any(|segment| matches!(segment.source, Source::Columns { .. }))
}

/// All batches cut into spans of at most `budget` bytes.
fn spans(plans: &[&Plan], batches: &[Batch], budget: u64) -> Vec<Span> {
    // What is f32 at a time stays in the second-level cache.
    const STRIP: u64 = 1 << 20;
    // Columns are written, or read, a stretch at a time; many rows make that long.
    const COLUMNS: u64 = 64 << 20;
    // A line of the cache in each column.
    const STRIP_ROWS: u64 = 32;
    let rows_in = |bytes: u64, cost: u64| (bytes / cost).max(1);
    let mut spans = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        let (row, turned) = (strip_row_cost(plans, batch), turned_row_cost(plans, batch));
        let least = batch.rows_at_a_time(plans) as u64;
        let (strip, rows) = if reads_columns(batch) {
            let rows = rows_in(budget.min(COLUMNS), row + turned).next_multiple_of(least);
            (rows, rows)
        } else if turned > 0 {
            let strip = rows_in(STRIP, row).max(STRIP_ROWS).min(rows_in(budget / 2, row + turned));
            let strip = strip.next_multiple_of(least);
            let rows = rows_in(budget.min(COLUMNS).saturating_sub(strip * row), turned);
            (strip, (rows - rows % least).max(strip))
        } else {
            let rows = rows_in(budget.min(STRIP), row).next_multiple_of(least);
            (rows, rows)
        };
        let size = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let (strip, rows) = (size(strip), size(rows));
        spans.extend((0..batch.n).step_by(rows).map(|first_row| {
            let rows = rows.min(batch.n - first_row);
            Span { batch: index, first_row, rows, strip: strip.min(rows) }
        }));
    }
    spans
}
