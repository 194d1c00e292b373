//! A report for a terminal or a log: at most 100 columns, no colours.

use std::fmt::{self, Display, Formatter};

use super::figures::{bytes, count, figure};
use super::layers::{first_beyond, peaks, place};
use super::layout::{name, table, wrapped};
use super::{Finding, Identity, LayerError, Measured, Outcome, Report, Severity, Stage, StageReport, lines};
use crate::ParityReport;

/// Shown of findings, layers and modules; the rest is counted.
const MOST_FINDINGS: usize = 60;
const MOST_LAYERS: usize = 16;
const MOST_MODULES: usize = 8;

/// The stages, the findings from the gravest on, then the numbers.
pub fn text(report: &Report) -> String {
    Text(report).to_string()
}

struct Text<'a>(&'a Report);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Report { package, stages, measured, verdict } = self.0;
        head(f, package)?;
        writeln!(f)?;
        stages.iter().try_for_each(|stage| line_of(f, stage))?;
        writeln!(f, "  {:<12} {verdict}", "all")?;
        findings(f, &self.0.findings())?;
        numbers(f, measured)
    }
}

fn head(f: &mut Formatter<'_>, package: &Identity) -> fmt::Result {
    let Identity { name, model_type, producer, opsets, files: _, runtime, provider, threads } = package;
    wrapped(f, "", &format!("{name} ({model_type})"))?;
    let opsets = opsets
        .iter()
        .map(|(domain, version)| format!("{} {version}", if domain.is_empty() { "ai.onnx" } else { domain }));
    let mut about: Vec<String> =
        Some(producer.clone()).filter(|name| !name.is_empty()).into_iter().chain(opsets).collect();
    about.extend(runtime.as_ref().map(|version| format!("ONNX Runtime {version}")));
    about.extend(provider.clone());
    about.extend(threads.map(|threads| count(threads, "thread")));
    if about.is_empty() { Ok(()) } else { wrapped(f, "  ", &about.join(", ")) }
}

fn line_of(f: &mut Formatter<'_>, stage: &StageReport) -> fmt::Result {
    let name = stage.stage;
    match &stage.outcome {
        Outcome::NotRun { why } => wrapped(f, &format!("  {name:<12} {:<9}  ", "not run"), why),
        Outcome::Judged { verdict } => {
            let start = format!("  {name:<12} {verdict:<9}  {:>11}  ", count(stage.checks, "check"));
            wrapped(f, &start, &tally(&stage.findings))
        }
    }
}

/// `2 errors, 1 warning`.
pub(super) fn tally<'a>(findings: impl IntoIterator<Item = &'a Finding> + Clone) -> String {
    let kinds = Severity::ALL.iter().filter_map(|&severity| {
        let number = findings.clone().into_iter().filter(|finding| finding.severity == severity).count();
        (number > 0).then(|| count(number, severity.called()))
    });
    kinds.collect::<Vec<_>>().join(", ")
}

fn findings(f: &mut Formatter<'_>, findings: &[(Stage, &Finding)]) -> fmt::Result {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nfindings")?;
    let (shown, rest) = findings.split_at(findings.len().min(MOST_FINDINGS));
    for (stage, Finding { severity, check, at, message, hint }) in shown {
        wrapped(f, &format!("  {:<9}", severity.called()), &format!("{stage} {check}: {at}"))?;
        wrapped(f, "           ", message)?;
        if let Some(hint) = hint {
            wrapped(f, "           hint: ", hint)?;
        }
    }
    if rest.is_empty() {
        return Ok(());
    }
    writeln!(f, "  and {} more: {}", rest.len(), tally(rest.iter().map(|(_, finding)| *finding)))
}

fn numbers(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    let Measured { parity, predictions, texts, layers: _, roads, bench, placement, modules: _ } = measured;
    if let Some(parity) = parity {
        logits(f, parity)?;
    }
    if let Some(predictions) = predictions {
        list(f, lines::predictions(predictions))?;
    }
    layers(f, measured)?;
    if texts.iter().any(|text| text.greedy.is_some()) {
        writeln!(f, "\ngreedy search")?;
    }
    for text in texts {
        let Some(greedy) = &text.greedy else { continue };
        let parts = greedy.first_divergence.map_or(String::new(), |step| {
            let token = |tokens: &[String]| tokens.get(step).map_or("nothing".to_owned(), |token| format!("{token:?}"));
            format!(", parts at token {step}: expected {}, found {}", token(&text.expected), token(&text.found))
        });
        wrapped(
            f,
            &format!("  {:<16} ", name(&text.name, 16)),
            &format!("{} of {} equal{parts}", greedy.equal, greedy.of),
        )?;
    }
    if !roads.is_empty() {
        writeln!(f, "\nthe same text by other roads")?;
        let rows = roads.iter().map(|road| {
            let judged = if road.within { "within" } else { "BEYOND" };
            vec![name(&road.name, 48), figure(road.max_abs), figure(road.kl_mean), judged.to_owned()]
        });
        table(f, &["road", "max abs", "mean KL", ""], rows)?;
    }
    if let Some(bench) = bench {
        writeln!(f, "\nspeed, medians of {} (least to greatest)", count(bench.runs, "run"))?;
        list(f, lines::speed(bench))?;
    }
    if !placement.is_empty() {
        writeln!(f, "\nnodes by provider")?;
        for of_one in placement.chunk_by(|a, b| a.provider == b.provider) {
            let nodes: usize = of_one.iter().map(|placed| placed.nodes).sum();
            let ops: Vec<String> = of_one.iter().map(|placed| format!("{} {}", placed.op_type, placed.nodes)).collect();
            wrapped(f, &format!("  {:<12} {nodes:>6}  ", name(&of_one[0].provider, 24)), &ops.join(", "))?;
        }
    }
    weights(f, measured)
}

