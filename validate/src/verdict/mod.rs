//! Is it right? Judges [`crate::metrics`] by one table of tolerances, and says why.

mod display;
mod tolerance;

use serde::Serialize;

use crate::metrics::{GreedyMatch, LogitMetrics};
use crate::{Error, Result};
pub use tolerance::Precision;
use tolerance::{Agreement, Limit, Tolerance, logit_scale};

/// "Could not run" is none of these: it is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within every limit.
    Pass,
    /// Between the limits, or of different choices only where two tokens are as good as equal. A person may accept
    /// it; a pass it is not.
    Ambiguous,
    Fail,
}

/// The comparison of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptParity {
    pub name: String,
    pub logits: LogitMetrics,
    /// Absent where the reference has no continuation.
    pub greedy: Option<GreedyMatch>,
}

/// Every metric of every prompt, always, and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ParityReport {
    pub precision: Precision,
    /// What was compared with.
    pub reference: String,
    pub prompts: Vec<PromptParity>,
    pub verdict: Verdict,
    /// One line for each finding that keeps this from being a pass, the worst first.
    pub reasons: Vec<String>,
}

impl ParityReport {
    /// Judges prompts by the tolerances for `precision` and a model of `num_parameters`.
    ///
    /// Means and shares are over the positions of all prompts together, since a share of a few positions says little.
    /// An error when there is no prompt: nothing compared is not a pass.
    pub fn new(
        precision: Precision,
        num_parameters: u64,
        reference: impl Into<String>,
        prompts: Vec<PromptParity>,
    ) -> Result<Self> {
        if prompts.is_empty() {
            return Err(Error::argument("the number of compared prompts", 0, "at least 1"));
        }
        let findings = graded(precision, num_parameters, &prompts);
        let verdict = findings.first().map_or(Verdict::Pass, |(verdict, _)| *verdict);
        let reasons = findings.into_iter().map(|(_, reason)| reason).collect();
        Ok(Self { precision, reference: reference.into(), prompts, verdict, reasons })
    }
}

type Finding = (Verdict, String);

/// What keeps prompts from passing, the worst first. What is about greedy search holds [`GREEDY`].
pub(crate) fn graded(precision: Precision, num_parameters: u64, prompts: &[PromptParity]) -> Vec<Finding> {
    let mut findings = judge(&Tolerance::of(precision, num_parameters), prompts);
    findings.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    findings
}

/// In each finding about greedy search.
pub(crate) const GREEDY: &str = ": greedy search ";

fn judge(tolerance: &Tolerance, prompts: &[PromptParity]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for prompt in prompts {
        findings.extend(non_finite(prompt));
        if let Some(limit) = tolerance.max_abs {
            findings.extend(max_abs(limit, prompt));
        }
    }
    let all = Overall::of(prompts);
    let kl = grade(all.kl_mean, tolerance.kl_mean);
    if kl > Verdict::Pass {
        let Limit { pass, fail } = tolerance.kl_mean;
        findings.push((kl, format!("mean KL is {:.3e} (pass to {pass:e}, fail above {fail:e})", all.kl_mean)));
    }
    match tolerance.agreement {
        Agreement::Share { pass, fail } => findings.extend(share(&all, pass, fail)),
        Agreement::Ties => {
            for prompt in prompts {
                let tie = tie_margin(tolerance, prompt);
                findings.extend(choices(prompt));
                findings.extend(prompt.greedy.as_ref().and_then(|greedy| continuation(&prompt.name, greedy, tie)));
            }
        }
    }
    findings
}

fn non_finite(prompt: &PromptParity) -> Option<Finding> {
    let found = prompt.logits.first_non_finite.as_ref()?;
    let reason = format!(
        "{}: logits are not finite: {} at position {}, token {}",
        prompt.name, found.value, found.at.position, found.at.token
    );
    Some((Verdict::Fail, reason))
}

fn max_abs(limit: Limit, prompt: &PromptParity) -> Option<Finding> {
    let metrics = &prompt.logits;
    let scale = logit_scale(metrics.reference_std);
    let limit = Limit { pass: limit.pass * scale, fail: limit.fail * scale };
    let verdict = grade(metrics.max_abs, limit);
    let at = metrics.max_abs_at?;
    let reason = format!(
        "{}: a logit differs by {:.3e} (pass to {:.1e}, fail above {:.1e}) at position {}, token {}",
        prompt.name, metrics.max_abs, limit.pass, limit.fail, at.position, at.token
    );
    (verdict > Verdict::Pass).then_some((verdict, reason))
}

