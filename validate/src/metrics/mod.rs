//! How far one set of logits is from another. Facts only; [`crate::verdict`] judges them.

mod predictions;

use serde::Serialize;

use crate::matrix::argmax;
use crate::{Error, Matrix, Result};
pub use predictions::{DeltaP, Divergence, NextToken, Predictions, Share};
pub(crate) use predictions::{Prediction, percentile, predictions};

/// The lowest finite f16: what a package that computes in fp16 gives a masked token.
const LOWEST_F16: f32 = -65504.0;

/// Differences between reference and test logits of one prompt, in f64.
///
/// A logit of `f32::MIN` is a token that the model masks. Where both sides mask it they agree, whatever float is the
/// lowest of the test's dtype.
///
/// A position where the test has a value that is not finite is left out of the differences and counted as a
/// disagreement; [`LogitMetrics::first_non_finite`] tells of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogitMetrics {
    pub positions: usize,
    /// Positions with finite test logits only; what the means are over.
    pub finite_positions: usize,
    pub vocab_size: usize,
    /// Standard deviation of the reference logits, masked ones aside: what an absolute difference is to be seen against.
    pub reference_std: f64,
    pub max_abs: f64,
    pub max_abs_at: Option<Cell>,
    pub mean_abs: f64,
    /// Kullback-Leibler divergence of the test's distribution from the reference's, in nats per token.
    pub kl_mean: f64,
    pub kl_max: f64,
    pub kl_max_position: Option<usize>,
    /// Positions where both sides give the same token the greatest logit.
    pub top1_equal: usize,
    pub disagreements: Vec<Disagreement>,
    pub first_non_finite: Option<NonFinite>,
}

/// One logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cell {
    pub position: usize,
    pub token: usize,
}

/// The first value of the test that is no number, or infinite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NonFinite {
    pub at: Cell,
    /// As text, since JSON has no such numbers.
    pub value: String,
}

/// A position where the two sides prefer different tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Disagreement {
    pub position: usize,
    pub reference_token: usize,
    pub test_token: usize,
    /// The reference's logit of its own choice less its logit of the test's choice; not negative.
    ///
    /// Near zero the reference hardly preferred its choice, and rounding may turn it. It never exceeds twice
    /// [`LogitMetrics::max_abs`] of the same prompt, whatever the fault: at these positions the size of the error
    /// condemns, not the margin.
    pub margin: f64,
}

/// How far two greedy continuations agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GreedyMatch {
    /// Tokens before the first divergence.
    pub equal: usize,
    /// Tokens of the reference.
    pub of: usize,
    pub first_divergence: Option<usize>,
    /// How much the test preferred its token over the reference's where they part, in logits; absent where the test
    /// chose no token or its logits are not finite.
    pub margin_there: Option<f64>,
}

/// Compares logits `[S, V]` with reference logits of the same shape.
///
/// Errors: shapes that differ or hold nothing; a reference that is not finite.
pub fn compare(reference: &Matrix, test: &Matrix) -> Result<LogitMetrics> {
    let shape = |matrix: &Matrix| format!("[{}, {}]", matrix.rows(), matrix.cols());
    if (reference.rows(), reference.cols()) != (test.rows(), test.cols()) {
        return Err(Error::argument("the shape of the test logits", shape(test), shape(reference)));
    }
    if reference.data().is_empty() {
        return Err(Error::argument("the shape of the logits", shape(reference), "at least [1, 1]"));
    }
    if let Some(value) = reference.data().iter().find(|value| !value.is_finite()) {
        return Err(Error::argument("a reference logit", value, "a finite number"));
    }

    let mut metrics = LogitMetrics {
        positions: reference.rows(),
        finite_positions: 0,
        vocab_size: reference.cols(),
        reference_std: standard_deviation(reference.data()),
        max_abs: 0.0,
        max_abs_at: None,
        mean_abs: 0.0,
        kl_mean: 0.0,
        kl_max: 0.0,
        kl_max_position: None,
        top1_equal: 0,
        disagreements: Vec::new(),
        first_non_finite: None,
    };
    for position in 0..reference.rows() {
        metrics.add_position(position, reference.row(position), test.row(position));
    }
    if metrics.finite_positions > 0 {
        metrics.mean_abs /= metrics.finite_positions as f64 * metrics.vocab_size as f64;
        metrics.kl_mean /= metrics.finite_positions as f64;
    }
    Ok(metrics)
}

