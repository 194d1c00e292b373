//! Every key that onnxruntime-genai 0.18 reads, and the type of its value.
//!
//! Measured on its library: each string in it was offered to its parser as a key of each object. A key that it does not
//! know is an error there, and here; only a plain value beside `model` it passes over in silence, which is told as a
//! warning here. A misspelt key would be a setting that does nothing.

mod keys;

use std::path::Path;

use serde_json::{Map, Value};

use keys::{DEVICES, Keys, Kind, ROOT, SESSION};

use super::fields::shown;
use super::{ConfigWarning, paths};
use crate::search_options::whole;
use crate::{Error, Result};

/// Walks the whole document, and returns what is ignored.
///
/// # Errors
/// The JSON path of the first value that the peer would not read, what it is, and what was expected.
pub(super) fn check(document: &Value, file: &Path) -> Result<Vec<ConfigWarning>> {
    let mut walk = Walk { file, warnings: Vec::new() };
    let root = document.as_object().ok_or_else(|| Error::package(file, "is not a JSON object"))?;
    walk.object(root, ROOT, "")?;
    Ok(walk.warnings)
}

struct Walk<'a> {
    file: &'a Path,
    warnings: Vec<ConfigWarning>,
}

impl Walk<'_> {
    fn object(&mut self, object: &Map<String, Value>, keys: Keys, path: &str) -> Result<()> {
        let is_root = path.is_empty();
        for (key, value) in object {
            let path = below(path, key);
            match keys.iter().find(|(known, _)| known == key) {
                Some((_, kind)) => self.value(value, *kind, &path)?,
                None if is_root && !value.is_object() && !value.is_array() => {
                    let problem = "is no key of genai_config.json, and onnxruntime-genai ignores it in silence";
                    self.warnings.push(ConfigWarning { key: path, problem: problem.into() });
                }
                None => return Err(self.unknown(key, keys.iter().map(|(known, _)| *known), path)),
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, kind: Kind, path: &str) -> Result<()> {
        let expects =
            |holds: bool, expected: &str| if holds { Ok(()) } else { Err(self.mismatch(path, value, expected)) };
        match kind {
            Kind::Text => expects(value.is_string(), "a text"),
            Kind::Path => match value.as_str() {
                Some(text) if text.is_empty() || paths::stays_inside(text) => Ok(()),
                Some(_) => Err(self.mismatch(path, value, "a relative path inside the package")),
                None => Err(self.mismatch(path, value, "a text")),
            },
            Kind::Integer => expects(whole(value).is_some(), INTEGER),
            Kind::Number => {
                expects(value.as_f64().is_some_and(|number| (number as f32).is_finite()), "a finite number")
            }
            Kind::Flag => expects(value.is_boolean(), "true or false"),
            Kind::OneOf(words) => expects(
                value.as_str().is_some_and(|word| words.contains(&word)),
                &format!("one of {}", words.join(", ")),
            ),
            Kind::Id => expects(whole(value).is_some(), "a token id"),
            Kind::Ids if value.is_array() => self.items(value, Kind::Id, path, "a list of token ids"),
            Kind::Ids => expects(whole(value).is_some(), "a token id or a list of them"),
            Kind::Integers => self.items(value, Kind::Integer, path, "a list of whole numbers"),
            Kind::Texts => self.items(value, Kind::Text, path, "a list of texts"),
            Kind::Kept => expects(value.is_object(), "an object"),
            Kind::Object(keys) => self.object(self.as_object(value, path)?, keys, path),
            Kind::Names(names) => {
                for (key, name) in self.as_object(value, path)? {
                    if !names.contains(&key.as_str()) {
                        return Err(self.unknown(key, names.iter().copied(), below(path, key)));
                    }
                    self.value(name, Kind::Text, &below(path, key))?;
                }
                Ok(())
            }
            Kind::Entries => {
                for (key, text) in self.as_object(value, path)? {
                    self.value(text, Kind::Text, &below(path, key))?;
                }
                Ok(())
            }
            Kind::List(keys) => {
                for (index, item) in self.as_list(value, path, "a list of objects")?.iter().enumerate() {
                    self.value(item, Kind::Object(keys), &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            Kind::Stages(keys) => {
                let objects = match value {
                    Value::Array(list) => list.as_slice(),
                    single => std::slice::from_ref(single),
                };
                for object in objects {
                    for (name, stage) in self.as_object(object, path)? {
                        self.value(stage, Kind::Object(keys), &below(path, name))?;
                    }
                }
                Ok(())
            }
            Kind::Session => {
                for (key, value) in self.as_object(value, path)? {
                    let kind = SESSION.iter().find(|(known, _)| known == key).map_or(Kind::Text, |(_, kind)| *kind);
                    self.value(value, kind, &below(path, key))?;
                }
                Ok(())
            }
            Kind::Providers => self.providers(value, path),
        }
    }

    /// A list of objects `{provider: {option: text}}`.
    fn providers(&mut self, value: &Value, path: &str) -> Result<()> {
        for (index, item) in self.as_list(value, path, "a list of objects, of one provider each")?.iter().enumerate() {
            let path = format!("{path}[{index}]");
            for (provider, options) in self.as_object(item, &path)? {
                let path = below(&path, provider);
                for (key, option) in self.as_object(options, &path)? {
                    let kind = if key == "device_filtering_options" { Kind::Object(DEVICES) } else { Kind::Text };
                    self.value(option, kind, &below(&path, key))?;
                }
            }
        }
        Ok(())
    }

    fn items(&mut self, value: &Value, kind: Kind, path: &str, expected: &str) -> Result<()> {
        for (index, item) in self.as_list(value, path, expected)?.iter().enumerate() {
            self.value(item, kind, &format!("{path}[{index}]"))?;
        }
        Ok(())
    }

    fn as_object<'v>(&self, value: &'v Value, path: &str) -> Result<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.mismatch(path, value, "an object"))
    }

    fn as_list<'v>(&self, value: &'v Value, path: &str, expected: &str) -> Result<&'v Vec<Value>> {
        value.as_array().ok_or_else(|| self.mismatch(path, value, expected))
    }

    fn mismatch(&self, path: &str, value: &Value, expected: &str) -> Error {
        let problem = format!("is {}, expected {expected}", shown(value));
        Error::Config { file: self.file.to_path_buf(), key: path.to_owned(), problem }
    }

    fn unknown(&self, key: &str, known: impl Iterator<Item = &'static str>, path: String) -> Error {
        let nearest = known.map(|known| (distance(key, known), known)).min();
        let problem = match nearest {
            Some((away, known)) if away <= 2 => format!("is no key of genai_config.json; did you mean `{known}`?"),
            _ => "is no key of genai_config.json".to_owned(),
        };
        Error::Config { file: self.file.to_path_buf(), key: path, problem }
    }
}

const INTEGER: &str = "a whole number from -2147483648 to 2147483647";

fn below(path: &str, key: &str) -> String {
    // A key is a stranger's text of any length.
    let key: String = key.chars().take(80).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Letters to insert, remove or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(80).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != *y)).min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
