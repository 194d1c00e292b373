//! Jobs of several plans that want the same rows, put together so that each row is read and widened once.
//!
//! ```text
//!  job of one plan      rows of the batch      jobs of another plan
//!                      ┌─ rows of q ─────────► q
//!  qkv ◄───────────────┼─ rows of k ─────────► k
//!                      └─ rows of v ─────────► v
//! ```
//!
//! A plan takes no part of a tensor twice, so of one plan each job is a batch of its own.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    Plan,
    plan::{Job, Rows, Segment},
};

/// A matrix of which jobs take rows.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) rows: Rows,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) takers: Vec<Taker>,
}

/// A job, and rows that it takes: those at `rows` of the batch are its own from `at` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taker {
    /// Index of the plan, and of the job in it.
    pub(super) plan: usize,
    pub(super) job: usize,
    pub(super) rows: Range<usize>,
    pub(super) at: usize,
}

impl Taker {
    /// What it takes of some rows of the batch, and where that begins among its own.
    pub(super) fn part(&self, rows: Range<usize>) -> Option<(Range<usize>, usize)> {
        let (from, to) = (rows.start.max(self.rows.start), rows.end.min(self.rows.end));
        (from < to).then(|| (from..to, self.at + from - self.rows.start))
    }
}

/// All jobs of the plans, in the order of the first of them.
pub(super) fn batches(plans: &[&Plan]) -> Vec<Batch> {
    let mut batches: Vec<Option<Batch>> = Vec::new();
    // Which batches read a tensor; those that have become part of another are gone from the list.
    let mut readers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (plan, jobs) in plans.iter().map(|plan| &plan.jobs).enumerate() {
        for (index, job) in jobs.iter().enumerate() {
            let mut shared: Vec<usize> = Vec::new();
            for segment in job.rows.segments() {
                let candidates = segment.source.tensor().and_then(|tensor| readers.get(tensor));
                for candidate in candidates.into_iter().flatten() {
                    let shares = batches[*candidate].as_ref().is_some_and(|batch| batch.shares(job, segment));
                    if shares && !shared.contains(candidate) {
                        shared.push(*candidate);
                    }
                }
            }
            let parts = shared.iter().filter_map(|other| batches[*other].clone());
            let together = parts.reduce(Batch::and).map(|parts| parts.with(plan, index, job));
            let together = together.filter(|batch| batch.is_cut_evenly(plans));
            if together.is_some() {
                shared.iter().for_each(|other| batches[*other] = None);
            } else {
                shared.clear();
            }
            let batch = together.unwrap_or_else(|| Batch::of(plan, index, job));
            let home = shared.first().copied().unwrap_or(batches.len());
            for tensor in batch.rows.segments().iter().filter_map(|segment| segment.source.tensor()) {
                let readers = readers.entry(tensor.to_owned()).or_default();
                if !readers.contains(&home) {
                    readers.push(home);
                }
            }
            match batches.get_mut(home) {
                Some(place) => *place = Some(batch),
                None => batches.push(Some(batch)),
            }
        }
    }
    batches.into_iter().flatten().collect()
}

impl Batch {
    fn of(plan: usize, index: usize, job: &Job) -> Self {
        let taker = Taker { plan, job: index, rows: 0..job.n, at: 0 };
        Self { rows: job.rows.clone(), n: job.n, k: job.k, takers: vec![taker] }
    }

    /// Whether rows of the batch are rows of a segment of a job, value for value.
    fn shares(&self, job: &Job, segment: &Segment) -> bool {
        let same_plus = match (&self.rows, &job.rows) {
            (Rows::Checkpoint { plus: a, .. }, Rows::Checkpoint { plus: b, .. }) => a.to_bits() == b.to_bits(),
            _ => false,
        };
        let overlaps = |own: &Segment| match segment.source.rows_after(&own.source) {
            Some(after) => after < own.rows as isize && after + segment.rows as isize > 0,
            None => false,
        };
        same_plus && self.k == job.k && self.rows.segments().iter().any(overlaps)
    }

    /// The fewest rows that can be made apart from the others, for all who take them.
    pub(super) fn rows_at_a_time(&self, plans: &[&Plan]) -> usize {
        let rows = self.takers.iter().map(|taker| plans[taker.plan].jobs[taker.job].rows_at_a_time());
        rows.max().unwrap_or(1)
    }

