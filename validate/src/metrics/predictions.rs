//! What two sides predict along texts: figures that need every position of all texts together.

use serde::Serialize;

use super::{kl_divergence, log_sum_exp};
use crate::{Matrix, argmax};

/// What the two sides make of one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prediction {
    /// Divergence of the test's prediction from the reference's, in nats; NaN where the test's logits are not finite.
    pub(crate) kl: f64,
    /// The reference's logit of its choice less that of its second; infinite where there is no second.
    gap: f64,
    /// Whether the test has the same choice.
    same_choice: bool,
    /// Logarithms of the probability of the token that follows in the text, of the reference and of the test.
    next: Option<[f64; 2]>,
}

/// Compares logits of one shape. `next` are the tokens that follow in the text, of as many positions as have one.
pub(crate) fn predictions(reference: &Matrix, test: &Matrix, next: &[u32]) -> Vec<Prediction> {
    let position = |position: usize| {
        let (reference, test) = (reference.row(position), test.row(position));
        let first = argmax(reference);
        let second = reference.iter().enumerate().filter(|&(token, _)| Some(token) != first);
        let second = second.map(|(_, &logit)| f64::from(logit)).fold(f64::NEG_INFINITY, f64::max);
        let gap = first.map_or(f64::NAN, |first| f64::from(reference[first]) - second);
        if !test.iter().all(|logit| logit.is_finite()) {
            return Prediction { kl: f64::NAN, gap, same_choice: false, next: None };
        }
        let log_sums = [reference, test].map(log_sum_exp);
        let next = next.get(position).and_then(|&token| {
            let token = usize::try_from(token).ok()?;
            let [reference, test] = [reference.get(token)?, test.get(token)?].map(|&logit| f64::from(logit));
            Some([reference - log_sums[0], test - log_sums[1]])
        });
        Prediction { kl: kl_divergence(reference, test, log_sums), gap, same_choice: first == argmax(test), next }
    };
    (0..reference.rows().min(test.rows())).map(position).collect()
}

/// Figures over all positions of all texts. Facts, of which nothing is judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Predictions {
    pub kl: Divergence,
    /// By how far the reference's choice is from its second, in logits: below 0.1, to 1, and above. Where it is far,
    /// another choice is no rounding.
    pub same_choice: [Share; 3],
    /// `None` where no token is known to follow, as of a graph that gives the last logits alone.
    pub next_token: Option<NextToken>,
}

/// KL divergences in nats, of the positions where the test's logits are finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    pub positions: usize,
    pub mean: f64,
    /// Of the mean; `None` of fewer than two positions.
    pub standard_error: Option<f64>,
    /// 50, 90, 95, 99 and 99.9 of 100.
    pub percentiles: [f64; 5],
    pub max: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    pub equal: usize,
    pub of: usize,
}

/// What the sides make of the tokens that do follow in the texts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextToken {
    /// All tokens but the first of each text, where the test's logits are finite.
    pub tokens: usize,
    pub perplexity: f64,
    pub reference_perplexity: f64,
    /// Natural logarithm of the one over the other.
    pub ln_ratio: f64,
    /// Standard error of that: both sides read the same tokens, so it is of the differences. `None` of fewer than two.
    pub ln_ratio_error: Option<f64>,
    pub delta_p: DeltaP,
}

/// The test's probability of the token that follows less the reference's: a mean off zero is a bias, the rest is noise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeltaP {
    pub mean: f64,
    /// Root of the mean square.
    pub rms: f64,
    /// 1, 5, 95 and 99 of 100.
    pub percentiles: [f64; 4],
}

impl Predictions {
    pub(crate) fn of(all: &[Prediction]) -> Self {
        let mut same_choice = [Share::default(); 3];
        for prediction in all {
            let band = usize::from(prediction.gap >= 0.1) + usize::from(prediction.gap > 1.0);
            same_choice[band].of += 1;
            same_choice[band].equal += usize::from(prediction.same_choice);
        }
        let mut kl: Vec<f64> = all.iter().map(|prediction| prediction.kl).filter(|kl| !kl.is_nan()).collect();
        kl.sort_by(f64::total_cmp);
        let (mean, standard_error) = mean_and_error(&kl);
        let percentiles = [50.0, 90.0, 95.0, 99.0, 99.9].map(|percent| percentile(&kl, percent));
        let max = percentile(&kl, 100.0);
        let next: Vec<[f64; 2]> = all.iter().filter_map(|prediction| prediction.next).collect();
        Self {
            kl: Divergence { positions: kl.len(), mean, standard_error, percentiles, max },
            same_choice,
            next_token: (!next.is_empty()).then(|| NextToken::of(&next)),
        }
    }
}

