//! Small files of JSON, by path: `genai_config.json`, those of the tokenizer.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::files::is_read;
use super::{Files, Pair, Reason, Sameness};
use crate::{Error, Result};

/// Larger files, such as vocabularies, are compared as a whole.
const LARGEST: u64 = 1 << 20;
/// What a file of JSON may have at most to be parsed at all.
const LARGEST_PARSED: u64 = 256 << 20;
/// Differences of one file that are listed.
const MOST: usize = 200;

/// A value that is on one side only, or another one there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    pub file: String,
    /// Such as `model.decoder.head_size`; empty for a file as a whole.
    pub path: String,
    /// Null as a value is told from no value.
    #[serde(flatten)]
    pub sides: Pair<Value>,
}

pub(super) fn compare(a: &Path, b: &Path, files: &Files) -> Result<(Vec<Setting>, Vec<Reason>)> {
    let (mut settings, mut reasons) = (Vec::new(), Vec::new());
    for file in &files.different {
        let (Some(left), Some(right)) = (&file.sides.a, &file.sides.b) else { continue };
        let name = &file.name;
        if !is_read(name) {
            continue;
        }
        let bytes = left.bytes.max(right.bytes);
        let values = if name.ends_with(".json") && bytes <= LARGEST_PARSED {
            (parse(&a.join(name))?, parse(&b.join(name))?)
        } else {
            (None, None)
        };
        let before = settings.len();
        match values {
            (Some(a), Some(b)) if bytes <= LARGEST => differences(name, "", &a, &b, &mut settings),
            (Some(a), Some(b)) if a == b => {}
            _ => reasons.push(Reason::new(Sameness::Different, format!("{name} says something else"))),
        }
        let found = settings.get(before..).unwrap_or_default();
        if let Some(first) = found.iter().find(|setting| !is_spelling(&setting.path)) {
            let number = found.iter().filter(|setting| !is_spelling(&setting.path)).count();
            let more = if number > 1 { format!(", and {} more", number - 1) } else { String::new() };
            reasons.push(Reason::new(Sameness::Different, format!("{name} differs at {}{more}", first.path)));
        }
        settings.truncate(before + MOST);
    }
    Ok((settings, reasons))
}

/// How a session is made, and what files are called, change no value.
fn is_spelling(path: &str) -> bool {
    path.split('.').any(|part| part == "session_options" || part == "filename")
}

fn parse(path: &Path) -> Result<Option<Value>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

fn differences(file: &str, path: &str, a: &Value, b: &Value, found: &mut Vec<Setting>) {
    let mut at = |key: &str, a: Option<&Value>, b: Option<&Value>| {
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match (a, b) {
            (Some(a), Some(b)) => differences(file, &path, a, b, found),
            _ => found.push(Setting { file: file.to_owned(), path, sides: Pair { a: a.cloned(), b: b.cloned() } }),
        }
    };
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter().for_each(|key| at(key, a.get(key), b.get(key)));
        }
        // Objects in lists are compared one by one; a list of plain values is one value.
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).any(|value| value.is_object() || value.is_array()) => {
            (0..a.len().max(b.len())).for_each(|index| at(&index.to_string(), a.get(index), b.get(index)));
        }
        _ if is_same(a, b) => {}
        _ => found.push(Setting {
            file: file.to_owned(),
            path: path.to_owned(),
            sides: Pair { a: Some(a.clone()), b: Some(b.clone()) },
        }),
    }
}

/// 1 and 1.0 are one number.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64() == b.as_f64() && a.is_f64() != b.is_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        _ => a == b,
    }
}
