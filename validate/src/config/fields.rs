//! One JSON object of the configuration, and where in the file it is.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Template, paths};
use crate::search_options::whole;
use crate::{Error, Result};

pub(super) struct Fields<'a> {
    /// None for an optional object that is absent.
    object: Option<&'a Map<String, Value>>,
    path: String,
    file: &'a Path,
}

impl<'a> Fields<'a> {
    pub(super) fn root(value: &'a Value, file: &'a Path) -> Result<Self> {
        let object = value.as_object().ok_or_else(|| Error::package(file, "is not a JSON object"))?;
        Ok(Self { object: Some(object), path: String::new(), file })
    }

    pub(super) fn object(&self, key: &str) -> Result<Self> {
        let object = self.required(key)?.as_object().ok_or_else(|| self.mismatch(key, "an object"))?;
        Ok(Self { object: Some(object), path: self.path_of(key), file: self.file })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.object.into_iter().flatten().map(|(key, _)| key.as_str())
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.object.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// A list of texts; absent is empty.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let text = |item: &Value| item.as_str().map(str::to_owned);
        let list = value.as_array().and_then(|list| list.iter().map(text).collect());
        list.ok_or_else(|| self.mismatch(key, "a list of texts"))
    }

    /// The objects of a list; absent is empty.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| self.mismatch(key, "a list of objects"))?;
        let item = |(index, item): (usize, &'a Value)| {
            let key = format!("{key}[{index}]");
            let object = item.as_object().ok_or_else(|| self.error(&key, "is not an object"))?;
            Ok(Self { object: Some(object), path: self.path_of(&key), file: self.file })
        };
        items.iter().enumerate().map(item).collect()
    }

    /// All values, where they are objects, with their keys.
    pub(super) fn objects(&self) -> Result<Vec<(&'a str, Self)>> {
        self.keys().map(|key| Ok((key, self.object(key)?))).collect()
    }

    /// The values that are texts, with their keys, but those of `known` keys.
    pub(super) fn texts_but(&self, known: &[&str]) -> Vec<(String, String)> {
        let entries = self.object.into_iter().flatten().filter(|(key, _)| !known.contains(&key.as_str()));
        entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    pub(super) fn object_or_empty(&self, key: &str) -> Result<Self> {
        match self.get(key) {
            Some(_) => self.object(key),
            None => Ok(Self { object: None, path: self.path_of(key), file: self.file }),
        }
    }

    /// Present and not an empty text or list: what a writer leaves when it means "none".
    pub(super) fn has(&self, key: &str) -> bool {
        match self.get(key) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        let text = self.required(key)?.as_str().ok_or_else(|| self.mismatch(key, "a text"))?;
        if text.is_empty() { Err(self.error(key, "is empty")) } else { Ok(text) }
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.mismatch(key, "a text"))).transpose()
    }

    /// A graph name; absent gives the default. An empty one is that of no input, as in the peer.
    pub(super) fn name(&self, key: &str, default: &str) -> Result<String> {
        Ok(self.optional_text(key)?.unwrap_or(default).to_owned())
    }

    pub(super) fn template(&self, key: &str, default: &str) -> Result<Template> {
        Template::parse(&self.name(key, default)?).map_err(|problem| self.error(key, problem))
    }

    /// A template without a default; empty is absent.
    pub(super) fn optional_template(&self, key: &str) -> Result<Option<Template>> {
        match self.optional_text(key)? {
            None | Some("") => Ok(None),
            Some(text) => Template::parse(text).map(Some).map_err(|problem| self.error(key, problem)),
        }
    }

    /// A required whole number of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<usize> {
        self.required(key)?;
        match self.optional_integer(key)? {
            Some(count) if count > 0 => Ok(count),
            _ => Err(self.mismatch(key, "a whole number of at least 1")),
        }
    }

    /// The same, with a default.
    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    pub(super) fn optional_integer(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let expected = || self.mismatch(key, "a whole number from 0 to 2147483647");
        let number = whole(value).ok_or_else(expected)?;
        usize::try_from(number).map(Some).map_err(|_| expected())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().map(|number| number as f32) {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.mismatch(key, "a finite number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.mismatch(key, "true or false"))).transpose()
    }

    /// One id. Writers put -1 for "none", so a negative number counts as absent.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if whole(value).is_some_and(|id| id < 0) => Ok(None),
            Some(value) => Ok(Some(self.id(key, value)?)),
        }
    }

    /// One id or a list of ids; a list must not be empty.
    pub(super) fn tokens(&self, key: &str) -> Result<Option<Vec<u32>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) if list.is_empty() => Err(self.error(key, "is an empty list")),
            Some(Value::Array(list)) => list.iter().map(|value| self.id(key, value)).collect::<Result<_>>().map(Some),
            Some(value) => Ok(Some(vec![self.id(key, value)?])),
        }
    }

    /// A list of numbers from zero on; absent is empty.
    pub(super) fn indices(&self, key: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let index = |item: &Value| whole(item).and_then(|index| usize::try_from(index).ok());
        let list = value.as_array().and_then(|list| list.iter().map(index).collect());
        list.ok_or_else(|| self.mismatch(key, "a list of numbers from zero on"))
    }

    /// A relative path that stays inside the folder.
    pub(super) fn path(&self, key: &str) -> Result<PathBuf> {
        let text = self.text(key)?;
        if paths::stays_inside(text) {
            return Ok(PathBuf::from(text));
        }
        Err(self.mismatch(key, "a relative path inside the package"))
    }

    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config { file: self.file.to_path_buf(), key: self.path_of(key), problem: problem.into() }
    }

    fn id(&self, key: &str, value: &Value) -> Result<u32> {
        whole(value)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.error(key, format!("is {}, expected a token id", shown(value))))
    }

    fn required(&self, key: &str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| self.error(key, "is missing"))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key)
    }

    pub(super) fn mismatch(&self, key: &str, expected: &str) -> Error {
        let found = self.get(key).map_or_else(|| "absent".into(), shown);
        self.error(key, format!("is {found}, expected {expected}"))
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// Short enough for a message, whatever the file holds.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.chars().count() > 40 => "a long text".into(),
        plain => plain.to_string(),
    }
}