    /// Whether spans of so many rows are whole ones of each job, too.
    fn is_cut_evenly(&self, plans: &[&Plan]) -> bool {
        self.takers.iter().all(|taker| {
            let job = &plans[taker.plan].jobs[taker.job];
            let (least, end) = (job.rows_at_a_time(), taker.at + taker.rows.len());
            [taker.rows.start, taker.at].iter().all(|row| row.is_multiple_of(least))
                && (end == job.n || end.is_multiple_of(least))
        })
    }

    /// The rows of both, and who takes them.
    fn and(mut self, other: Self) -> Self {
        let start = self.n;
        let moved = |rows: Range<usize>| start + rows.start..start + rows.end;
        self.takers.extend(other.takers.into_iter().map(|taker| Taker { rows: moved(taker.rows), ..taker }));
        for segment in other.rows.segments() {
            self.append(segment.clone());
        }
        self
    }

    /// The same with a job more. Of its rows those are added that are not here yet.
    fn with(mut self, plan: usize, index: usize, job: &Job) -> Self {
        let mut at = 0;
        for segment in job.rows.segments() {
            let mut rest = segment.clone();
            while rest.rows > 0 {
                let rows = self.place(&rest);
                let taken = rows.len();
                match self.takers.last_mut() {
                    Some(last) if (last.plan, last.job, last.rows.end) == (plan, index, rows.start) => {
                        last.rows.end = rows.end;
                    }
                    _ => self.takers.push(Taker { plan, job: index, rows, at }),
                }
                at += taken;
                rest = Segment { source: rest.source.skip(taken), rows: rest.rows - taken };
            }
        }
        self
    }

    /// Where the first rows of a segment are, as many as are side by side; they are added if they are not here.
    fn place(&mut self, wanted: &Segment) -> Range<usize> {
        let (mut start, mut missing) = (0, wanted.rows);
        for own in self.rows.segments() {
            match wanted.source.rows_after(&own.source) {
                Some(after) if (0..own.rows as isize).contains(&after) => {
                    let first = start + after.unsigned_abs();
                    return first..(first + wanted.rows).min(start + own.rows);
                }
                Some(after) if after < 0 => missing = missing.min(after.unsigned_abs()),
                _ => {}
            }
            start += own.rows;
        }
        self.append(Segment { source: wanted.source.clone(), rows: missing })
    }

