//! A report for GitHub Actions: Markdown for `$GITHUB_STEP_SUMMARY`, and annotations for the log.

use std::fmt::{self, Display, Formatter};

use super::escape::{Markdown, Plain};
use super::figures::{bytes, figure};
use super::layers::{first_beyond, peaks, place};
use super::text::{tally, text};
use super::{Finding, Identity, Outcome, Report, Severity, Stage, StageReport};
use crate::Verdict;

/// A summary has at most 1 MiB, and nobody reads as much.
const MOST_FINDINGS: usize = 100;

/// A summary as Markdown: the verdict, a table of the stages, findings, and the whole text report folded.
pub fn github(report: &Report) -> String {
    Summary(report).to_string()
}

/// `::error …` lines, which GitHub shows beside the run; the gravest first, since it shows only some.
pub fn annotations(report: &Report) -> String {
    report.findings().into_iter().map(|(stage, finding)| annotation(stage, finding)).collect()
}

fn annotation(stage: Stage, finding: &Finding) -> String {
    let kind = match finding.severity {
        Severity::Error => "error",
        Severity::Doubt | Severity::Warning => "warning",
        Severity::Info => "notice",
    };
    let Finding { check, at, message, hint, .. } = finding;
    let hint = hint.as_ref().map_or(String::new(), |hint| format!("\nhint: {hint}"));
    let title = property(&format!("{stage} {check}"));
    format!("::{kind} title={title}::{}\n", data(&format!("{at}: {message}{hint}")))
}

/// The text of a workflow command.
fn data(text: &str) -> String {
    Plain(text).to_string().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

struct Summary<'a>(&'a Report);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let Identity { name, model_type, runtime, provider, .. } = &report.package;
        writeln!(f, "## {} {}: {}\n", sign(Some(report.verdict)), Markdown(name), report.verdict)?;
        let on = runtime.as_ref().map(|version| format!("ONNX Runtime {version}"));
        let facts = [Some(model_type.clone()), on, provider.clone()];
        let facts: Vec<String> =
            facts.iter().flatten().filter(|fact| !fact.is_empty()).map(|fact| Markdown(fact).to_string()).collect();
        if !facts.is_empty() {
            writeln!(f, "{}\n", facts.join(" · "))?;
        }
        writeln!(f, "| | stage | verdict | checks | found |\n| --- | --- | --- | ---: | --- |")?;
        report.stages.iter().try_for_each(|stage| row(f, stage))?;
        numbers(f, report)?;
        findings(f, &report.findings())?;
        // Indented by four, every line of it is code, whatever it holds.
        let whole: String = text(report).lines().map(|line| format!("    {line}\n")).collect();
        writeln!(f, "\n<details><summary>the whole report</summary>\n\n{whole}\n</details>")
    }
}

fn sign(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Pass) => "✅",
        Some(Verdict::Ambiguous) => "⚠️",
        Some(Verdict::Fail) => "❌",
        None => "⏭️",
    }
}

fn row(f: &mut Formatter<'_>, stage: &StageReport) -> fmt::Result {
    let name = stage.stage;
    let sign = sign(stage.verdict());
    match &stage.outcome {
        Outcome::NotRun { why } => writeln!(f, "| {sign} | {name} | not run | | {} |", Markdown(why)),
        Outcome::Judged { verdict } => {
            writeln!(f, "| {sign} | {name} | {verdict} | {} | {} |", stage.checks, tally(&stage.findings))
        }
    }
}

/// The few figures that people look for first.
fn numbers(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let measured = &report.measured;
    let mut lines: Vec<(String, String)> = Vec::new();
    if let Some(parity) = &measured.parity {
        let table = parity.table();
        let last = table.iter().skip(1).next_back();
        lines.extend(last.map(|[_, positions, max_abs, _, kl, _, top1, greedy]| {
            let found = format!(
                "mean KL {kl}, max abs {max_abs}, same first choice {top1}, greedy {greedy}, over {positions} positions"
            );
            (format!("logits against {}", parity.reference), found)
        }));
    }
    if let Some(tap) = first_beyond(&measured.layers) {
        let found = format!("{} ({}), relative error {}", place(tap), tap.tap, figure(tap.relative_rms));
        lines.push(("first layer beyond the precision".to_owned(), found));
    } else if let Some(last) = peaks(&measured.layers).last() {
        lines.push((
            "layers".to_owned(),
            format!("all within the precision; the last errs by {}", figure(last.worst.relative_rms)),
        ));
    }
    if let Some(bench) = &measured.bench {
        let peak = bench.peak_memory.map_or(String::new(), |peak| format!(", peak memory {}", bytes(peak)));
        let decode = figure(bench.decode_tokens_per_second);
        let first = figure(1e3 * bench.first_token_seconds);
        lines.push(("speed".to_owned(), format!("decode {decode} tokens/s, first token after {first} ms{peak}")));
    }
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f)?;
    lines.iter().try_for_each(|(what, found)| writeln!(f, "- {}: {}", Markdown(what), Markdown(found)))
}

fn findings(f: &mut Formatter<'_>, findings: &[(Stage, &Finding)]) -> fmt::Result {
    let of = |severity: Severity| findings.iter().filter(move |(_, finding)| finding.severity == severity);
    let mut left = MOST_FINDINGS;
    for severity in Severity::ALL {
        let number = of(severity).count();
        if number == 0 {
            continue;
        }
        let open = if severity >= Severity::Doubt { " open" } else { "" };
        let title = tally(of(severity).map(|(_, finding)| *finding));
        writeln!(f, "\n<details{open}><summary>{title}</summary>\n")?;
        for (stage, Finding { check, at, message, hint, .. }) in of(severity).take(left) {
            writeln!(f, "- **{stage} {}** {}  ", Markdown(check), Markdown(at))?;
            writeln!(f, "  {}", Markdown(message))?;
            if let Some(hint) = hint {
                writeln!(f, "  <br><em>hint: {}</em>", Markdown(hint))?;
            }
        }
        if number > left {
            writeln!(f, "- and {} more", number - left)?;
        }
        left = left.saturating_sub(number);
        writeln!(f, "\n</details>")?;
    }
    Ok(())
}
