//! A report as one page: no script, nothing fetched, light or dark as the reader's system is.

mod layers;
mod modules;
mod scale;
mod table;
mod tables;
mod texts;

use std::fmt::{self, Display, Formatter};

use super::escape::Html;
use super::figures::count;
use super::text::tally;
use super::{Finding, Identity, Outcome, Report, Stage, StageReport};
use crate::Verdict;

/// Findings that are seen without a click, and those that are there at all. JSON has all.
const MOST_OPEN: usize = 30;
const MOST_FINDINGS: usize = 1000;

/// One page that needs nothing beside it. Whatever a package calls itself is text on it and never markup.
pub fn html(report: &Report) -> String {
    Page(report).to_string()
}

struct Page<'a>(&'a Report);

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { package, stages, measured, verdict } = self.0;
        writeln!(
            f,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{}: {verdict}</title>\n<style>\n{}</style>\n</head>\n<body>",
            Html(&package.name),
            include_str!("style.css")
        )?;
        head(f, package, *verdict)?;
        writeln!(f, "<main>\n<ul class=\"stages\" aria-label=\"stages\">")?;
        stages.iter().try_for_each(|stage| tile(f, stage))?;
        writeln!(f, "</ul>")?;
        findings(f, &self.0.findings())?;
        tables::parity(f, measured)?;
        layers::section(f, &measured.layers)?;
        texts::section(f, &measured.texts)?;
        tables::roads(f, measured)?;
        modules::section(f, &measured.modules)?;
        tables::bench(f, measured)?;
        tables::placement(f, measured)?;
        tables::files(f, package)?;
        writeln!(f, "</main>\n</body>\n</html>")
    }
}

fn sign(verdict: Option<Verdict>) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Some(Verdict::Pass) => ("pass", "✓", "pass"),
        Some(Verdict::Ambiguous) => ("ambiguous", "?", "ambiguous"),
        Some(Verdict::Fail) => ("fail", "✗", "fail"),
        None => ("not-run", "–", "not run"),
    }
}

fn head(f: &mut Formatter<'_>, package: &Identity, verdict: Verdict) -> fmt::Result {
    let Identity { name, model_type, producer, opsets, files: _, runtime, provider, threads } = package;
    let (class, mark, called) = sign(Some(verdict));
    let opsets = opsets
        .iter()
        .map(|(domain, version)| format!("{} {version}", if domain.is_empty() { "ai.onnx" } else { domain }));
    let mut facts = vec![model_type.clone(), producer.clone()];
    facts.extend(opsets);
    facts.extend(runtime.as_ref().map(|version| format!("ONNX Runtime {version}")));
    facts.extend(provider.clone());
    facts.extend(threads.map(|threads| count(threads, "thread")));
    facts.retain(|fact| !fact.is_empty());
    let facts = facts.join(" · ");
    writeln!(f, "<header>\n<div><h1>{}</h1>\n<p class=\"quiet\">{}</p></div>", Html(name), Html(&facts))?;
    writeln!(f, "<span class=\"badge {class}\">{mark} {called}</span>\n</header>")
}

fn tile(f: &mut Formatter<'_>, stage: &StageReport) -> fmt::Result {
    let (class, mark, called) = sign(stage.verdict());
    write!(f, "<li class=\"{class}\"><b>{}</b>{mark} {called}<small>", stage.stage)?;
    match &stage.outcome {
        Outcome::NotRun { why } => write!(f, "{}", Html(why))?,
        Outcome::Judged { .. } => {
            let found = tally(&stage.findings);
            let found = if found.is_empty() { found } else { format!("; {found}") };
            write!(f, "{}{found}", count(stage.checks, "check"))?;
        }
    }
    writeln!(f, "</small></li>")
}

fn findings(f: &mut Formatter<'_>, findings: &[(Stage, &Finding)]) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(f, "<section id=\"findings\">\n<h2>Findings</h2>")?;
    let (shown, left_out) = findings.split_at(findings.len().min(MOST_FINDINGS));
    let (open, folded) = shown.split_at(shown.len().min(MOST_OPEN));
    open.iter().try_for_each(|(stage, found)| finding(f, *stage, found))?;
    if !folded.is_empty() {
        let rest = folded.iter().chain(left_out).map(|(_, finding)| *finding);
        writeln!(f, "<details><summary>and {} more: {}</summary>", findings.len() - open.len(), tally(rest))?;
        folded.iter().try_for_each(|(stage, found)| finding(f, *stage, found))?;
        if !left_out.is_empty() {
            writeln!(f, "<p>{} more are in the JSON report only.</p>", left_out.len())?;
        }
        writeln!(f, "</details>")?;
    }
    writeln!(f, "</section>")
}

fn finding(f: &mut Formatter<'_>, stage: Stage, finding: &Finding) -> fmt::Result {
    let Finding { severity, check, at, message, hint } = finding;
    let (name, called) = (severity.name(), severity.called());
    writeln!(f, "<div class=\"finding {name}\"><p><b>{called}</b> <code>{}</code></p>", Html(at))?;
    writeln!(f, "<p>{}</p>", Html(message))?;
    if let Some(hint) = hint {
        writeln!(f, "<p>Hint: {}</p>", Html(hint))?;
    }
    writeln!(f, "<small class=\"quiet\">{stage}, {}</small></div>", Html(check))
}
