//! Fills the data file: reads, converts, quantizes and writes in tiles of rows, under a byte budget.
//!
//! ```text
//! workers ─► next tile ─► read rows ─► f32 ─► round or quantize ─► write at the slot's offset
//! ```
//!
//! A worker holds one tile at a time, so memory is `workers × tile`, whatever the size of the model. A tile writes to
//! places that no other tile writes to, so the bytes do not depend on the order of the work.

mod file;
mod tile;

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use genai_checkpoint::Checkpoint;
use genai_quantize::Simd;

pub(crate) use file::DataFile;
use tile::Tile;

use crate::{
    Error, Plan, Result,
    accounting::Copy,
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

/// Rows of one job that are made together.
#[derive(Debug, Clone, Copy)]
struct Span {
    job: usize,
    first_row: usize,
    rows: usize,
}

/// Writes the data file of a plan to `path`, which must not exist.
///
/// `progress` is told how many bytes of the data file are done so far.
pub(crate) fn materialize(
    plan: &Plan,
    checkpoint: &Checkpoint,
    path: &Path,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let workers = workers(plan, limits)?;
    let spans = spans(plan, limits.max_memory / workers as u64);
    let file = DataFile::create(path, plan.data_bytes)?;
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(spans.len()) {
            scope.spawn(|| {
                let mut tile = Tile::new(limits.simd);
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(span) = spans.get(index) else { break };
                    let job = &plan.jobs[span.job];
                    match tile.make(job, span.first_row, span.rows, checkpoint, &plan.slots, &file) {
                        Ok(()) => {
                            let bytes = span.rows as u64 * job.stored_row_bytes();
                            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes);
                        }
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            errors.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, error));
                        }
                    }
                }
            });
        }
    });
    let mut errors = errors.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Of the tiles that failed at the same time, the earliest is reported.
    errors.sort_by_key(|(index, _)| *index);
    match errors.into_iter().next() {
        Some((_, error)) => Err(error),
        None => file.sync(),
    }
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
