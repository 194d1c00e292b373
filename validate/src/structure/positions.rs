//! Tables of positions: cosines and sines of the rotations, and learned positions.
//!
//! A table holds `s · cos(p · f_j)` and `s · sin(p · f_j)` for position p in row p, with one frequency for each column
//! and one scaling. So without any reference it can be seen whether row 0 is the angle 0, all rows lie on a circle of
//! radius s, and each row is one step on from the one before it.

use super::cache::Caches;
use super::package::{CONFIG, Part};
use super::{Findings, Package};
use crate::graph::{ElementType, Graph, Node};

/// Longer tables are none.
const MAX_ELEMENTS: u64 = 1 << 28;

/// The two tables of a node; several where the graph chooses among them at run time.
pub(super) struct Tables {
    cos: String,
    sin: String,
    /// Whether the graph chooses by length.
    chosen: bool,
}

/// Every pair of tables that a node of the graph reads, once.
pub(super) fn tables_of(graph: &Graph) -> Vec<Tables> {
    let mut found: Vec<Tables> = Vec::new();
    for node in &graph.nodes {
        let Some((cos, sin)) = inputs_of(node) else { continue };
        let (cosines, sines) = (constants(graph, cos), constants(graph, sin));
        let chosen = cosines.len() > 1;
        for (cos, sin) in cosines.into_iter().zip(sines) {
            if !found.iter().any(|tables| tables.cos == cos && tables.sin == sin) {
                found.push(Tables { cos, sin, chosen });
            }
        }
    }
    found
}

fn inputs_of(node: &Node) -> Option<(&str, &str)> {
    let (cos, sin) = match (node.op_type.as_str(), node.is_contrib()) {
        ("GroupQueryAttention", true) => (7, 8),
        ("PagedAttention", true) => (8, 9),
        ("RotaryEmbedding", true) => (2, 3),
        ("RotaryEmbedding", false) => (1, 2),
        _ => return None,
    };
    Some((node.input(cos)?, node.input(sin)?))
}

/// The constants that a value may be: one, or one for each branch.
fn constants(graph: &Graph, name: &str) -> Vec<String> {
    let mut wanted = vec![name.to_owned()];
    let mut found = Vec::new();
    for _ in 0..32 {
        let Some(name) = wanted.pop() else { break };
        if graph.initializer(&name).is_some() {
            found.push(name);
            continue;
        }
        let Some(node) = graph.producer(&name) else { continue };
        match node.op_type.as_str() {
            "Identity" | "Cast" | "Slice" => wanted.extend(node.input(0).map(str::to_owned)),
            "If" => {
                let index = node.outputs.iter().position(|output| *output == name).unwrap_or(0);
                for branch in ["then_branch", "else_branch"] {
                    let scope = format!("{}.{branch}", node.label());
                    let branch = graph.branches.iter().find(|branch| branch.scope == scope);
                    wanted.extend(branch.and_then(|branch| branch.outputs.get(index)).map(|out| out.name.clone()));
                }
            }
            _ => {}
        }
    }
    found
}

fn rows(graph: &Graph, name: &str) -> Option<u64> {
    graph.initializer(name)?.shape.first().map(|&rows| rows as u64)
}

/// Tables reach as far as the context.
pub(super) fn context(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let Some(context) = package.number("model.context_length") else { return };
    let tables = tables_of(&part.graph);
    let at = format!("{CONFIG}: model.context_length");
    let hint = "tokens past the table are computed at wrong positions, or the run fails";
    let longest =
        tables.iter().filter(|tables| tables.chosen).filter_map(|tables| rows(&part.graph, &tables.cos)).max();
    if let Some(longest) = longest.filter(|&rows| rows < context) {
        findings
            .error("context", at.as_str(), format!("is {context}, the longest table has {longest} rows"))
            .hint(hint);
    }
    for tables in tables.iter().filter(|tables| !tables.chosen) {
        match rows(&part.graph, &tables.cos) {
            Some(rows) if rows < context => {
                let message = format!("is {context}, table `{}` has {rows} rows", tables.cos);
                findings.error("context", at.as_str(), message).hint(hint);
            }
            _ => {}
        }
    }
    // Learned positions: a table that is gathered by what `position_ids` lead to.
    let name = package.name_or("model.decoder.inputs.position_ids", "position_ids");
    let learned = part.graph.consumers(name).filter(|node| node.op_type == "Gather").filter_map(|node| node.input(0));
    for table in learned {
        if let Some(rows) = rows(&part.graph, table).filter(|&rows| rows < context && rows > 1) {
            findings.error("context", at.as_str(), format!("is {context}, table `{table}` has {rows} rows")).hint(hint);
        }
    }
}

pub(super) fn tables(package: &Package, findings: &mut Findings) {
    let sizes =
        Caches::find(package).map(|caches| caches.past_keys.values().filter_map(|key| caches.heads(key).1).max());
    let head_size = sizes.flatten().or(package.number("model.decoder.head_size"));
    for part in &package.parts {
        for tables in tables_of(&part.graph) {
            check(part, &tables, head_size.filter(|_| part.key == "model.decoder"), findings);
        }
    }
}

