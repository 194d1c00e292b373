//! Fills the data file: reads, converts, quantizes and writes in tiles of rows, under a byte budget.
//!
//! ```text
//! workers ─► next tile ─► read rows ─► f32 ─► round or quantize ─► write at the slot's offset
//! ```
//!
//! A worker holds one tile at a time, so memory is `workers × tile`, whatever the size of the model. A tile writes to
//! places that no other tile writes to, so the bytes do not depend on the order of the work.

mod tile;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use genai_checkpoint::Checkpoint;

use tile::Tile;

use crate::{
    Error, Plan, Result,
    accounting::Copy,
    output::DataFile,
    plan::{Job, Rows, Segment, Sink, Source},
};

/// How much memory and how many threads the work may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all tiles in flight.
    pub max_memory: u64,
    /// Worker threads; at least 1.
    pub threads: usize,
}

/// Rows of one job that are made together.
#[derive(Debug, Clone, Copy)]
struct Span {
    job: usize,
    first_row: usize,
    rows: usize,
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
                let mut tile = Tile::default();
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(span) = spans.get(index) else { break };
                    let job = &plan.jobs[span.job];
                    match tile.make(job, span.first_row, span.rows, checkpoint, &plan.slots, file) {
                        Ok(()) => {
                            let bytes = span.rows as u64 * job.stored_row_bytes();
                            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
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
    let largest = spans.iter().map(|span| span.rows as u64 * row_cost(&plan.jobs[span.job])).max().unwrap_or(0);
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

/// Memory that a row takes in a tile: source bytes, f32 values, the same transposed, stored bytes.
fn row_cost(job: &Job) -> u64 {
    let from_columns = |segment: &Segment| matches!(segment.source, Source::Columns { .. });
    let (source, turned) = match &job.rows {
        Rows::Checkpoint { segments, .. } => (4 * job.k as u64, segments.iter().any(from_columns)),
        Rows::Rotary { .. } => (0, false),
    };
    let turned = turned || matches!(job.sink, Sink::Transposed { .. });
    let copies = if turned { 2 } else { 1 };
    (source + copies * 4 * job.k as u64 + job.stored_row_bytes()).max(1)
}

/// All jobs cut into tiles of at most `budget` bytes, in the order of the data file.
fn spans(plan: &Plan, budget: u64) -> Vec<Span> {
    // Larger tiles gain nothing where rows are written as they come. A transposed tile is written in one stretch per
    // column, which many rows make long.
    const ROWWISE: u64 = 4 << 20;
    const TRANSPOSED: u64 = 64 << 20;
    let mut spans = Vec::new();
    for (index, job) in plan.jobs.iter().enumerate() {
        let wanted = if matches!(job.sink, Sink::Transposed { .. }) { TRANSPOSED } else { ROWWISE };
        let rows = usize::try_from(budget.min(wanted) / row_cost(job)).unwrap_or(usize::MAX).max(1);
        let starts = (0..job.n).step_by(rows);
        spans.extend(starts.map(|first| Span { job: index, first_row: first, rows: rows.min(job.n - first) }));
    }
    spans
}
