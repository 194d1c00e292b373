//! Typed access to a `config.json` that remembers what was read.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A Hugging Face config, or an object nested in one.
///
/// A null counts as absent, as in Python's `getattr(config, key, None)`. Every access records its key, so that
/// [`Config::unread`] can name the keys that would change the maths and that nobody asked for.
#[derive(Debug, Clone)]
pub struct Config {
    values: Rc<Map<String, Value>>,
    /// Dotted path of this object, with a final dot; empty at the top.
    prefix: String,
    /// Keys that this config writes under another name: `(asked, written)`.
    names: &'static [(&'static str, &'static str)],
    read: Rc<RefCell<BTreeMap<String, Read>>>,
}

/// How a key was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// A value, or an object whose every key is about the same piece of maths.
    Value,
    /// An object that is a config itself, with bookkeeping of its own.
    Model,
    /// Not at all, and nothing under it: it says nothing about this model.
    Ignored,
}

/// Keys that have no part in the forward pass: bookkeeping, training, generation, token ids.
const HARMLESS: &[&str] = &[
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_range",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "resid_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    "mlp_dropout",
    "residual_dropout",
    "use_flash_attn",
    "use_flash_attention",
    "flash_attn",
    "router_aux_loss_coef",
    "output_router_logits",
    "num_labels",
];

/// Parts of names that mark a key as maths. A key without any of them is bookkeeping.
const MATHS: &[&str] = &[
    "act",
    "alibi",
    "attention",
    "attn",
    "bias",
    "clip",
    "embed",
    "expert",
    "factor",
    "gate",
    "head",
    "hidden",
    "kv",
    "layer",
    "logit",
    "mlp",
    "moe",
    "multiplier",
    "norm",
    "parallel",
    "position",
    "qk",
    "rank",
    "residual",
    "rope",
    "rotary",
    "router",
    "scal",
    "sink",
    "soft",
    "theta",
    "tie",
    "window",
];

