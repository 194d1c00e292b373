//! `config.json` and `generation_config.json`: one JSON object each.

use serde_json::Value;

use crate::error::{Error, Result, printable};
use crate::folder::Folder;
use crate::lookalike::{self, mistaken_for};
use crate::source_file::SourceFile;

/// 16 MiB; the largest published config.json are well below 1 MiB.
const MOST_BYTES: u64 = 16 << 20;

/// Opens and parses the object in the file of that name; `None` where there is no such file.
pub(crate) fn read_object(folder: &Folder, name: &str) -> Result<Option<(Value, SourceFile)>> {
    let Some(file) = folder.open_file(name)? else {
        return Ok(None);
    };
    let bytes = file.read_all(MOST_BYTES)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| syntax_error(&file, &bytes, &e))?;
    if !value.is_object() {
        return Err(Error::malformed(file.path(), format!("holds {}, expected a JSON object", noun(&value))));
    }
    Ok(Some((value, file)))
}

/// Turns a JSON error (which says line and column) into ours, with a guess at the cause.
pub(crate) fn syntax_error(file: &SourceFile, bytes: &[u8], e: &serde_json::Error) -> Error {
    if let Some(error) = mistaken_for(file.path(), bytes.get(..lookalike::PREFIX).unwrap_or(bytes)) {
        return error;
    }
    if bytes.is_empty() {
        return Error::malformed(file.path(), "is empty");
    }
    let error = Error::malformed(file.path(), format!("invalid JSON: {}", printable(&e.to_string(), 300)));
    match python_literal_at(bytes, e.line(), e.column()) {
        Some(literal) => error.with_hint(format!(
            "Python writes the literal {literal}, which JSON does not have: put a number or null in its place"
        )),
        None => error,
    }
}

/// `NaN` or `Infinity`, if one stands where the parser stopped. `line` and `column` count from 1, in bytes.
fn python_literal_at(bytes: &[u8], line: usize, column: usize) -> Option<&'static str> {
    let line = bytes.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    // The parser stops at the first or second byte of the literal, after the sign of -Infinity.
    (column.saturating_sub(2)..=column).find_map(|start| {
        let rest = line.get(start..)?;
        ["NaN", "Infinity"].into_iter().find(|literal| rest.starts_with(literal.as_bytes()))
    })
}

fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
