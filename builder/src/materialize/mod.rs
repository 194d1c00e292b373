//! Fills the data file: reads, converts, quantizes and writes in tiles of rows, under a byte budget.
//!
//! ```text
//! workers ─► next span ─► read rows ─► f32 ─► round or quantize ──────────────► write at the slot's offset
//!                            └─ a strip at a time ─► round ─► turn, for [k, n] ─┘
//! ```
//!
//! A worker holds one span at a time, so memory is `workers × span`, whatever the size of the model. What is f32 at a
//! time stays in the second-level cache; only the stored form of a matrix that is turned is larger. A span writes to
//! places that no other span writes to, so the bytes do not depend on the order of the work. While one worker waits for
//! the disk, another computes; written pages go to the disk in the background.
//!
//! Every weight is read once, with positioned reads: mapped pages would count as memory of the process, and a file that
//! is cut short would end it. Pages of the source are not dropped behind the cursor: they belong to the system, which
//! takes them back when it needs them, and the next build of the same checkpoint finds them.

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

use tile::Tile;

use crate::{
    Error, Plan, Result,
    accounting::Copy,
    output::DataFile,
    plan::{Job, Rows, Segment, Sink, Source},
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

/// Rows of one job that are made together.
#[derive(Debug, Clone, Copy)]
struct Span {
    job: usize,
    first_row: usize,
    rows: usize,
    /// How many of them are f32 at a time.
    strip: usize,
}

/// Fills the data file of a plan.
///
/// `progress` is told how many bytes of it are done so far. A weight that cannot be stored does not stop the work, so
/// that all tensors with such weights are told.
pub(crate) fn materialize(
    plan: &Plan,
    checkpoint: &Checkpoint,
    file: &DataFile,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let workers = workers(plan, limits)?;
    let spans = spans(plan, limits.max_memory / workers as u64);
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
                    let job = &plan.jobs[span.job];
                    if tile_of != span.job {
                        // Buffers of one job would take their room beside those of the next.
                        tile = Tile::new(limits.simd);
                        tile_of = span.job;
                    }
                    match tile.make(job, span, checkpoint, &plan.slots, file) {
                        Ok(()) => {
                            let bytes = span.rows as u64 * job.stored_row_bytes();
                            let before = done.fetch_add(bytes, Ordering::Relaxed);
                            progress(before + bytes);
                            if before / WRITEBACK != (before + bytes) / WRITEBACK {
                                file.begin_writeback();
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

/// The most that the tiles in flight take, in bytes.
pub fn peak_tile_bytes(plan: &Plan, limits: &Limits) -> Result<u64> {
    let workers = workers(plan, limits)?;
    let spans = spans(plan, limits.max_memory / workers as u64);
    let largest = spans.iter().map(|span| span_cost(&plan.jobs[span.job], span)).max().unwrap_or(0);
    Ok(largest * workers.min(spans.len()) as u64)
}

/// Fails unless tensors that stand for one another hold the same bytes.
pub(crate) fn check_copies(copies: &[Copy], checkpoint: &Checkpoint) -> Result<()> {
    const CHUNK: u64 = 1 << 20;
    for Copy { copy, original } in copies {
        let (Some(a), Some(b)) = (checkpoint.tensor(copy), checkpoint.tensor(original)) else { continue };
        let differ = || Error::Tensors {
            problems: vec![format!(
                "tensor {copy:?} differs from {original:?}, which the config says the model uses in its place"
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
fn workers(plan: &Plan, limits: &Limits) -> Result<usize> {
    let Some(costliest) = plan.jobs.iter().max_by_key(|job| row_cost(job)) else { return Ok(1) };
    let room = limits.max_memory / row_cost(costliest);
    if room == 0 {
        return Err(Error::Memory {
            what: format!("one row of {}", costliest.subject()),
            needed: row_cost(costliest),
            limit: limits.max_memory,
        });
    }
    Ok(limits.threads.clamp(1, usize::try_from(room).unwrap_or(usize::MAX)))
}

/// Memory of the smallest span.
fn row_cost(job: &Job) -> u64 {
    job.rows_at_a_time() as u64 * (strip_row_cost(job) + turned_row_cost(job))
}

fn span_cost(job: &Job, span: &Span) -> u64 {
    span.strip as u64 * strip_row_cost(job) + span.rows as u64 * turned_row_cost(job)
}

/// Memory that a row takes while it is f32: source bytes, values, these as columns where they are read so, stored bytes.
fn strip_row_cost(job: &Job) -> u64 {
    let k = job.k as u64;
    let source = match &job.rows {
        Rows::Checkpoint { .. } | Rows::Factors(_) => 4 * k,
        Rows::Rotary { .. } => 0,
    };
    let columns = if reads_columns(job) || matches!(job.rows, Rows::Factors(_)) { 4 * k } else { 0 };
    (source + 4 * k + columns + job.stored_row_bytes()).max(1)
}

/// Memory that a row takes until its span is written: its stored form as a column.
fn turned_row_cost(job: &Job) -> u64 {
    if is_turned(job) { job.stored_row_bytes() } else { 0 }
}

fn is_turned(job: &Job) -> bool {
    matches!(job.sink, Sink::Transposed { .. })
}

fn reads_columns(job: &Job) -> bool {
    let from_columns = |segment: &Segment| matches!(segment.source, Source::Columns { .. });
    matches!(&job.rows, Rows::Checkpoint { segments, .. } if segments.iter().any(from_columns))
}

/// All jobs cut into spans of at most `budget` bytes, in the order of the data file.
fn spans(plan: &Plan, budget: u64) -> Vec<Span> {
    // What is f32 at a time stays in the second-level cache.
    const STRIP: u64 = 1 << 20;
    // Columns are written, or read, a stretch at a time; many rows make that long.
    const COLUMNS: u64 = 64 << 20;
    // A line of the cache in each column.
    const STRIP_ROWS: u64 = 32;
    let rows_in = |bytes: u64, cost: u64| (bytes / cost).max(1);
    let mut spans = Vec::new();
    for (index, job) in plan.jobs.iter().enumerate() {
        let (row, turned) = (strip_row_cost(job), turned_row_cost(job));
        let least = job.rows_at_a_time() as u64;
        let (strip, rows) = if reads_columns(job) {
            let rows = rows_in(budget.min(COLUMNS), row + turned).next_multiple_of(least);
            (rows, rows)
        } else if is_turned(job) {
            let strip = rows_in(STRIP, row).max(STRIP_ROWS).min(rows_in(budget / 2, row + turned));
            (strip, rows_in(budget.min(COLUMNS).saturating_sub(strip * row), turned).max(strip))
        } else {
            let rows = rows_in(budget.min(STRIP), row).next_multiple_of(least);
            (rows, rows)
        };
        let size = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let (strip, rows) = (size(strip), size(rows));
        spans.extend((0..job.n).step_by(rows).map(|first_row| {
            let rows = rows.min(job.n - first_row);
            Span { job: index, first_row, rows, strip: strip.min(rows) }
        }));
    }
    spans
}
