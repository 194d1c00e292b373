//! Tables of cells that know how they stand.

use std::fmt::{self, Display, Formatter};

use super::super::escape::Html;

pub(super) enum Cell {
    Text(String),
    /// Text of some words.
    Words(String),
    Code(String),
    Number(String),
    /// Judged: within or beyond, and the word for it.
    Judged(bool, &'static str),
    /// A part of the greatest, from 0 to 1; in the colour of errors or of amounts.
    Bar(f64, &'static str),
}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "<td>{}</td>", Html(text)),
            Self::Words(text) => write!(f, "<td class=\"wide\">{}</td>", Html(text)),
            Self::Code(text) => write!(f, "<td><code>{}</code></td>", Html(text)),
            Self::Number(text) => write!(f, "<td class=\"number\">{}</td>", Html(text)),
            Self::Judged(within, word) => {
                write!(f, "<td class=\"{}\">{word}</td>", if *within { "pass" } else { "fail" })
            }
            Self::Bar(part, class) => write!(
                f,
                "<td class=\"bar\"><svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
                 <rect class=\"{class}\" width=\"{:.1}\" height=\"10\"/></svg></td>",
                100.0 * if part.is_finite() { part.clamp(0.0, 1.0) } else { 1.0 }
            ),
        }
    }
}

/// Heads that begin with `#` stand above numbers.
pub(super) fn table(f: &mut Formatter<'_>, head: &[&str], rows: impl Iterator<Item = Vec<Cell>>) -> fmt::Result {
    write!(f, "<div class=\"scroll\"><table>\n<thead><tr>")?;
    for name in head {
        match name.strip_prefix('#') {
            Some(name) => write!(f, "<th scope=\"col\" class=\"number\">{}</th>", Html(name))?,
            None => write!(f, "<th scope=\"col\">{}</th>", Html(name))?,
        }
    }
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for row in rows {
        write!(f, "<tr>")?;
        row.iter().try_for_each(|cell| cell.fmt(f))?;
        writeln!(f, "</tr>")?;
    }
    writeln!(f, "</tbody>\n</table></div>")
}
