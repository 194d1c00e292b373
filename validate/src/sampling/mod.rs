//! The next token from one row of logits, as onnxruntime-genai 0.18 takes it on the CPU, number for number.
//!
//! ```text
//!  logits ─► k largest, descending ─► softmax at temperature ─► shortest prefix reaching top_p ─► draw
//! ```
//!
//! Order, rounding and random words follow the peer (`src/sampling_distribution.h`; the draw is libstdc++'s
//! `discrete_distribution`), so that a seed gives the same text in both and sampling can be compared exactly.

mod mersenne;

use std::cmp::Ordering;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use mersenne::MersenneTwister;

use crate::SearchOptions;
use crate::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// 0 keeps all tokens, 1 takes the likeliest; a number beyond the vocabulary keeps all.
    pub top_k: usize,
    /// Cuts where the kept tokens reach this share. Within a top-k only 0 < `top_p` < 1 has an effect; alone, 0 takes
    /// the likeliest token.
    pub top_p: f32,
    /// None draws a seed from the operating system.
    pub seed: Option<u32>,
}

impl SamplingOptions {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 1, top_p: 1.0, seed: Some(0) };

    /// What the package itself asks for.
    pub fn of(search: &SearchOptions, seed: Option<u32>) -> Self {
        if search.do_sample {
            Self { temperature: search.temperature, top_k: search.top_k, top_p: search.top_p, seed }
        } else {
            Self::GREEDY
        }
    }
}

/// Picks tokens; holds the random state of one sequence.
pub struct Sampler {
    options: SamplingOptions,
    random: MersenneTwister,
}

/// A [`Sampler`] to be put away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SamplerState {
    pub(crate) options: SamplingOptions,
    /// Of the random generator.
    pub(crate) words: Vec<u32>,
    /// How many of the words are used up.
    pub(crate) used: usize,
}

impl Sampler {
    pub(crate) fn state(&self) -> SamplerState {
        let (words, used) = self.random.state();
        SamplerState { options: self.options, words: words.to_vec(), used }
    }

    /// # Errors
    /// As [`Self::new`]; [`Error::Argument`] for a random state that is none.
    pub(crate) fn restored(state: &SamplerState) -> Result<Self> {
        let mut sampler = Self::new(SamplingOptions { seed: Some(0), ..state.options })?;
        sampler.options = state.options;
        sampler.random = MersenneTwister::of_state(&state.words, state.used).ok_or_else(|| {
            let value = format!("of {} words, {} used", state.words.len(), state.used);
            Error::argument("a random state", value, "of 624 words")
        })?;
        Ok(sampler)
    }

    /// # Errors
    /// [`Error::Argument`] for a temperature that is negative or not finite, and a `top_p` outside 0..=1. (The peer
    /// accepts both; a negative temperature prefers the unlikely.)
    pub fn new(options: SamplingOptions) -> Result<Self> {
        let SamplingOptions { temperature, top_p, .. } = options;
        if !(temperature >= 0.0 && temperature.is_finite()) {
            return Err(Error::argument("temperature", temperature, "a finite number of at least 0"));
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(Error::argument("top_p", top_p, "a number from 0 to 1"));
        }
        let random = MersenneTwister::new(options.seed.unwrap_or_else(entropy));
        Ok(Self { options, random })
    }

    /// The next token for one row of logits (f32, one per token of the vocabulary).
    ///
    /// # Errors
    /// [`Error::Argument`] for a row that is empty or holds NaN, +inf, or nothing but -inf: no choice would be right.
    pub fn pick(&mut self, logits: &[f32]) -> Result<u32> {
        let best = likeliest(logits)?;
        let SamplingOptions { temperature, top_k, top_p, .. } = self.options;
        if temperature == 0.0 || top_k == 1 {
            return id(best);
        }
        // The peer multiplies by the reciprocal, which rounds differently from a division.
        let sharpness = 1.0 / temperature;
        let candidates =
            if top_k > 1 { top(logits, top_k, top_p, sharpness) } else { nucleus(logits, top_p, sharpness) };
        id(self.draw(&candidates).unwrap_or(best))
    }

    /// One draw costs two random words; a single candidate costs none.
    fn draw(&mut self, candidates: &[Candidate]) -> Option<usize> {
        let (last, others) = candidates.split_last()?;
        if others.is_empty() {
            return Some(last.token);
        }
        let low = f64::from(self.random.next_word());
        let high = f64::from(self.random.next_word());
        let point = ((low + high * 2f64.powi(32)) / 2f64.powi(64)).min(1.0 - f64::EPSILON / 2.0);

        let sum: f64 = candidates.iter().map(|candidate| f64::from(candidate.share)).sum();
        let mut reached = 0.0;
        for candidate in others {
            reached += f64::from(candidate.share) / sum;
            if reached >= point {
                return Some(candidate.token);
            }
        }
        Some(last.token)
    }
}