impl NextToken {
    /// Of logarithms of probabilities, the reference's and the test's.
    fn of(next: &[[f64; 2]]) -> Self {
        let each = |of: fn(&[f64; 2]) -> f64| next.iter().map(of).collect::<Vec<f64>>();
        let perplexity = |of| (-mean_and_error(&each(of)).0).exp();
        let (ln_ratio, ln_ratio_error) = mean_and_error(&each(|[reference, test]| reference - test));
        let mut delta = each(|[reference, test]| test.exp() - reference.exp());
        delta.sort_by(f64::total_cmp);
        let squares: Vec<f64> = delta.iter().map(|delta| delta * delta).collect();
        Self {
            tokens: next.len(),
            perplexity: perplexity(|next| next[1]),
            reference_perplexity: perplexity(|next| next[0]),
            ln_ratio,
            ln_ratio_error,
            delta_p: DeltaP {
                mean: mean_and_error(&delta).0,
                rms: mean_and_error(&squares).0.sqrt(),
                percentiles: [1.0, 5.0, 95.0, 99.0].map(|percent| percentile(&delta, percent)),
            },
        }
    }
}

/// The mean and its standard error; NaN of nothing.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt()))
}

/// So many of 100 of sorted values are not above it. Between two values it is in proportion, as numpy has it; NaN of
/// nothing.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = last as f64 * percent / 100.0;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above { below } else { below + (above - below) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-7, "{found} is not {expected}");
    }

    /// Logits of probabilities.
    fn logits(rows: &[[f32; 3]]) -> Matrix {
        Matrix::new(rows.len(), 3, rows.iter().flatten().map(|p| p.ln()).collect()).unwrap()
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        // The places are 0, 1.2, 2, 3.6 and 4.
        let found = [0.0, 30.0, 50.0, 90.0, 100.0].map(|percent| percentile(&sorted, percent));
        for (found, expected) in found.into_iter().zip([1.0, 2.4, 4.0, 12.8, 16.0]) {
            near(found, expected);
        }
        assert_eq!(percentile(&[7.0], 99.9), 7.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn perplexities_and_their_ratio_are_of_the_tokens_that_follow() {
        let reference = logits(&[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05]]);
        let test = logits(&[[0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.05, 0.05, 0.9]]);
        let found = Predictions::of(&predictions(&reference, &test, &[0, 2]));
        let next = found.next_token.unwrap();
        assert_eq!(next.tokens, 2, "nothing is known to follow the last");
        // The reference gives them 1/2 and 1/2, the test 1/4 and 1/2.
        near(next.reference_perplexity, 2.0);
        near(next.perplexity, 8f64.sqrt());
        // Differences of ln 2 and 0: mean ln 2 / 2, variance (ln 2)^2 / 2.
        near(next.ln_ratio, 2f64.ln() / 2.0);
        near(next.ln_ratio_error.unwrap(), 2f64.ln() / 2.0);
        // Of -1/4 and 0.
        near(next.delta_p.mean, -0.125);
        near(next.delta_p.rms, 0.03125f64.sqrt());
        for (found, expected) in next.delta_p.percentiles.into_iter().zip([-0.2475, -0.2375, -0.0125, -0.0025]) {
            near(found, expected);
        }
    }

    #[test]
    fn divergences_are_spread_and_choices_counted_by_the_gap() {
        let reference = logits(&[[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]]);
        let test = logits(&[[0.25, 0.5, 0.25], [0.25, 0.25, 0.5], [0.9, 0.05, 0.05], [0.33, 0.34, 0.33]]);
        let found = Predictions::of(&predictions(&reference, &test, &[]));
        assert_eq!(found.next_token, None);
        let share = |equal, of| Share { equal, of };
        // Gaps of ln 2, ln 2, ln 18 and ln 34/33.
        assert_eq!(found.same_choice, [share(0, 1), share(1, 2), share(1, 1)]);
        // ln 2 / 4, 0, 0 and ln(34/33) / 100.
        let (large, small) = (2f64.ln() / 4.0, (34f64 / 33.0).ln() / 100.0);
        assert_eq!(found.kl.positions, 4);
        near(found.kl.mean, (large + small) / 4.0);
        near(found.kl.max, large);
        near(found.kl.percentiles[0], small / 2.0);
        near(found.kl.percentiles[4], small + 0.997 * (large - small));
        let one = Predictions::of(&predictions(&reference.slice(0..1), &test.slice(0..1), &[0]));
        assert_eq!((one.kl.standard_error, one.next_token.unwrap().ln_ratio_error), (None, None));
    }

    #[test]
    fn what_is_not_finite_is_another_choice_and_in_no_mean() {
        let reference = logits(&[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]);
        let mut test = reference.clone();
        test.data_mut()[1] = f32::NAN;
        let found = Predictions::of(&predictions(&reference, &test, &[0, 0]));
        assert_eq!((found.kl.positions, found.kl.max), (1, 0.0));
        assert_eq!(found.same_choice[1], Share { equal: 1, of: 2 });
        assert_eq!(found.next_token.unwrap().tokens, 1);
    }
}