fn check(part: &Part, tables: &Tables, head_size: Option<u64>, findings: &mut Findings) {
    let graph = &part.graph;
    let at = format!("{}: {}, {}", part.file, tables.cos, tables.sin);
    let (Some(cos), Some(sin)) = (graph.initializer(&tables.cos), graph.initializer(&tables.sin)) else { return };
    let [rows, columns] = cos.shape.as_slice() else {
        findings.error("rope-table", at, format!("has the shape {:?}, expected positions and frequencies", cos.shape));
        return;
    };
    if cos.shape != sin.shape {
        findings.error(
            "rope-table",
            at,
            format!("have the shapes {:?} and {:?}, expected the same", cos.shape, sin.shape),
        );
        return;
    }
    if head_size.is_some_and(|size| 2 * *columns as u64 > size) {
        let message = format!("have {columns} columns, more than half of head_size {}", head_size.unwrap_or(0));
        findings.warning("rope-table", at.as_str(), message).hint("layers may differ; else the head size is wrong");
    }
    if cos.elements > MAX_ELEMENTS || *columns == 0 || *rows < 2 {
        return;
    }
    let (Ok(cosines), Ok(sines)) = (graph.values_of(&cos.name), graph.values_of(&sin.name)) else { return };
    // What rounding leaves: of the table's own type.
    let rounding = match cos.dtype {
        ElementType::Float | ElementType::Double => 1e-4,
        ElementType::Float16 => 4e-3,
        _ => 3e-2,
    };
    if let Some((message, hint)) = damage(&cosines, &sines, *columns, rounding) {
        findings.error("rope-table", at, message).hint(hint);
    }
}

/// What is wrong with two tables of this many columns.
fn damage(cosines: &[f32], sines: &[f32], columns: usize, rounding: f32) -> Option<(String, &'static str)> {
    let rows: Vec<(&[f32], &[f32])> = cosines.chunks_exact(columns).zip(sines.chunks_exact(columns)).collect();
    // Where a model chooses its frequencies by length, a second table may stand behind the first.
    let (mut start, mut tables) = (0, 1);
    while let Some((first_cos, first_sin)) = rows.get(start) {
        let radius = first_cos.first().copied().unwrap_or(0.0);
        if !is_zero(first_cos, first_sin, rounding) {
            let some = |values: &[f32]| format!("{:?}", values.iter().take(4).collect::<Vec<_>>());
            let (cos, sin) = (some(first_cos), some(first_sin));
            return Some((
                format!("row 0 is not the angle 0: cosines {cos}, sines {sin}, expected one positive value, and zeros"),
                "the table begins at another position than 0, cosines and sines are swapped, or it is damaged",
            ));
        }
        let step = rows.get(start + 1)?;
        let mut row = start + 1;
        start = loop {
            let here = rows.get(row)?;
            if let Some(column) = off_circle(here, radius, rounding * 2.0) {
                return Some((
                    format!("row {row}, column {column} does not lie on the circle of radius {radius}"),
                    "cosines and sines are of different tables, or the bytes are damaged",
                ));
            }
            let next = rows.get(row + 1)?;
            // Angles are rounded before their cosine is taken: the error grows with the position.
            let within = rounding.mul_add(3.0, 1e-6 * row as f32);
            match off_step(here, step, next, radius, within) {
                None => row += 1,
                Some(_) if tables < 2 && is_zero(next.0, next.1, rounding) => {
                    tables += 1;
                    break row + 1;
                }
                Some(column) => {
                    return Some((
                        format!("row {} is not one step on from row {row} in column {column}", row + 1),
                        "rows are missing, out of order, or damaged",
                    ));
                }
            }
        };
    }
    None
}

fn near(found: f32, expected: f32, within: f32) -> bool {
    (found - expected).abs() <= within
}

/// Whether a row is of the angle 0 in all columns.
fn is_zero(cosines: &[f32], sines: &[f32], rounding: f32) -> bool {
    let radius = cosines.first().copied().unwrap_or(0.0);
    radius > 0.0
        && cosines.iter().all(|&cos| near(cos, radius, rounding * radius))
        && sines.iter().all(|&sin| near(sin, 0.0, rounding * radius))
}

/// The first column whose point does not lie on the circle.
fn off_circle((cosines, sines): &(&[f32], &[f32]), radius: f32, within: f32) -> Option<usize> {
    let mut points = cosines.iter().zip(sines.iter());
    points.position(|(cos, sin)| !near(cos.hypot(*sin), radius, within * radius))
}

/// The first column in which `next` is not `here` turned by `step`.
fn off_step(
    here: &(&[f32], &[f32]),
    step: &(&[f32], &[f32]),
    next: &(&[f32], &[f32]),
    radius: f32,
    within: f32,
) -> Option<usize> {
    let pairs = |row: &(&'_ [f32], &'_ [f32])| row.0.iter().copied().zip(row.1.iter().copied()).collect::<Vec<_>>();
    let mut columns = pairs(here).into_iter().zip(pairs(step)).zip(pairs(next));
    columns.position(|(((cos, sin), (step_cos, step_sin)), (next_cos, next_sin))| {
        let expected = ((cos * step_cos - sin * step_sin) / radius, (sin * step_cos + cos * step_sin) / radius);
        !near(next_cos, expected.0, within * radius) || !near(next_sin, expected.1, within * radius)
    })
}