/// The first of the largest, as the peer and PyTorch choose.
///
/// # Errors
/// As [`Sampler::pick`].
pub fn greedy(logits: &[f32]) -> Result<u32> {
    id(likeliest(logits)?)
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: usize,
    /// exp of the scaled distance to the best, then the share of the kept tokens.
    share: f32,
}

fn likeliest(logits: &[f32]) -> Result<usize> {
    // Lanes, because a maximum from first to last is one long chain of comparisons.
    const LANES: usize = 16;
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut usable = [true; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut see = |lane: usize, score: f32| {
        if let (Some(highest), Some(usable)) = (highest.get_mut(lane), usable.get_mut(lane)) {
            *highest = if score > *highest { score } else { *highest };
            // False for NaN too.
            *usable &= score < f32::INFINITY;
        }
    };
    for chunk in chunks {
        for (lane, &score) in chunk.iter().enumerate() {
            see(lane, score);
        }
    }
    for (lane, &score) in rest.iter().enumerate() {
        see(lane, score);
    }
    if usable != [true; LANES] {
        let unusable = |(_, score): &(usize, &f32)| score.is_nan() || **score == f32::INFINITY;
        let (token, score) = logits.iter().enumerate().find(unusable).unwrap_or((0, &f32::NAN));
        return Err(Error::argument("logits", format!("{score} at token {token}"), "numbers below infinity"));
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    match logits.iter().position(|&score| score == highest) {
        Some(token) if highest > f32::NEG_INFINITY => Ok(token),
        Some(_) => Err(Error::argument("logits", "-inf at every token", "at least one token that can be chosen")),
        None => Err(Error::argument("logits", "an empty row", "one number per token of the vocabulary")),
    }
}

/// The `count` largest and, within them, the shortest prefix whose share reaches `top_p`.
fn top(logits: &[f32], count: usize, top_p: f32, sharpness: f32) -> Vec<Candidate> {
    let mut kept = weigh(logits, &descending(logits, count), sharpness);
    let sum = sequential_sum(&kept);
    kept.iter_mut().for_each(|candidate| candidate.share /= sum);
    if top_p > 0.0 && top_p < 1.0 {
        let mut reached = 0.0;
        let enough = kept.iter().position(|candidate| {
            reached += candidate.share;
            reached >= top_p
        });
        kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    }
    normalise(kept)
}

/// The shortest prefix of the whole vocabulary whose share reaches `top_p`. Above [`EXACT_BELOW`] tokens the peer does
/// not sum the vocabulary but bounds the rest by (tokens left) x (current weight), and so may keep a few more.
fn nucleus(logits: &[f32], top_p: f32, sharpness: f32) -> Vec<Candidate> {
    const EXACT_BELOW: usize = 64;

    let mut kept = weigh(logits, &descending(logits, logits.len()), sharpness);
    let total = sequential_sum(&kept);
    let vocab_size = kept.len();
    let mut reached = 0.0f32;
    let last = kept.iter().enumerate().position(|(index, candidate)| {
        reached += candidate.share;
        if vocab_size <= EXACT_BELOW {
            return reached >= top_p * total;
        }
        let rest = (vocab_size - index - 1) as f32 * candidate.share;
        reached >= top_p * (reached + rest) && !ends_a_batch(index + 1)
    });
    kept.truncate(last.map_or(vocab_size, |last| last + 1));
    normalise(kept)
}

/// The peer sorts 16 tokens, then 64, 256 and so on, and takes a cut exactly at the end of a batch for "not found yet".
fn ends_a_batch(count: usize) -> bool {
    count >= 16 && count.is_power_of_two() && count.trailing_zeros().is_multiple_of(2)
}

/// The tokens of the `count` highest scores, highest first; equal scores in the order of their ids.
fn descending(logits: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| {
        let (first, second) = (logits.get(*a), logits.get(*b));
        second.partial_cmp(&first).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, order);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order);
    tokens
}

fn weigh(logits: &[f32], tokens: &[usize], sharpness: f32) -> Vec<Candidate> {
    let scored = tokens.iter().filter_map(|&token| Some((token, *logits.get(token)?)));
    let best = scored.clone().next().map_or(0.0, |(_, score)| score);
    scored.map(|(token, score)| Candidate { token, share: ((score - best) * sharpness).exp() }).collect()
}

fn normalise(mut kept: Vec<Candidate>) -> Vec<Candidate> {
    let scale = 1.0 / sequential_sum(&kept);
    kept.iter_mut().for_each(|candidate| candidate.share *= scale);
    kept
}

/// In f32, first to last. Never 0, because the first weight is exp(0).
fn sequential_sum(kept: &[Candidate]) -> f32 {
    kept.iter().fold(0.0, |sum, candidate| sum + candidate.share)
}

fn id(token: usize) -> Result<u32> {
    u32::try_from(token).map_err(|_| Error::argument("logits", format!("{token} tokens"), "at most 2^32 tokens"))
}

fn entropy() -> u32 {
    let word = RandomState::new().build_hasher().finish();
    (word >> 32) as u32 ^ word as u32
}

#[cfg(test)]
mod tests;
