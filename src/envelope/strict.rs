//! A JSON object as it was meant: no key twice, and no null, which says neither yes nor no.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads an object.
///
/// # Errors
/// What is wrong, and where in the text.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(object))) => Ok(object),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;

        impl<'de> Visitor<'de> for Anything {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
                Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }
            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Err(E::custom("null, where a value was expected"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Strict(item)) = seq.next_element()? {
                    items.push(item);
                }
                Ok(items.into())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut object = Map::new();
                while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
                    if object.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format_args!("the key {key:?} appears twice")));
                    }
                }
                Ok(object.into())
            }
        }

        deserializer.deserialize_any(Anything).map(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn objects_are_read_as_they_are() {
        let text = r#"{"b": {"x": [1, -2, 0.5, "ü", true]}, "a": 18446744073709551615}"#;
        assert_eq!(
            serde_json::Value::from(object(text).unwrap()),
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for (text, says) in [
            (r#"{"a": 1, "a": 1}"#, "\"a\" appears twice"),
            (r#"{"o": [{"a": 1, "a": 2}]}"#, "\"a\" appears twice"),
            (r#"{"a": null}"#, "null"),
            (r#"{"a": [null]}"#, "null"),
            ("[1]", "not a JSON object"),
            ("{} {}", "trailing"),
            ("{", "EOF"),
            ("", "EOF"),
        ] {
            let error = object(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(object(&format!("{{\"a\": {}1{}}}", "[".repeat(500), "]".repeat(500))).is_err());
    }
}
