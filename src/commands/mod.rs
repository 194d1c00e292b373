//! One file per verb: call the libraries, print the result.

pub(crate) mod build;
pub(crate) mod inspect;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod tables;
pub(crate) mod validate;

use std::io::Write;

use serde::Serialize;

use crate::failure::{Failure, code};

/// Writes a result to stdout. A reader that went away is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(code::RESOURCES, format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(code::INTERNAL, format!("cannot write the result as JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// Writes a line for people to stderr, where a failure to write has no one to tell.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
