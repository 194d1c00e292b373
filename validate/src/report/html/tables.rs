//! The parts of the page that are tables alone.

use std::fmt::{self, Formatter};

use super::super::escape::Html;
use super::super::figures::{count, figure};
use super::super::{Identity, Measured, lines};
use super::sign;
use super::table::{Cell, table};

pub(super) fn parity(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    let Some(parity) = &measured.parity else { return Ok(()) };
    let (class, mark, called) = sign(Some(parity.verdict));
    writeln!(f, "<section id=\"logits\">\n<h2>Logits against the reference</h2>")?;
    let (precision, reference) = (parity.precision, Html(&parity.reference));
    writeln!(
        f,
        "<p><span class=\"{class}\">{mark} {called}</span> by the limits for {precision}, against {reference}. KL \
         divergence is in nats per token; top-1 counts the positions where both prefer the same token.</p>"
    )?;
    let mut rows = parity.table().into_iter();
    let Some([first, numbers @ ..]) = rows.next() else { return Ok(()) };
    let numbers = numbers.map(|name| format!("#{name}"));
    let head: Vec<&str> = std::iter::once(&first).chain(&numbers).map(String::as_str).collect();
    let rows =
        rows.map(|[name, numbers @ ..]| std::iter::once(Cell::Text(name)).chain(numbers.map(Cell::Number)).collect());
    table(f, &head, rows)?;
    if let Some(predictions) = &measured.predictions {
        listed(f, lines::predictions(predictions))?;
    }
    if !parity.reasons.is_empty() {
        writeln!(f, "<ul>")?;
        parity.reasons.iter().try_for_each(|reason| writeln!(f, "<li>{}</li>", Html(reason)))?;
        writeln!(f, "</ul>")?;
    }
    writeln!(f, "</section>")
}

pub(super) fn roads(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    if measured.roads.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "<section id=\"roads\">\n<h2>The same text by other roads</h2>\n<p class=\"quiet\">However a text is given to the model, the \
         logits must be the same. Compared with the whole text at once.</p>"
    )?;
    let rows = measured.roads.iter().map(|road| {
        let word = if road.within { "✓ within" } else { "✗ beyond" };
        let numbers = [road.max_abs, road.kl_mean].map(|value| Cell::Number(figure(value)));
        std::iter::once(Cell::Text(road.name.clone())).chain(numbers).chain([Cell::Judged(road.within, word)]).collect()
    });
    table(f, &["road", "#max abs", "#mean KL", "limit"], rows)?;
    writeln!(f, "</section>")
}

pub(super) fn bench(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    let Some(bench) = &measured.bench else { return Ok(()) };
    writeln!(f, "<section id=\"speed\">\n<h2>Speed and memory</h2>")?;
    writeln!(f, "<p class=\"quiet\">Medians of {} (least to greatest).</p>", count(bench.runs, "run"))?;
    listed(f, lines::speed(bench))?;
    writeln!(f, "</section>")
}

fn listed(f: &mut Formatter<'_>, lines: Vec<(String, String)>) -> fmt::Result {
    table(f, &["", ""], lines.into_iter().map(|(what, found)| vec![Cell::Text(what), Cell::Text(found)]))
}

/// Rows of other tables that a page has at most.
const MOST_ROWS: usize = 500;

pub(super) fn placement(f: &mut Formatter<'_>, measured: &Measured) -> fmt::Result {
    if measured.placement.is_empty() {
        return Ok(());
    }
    let most = measured.placement.iter().map(|placed| placed.nodes).max().unwrap_or(0).max(1);
    writeln!(f, "<section id=\"placement\">\n<h2>Where the nodes run</h2>")?;
    let rows = measured.placement.iter().take(MOST_ROWS).map(|placed| {
        vec![
            Cell::Text(placed.provider.clone()),
            Cell::Code(placed.op_type.clone()),
            Cell::Number(placed.nodes.to_string()),
            Cell::Bar(placed.nodes as f64 / most as f64, "amount"),
        ]
    });
    table(f, &["provider", "operator", "#nodes", ""], rows)?;
    writeln!(f, "</section>")
}

pub(super) fn files(f: &mut Formatter<'_>, package: &Identity) -> fmt::Result {
    if package.files.is_empty() {
        return Ok(());
    }
    writeln!(
        f,
        "<section id=\"files\">\n<h2>Files</h2>\n<details><summary>SHA-256 of {}</summary>",
        count(package.files.len(), "file")
    )?;
    let rows = package.files.iter().take(MOST_ROWS);
    table(f, &["file", "SHA-256"], rows.map(|(name, hash)| vec![Cell::Code(name.clone()), Cell::Code(hash.clone())]))?;
    writeln!(f, "</details>\n</section>")
}