/// Compares greedy continuations of one prompt.
///
/// `step_logits` is `[test.len(), V]`: row `i` is what the test chose `test[i]` from.
pub fn greedy_match(reference: &[u32], test: &[u32], step_logits: &Matrix) -> Result<GreedyMatch> {
    if step_logits.rows() != test.len() {
        return Err(Error::argument("rows of the step logits", step_logits.rows(), test.len().to_string()));
    }
    let equal = reference.iter().zip(test).take_while(|(reference, test)| reference == test).count();
    let first_divergence = (equal < reference.len()).then_some(equal);
    let margin_there = first_divergence.and_then(|step| {
        let row = step_logits.data().get(step.checked_mul(step_logits.cols())?..)?;
        let logit = |token: u32| {
            let token = usize::try_from(token).ok().filter(|&token| token < step_logits.cols())?;
            row.get(token).filter(|logit| logit.is_finite()).map(|&logit| f64::from(logit))
        };
        Some(logit(*test.get(step)?)? - logit(*reference.get(step)?)?)
    });
    Ok(GreedyMatch { equal, of: reference.len(), first_divergence, margin_there })
}

impl LogitMetrics {
    /// Adds sums; `compare` makes them means.
    fn add_position(&mut self, position: usize, reference: &[f32], test: &[f32]) {
        let non_finite = test.iter().position(|value| !value.is_finite());
        if let Some(token) = non_finite {
            let at = Cell { position, token };
            self.first_non_finite.get_or_insert_with(|| NonFinite { at, value: test[token].to_string() });
            return;
        }
        self.finite_positions += 1;
        for (token, (&reference, &test)) in reference.iter().zip(test).enumerate() {
            let both_masked = reference == f32::MIN && test <= LOWEST_F16;
            let difference = if both_masked { 0.0 } else { (f64::from(reference) - f64::from(test)).abs() };
            self.mean_abs += difference;
            if difference > self.max_abs {
                (self.max_abs, self.max_abs_at) = (difference, Some(Cell { position, token }));
            }
        }
        let kl = kl_divergence(reference, test, [reference, test].map(log_sum_exp));
        self.kl_mean += kl;
        if kl > self.kl_max {
            (self.kl_max, self.kl_max_position) = (kl, Some(position));
        }
        if let (Some(reference_token), Some(test_token)) = (argmax(reference), argmax(test)) {
            if reference_token == test_token {
                self.top1_equal += 1;
            } else {
                let margin = f64::from(reference[reference_token]) - f64::from(reference[test_token]);
                self.disagreements.push(Disagreement { position, reference_token, test_token, margin });
            }
        }
    }
}

/// `sum p ln(p / q)` in nats, with `p`, `q` the softmax of the rows, of which the sums are known.
fn kl_divergence(reference: &[f32], test: &[f32], [reference_log_sum, test_log_sum]: [f64; 2]) -> f64 {
    let kl: f64 = reference
        .iter()
        .zip(test)
        .map(|(&reference, &test)| {
            let log_p = f64::from(reference) - reference_log_sum;
            let log_q = f64::from(test) - test_log_sum;
            log_p.exp() * (log_p - log_q)
        })
        .sum();
    // Rounding of the sum can reach below the least value that there is.
    kl.max(0.0)
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let greatest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&value| (f64::from(value) - f64::from(greatest)).exp()).sum();
    f64::from(greatest) + sum.ln()
}

