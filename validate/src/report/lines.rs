//! Figures as lines of what they are of and how much it is, the same in text and in HTML.

use super::figures::{count, figure};
use crate::metrics::{DeltaP, Divergence, NextToken, Predictions};

type Line = (String, String);

pub(super) fn predictions(predictions: &Predictions) -> Vec<Line> {
    let Predictions { kl, same_choice: [near, clear, far], next_token } = predictions;
    let Divergence { positions: _, mean, standard_error, percentiles, max } = kl;
    let spread = percents(["50 %", "90 %", "95 %", "99 %", "99.9 %"], percentiles);
    let mut lines = vec![
        line("KL", format!("mean {}; {spread}, all: {}", with_error(*mean, *standard_error), figure(*max))),
        line(
            "same choice",
            format!(
                "{}/{} where the reference prefers its own by less than 0.1, {}/{} to 1, {}/{} by more",
                near.equal, near.of, clear.equal, clear.of, far.equal, far.of
            ),
        ),
    ];
    if let Some(NextToken { tokens, perplexity, reference_perplexity, ln_ratio, ln_ratio_error, delta_p }) = next_token
    {
        let DeltaP { mean, rms, percentiles } = delta_p;
        let spread = percents(["1 %", "5 %", "95 %", "99 %"], percentiles);
        let [perplexity, reference] = [*perplexity, *reference_perplexity].map(figure);
        let ratio = with_error(*ln_ratio, *ln_ratio_error);
        let tokens = count(*tokens, "token");
        lines.extend([
            line("perplexity", format!("{perplexity} over {tokens}, reference {reference}; ln ratio {ratio}")),
            line("change of p", format!("mean {}, RMS {}; {spread}", figure(*mean), figure(*rms))),
        ]);
    }
    lines
}

fn line(what: &str, found: String) -> Line {
    (what.to_owned(), found)
}

/// `50 %: 0.1, 90 %: 0.2`
fn percents<const N: usize>(names: [&str; N], values: &[f64; N]) -> String {
    let each = names.iter().zip(values).map(|(name, &value)| format!("{name}: {}", figure(value)));
    each.collect::<Vec<_>>().join(", ")
}

fn with_error(value: f64, error: Option<f64>) -> String {
    figure(value) + &error.map_or(String::new(), |error| format!(" ± {}", figure(error)))
}