/// Top-1 disagreements at the prompt's positions. None is a fault by itself: see [`crate::metrics::Disagreement`].
fn choices(prompt: &PromptParity) -> Option<Finding> {
    let disagreements = &prompt.logits.disagreements;
    let widest = disagreements.iter().max_by(|a, b| a.margin.total_cmp(&b.margin))?;
    let reason = format!(
        "{}: another token is preferred at {} of {} positions; the widest margin is {:.3e}, at position {}",
        prompt.name,
        disagreements.len(),
        prompt.logits.positions,
        widest.margin,
        widest.position
    );
    Some((Verdict::Ambiguous, reason))
}

fn continuation(name: &str, greedy: &GreedyMatch, tie: f64) -> Option<Finding> {
    let step = greedy.first_divergence?;
    Some(match greedy.margin_there {
        Some(margin) if margin < tie => (
            Verdict::Ambiguous,
            format!("{name}: greedy search parts at token {step} on a tie: margin {margin:.3e}, below {tie:.1e}"),
        ),
        Some(margin) => (
            Verdict::Fail,
            format!(
                "{name}: greedy search parts at token {step} with a margin of {margin:.3e}, a tie is below {tie:.1e}"
            ),
        ),
        None => (Verdict::Fail, format!("{name}: greedy search gives no comparable token at {step} of {}", greedy.of)),
    })
}

fn share(all: &Overall, pass: f64, fail: f64) -> Option<Finding> {
    let share = all.top1_equal as f64 / all.positions as f64;
    let verdict = if share >= pass {
        return None;
    } else if share >= fail {
        Verdict::Ambiguous
    } else {
        Verdict::Fail
    };
    let reason = format!(
        "the same token is preferred at {} of {} positions, {:.2} % (pass from {:.1} %, fail below {:.1} %)",
        all.top1_equal,
        all.positions,
        100.0 * share,
        100.0 * pass,
        100.0 * fail
    );
    Some((verdict, reason))
}

/// The margin below which two tokens are as good as equal: an error of half of it on each may swap them.
///
/// The error is the one measured on the prompt, but not less than what passes: later positions may err a little more.
fn tie_margin(tolerance: &Tolerance, prompt: &PromptParity) -> f64 {
    let passing = tolerance.max_abs.map_or(0.0, |limit| limit.pass * logit_scale(prompt.logits.reference_std));
    2.0 * prompt.logits.max_abs.max(passing)
}

/// NaN is a failure.
fn grade(value: f64, limit: Limit) -> Verdict {
    if value <= limit.pass {
        Verdict::Pass
    } else if value <= limit.fail {
        Verdict::Ambiguous
    } else {
        Verdict::Fail
    }
}

/// The prompts taken together.
struct Overall {
    positions: usize,
    max_abs: f64,
    mean_abs: f64,
    kl_mean: f64,
    kl_max: f64,
    top1_equal: usize,
    greedy: Option<(usize, usize)>,
}

impl Overall {
    fn of(prompts: &[PromptParity]) -> Self {
        let metrics = || prompts.iter().map(|prompt| &prompt.logits);
        let finite: usize = metrics().map(|metrics| metrics.finite_positions).sum();
        let mean = |of: fn(&LogitMetrics) -> f64| {
            metrics().map(|metrics| of(metrics) * metrics.finite_positions as f64).sum::<f64>() / finite.max(1) as f64
        };
        let greedy = || prompts.iter().filter_map(|prompt| prompt.greedy.as_ref());
        Self {
            positions: metrics().map(|metrics| metrics.positions).sum(),
            max_abs: metrics().map(|metrics| metrics.max_abs).fold(0.0, f64::max),
            mean_abs: mean(|metrics| metrics.mean_abs),
            kl_mean: mean(|metrics| metrics.kl_mean),
            kl_max: metrics().map(|metrics| metrics.kl_max).fold(0.0, f64::max),
            top1_equal: metrics().map(|metrics| metrics.top1_equal).sum(),
            greedy: greedy()
                .next()
                .is_some()
                .then(|| greedy().fold((0, 0), |(equal, of), greedy| (equal + greedy.equal, of + greedy.of))),
        }
    }
}

#[cfg(test)]
mod tests;