impl Config {
    /// Takes the parsed `config.json`, which must be an object.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(values) = value else {
            return Err(Error::invalid("config.json".to_owned(), "an object", kind_of(&value)));
        };
        Ok(Self { values: Rc::new(values), prefix: String::new(), names: &[], read: Rc::default() })
    }

    /// The dotted path of a key, for messages.
    pub fn path(&self, key: &str) -> String {
        format!("{}{}", self.prefix, self.written(key))
    }

    /// The same config with what its class assumes for keys that are not written. A written null stays null.
    pub(crate) fn with_defaults(&self, defaults: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let mut values = Map::clone(&self.values);
        for (key, value) in defaults {
            values.entry(self.written(key)).or_insert(value);
        }
        Self { values: Rc::new(values), ..self.clone() }
    }

    /// The same config with another value under a key.
    pub(crate) fn with(&self, key: &str, value: Value) -> Self {
        let mut values = Map::clone(&self.values);
        values.insert(self.written(key).to_owned(), value);
        Self { values: Rc::new(values), ..self.clone() }
    }

    /// The same config for a reader that asks for keys by the names of another family: `(asked, written)`. A key that
    /// is written under an asked name no longer means anything here.
    pub(crate) fn with_names(&self, names: &'static [(&'static str, &'static str)]) -> Self {
        Self { names, ..self.clone() }
    }

    fn written<'a>(&self, key: &'a str) -> &'a str {
        self.names.iter().find(|(asked, _)| *asked == key).map_or(key, |(_, written)| written)
    }

    /// Ignores the keys that a nested config repeats with the same value.
    pub(crate) fn ignore_repeated(&self, nested: &Self) {
        for (key, value) in nested.values.iter() {
            if self.values.get(key) == Some(value) {
                self.ignore(key);
            }
        }
    }

    /// Whether the key is written at all, a null included: some config classes have a default that only an explicit
    /// null turns off.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(self.written(key))
    }

    /// Declares that a key says nothing about this model, whatever its value: the vision tower of a text decoder.
    pub(crate) fn ignore(&self, key: &str) {
        self.read.borrow_mut().insert(self.path(key), Read::Ignored);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The nested config of a whole model under `key`: unlike in another object, keys that are not read may be
    /// bookkeeping.
    pub(crate) fn model(&self, key: &str) -> Result<Self> {
        let model = self.object(key)?.ok_or_else(|| self.missing(key, "an object"))?;
        self.read.borrow_mut().insert(self.path(key), Read::Model);
        Ok(model)
    }

    /// The nested object under `key`, a group of parameters.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                values: Rc::new(values.clone()),
                prefix: format!("{}.", self.path(key)),
                names: &[],
                read: Rc::clone(&self.read),
            })),
            Some(other) => Err(Error::invalid(self.path(key), "an object", kind_of(other))),
        }
    }

    /// Reads a key that may be absent and whose only supported value is `expected`: it states what the family does
    /// anyway.
    pub(crate) fn only(&self, key: &str, expected: impl Into<Value>) -> Result<()> {
        let expected = expected.into();
        let same = |found: &Value| match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => *found == expected,
        };
        match self.get(key) {
            Some(found) if !same(found) => {
                Err(Error::Unsupported { key: self.path(key), value: abridged(found), supported: abridged(&expected) })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn usize(&self, key: &str) -> Result<usize> {
        self.opt_usize(key)?.ok_or_else(|| self.missing(key, "a positive integer"))
    }

    /// A size that goes by several names, of which the first is in the message where there is none.
    pub(crate) fn usize_of(&self, names: &[&str]) -> Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for name in names {
            let Some(size) = self.opt_usize(name)? else { continue };
            match found {
                Some((other, stated)) if stated != size => {
                    return Err(Error::invalid(self.path(name), format!("{stated}, as {} is", self.path(other)), size));
                }
                _ => found = Some((name, size)),
            }
        }
        let named = names.first().copied().unwrap_or_default();
        found.map(|(_, size)| size).ok_or_else(|| self.missing(named, "a positive integer"))
    }

    /// A positive integer.
    pub(crate) fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        self.get(key).map(|value| self.size(key, value)).transpose()
    }

    /// A value of that key as a positive integer.
    fn size(&self, key: &str, value: &Value) -> Result<usize> {
        // Above this nothing is a size of a decoder, and products of two sizes still fit in 64 bits.
        const LIMIT: u64 = 1 << 31;
        // A description holds every layer, so a count of them must not decide how much memory is taken.
        const MOST_LAYERS: u64 = 4096;
        // Some writers store an integer as `4096.0`.
        let integer = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..LIMIT as f64).contains(&float)).then_some(float as u64)
        });
        match integer {
            Some(integer) if (key.ends_with("layers") || key == "n_layer") && integer > MOST_LAYERS => {
                Err(Error::invalid(self.path(key), format!("at most {MOST_LAYERS} layers"), value))
            }
            Some(integer) if (1..LIMIT).contains(&integer) => Ok(integer as usize),
            _ => Err(Error::invalid(self.path(key), "an integer from 1 to 2^31 - 1", value)),
        }
    }

    /// Zero or a positive integer.
    pub(crate) fn opt_index(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(Some(0)),
            _ => self.opt_usize(key),
        }
    }

    /// A finite number.
    pub(crate) fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(Error::invalid(self.path(key), "a number", value)),
            },
        }
    }

    /// A number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        let number = self.opt_f64(key)?.ok_or_else(|| self.missing(key, "a number above 0"))?;
        if number > 0.0 { Ok(number) } else { Err(Error::invalid(self.path(key), "a number above 0", number)) }
    }

    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|_| self.positive(key)).transpose()
    }

    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.opt_positive(key)?.unwrap_or(default))
    }

    pub(crate) fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(Error::invalid(self.path(key), "true or false", other)),
        }
    }

    pub(crate) fn opt_str(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(Error::invalid(self.path(key), "a string", other)),
        }
    }

    pub(crate) fn opt_strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let strings = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        strings.map(Some).ok_or_else(|| Error::invalid(self.path(key), "a list of strings", kind_of(value)))
    }

    /// Lists of strings, each with how often it is repeated, written out: `[[["a", "b"], 2]]` is a, b, a, b. No more than
    /// `most` strings.
    pub(crate) fn opt_repeated_strings(&self, key: &str, most: usize) -> Result<Option<Vec<String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let written_out = |item: &Value| {
            let (strings, times) = (item.get(0)?.as_array()?, usize::try_from(item.get(1)?.as_u64()?).ok()?);
            let strings =
                strings.iter().map(|string| string.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
            let length = strings.len().checked_mul(times).filter(|length| *length <= most)?;
            Some(strings.into_iter().cycle().take(length).collect::<Vec<_>>())
        };
        let all = value.as_array().and_then(|items| items.iter().map(written_out).collect::<Option<Vec<_>>>());
        let all = all.map(|lists| lists.concat()).filter(|strings| strings.len() <= most);
        let expected = format!("lists of strings with their number of times, {most} strings at most");
        all.map(Some).ok_or_else(|| Error::invalid(self.path(key), expected, abridged(value)))
    }

    /// A positive integer for each of `count` layers: a list of as many, or one for all.
    pub(crate) fn usizes(&self, key: &str, count: usize) -> Result<Vec<usize>> {
        let Some(Value::Array(items)) = self.get(key) else { return Ok(vec![self.usize(key)?; count]) };
        let sizes = items.iter().map(|item| self.size(key, item)).collect::<Result<Vec<_>>>()?;
        if sizes.len() == count {
            return Ok(sizes);
        }
        let expected = format!("an integer, or a list of {count}, one for each layer");
        Err(Error::invalid(self.path(key), expected, format!("a list of {}", sizes.len())))
    }

    /// A list of finite numbers.
    pub(crate) fn opt_f64s(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let finite = |item: &Value| item.as_f64().filter(|number| number.is_finite());
        let numbers = value.as_array().and_then(|items| items.iter().map(finite).collect::<Option<Vec<_>>>());
        numbers.map(Some).ok_or_else(|| Error::invalid(self.path(key), "a list of numbers", abridged(value)))
    }

    /// A list of numbers above zero.
    pub(crate) fn opt_positives(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let positive = |item: &Value| item.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let numbers = value.as_array().and_then(|items| items.iter().map(positive).collect::<Option<Vec<_>>>());
        let wrong = || Error::invalid(self.path(key), "a list of numbers above 0", abridged(value));
        numbers.map(Some).ok_or_else(wrong)
    }

    /// A list of zeros and positive integers below 2^31.
    pub(crate) fn opt_indices(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let index = |item: &Value| item.as_u64().filter(|index| *index < 1 << 31).map(|index| index as usize);
        let indices = value.as_array().and_then(|items| items.iter().map(index).collect::<Option<Vec<_>>>());
        let wrong = || Error::invalid(self.path(key), "a list of integers from 0 to 2^31 - 1", abridged(value));
        indices.map(Some).ok_or_else(wrong)
    }

    /// A list of ones and zeros (or of true and false).
    pub(crate) fn opt_switches(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let switch = |item: &Value| match item.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => item.as_bool(),
        };
        let switches = value.as_array().and_then(|items| items.iter().map(switch).collect::<Option<Vec<_>>>());
        let wrong = || Error::invalid(self.path(key), "a list of ones and zeros", abridged(value));
        switches.map(Some).ok_or_else(wrong)
    }

    /// Fails if a key that looks like maths was never read and does not hold a neutral value.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut keys = Vec::new();
        self.collect_unread(&mut keys);
        if keys.is_empty() { Ok(()) } else { Err(Error::Unread { keys }) }
    }

    fn collect_unread(&self, keys: &mut Vec<String>) {
        for (key, value) in self.values.iter() {
            let path = format!("{}{key}", self.prefix);
            let read = self.read.borrow().get(&path).copied();
            match value {
                _ if read == Some(Read::Ignored) => {}
                // An object that was opened answers for its own keys.
                Value::Object(values) if read.is_some() => {
                    let nested = Self {
                        values: Rc::new(values.clone()),
                        prefix: format!("{path}."),
                        names: &[],
                        read: Rc::clone(&self.read),
                    };
                    nested.collect_unread(keys);
                }
                _ if read.is_some() || HARMLESS.contains(&key.as_str()) || is_neutral(value) => {}
                _ if self.is_group() || MATHS.iter().any(|part| key.contains(part)) => {
                    keys.push(format!("`{path}` = {}", abridged(value)));
                }
                _ => {}
            }
        }
    }

    /// Whether this is an object inside a config whose every key is about the same piece of maths.
    fn is_group(&self) -> bool {
        let path = self.prefix.strip_suffix('.');
        path.is_some_and(|path| self.read.borrow().get(path) != Some(&Read::Model))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().entry(self.path(key)).or_insert(Read::Value);
        self.values.get(self.written(key)).filter(|value| !value.is_null())
    }

    pub(crate) fn missing(&self, key: &str, expected: &str) -> Error {
        Error::Missing { key: self.path(key), expected: expected.to_owned() }
    }
}

/// Whether a value leaves the maths as it is whatever its key means: absent, off, empty, a factor of one, or the
/// statement that every layer attends to everything.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number == 0.0 || number == 1.0),
        Value::Object(values) => values.is_empty(),
        Value::Array(items) => items.iter().all(|item| item == "full_attention"),
        Value::Bool(true) | Value::String(_) => false,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn abridged(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { format!("{}…", text.chars().take(60).collect::<String>()) }
}
#[cfg(test)]
mod tests;
