//! Size and error of the weights: by role, such as `model.layers.*.mlp.down_proj`, then by module.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Formatter};

use super::super::Module;
use super::super::figures::{bytes, count, figure};
use super::table::{Cell, table};

const MOST_ROLES: usize = 60;
const MOST_MODULES: usize = 500;

/// Modules of equal names but for the numbers in them.
#[derive(Default)]
struct Role<'a> {
    modules: usize,
    stored: BTreeSet<&'a str>,
    bytes: u64,
    /// The greatest; `None` where none was measured.
    error: Option<f64>,
}

pub(super) fn section(f: &mut Formatter<'_>, modules: &[Module]) -> fmt::Result {
    if modules.is_empty() {
        return Ok(());
    }
    let total: u64 = modules.iter().map(|module| module.bytes).sum();
    writeln!(
        f,
        "<section id=\"weights\">\n<h2>Weights</h2>\n<p>{} of {}.",
        bytes(total),
        count(modules.len(), "module")
    )?;
    let measured = modules.iter().any(|module| module.relative_error.is_some());
    if measured {
        writeln!(f, "The error is the root mean square of the difference over that of the checkpoint's weights.")?;
    }
    writeln!(f, "</p>")?;
    let mut roles: BTreeMap<String, Role<'_>> = BTreeMap::new();
    for module in modules {
        let role = roles.entry(role(&module.name)).or_default();
        role.modules += 1;
        role.stored.insert(&module.stored);
        role.bytes += module.bytes;
        role.error = worse(role.error, module.relative_error);
    }
    let mut roles: Vec<_> = roles.into_iter().collect();
    roles.sort_by(|(a_name, a), (b_name, b)| b.bytes.cmp(&a.bytes).then_with(|| a_name.cmp(b_name)));
    let largest = roles.iter().map(|(_, role)| role.bytes).max().unwrap_or(0);
    let worst = roles.iter().fold(None, |worst, (_, role)| worse(worst, role.error));
    let left_out = roles.len().saturating_sub(MOST_ROLES);
    let rows = roles.into_iter().take(MOST_ROLES).map(|(name, role)| {
        let stored = role.stored.into_iter().collect::<Vec<_>>().join("; ");
        let first = [Cell::Code(name), Cell::Number(role.modules.to_string()), Cell::Words(stored)];
        first.into_iter().chain(figures(role.bytes, largest, role.error, worst)).collect()
    });
    let (head, most) = (["", "#modules", "stored as"], if measured { "#greatest error" } else { "" });
    let tail = ["#size", "", most, ""];
    let columns = if measured { 4 } else { 2 };
    table(f, &[&head[..], &tail[..columns]].concat(), rows)?;
    if left_out > 0 {
        writeln!(f, "<p class=\"quiet\">{} more are in the JSON report only.</p>", count(left_out, "row"))?;
    }
    if modules.len() > 1 {
        each(f, modules, measured)?;
    }
    writeln!(f, "</section>")
}

fn each(f: &mut Formatter<'_>, modules: &[Module], measured: bool) -> fmt::Result {
    let mut sorted: Vec<_> = modules.iter().collect();
    let error = |module: &Module| module.relative_error.unwrap_or(-1.0);
    sorted.sort_by(|a, b| {
        error(b).total_cmp(&error(a)).then_with(|| b.bytes.cmp(&a.bytes)).then_with(|| a.name.cmp(&b.name))
    });
    let order = if measured { "the greatest error first" } else { "the largest first" };
    let left_out = sorted.len().saturating_sub(MOST_MODULES);
    writeln!(f, "<details><summary>every module, {order}</summary>")?;
    let largest = sorted.iter().map(|module| module.bytes).max().unwrap_or(0);
    let worst = sorted.iter().fold(None, |worst, module| worse(worst, module.relative_error));
    let rows = sorted.iter().take(MOST_MODULES).map(|module| {
        let first = [Cell::Code(module.name.clone()), Cell::Words(module.stored.clone())];
        first.into_iter().chain(figures(module.bytes, largest, module.relative_error, worst)).collect()
    });
    let columns = if measured { 6 } else { 4 };
    table(f, &["module", "stored as", "#size", "", "#error", ""][..columns], rows)?;
    if left_out > 0 {
        writeln!(f, "<p class=\"quiet\">{} more are in the JSON report only.</p>", count(left_out, "module"))?;
    }
    writeln!(f, "</details>")
}

/// Size and error, each with a bar; no error where none of the table has one.
fn figures(size: u64, largest: u64, error: Option<f64>, worst: Option<f64>) -> Vec<Cell> {
    let mut cells = vec![Cell::Number(bytes(size)), Cell::Bar(size as f64 / largest.max(1) as f64, "amount")];
    if let Some(worst) = worst {
        let part = error.map_or(0.0, |error| if error == 0.0 { 0.0 } else { error / worst });
        cells.extend([Cell::Number(error.map_or("–".to_owned(), figure)), Cell::Bar(part, "other")]);
    }
    cells
}

/// A NaN is the worst.
fn worse(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    [a, b].into_iter().flatten().map(f64::abs).max_by(f64::total_cmp)
}

/// The name without the numbers in it.
fn role(name: &str) -> String {
    let parts = name.split('.').map(|part| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { "*" } else { part }
    });
    parts.collect::<Vec<_>>().join(".")
}
