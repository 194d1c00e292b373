//! What is done to a row of logits before a token is drawn from it.
//!
//! Each changes the scores in place. A token that must not come gets minus infinity.

use std::collections::BTreeMap;

use crate::generator::penalise_repetition;
use crate::{Error, LogitsProcessor, Result};

/// Ends a text, such as llama-cpp-python's `StoppingCriteria`.
pub trait StoppingCriterion: Send {
    /// Asked behind each new token, which is the last of `tokens`; `logits` are those that it was drawn from, as the model
    /// gave them. The token stays in the text.
    fn is_met(&mut self, tokens: &[u32], logits: &[f32]) -> bool;
}

impl<F: FnMut(&[u32], &[f32]) -> bool + Send> StoppingCriterion for F {
    fn is_met(&mut self, tokens: &[u32], logits: &[f32]) -> bool {
        self(tokens, logits)
    }
}

/// Adds a number to the scores of some tokens. OpenAI takes -100 to 100, of which the ends decide alone; any finite number
/// is taken here, and minus infinity, which forbids.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitBias(BTreeMap<u32, f32>);

impl LogitBias {
    /// # Errors
    /// [`Error::Argument`] for a token outside the vocabulary, and for NaN and plus infinity.
    pub fn new(bias: BTreeMap<u32, f32>, vocab_size: usize) -> Result<Self> {
        for (&token, &value) in &bias {
            if token as usize >= vocab_size {
                return Err(Error::argument("a token of logit_bias", token, format!("below vocab_size {vocab_size}")));
            }
            if value.is_nan() || value == f32::INFINITY {
                return Err(Error::argument("a value of logit_bias", value, "a number below infinity"));
            }
        }
        Ok(Self(bias))
    }
}

impl LogitsProcessor for LogitBias {
    fn process(&mut self, _: &[u32], scores: &mut [f32]) -> Result<()> {
        for (&token, bias) in &self.0 {
            if let Some(score) = scores.get_mut(token as usize) {
                *score += bias;
            }
        }
        Ok(())
    }
}

/// Divides the positive scores of tokens seen so far, prompt included, and multiplies the negative ones: the formula of
/// Keskar et al. (CTRL) as transformers and the peer have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepetitionPenalty(f32);

impl RepetitionPenalty {
    /// # Errors
    /// [`Error::Argument`] unless it is a finite number above 0; 1 changes nothing.
    pub fn new(penalty: f32) -> Result<Self> {
        if penalty > 0.0 && penalty.is_finite() {
            Ok(Self(penalty))
        } else {
            Err(Error::argument("repetition_penalty", penalty, "a finite number above 0"))
        }
    }
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&mut self, tokens: &[u32], scores: &mut [f32]) -> Result<()> {
        penalise_repetition(scores, tokens, self.0);
        Ok(())
    }
}

/// OpenAI's two penalties on tokens of the text so far, prompt not included:
/// `score - count * frequency - (count > 0) * presence`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrequencyPenalty {
    frequency: f32,
    presence: f32,
    /// Where the text begins.
    prompt_length: usize,
}

impl FrequencyPenalty {
    /// # Errors
    /// [`Error::Argument`] unless both are from -2 to 2.
    pub fn new(frequency: f32, presence: f32) -> Result<Self> {
        for (name, value) in [("frequency_penalty", frequency), ("presence_penalty", presence)] {
            if !(-2.0..=2.0).contains(&value) {
                return Err(Error::argument(name, value, "a number from -2 to 2"));
            }
        }
        Ok(Self { frequency, presence, prompt_length: 0 })
    }

    /// Tells how many tokens are prompt.
    pub fn begin(&mut self, prompt_length: usize) {
        self.prompt_length = prompt_length;
    }
}

impl LogitsProcessor for FrequencyPenalty {
    fn process(&mut self, tokens: &[u32], scores: &mut [f32]) -> Result<()> {
        let mut counts = BTreeMap::new();
        for token in tokens.iter().skip(self.prompt_length) {
            *counts.entry(*token).or_insert(0u32) += 1;
        }
        for (token, count) in counts {
            if let Some(score) = scores.get_mut(token as usize) {
                *score -= count as f32 * self.frequency + self.presence;
            }
        }
        Ok(())
    }
}

/// Leaves the tokens that are at least `min_p` times as likely as the likeliest one. As in llama.cpp it judges before
/// temperature; transformers judges after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinP(f32);

impl MinP {
    /// # Errors
    /// [`Error::Argument`] unless it is from 0, which leaves all, to 1, which leaves the likeliest.
    pub fn new(min_p: f32) -> Result<Self> {
        if (0.0..=1.0).contains(&min_p) { Ok(Self(min_p)) } else { Err(range("min_p", min_p)) }
    }
}

impl LogitsProcessor for MinP {
    fn process(&mut self, _: &[u32], scores: &mut [f32]) -> Result<()> {
        let best = highest(scores);
        if !best.is_finite() {
            return Ok(());
        }
        let lowest = best + self.0.ln();
        scores.iter_mut().filter(|score| **score < lowest).for_each(|score| *score = f32::NEG_INFINITY);
        Ok(())
    }
}

/// Locally typical sampling (Meister et al.): leaves the tokens whose surprise is nearest to the expected one, as many as
/// together reach the share `typical_p`. It judges before temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TypicalP(f32);

impl TypicalP {
    /// # Errors
    /// [`Error::Argument`] unless it is above 0 and at most 1, which leaves all.
    pub fn new(typical_p: f32) -> Result<Self> {
        if typical_p > 0.0 && typical_p <= 1.0 { Ok(Self(typical_p)) } else { Err(range("typical_p", typical_p)) }
    }
}

