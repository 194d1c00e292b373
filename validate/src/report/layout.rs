//! Text of at most 100 columns, for terminals and logs.

use std::fmt::{self, Formatter};

use super::escape::Plain;
use super::figures::shortened;

const WIDTH: usize = 100;

/// A name of a stranger, in a table.
pub(crate) fn name(name: &str, most: usize) -> String {
    shortened(&Plain(name).to_string().replace(['\n', '\t'], " "), most)
}

/// Columns as wide as their cells; those of numbers stand to the right.
pub(crate) fn table(f: &mut Formatter<'_>, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> fmt::Result {
    let head = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let width = |column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
    let is_number =
        |column| rows.iter().skip(1).any(|row| cell(row, column).starts_with(|c: char| c.is_ascii_digit() || c == '-'));
    let shape: Vec<(usize, bool)> =
        (0..columns).map(|column| (width(column), column > 0 && is_number(column))).collect();
    for row in &rows {
        let cells = shape.iter().enumerate().map(|(column, &(width, right))| {
            let cell = cell(row, column);
            if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Words on as many lines as they need, below one another behind `start`.
pub(crate) fn wrapped(f: &mut Formatter<'_>, start: &str, text: &str) -> fmt::Result {
    let indent = start.chars().count();
    let room = WIDTH.saturating_sub(indent).max(20);
    let mut line = String::new();
    let mut first = true;
    let mut put = |line: &mut String| {
        let start = if std::mem::take(&mut first) { start.to_owned() } else { " ".repeat(indent) };
        // Where a log is read by GitHub Actions, a line that begins so is a command.
        let is_command = start.trim().is_empty() && (line.starts_with("::") || line.starts_with("##["));
        let start = if is_command { format!("{start}\\") } else { start };
        let written = writeln!(f, "{}", format!("{start}{line}").trim_end());
        line.clear();
        written
    };
    for word in Plain(text).to_string().split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.len() > room {
            put(&mut line)?;
        }
        // A path without a blank is cut where it must be.
        while word.len() > room {
            line.extend(word.drain(..room));
            put(&mut line)?;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    put(&mut line)
}
