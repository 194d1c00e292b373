//! Figures as lines of what they are of and how much it is, the same in text and in HTML.

use super::figures::{bytes, count, figure};
use super::{Bench, Rate};
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

pub(super) fn speed(bench: &Bench) -> Vec<Line> {
    let spread = |[least, greatest]: [f64; 2]| format!("({} to {})", figure(least), figure(greatest));
    let rate = |rate: f64, within| format!("{} tokens/s {}", figure(rate), spread(within));
    let mut lines = vec![line("load", format!("{} s", figure(bench.load_seconds)))];
    for &Rate { tokens, tokens_per_second, spread } in &bench.prefill {
        lines.push((format!("prefill of {tokens}"), rate(tokens_per_second, spread)));
    }
    let first = figure(1e3 * bench.first_token_seconds);
    let [p50, p90, p99] = bench.between_tokens_ms.map(figure);
    lines.extend([
        line("first token", format!("{first} ms {}", spread(bench.first_token_spread.map(|seconds| 1e3 * seconds)))),
        line("decode", rate(bench.decode_tokens_per_second, bench.decode_spread)),
        line("between tokens", format!("50 %: {p50} ms, 90 %: {p90} ms, 99 %: {p99} ms")),
        line("sampling", format!("{} µs", figure(bench.sampling_us))),
    ]);
    lines.extend(bench.peak_memory.map(|peak| line("peak memory", bytes(peak))));
    lines.push(line("cache", format!("{} a token", bytes(bench.cache_bytes_per_token))));
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