/// Of the values that are not masked; 0 where all are.
fn standard_deviation(values: &[f32]) -> f64 {
    let values = || values.iter().filter(|&&value| value != f32::MIN).map(|&value| f64::from(value));
    let count = values().count().max(1) as f64;
    let mean = values().sum::<f64>() / count;
    (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[f32]]) -> Matrix {
        Matrix::new(rows.len(), rows.first().map_or(0, |row| row.len()), rows.concat()).unwrap()
    }

    #[test]
    fn equal_logits_differ_in_nothing() {
        let logits = matrix(&[&[1.0, -2.0, 0.5], &[0.0, 0.0, 3.0]]);
        let metrics = compare(&logits, &logits).unwrap();
        assert_eq!((metrics.max_abs, metrics.mean_abs, metrics.kl_mean, metrics.kl_max), (0.0, 0.0, 0.0, 0.0));
        assert_eq!((metrics.top1_equal, metrics.positions, metrics.finite_positions), (2, 2, 2));
        assert_eq!((metrics.max_abs_at, metrics.first_non_finite), (None, None));
    }

    #[test]
    fn differences_are_measured_and_placed() {
        let reference = matrix(&[&[0.0, 0.0], &[1.0, 0.0]]);
        let test = matrix(&[&[0.0, 3f32.ln()], &[1.0, 0.0]]);
        let metrics = compare(&reference, &test).unwrap();
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln 3 / 2.
        let kl = 2f64.ln() - 3f64.ln() / 2.0;
        assert!((metrics.kl_max - kl).abs() < 1e-7 && (metrics.kl_mean - kl / 2.0).abs() < 1e-7);
        assert_eq!(metrics.kl_max_position, Some(0));
        assert!((metrics.max_abs - 3f64.ln()).abs() < 1e-7 && (metrics.mean_abs - 3f64.ln() / 4.0).abs() < 1e-7);
        assert_eq!(metrics.max_abs_at, Some(Cell { position: 0, token: 1 }));
        assert_eq!(metrics.top1_equal, 1);
        let tie = Disagreement { position: 0, reference_token: 0, test_token: 1, margin: 0.0 };
        assert_eq!(metrics.disagreements, [tie]);
        assert!((metrics.reference_std - (3f64 / 16.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn masked_tokens_count_where_one_side_alone_masks_them() {
        let reference = matrix(&[&[1.0, f32::MIN, 3.0]]);
        for lowest in [f32::MIN, -65504.0] {
            let metrics = compare(&reference, &matrix(&[&[1.0, lowest, 3.0]])).unwrap();
            assert_eq!((metrics.max_abs, metrics.kl_max, metrics.reference_std), (0.0, 0.0, 1.0), "{lowest}");
        }
        let open = compare(&reference, &matrix(&[&[1.0, -7.0, 3.0]])).unwrap();
        assert!(open.max_abs > 1e38, "{open:?}");
        let shut = compare(&matrix(&[&[1.0, -7.0, 3.0]]), &reference).unwrap();
        assert!(shut.max_abs > 1e38, "{shut:?}");
        assert_eq!(compare(&matrix(&[&[f32::MIN]]), &matrix(&[&[f32::MIN]])).unwrap().reference_std, 0.0);
    }

    #[test]
    fn a_shift_of_all_logits_moves_no_probability() {
        let metrics = compare(&matrix(&[&[1.0, 2.0, 4.0]]), &matrix(&[&[6.0, 7.0, 9.0]])).unwrap();
        assert_eq!(metrics.max_abs, 5.0);
        assert!(metrics.kl_mean < 1e-15);
    }

    #[test]
    fn non_finite_values_are_placed_and_never_averaged() {
        let reference = matrix(&[&[1.0, 2.0], &[1.0, 2.0], &[1.0, 2.0]]);
        let test = matrix(&[&[1.0, 2.5], &[1.0, f32::NAN], &[f32::INFINITY, 2.0]]);
        let metrics = compare(&reference, &test).unwrap();
        let first = NonFinite { at: Cell { position: 1, token: 1 }, value: "NaN".to_owned() };
        assert_eq!(metrics.first_non_finite, Some(first));
        assert_eq!((metrics.finite_positions, metrics.top1_equal, metrics.max_abs), (1, 1, 0.5));
        assert_eq!(metrics.mean_abs, 0.25);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let two = matrix(&[&[1.0, 2.0]]);
        let message = compare(&two, &matrix(&[&[1.0]])).unwrap_err().to_string();
        assert_eq!(message, "the shape of the test logits is [1, 1], expected [1, 2]");
        assert!(compare(&Matrix::zeros(0, 2), &Matrix::zeros(0, 2)).is_err());
        assert!(compare(&matrix(&[&[f32::NAN, 2.0]]), &two).is_err());
    }

    #[test]
    fn greedy_divergence_is_found_with_its_margin() {
        let steps = matrix(&[&[0.0, 1.0, 0.0], &[0.0, 2.0, 1.5], &[0.0, 0.0, 1.0]]);
        let whole = GreedyMatch { equal: 3, of: 3, first_divergence: None, margin_there: None };
        assert_eq!(greedy_match(&[1, 1, 2], &[1, 1, 2], &steps).unwrap(), whole);
        let parted = GreedyMatch { equal: 1, of: 3, first_divergence: Some(1), margin_there: Some(0.5) };
        assert_eq!(greedy_match(&[1, 2, 2], &[1, 1, 2], &steps).unwrap(), parted);
        let stopped = GreedyMatch { equal: 3, of: 4, first_divergence: Some(3), margin_there: None };
        assert_eq!(greedy_match(&[1, 1, 2, 0], &[1, 1, 2], &steps).unwrap(), stopped);
        let outside = GreedyMatch { equal: 0, of: 1, first_divergence: Some(0), margin_there: None };
        assert_eq!(greedy_match(&[9], &[1, 1, 2], &steps).unwrap(), outside);
        assert!(greedy_match(&[1], &[1], &steps).is_err());
    }
}
