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
    let mut bounds = Bounds::default();
    walk(schema, "$", 0, &mut bounds)?;
    bounds.check()
}

/// Bounds of numbers, wherever in the schema they stand: what is beside each other in the end, `allOf` and `$ref` decide.
#[derive(Default)]
struct Bounds {
    lower: Vec<f64>,
    upper: Vec<f64>,
    /// Of numbers that need not be integers, and where.
    above: Vec<(f64, String)>,
    below: Vec<(f64, String)>,
}

impl Bounds {
    fn collect(&mut self, fields: &Map<String, Value>, path: &str) -> Result<()> {
        let integer = fields.get("type").is_some_and(|name| name == "integer");
        for keyword in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
            let Some(value) = fields.get(keyword) else { continue };
            let at = format!("{path}.{keyword}");
            let bound = value.as_f64().ok_or_else(|| wrong(format!("{at} is {value}, expected a number")))?;
            match keyword {
                "minimum" | "exclusiveMinimum" => self.lower.push(bound),
                _ => self.upper.push(bound),
            }
            match keyword {
                "exclusiveMinimum" if !integer => self.above.push((bound, at)),
                "exclusiveMaximum" if !integer => self.below.push((bound, at)),
                _ => {}
            }
        }
        Ok(())
    }

    /// llguidance 1.9.1 lets 0 through where a number has to be above 0 and at most 0.5, and so wherever an excluded
    /// bound is whole and the other one is less than 1 further from 0.
    fn check(&self) -> Result<()> {
        let refuse = |at: &str, bound: f64, other: f64| {
            Err(Error::unsupported(
                format!("JSON schema bound {at} {bound} together with a bound {other}"),
                "an included bound, or one that is not whole, or the other at least 1 away",
            ))
        };
        for (bound, at) in self.above.iter().filter(|(bound, _)| *bound >= 0.0 && bound.fract() == 0.0) {
            if let Some(other) = self.upper.iter().find(|upper| **upper > *bound && **upper < bound + 1.0) {
                return refuse(at, *bound, *other);
            }
        }
        for (bound, at) in self.below.iter().filter(|(bound, _)| *bound <= 0.0 && bound.fract() == 0.0) {
            if let Some(other) = self.lower.iter().find(|lower| **lower < *bound && **lower > bound - 1.0) {
                return refuse(at, *bound, *other);
            }
        }
        Ok(())
    }
}

fn walk(schema: &Value, path: &str, depth: usize, bounds: &mut Bounds) -> Result<()> {
    if depth > DEEPEST {
        return Err(wrong(format!("is nested deeper than {DEEPEST} at {path}")));
    }
    let fields = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(fields) => fields,
        other => return Err(wrong(format!("{path} is {other}, expected an object, true or false"))),
    };
    bounds.collect(fields, path)?;
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
            (Holds::Schemas, Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    walk(schema, &format!("{at}.{name}"), depth + 1, bounds)?;
                }
            }
            (Holds::List | Holds::SchemaOrList, Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    walk(schema, &format!("{at}[{index}]"), depth + 1, bounds)?;
                }
            }
            (Holds::Schema | Holds::SchemaOrList, schema) => walk(schema, &at, depth + 1, bounds)?,
            (Holds::Schemas, other) => return Err(wrong(format!("{at} is {other}, expected an object of schemas"))),
            (Holds::List, other) => return Err(wrong(format!("{at} is {other}, expected a list of schemas"))),
        }
    }
    Ok(())
}

fn wrong(problem: String) -> Error {
    super::wrong("json_schema", problem)
}
