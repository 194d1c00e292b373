//! Keywords of JSON schemas: those that are followed, those that say nothing about a value, and none else.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Deeper schemas are refused.
const DEEPEST: usize = 100;

/// What a keyword has as its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// A schema.
    Schema,
    /// A schema for each key of an object.
    Schemas,
    /// A list of schemas.
    List,
    /// A schema or a list of them.
    SchemaOrList,
    /// Anything else.
    Plain,
}

/// What llguidance 1.9 follows.
const FOLLOWED: [(&str, Holds); 29] = [
    ("$ref", Holds::Plain),
    ("$defs", Holds::Schemas),
    ("definitions", Holds::Schemas),
    ("anyOf", Holds::List),
    ("oneOf", Holds::List),
    ("allOf", Holds::List),
    ("const", Holds::Plain),
    ("enum", Holds::Plain),
    ("type", Holds::Plain),
    ("items", Holds::SchemaOrList),
    ("additionalItems", Holds::Schema),
    ("prefixItems", Holds::List),
    ("minItems", Holds::Plain),
    ("maxItems", Holds::Plain),
    ("properties", Holds::Schemas),
    ("additionalProperties", Holds::Schema),
    ("patternProperties", Holds::Schemas),
    ("required", Holds::Plain),
    ("minProperties", Holds::Plain),
    ("maxProperties", Holds::Plain),
    ("minLength", Holds::Plain),
    ("maxLength", Holds::Plain),
    ("pattern", Holds::Plain),
    ("format", Holds::Plain),
    ("minimum", Holds::Plain),
    ("maximum", Holds::Plain),
    ("exclusiveMinimum", Holds::Plain),
    ("exclusiveMaximum", Holds::Plain),
    ("multipleOf", Holds::Plain),
];

/// What JSON Schema calls annotations: any value is as good with them as without.
const ANNOTATIONS: [&str; 14] = [
    "$anchor",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "examples",
    "contentMediaType",
    "contentEncoding",
];

/// # Errors
/// [`Error::Unsupported`] names a keyword that is not followed, and where it stands. JSON Schema would have unknown ones
/// ignored; then a misspelt `minLength` would bound nothing.
pub(super) fn check(schema: &Value) -> Result<()> {
    walk(schema, "$", 0)
}

fn walk(schema: &Value, path: &str, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(wrong(format!("is nested deeper than {DEEPEST} at {path}")));
    }
    let fields = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(fields) => fields,
        other => return Err(wrong(format!("{path} is {other}, expected an object, true or false"))),
    };
    for (keyword, value) in fields {
        if ANNOTATIONS.contains(&keyword.as_str()) {
            continue;
        }
        let Some((_, holds)) = FOLLOWED.iter().find(|(followed, _)| followed == keyword) else {
            let followed: Vec<&str> = FOLLOWED.iter().map(|(followed, _)| *followed).collect();
            return Err(Error::unsupported(format!("JSON schema keyword {keyword} at {path}"), followed.join(", ")));
        };
        let at = format!("{path}.{keyword}");
        match (holds, value) {
            (Holds::Plain, _) => {}
            (Holds::Schema, schema) => walk(schema, &at, depth + 1)?,
            (Holds::Schemas, Value::Object(schemas)) => named(schemas, &at, depth)?,
            (Holds::List | Holds::SchemaOrList, Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    walk(schema, &format!("{at}[{index}]"), depth + 1)?;
                }
            }
            (Holds::SchemaOrList, schema) => walk(schema, &at, depth + 1)?,
            (Holds::Schemas, other) => return Err(wrong(format!("{at} is {other}, expected an object of schemas"))),
            (Holds::List, other) => return Err(wrong(format!("{at} is {other}, expected a list of schemas"))),
        }
    }
    Ok(())
}

fn named(schemas: &Map<String, Value>, path: &str, depth: usize) -> Result<()> {
    schemas.iter().try_for_each(|(name, schema)| walk(schema, &format!("{path}.{name}"), depth + 1))
}

fn wrong(problem: String) -> Error {
    super::wrong("json_schema", problem)
}