impl LogitsProcessor for TypicalP {
    fn process(&mut self, _: &[u32], scores: &mut [f32]) -> Result<()> {
        if self.0 >= 1.0 {
            return Ok(());
        }
        let best = f64::from(highest(scores));
        if !best.is_finite() {
            return Ok(());
        }
        let sum: f64 = scores.iter().map(|score| (f64::from(*score) - best).exp()).sum();
        let log_of = |score: f32| f64::from(score) - best - sum.ln();
        let possible = scores.iter().enumerate().filter(|(_, score)| score.is_finite());
        let shares: Vec<(usize, f64)> = possible.map(|(token, score)| (token, log_of(*score))).collect();
        let expected: f64 = shares.iter().map(|(_, log)| -log * log.exp()).sum();

        let mut by_distance: Vec<(f64, usize, f64)> =
            shares.into_iter().map(|(token, log)| ((-log - expected).abs(), token, log.exp())).collect();
        by_distance.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut reached = 0.0;
        let enough = by_distance.iter().position(|(_, _, share)| {
            reached += share;
            reached >= f64::from(self.0)
        });
        for (_, token, _) in by_distance.iter().skip(enough.map_or(by_distance.len(), |last| last + 1)) {
            if let Some(score) = scores.get_mut(*token) {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}

fn highest(scores: &[f32]) -> f32 {
    scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn range(name: &'static str, value: f32) -> Error {
    Error::argument(name, value, "a number from 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: f32 = f32::NEG_INFINITY;

    fn after(mut processor: impl LogitsProcessor, tokens: &[u32], scores: &[f32]) -> Vec<f32> {
        let mut scores = scores.to_vec();
        processor.process(tokens, &mut scores).unwrap();
        scores
    }

    /// Logits of these shares.
    fn logits(shares: &[f32]) -> Vec<f32> {
        shares.iter().map(|share| share.ln()).collect()
    }

    fn left(scores: &[f32]) -> Vec<usize> {
        (0..scores.len()).filter(|&token| scores[token] != CUT).collect()
    }

    #[test]
    fn bias_is_added() {
        let bias = LogitBias::new([(0, -1.5), (2, 100.0), (3, CUT)].into(), 4).unwrap();
        assert_eq!(after(bias, &[], &[1.0, 2.0, 3.0, 4.0]), [-0.5, 2.0, 103.0, CUT]);
        for (token, value) in [(4, 1.0), (0, f32::NAN), (0, f32::INFINITY)] {
            assert!(LogitBias::new([(token, value)].into(), 4).is_err(), "{token} {value}");
        }
    }

    #[test]
    fn a_repetition_counts_once_and_never_raises_a_score() {
        let penalty = RepetitionPenalty::new(2.0).unwrap();
        assert_eq!(after(penalty, &[0, 1, 1, 9], &[4.0, -4.0, 4.0]), [2.0, -8.0, 4.0]);
        for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(RepetitionPenalty::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn frequency_counts_the_text_without_its_prompt() {
        let mut penalty = FrequencyPenalty::new(0.5, 0.25).unwrap();
        penalty.begin(2);
        // 3 stands in the prompt alone; 0 comes twice and 1 once behind it.
        assert_eq!(after(penalty, &[3, 0, 0, 1, 0], &[1.0; 4]), [-0.25, 0.25, 1.0, 1.0]);
        let reward = FrequencyPenalty::new(-2.0, 0.0).unwrap();
        assert_eq!(after(reward, &[1], &[0.0, 0.0]), [0.0, 2.0]);
        assert!(FrequencyPenalty::new(2.1, 0.0).is_err() && FrequencyPenalty::new(0.0, f32::NAN).is_err());
    }

    #[test]
    fn min_p_leaves_what_is_near_the_likeliest() {
        let scores = logits(&[0.5, 0.2, 0.06, 0.24]);
        assert_eq!(left(&after(MinP::new(0.3).unwrap(), &[], &scores)), [0, 1, 3]);
        assert_eq!(left(&after(MinP::new(0.45).unwrap(), &[], &scores)), [0, 3]);
        assert_eq!(left(&after(MinP::new(1.0).unwrap(), &[], &scores)), [0]);
        assert_eq!(after(MinP::new(0.0).unwrap(), &[], &scores), scores);
        assert_eq!(after(MinP::new(0.5).unwrap(), &[], &[CUT, CUT]), [CUT, CUT]);
        assert!(MinP::new(1.1).is_err() && MinP::new(f32::NAN).is_err());
    }

    #[test]
    fn typical_p_leaves_what_is_as_surprising_as_expected() {
        // Of 0.5, 0.25, 0.125, 0.125 the surprise is 1, 2, 3, 3 bits and the entropy 1.75: in the order of distance
        // these are 0.25 (0.25 bits away), 0.5 (0.75), then the others (1.25).
        let scores = logits(&[0.5, 0.25, 0.125, 0.125]);
        assert_eq!(left(&after(TypicalP::new(0.2).unwrap(), &[], &scores)), [1]);
        assert_eq!(left(&after(TypicalP::new(0.7).unwrap(), &[], &scores)), [0, 1]);
        assert_eq!(left(&after(TypicalP::new(0.8).unwrap(), &[], &scores)), [0, 1, 2]);
        assert_eq!(left(&after(TypicalP::new(0.9).unwrap(), &[], &scores)), [0, 1, 2, 3]);
        assert_eq!(after(TypicalP::new(1.0).unwrap(), &[], &scores), scores);
        // What is forbidden already has no part in it.
        assert_eq!(left(&after(TypicalP::new(0.9).unwrap(), &[], &[CUT, 1.0, CUT])), [1]);
        assert!(TypicalP::new(0.0).is_err() && TypicalP::new(1.5).is_err());
    }
}
