//! The crate's one error, and how names from files are made safe to print.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what may help.
///
/// Displays as `FILE: tensor NAME: PROBLEM`, without the hint.
#[derive(Debug, thiserror::Error)]
#[error("{}", Line(self))]
pub struct Error {
    kind: ErrorKind,
    file: Option<PathBuf>,
    tensor: Option<String>,
    problem: String,
    hint: Option<String>,
}

/// The class of an [`Error`], for exit codes and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What the user named does not exist (exit code 5).
    NotFound,
    /// The parts of the checkpoint do not add up: a file or tensor is missing, or two parts disagree (exit code 5).
    Incomplete,
    /// A file breaks its own format, or changed while it was read (exit code 4).
    Malformed,
    /// Well formed, but not something this crate reads (exit code 3).
    Unsupported,
    /// Not read on purpose: a pickle, or a path that leaves the folder (exit code 12).
    Refused,
    /// A Hub model that is not in the local cache (exit code 6).
    CacheMiss,
    /// The Hub cannot be reached, or fails (exit code 6).
    Network,
    /// The Hub has the model, but no such revision of it (exit code 6).
    NoRevision,
    /// The Hub wants a token, or another one; or the model does not exist (exit code 7).
    Auth,
    /// A download has not the length or the hash that was promised (exit code 11).
    Checksum,
    /// The operating system failed a call (exit code 8).
    Io,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file that the error is about.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The tensor that the error is about, as spelled in the file: escape it before printing.
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn new(kind: ErrorKind, problem: impl Into<String>) -> Error {
        Error { kind, file: None, tensor: None, problem: problem.into(), hint: None }
    }

    pub(crate) fn malformed(file: &Path, problem: impl Into<String>) -> Error {
        Error::new(ErrorKind::Malformed, problem).in_file(file)
    }

    pub(crate) fn io(file: &Path, doing: &str, cause: &std::io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("cannot {doing}: {cause}")).in_file(file)
    }

    pub(crate) fn in_file(mut self, file: &Path) -> Error {
        self.file = Some(file.to_owned());
        self
    }

    pub(crate) fn of_tensor(mut self, tensor: impl Into<String>) -> Error {
        self.tensor = Some(tensor.into());
        self
    }

    pub(crate) fn after_attempts(mut self, attempts: u32) -> Error {
        if attempts > 1 {
            let _ = write!(self.problem, ", after {attempts} attempts");
        }
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

struct Line<'a>(&'a Error);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", printable(&file.to_string_lossy(), 4096))?;
        }
        if let Some(tensor) = &self.0.tensor {
            write!(f, "tensor {}: ", quoted(tensor))?;
        }
        f.write_str(&self.0.problem)
    }
}

/// A name from a file in backticks: escaped, and cut after 200 characters.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", printable(name, 200))
}

/// `text` without control, bidirectional or other invisible characters, cut after `most` characters.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    for c in chars.by_ref().take(most) {
        match c {
            '\'' | '"' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    if chars.next().is_some() {
        // Writing to a String does not fail.
        let _ = write!(out, "… ({} bytes)", text.len());
    }
    out
}

/// Names in backticks, comma-separated, the first `most` of them.
pub(crate) fn listed<S: AsRef<str>>(names: &[S], most: usize) -> String {
    let mut out: Vec<String> = names.iter().take(most).map(|name| quoted(name.as_ref())).collect();
    if let Some(more) = names.len().checked_sub(most).filter(|more| *more > 0) {
        out.push(format!("and {more} more"));
    }
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_capped() {
        assert_eq!(quoted("model.norm.weight"), "`model.norm.weight`");
        assert_eq!(quoted("a\u{1b}[31m\0\n\u{202e}\u{200b}"), "`a\\u{1b}[31m\\0\\n\\u{202e}\\u{200b}`");
        let long = quoted(&"x".repeat(1 << 20));
        assert!(long.len() < 300 && long.ends_with("… (1048576 bytes)`"), "{long}");
    }

    #[test]
    fn lists_say_how_many_are_left_out() {
        assert_eq!(listed(&["a", "b"], 2), "`a`, `b`");
        assert_eq!(listed(&["a", "b", "c"], 1), "`a`, and 2 more");
    }
}