fn logits(f: &mut Formatter<'_>, parity: &ParityReport) -> fmt::Result {
    writeln!(f)?;
    wrapped(f, "", &format!("logits of {} with {}: {}", parity.precision, parity.reference, parity.verdict))?;
    let mut rows = parity.table().into_iter().map(Vec::from);
    let head = rows.next().unwrap_or_default();
    let rows = rows.map(|mut row| {
        if let Some(first) = row.first_mut() {
            *first = name(first, 20);
        }
        row
    });
    table(f, &head.iter().map(String::as_str).collect::<Vec<_>>(), rows)?;
    parity.reasons.iter().try_for_each(|reason| wrapped(f, "  - ", reason))
}

fn layers(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    let all = peaks(&measured.layers);
    let Some(worst) = all.iter().max_by(|a, b| a.worst.relative_rms.total_cmp(&b.worst.relative_rms)) else {
        return Ok(());
    };
    writeln!(f)?;
    let Some(bad) = all.iter().position(|peak| peak.beyond) else {
        let worst = worst.worst;
        let error = figure(worst.relative_rms);
        let what = format!("layers: within what the precision explains; the worst is {}, {error}", tap(worst));
        return wrapped(f, "", &what);
    };
    let first = first_beyond(&measured.layers).map(tap).unwrap_or_default();
    wrapped(f, "", &format!("layers: the first beyond what the precision explains is {first}"))?;
    let shown = |at: usize| all.len() <= MOST_LAYERS || at == 0 || at + 1 == all.len() || bad.abs_diff(at) <= 3;
    let rows = (0..all.len()).filter(|&at| shown(at) || shown(at - 1)).map(|at| {
        let worst = all[at].worst;
        if !shown(at) {
            return vec!["…".to_owned()];
        }
        let mark = if all[at].beyond { "BEYOND" } else { "" };
        let numbers = [worst.relative_rms, worst.max_abs].map(figure);
        let cosine = format!("{:.6}", worst.cosine);
        [vec![name(&place(worst), 16), name(&worst.tap, 36)], numbers.to_vec(), vec![cosine, mark.to_owned()]].concat()
    });
    table(f, &["layer", "worst at", "relative", "max abs", "cosine", ""], rows)
}

/// `layer 7 (present.7.key)`
fn tap(tap: &LayerError) -> String {
    if tap.layer.is_some() { format!("{} ({})", place(tap), tap.tap) } else { tap.tap.clone() }
}

/// Figures below one another.
fn list(f: &mut Formatter<'_>, lines: Vec<(String, String)>) -> fmt::Result {
    lines.iter().try_for_each(|(what, found)| wrapped(f, &format!("  {what:<16} "), found))
}

fn weights(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    if measured.modules.is_empty() {
        return Ok(());
    }
    let mut modules: Vec<_> = measured.modules.iter().collect();
    let total = modules.iter().map(|module| module.bytes).sum();
    let errors = || modules.iter().filter_map(|module| module.relative_error);
    let is_measured = errors().next().is_some();
    let which = match (modules.len() > MOST_MODULES, is_measured) {
        (_, true) if errors().all(|error| error == 0.0) => "all as in the checkpoint",
        (false, _) => "all of them",
        (true, true) => "those of the greatest error",
        (true, false) => "the largest",
    };
    modules.sort_by(|a, b| {
        let error = b.relative_error.unwrap_or(-1.0).total_cmp(&a.relative_error.unwrap_or(-1.0));
        error.then(b.bytes.cmp(&a.bytes)).then(a.name.cmp(&b.name))
    });
    writeln!(f, "\nweights: {}, {}; {which}", count(modules.len(), "module"), bytes(total))?;
    if which == "all as in the checkpoint" {
        return Ok(());
    }
    let rows = modules.iter().take(MOST_MODULES).map(|module| {
        let error = module.relative_error.map_or("-".to_owned(), figure);
        vec![name(&module.name, 44), name(&module.stored, 28), bytes(module.bytes), error]
    });
    table(f, &["module", "stored as", "size", "error"], rows)
}
