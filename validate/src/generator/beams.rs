//! Beam search, as the peer and `transformers` do it.
//!
//! Of each prompt, the `2 n` best continuations of its `n` beams are looked at in order. One that ends is a finished
//! sequence, if it is among the first `n`; the others become the next beams, until there are `n`. A prompt is done with
//! `n` finished sequences, and without early stopping when no beam can become better than the worst of them.

use std::cmp::Ordering;

use super::SearchOptions;

/// A sequence, and the sum of its tokens' log probabilities by its length to the power of the length penalty.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    pub(super) ids: Vec<u32>,
    pub(super) score: f32,
}

/// The beams of all prompts.
pub(super) struct Beams {
    width: usize,
    early_stopping: bool,
    length_penalty: f32,
    prompts: Vec<Prompt>,
}

/// The beams of one prompt.
struct Prompt {
    /// Log probabilities, summed.
    sums: Vec<f32>,
    /// The best first.
    finished: Vec<Hypothesis>,
    done: bool,
}

/// How the rows go on.
pub(super) struct Step {
    /// The row of which each goes on.
    pub(super) rows: Vec<usize>,
    pub(super) tokens: Vec<u32>,
}

struct Candidate {
    score: f32,
    beam: usize,
    token: usize,
}

impl Beams {
    pub(super) fn new(search: &SearchOptions) -> Self {
        // So that equal beams do not all go the same way.
        let sums: Vec<f32> = (0..search.num_beams).map(|beam| if beam == 0 { 0.0 } else { -1e9 }).collect();
        let prompt = || Prompt { sums: sums.clone(), finished: Vec::new(), done: false };
        Self {
            width: search.num_beams,
            early_stopping: search.early_stopping,
            length_penalty: search.length_penalty,
            prompts: (0..search.batch_size).map(|_| prompt()).collect(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.prompts.iter().all(|prompt| prompt.done)
    }

    /// Chooses from the scores of all rows, `vocab` each; `ids` are the rows so far, `width` to a prompt.
    pub(super) fn step(&mut self, scores: &mut [f32], vocab: usize, ids: &[&[u32]], eos: &[u32], pad: u32) -> Step {
        let mut step = Step { rows: Vec::with_capacity(ids.len()), tokens: Vec::with_capacity(ids.len()) };
        let rows = scores.chunks_exact_mut(self.width * vocab).zip(ids.chunks_exact(self.width));
        for (index, (prompt, (scores, ids))) in self.prompts.iter_mut().zip(rows).enumerate() {
            let first = index * self.width;
            if prompt.done {
                step.rows.extend(first..first + self.width);
                step.tokens.extend(std::iter::repeat_n(pad, self.width));
                continue;
            }
            for (row, sum) in scores.chunks_exact_mut(vocab).zip(&prompt.sums) {
                log_softmax(row);
                row.iter_mut().for_each(|score| *score += sum);
            }
            let best = best(scores, vocab, 2 * self.width);
            let mut sums = Vec::with_capacity(self.width);
            for (rank, candidate) in best.iter().enumerate() {
                let token = candidate.token as u32;
                if eos.contains(&token) {
                    if rank < self.width {
                        let ids = ids.get(candidate.beam).copied().unwrap_or_default();
                        prompt.finish(ids, candidate.score, (self.length_penalty, self.width));
                    }
                    continue;
                }
                sums.push(candidate.score);
                step.rows.push(first + candidate.beam);
                step.tokens.push(token);
                if sums.len() == self.width {
                    break;
                }
            }
            // Too many end tokens among the best, as with several of them: what is left of the beams ends here.
            while sums.len() < self.width {
                sums.push(f32::MIN);
                step.rows.push(first);
                step.tokens.push(pad);
            }
            prompt.sums = sums;
            let length = ids.first().map_or(0, |ids| ids.len());
            let reachable = best.iter().map(|candidate| candidate.score).fold(f32::NEG_INFINITY, f32::max);
            prompt.done = prompt.finished.len() == self.width
                && (self.early_stopping || !prompt.can_improve(normalised(reachable, length, self.length_penalty)));
        }
        step
    }

    /// The best `count` sequences of each prompt, if the search ended here. `ids` as in [`Self::step`].
    pub(super) fn hypotheses(&self, ids: &[&[u32]], count: usize) -> Vec<Hypothesis> {
        let mut all = Vec::with_capacity(self.prompts.len() * count);
        for (prompt, ids) in self.prompts.iter().zip(ids.chunks(self.width)) {
            let mut ended = Prompt { sums: Vec::new(), finished: prompt.finished.clone(), done: prompt.done };
            if !prompt.done {
                for (ids, &sum) in ids.iter().zip(&prompt.sums) {
                    ended.finish(ids, sum, (self.length_penalty, self.width));
                }
            }
            all.extend(ended.finished.into_iter().take(count));
        }
        all
    }
}

impl Prompt {
    fn finish(&mut self, ids: &[u32], sum: f32, (length_penalty, most): (f32, usize)) {
        let score = normalised(sum, ids.len(), length_penalty);
        // Behind those that are as good.
        let place = self.finished.partition_point(|other| other.score >= score);
        if place < most {
            self.finished.insert(place, Hypothesis { ids: ids.to_vec(), score });
            self.finished.truncate(most);
        }
    }

    fn can_improve(&self, score: f32) -> bool {
        self.finished.last().is_none_or(|worst| worst.score < score)
    }
}

fn normalised(sum: f32, length: usize, penalty: f32) -> f32 {
    sum / (length as f32).powf(penalty)
}

/// In f32, first to last, as the peer sums.
fn log_softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score -= highest;
        sum += score.exp();
    }
    let log = sum.ln();
    scores.iter_mut().for_each(|score| *score -= log);
}

