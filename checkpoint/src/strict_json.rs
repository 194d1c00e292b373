//! JSON as the formats here need it: no duplicate keys, and unwanted values skipped without being stored.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::quoted;

/// An object of like values in which no key appears twice.
pub(crate) struct UniqueMap<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if entries.contains_key(&key) {
                        return Err(duplicate_key(&key));
                    }
                    let value = map.next_value()?;
                    entries.insert(key, value);
                }
                Ok(UniqueMap(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// The error for a key that appears again.
pub(crate) fn duplicate_key<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("duplicate key {}", quoted(key)))
}

/// Any JSON value, checked in full and dropped; only an unsigned integer is kept.
///
/// Unlike serde's `IgnoredAny` this honours serde_json's depth limit and refuses ill-formed strings and numbers, as the
/// reference safetensors parser does, so that we never accept what it rejects.
pub(crate) struct Skipped {
    pub unsigned: Option<u64>,
}

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        const NOTHING: Skipped = Skipped { unsigned: None };

        impl<'de> Visitor<'de> for Anything {
            type Value = Skipped;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Skipped, E> {
                Ok(Skipped { unsigned: Some(value) })
            }
            fn visit_i64<E>(self, _: i64) -> Result<Skipped, E> {
                Ok(NOTHING)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Skipped, E> {
                Ok(NOTHING)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Skipped, E> {
                Ok(NOTHING)
            }
            fn visit_str<E>(self, _: &str) -> Result<Skipped, E> {
                Ok(NOTHING)
            }
            fn visit_unit<E>(self) -> Result<Skipped, E> {
                Ok(NOTHING)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
                while seq.next_element::<Skipped>()?.is_some() {}
                Ok(NOTHING)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
                // Keys are strings in JSON; `Skipped` reads and drops them too.
                while map.next_entry::<Skipped, Skipped>()?.is_some() {}
                Ok(NOTHING)
            }
        }

        deserializer.deserialize_any(Anything)
    }
}

/// Fills `slot`, or fails where it is full.
pub(crate) fn fill_once<T, E: serde::de::Error>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format_args!("duplicate key {}", quoted(key)))),
    }
}
