//! `genai_config.json` as text: parsed strictly, and changed by overlays.
//!
//! The peer's own parser takes the last of duplicate keys and ignores what stands behind the object; it refuses `\u`
//! escapes, which are JSON.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::ConfigWarning;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// # Errors
/// Says what is wrong, with line and column.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err("begins with a byte order mark, expected `{`: save it as UTF-8 without one".into());
    }
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: "" }.deserialize(&mut text).map_err(|error| error.to_string())?;
    text.end().map_err(|error| format!("{error}, expected nothing behind the object"))?;
    Ok(value)
}

/// What other readers of the same text would stumble over.
pub(super) fn warnings(bytes: &[u8]) -> Option<ConfigWarning> {
    // A backslash in valid JSON is within a string, and what it escapes is one byte, or `u` and digits.
    let mut rest = bytes;
    let mut line = 1;
    while let Some((first, after)) = rest.split_first() {
        line += usize::from(*first == b'\n');
        rest = after;
        if *first == b'\\' {
            let Some((escaped, after)) = rest.split_first() else { break };
            if *escaped == b'u' {
                let problem = "has a \\u escape, which onnxruntime-genai 0.18 refuses to read: write the character";
                return Some(ConfigWarning { key: format!("line {line}"), problem: problem.into() });
            }
            rest = after;
        }
    }
    None
}

/// A value of the document, and where it is.
struct Node<'p> {
    path: &'p str,
}

impl Node<'_> {
    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let mut path = format!("{}[0]", self.path);
        while let Some(item) = items.next_element_seed(Node { path: &path })? {
            list.push(item);
            path = format!("{}[{}]", self.path, list.len());
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.below(&key);
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{path:?} is there twice")));
            }
            let value = entries.next_value_seed(Node { path: &path })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// RFC 7386: objects are merged key by key, null removes, all else takes the place of what was there.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, change) in patch {
        if change.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), change);
        }
    }
}

/// Lists to which an overlay of onnxruntime-genai 0.18 appends.
const APPENDED: [&str; 6] =
    ["eos_token_id", "layers", "layer_types", "tdt_durations", "shared_initializers", "pipeline"];
/// Objects that it empties first.
const EMPTIED: [&str; 2] = ["run_options", "sliding_window"];

/// As onnxruntime-genai 0.18 reads an overlay on top of what it has: it goes on in the same objects, so lists grow,
/// providers are merged by their names, and optional objects begin anew. Null is what it is anywhere: of the wrong type.
pub(super) fn merge_as_peer(target: &mut Value, patch: &Value, path: &str) {
    let (Some(target), Some(patch)) = (target.as_object_mut(), patch.as_object()) else {
        target.clone_from(patch);
        return;
    };
    for (key, change) in patch {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let there = target.entry(key).or_insert(Value::Null);
        let session_of_another = key == "session_options" && path != "model.decoder.session_options";
        match (&mut *there, change) {
            (Value::Array(list), Value::Array(more)) if key == "provider_options" => merge_providers(list, more),
            (Value::Array(list), Value::Array(more)) if APPENDED.contains(&key.as_str()) => {
                list.extend(more.iter().cloned());
            }
            // A single end token is a list of one.
            (Value::Number(one), Value::Array(more)) if key == "eos_token_id" => {
                let list = std::iter::once(Value::Number(one.clone())).chain(more.iter().cloned());
                *there = list.collect();
            }
            (Value::Object(_), Value::Object(_)) if EMPTIED.contains(&key.as_str()) || session_of_another => {
                there.clone_from(change);
            }
            (Value::Object(_), Value::Object(_)) => merge_as_peer(there, change, &path),
            _ => there.clone_from(change),
        }
    }
}

fn merge_providers(list: &mut Vec<Value>, more: &[Value]) {
    for (provider, options) in more.iter().filter_map(Value::as_object).flatten() {
        let named = |object: &&mut Map<String, Value>| object.contains_key(provider);
        match list.iter_mut().filter_map(Value::as_object_mut).find(named) {
            Some(object) => merge(object.entry(provider).or_insert(Value::Null), options),
            None => list.push(Value::Object(Map::from_iter([(provider.clone(), options.clone())]))),
        }
    }
}