/// The `count` highest of the beams' scores, highest first; equal ones in the order of beams and ids.
fn best(scores: &[f32], vocab: usize, count: usize) -> Vec<Candidate> {
    let order = |a: &usize, b: &usize| {
        let (first, second) = (scores.get(*a), scores.get(*b));
        second.partial_cmp(&first).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable_by(order);
    let candidate =
        |place: usize| Some(Candidate { score: *scores.get(place)?, beam: place / vocab, token: place % vocab });
    places.into_iter().filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(num_beams: usize, early_stopping: bool) -> SearchOptions {
        SearchOptions { num_beams, early_stopping, ..SearchOptions::default() }
    }

    #[test]
    fn an_end_among_the_best_finishes_a_sequence() {
        // Token 3 ends.
        let mut beams = Beams::new(&search(2, true));
        let row = [0.1f32, 0.3, 0.1, 0.5].map(f32::ln);
        let ids: [&[u32]; 2] = [&[7], &[7]];
        let step = beams.step(&mut [row, row].concat(), 4, &ids, &[3], 0);
        // The second beam starts hopeless, so both go on from the first.
        assert_eq!((step.rows, step.tokens), (vec![0, 0], vec![1, 0]));
        let ended = beams.hypotheses(&[&[7, 1], &[7, 0]], 2);
        assert_eq!(ended[0].ids, [7, 1]);
        assert!((ended[0].score - 0.3f32.ln() / 2.0).abs() < 1e-6);
        assert_eq!(ended[1].ids, [7], "ln 0.5 by one token");
        assert!(!beams.is_done());
        let ids: [&[u32]; 2] = [&[7, 1], &[7, 0]];
        beams.step(&mut [row, row].concat(), 4, &ids, &[3], 0);
        assert!(beams.is_done());
    }

    #[test]
    fn length_changes_the_order() {
        let mut prompt = Prompt { sums: Vec::new(), finished: Vec::new(), done: false };
        for (length, sum) in [(2, -2.0), (4, -3.0), (3, -6.0)] {
            prompt.finish(&vec![0; length], sum, (1.0, 2));
        }
        let kept: Vec<usize> = prompt.finished.iter().map(|finished| finished.ids.len()).collect();
        assert_eq!(kept, [4, 2]);
        assert!(prompt.can_improve(-0.9) && !prompt.can_improve(-1.0));
    }
}
