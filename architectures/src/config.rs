//! Typed access to a `config.json` that remembers what was read.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

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
    read: Rc<RefCell<BTreeSet<String>>>,
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
    "layer_types_is_default",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "resid_pdrop",
    "embd_pdrop",
    "mlp_dropout",
    "use_flash_attn",
    "use_flash_attention",
    "flash_attn",
    "max_sequence_length",
    "model_max_length",
    "router_aux_loss_coef",
    "output_router_logits",
    "num_labels",
    "token_type_ids",
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
        Ok(Self { values: Rc::new(values), prefix: String::new(), read: Rc::default() })
    }

    /// The dotted path of a key, for messages.
    pub fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Whether the key is written at all, a null included: some config classes have a default that only an explicit
    /// null turns off.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The nested object under `key`.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(values)) => Ok(Some(Self {
                values: Rc::new(values.clone()),
                prefix: format!("{}{key}.", self.prefix),
                read: Rc::clone(&self.read),
            })),
            Some(other) => Err(Error::invalid(self.path(key), "an object", kind_of(other))),
        }
    }

    pub(crate) fn usize(&self, key: &str) -> Result<usize> {
        self.opt_usize(key)?.ok_or_else(|| self.missing(key, "a positive integer"))
    }

    /// A positive integer.
    pub(crate) fn opt_usize(&self, key: &str) -> Result<Option<usize>> {
        // Above this nothing is a size of a decoder, and products of two sizes still fit in 64 bits.
        const LIMIT: u64 = 1 << 31;
        let Some(value) = self.get(key) else { return Ok(None) };
        // Some writers store an integer as `4096.0`.
        let integer = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && (0.0..LIMIT as f64).contains(&float)).then_some(float as u64)
        });
        match integer {
            Some(integer) if (1..LIMIT).contains(&integer) => Ok(Some(integer as usize)),
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

    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.get(key).is_some() { self.positive(key) } else { Ok(default) }
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

    /// Fails if a key that looks like maths was never read and does not hold a neutral value.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut keys = Vec::new();
        self.collect_unread(&mut keys);
        if keys.is_empty() { Ok(()) } else { Err(Error::Unread { keys }) }
    }

    fn collect_unread(&self, keys: &mut Vec<String>) {
        for (key, value) in self.values.iter() {
            let path = self.path(key);
            let was_read = self.read.borrow().contains(&path);
            match value {
                // An object that was opened answers for its own keys.
                Value::Object(values) if was_read => {
                    let nested = Self {
                        values: Rc::new(values.clone()),
                        prefix: format!("{path}."),
                        read: Rc::clone(&self.read),
                    };
                    nested.collect_unread(keys);
                }
                _ if was_read || HARMLESS.contains(&key.as_str()) || is_neutral(value) => {}
                // Inside an object that was opened every key is about the same piece of maths.
                _ if !self.prefix.is_empty() || MATHS.iter().any(|part| key.contains(part)) => {
                    keys.push(format!("`{path}` = {}", abridged(value)));
                }
                _ => {}
            }
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(self.path(key));
        self.values.get(key).filter(|value| !value.is_null())
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
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: Value) -> Config {
        Config::from_json(value).unwrap()
    }

    #[test]
    fn an_unread_maths_key_is_named_with_its_value() {
        let config = config(json!({"hidden_size": 8, "attn_logit_softcapping": 50.0, "transformers_version": "5"}));
        config.usize("hidden_size").unwrap();
        let error = config.finish().unwrap_err().to_string();
        assert!(error.ends_with("`attn_logit_softcapping` = 50.0"), "{error}");
    }

    #[test]
    fn neutral_and_bookkeeping_values_pass() {
        let values = json!({
            "sliding_window": null, "use_qk_norm": false, "residual_multiplier": 1.0, "attention_dropout": 0.1,
            "layer_types": ["full_attention", "full_attention"], "bos_token_id": 7, "unsloth_fixed": true,
        });
        config(values).finish().unwrap();
    }

    #[test]
    fn every_key_of_an_opened_object_must_be_read() {
        let config = config(json!({"rope_scaling": {"rope_type": "linear", "strange": 3.0}}));
        config.object("rope_scaling").unwrap().unwrap().opt_str("rope_type").unwrap();
        assert!(config.finish().unwrap_err().to_string().contains("`rope_scaling.strange` = 3.0"));
    }

    #[test]
    fn sizes_are_checked() {
        for bad in [json!(0), json!(-1), json!(1.5), json!("2"), json!(3_000_000_000_u64), json!(true)] {
            let config = config(json!({"n": bad}));
            assert!(config.usize("n").is_err(), "{bad}");
        }
        assert_eq!(config(json!({"n": 4096.0})).usize("n").unwrap(), 4096);
    }
}