    fn append(&mut self, segment: Segment) -> Range<usize> {
        let start = self.n;
        self.n += segment.rows;
        if let Rows::Checkpoint { segments, .. } = &mut self.rows {
            segments.push(segment);
        }
        start..self.n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Dtype, Graph},
        plan::{CodeLayout, Sink, Source},
    };

    fn rows(tensor: &str, first: usize, rows: usize) -> Segment {
        Segment { source: Source::Rows { tensor: tensor.to_owned(), first }, rows }
    }

    fn job(segments: Vec<Segment>, plus: f32) -> Job {
        let n = segments.iter().map(|segment| segment.rows).sum();
        Job { rows: Rows::Checkpoint { segments, plus }, n, k: 8, sink: Sink::Dense { slot: 0, dtype: Dtype::F32 } }
    }

    fn plan(jobs: Vec<Job>) -> Plan {
        Plan {
            graph: Graph::default(),
            data_file: String::new(),
            slots: Vec::new(),
            data_bytes: 0,
            jobs,
            tensors: BTreeMap::new(),
            weights: 0,
            weight_bytes: 0,
            adapters: Vec::new(),
        }
    }

    /// The batches as lists of rows read, and for each taker where its rows come from, row by row.
    fn check(plans: &[&Plan]) -> Vec<Batch> {
        let batches = batches(plans);
        let row = |list: &[Segment], row: usize| {
            let mut start = 0;
            let segment = list.iter().find(|segment| {
                start += segment.rows;
                row < start
            });
            let segment = segment.unwrap();
            segment.source.skip(row + segment.rows - start)
        };
        for (index, plan) in plans.iter().enumerate() {
            for (number, job) in plan.jobs.iter().enumerate() {
                let mut made = vec![0; job.n];
                for batch in &batches {
                    for taker in batch.takers.iter().filter(|taker| (taker.plan, taker.job) == (index, number)) {
                        for (at, from) in (taker.at..).zip(taker.rows.clone()) {
                            let (found, wanted) = (row(batch.rows.segments(), from), row(job.rows.segments(), at));
                            let constant = |source: &Source| matches!(source, Source::Constant(_));
                            assert!(found == wanted || constant(&found) && constant(&wanted), "{found:?} {wanted:?}");
                            made[at] += 1;
                        }
                    }
                }
                assert!(made.iter().all(|times| *times == 1), "plan {index}, job {number}: {made:?}");
            }
        }
        batches
    }

    #[test]
    fn jobs_of_one_plan_stay_apart() {
        let split = plan(vec![job(vec![rows("fused", 0, 4)], 0.0), job(vec![rows("fused", 4, 4)], 0.0)]);
        let found = check(&[&split]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].takers, [Taker { plan: 0, job: 1, rows: 0..4, at: 0 }]);
    }

    #[test]
    fn rows_packed_in_one_plan_and_apart_in_another_are_read_once() {
        let packed = plan(vec![job(vec![rows("q", 0, 8), rows("k", 0, 4), rows("v", 0, 4)], 0.0)]);
        let apart = ["q", "k", "v"].map(|name| job(vec![rows(name, 0, if name == "q" { 8 } else { 4 })], 0.0));
        let apart = plan(apart.to_vec());
        for plans in [[&packed, &apart], [&apart, &packed]] {
            let found = check(&plans);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].n, 16);
            assert_eq!(found[0].takers.len(), 4);
        }
        assert_eq!(check(&[&packed, &apart, &packed])[0].takers.len(), 5);
    }

    #[test]
    fn parts_that_overlap_are_read_once() {
        let halves = plan(vec![job(vec![rows("t", 0, 6)], 0.0), job(vec![rows("t", 6, 6)], 0.0)]);
        let thirds = [0, 4, 8].map(|first| job(vec![rows("t", first, 4)], 0.0));
        let inner = plan(vec![job(vec![rows("t", 3, 2), rows("t", 10, 2)], 0.0)]);
        let zero = || Segment { source: Source::Constant(0.0), rows: 3 };
        let padded = plan(vec![job(vec![zero(), rows("t", 0, 12), zero()], 0.0)]);
        for plans in
            [[&halves, &plan(thirds.to_vec()), &padded], [&inner, &halves, &padded], [&padded, &inner, &halves]]
        {
            let found = check(&plans);
            let of_t = |batch: &Batch| {
                let segments = batch.rows.segments().iter().filter(|segment| segment.source.tensor().is_some());
                segments.map(|segment| segment.rows).sum::<usize>()
            };
            assert_eq!(found.iter().map(of_t).sum::<usize>(), 12);
        }
    }

    #[test]
    fn rows_of_another_value_are_not_shared() {
        let [plain, raised] = [0.0, 1.0].map(|plus| plan(vec![job(vec![rows("norm", 0, 4)], plus)]));
        assert_eq!(check(&[&plain, &raised]).len(), 2);
        let columns = Source::Columns { tensor: "norm".to_owned(), first: 0, total: 4 };
        let columns = plan(vec![job(vec![Segment { source: columns, rows: 4 }], 0.0)]);
        assert_eq!(check(&[&plain, &columns]).len(), 2);
    }

    /// Of codes without gaps two rows may have a byte in common.
    #[test]
    fn rows_that_share_a_byte_are_not_made_apart() {
        let scheme = genai_quantize::IntScheme::new(4, 16, false).unwrap();
        let sink = Sink::Blocks {
            scheme,
            layout: CodeLayout::Flat,
            scale_dtype: genai_quantize::ScaleDtype::F32,
            codes: 0,
            scales: 1,
            zero_points: Some(2),
        };
        let flat = plan(vec![Job { sink, ..job(vec![rows("t", 0, 8)], 0.0) }]);
        for (before, expected) in [(4, 1), (3, 2)] {
            let packed = plan(vec![job(vec![rows("s", 0, before), rows("t", 0, 8)], 0.0)]);
            for plans in [[&packed, &flat], [&flat, &packed]] {
                let found = check(&plans);
                let starts_evenly = |taker: &Taker| taker.rows.start.is_multiple_of(2) && taker.at.is_multiple_of(2);
                for batch in found.iter().filter(|batch| batch.rows_at_a_time(&plans) == 2) {
                    let of_flat = batch.takers.iter().filter(|taker| std::ptr::eq(plans[taker.plan], &flat));
                    assert!(of_flat.clone().all(starts_evenly) && of_flat.count() == 1);
                }
                let expected = if std::ptr::eq(plans[0], &flat) { 1 } else { expected };
                assert_eq!(found.len(), expected, "{before}");
            }
        }
    }
}
