//! Whether a value is what a schema asks for, by the letter of JSON Schema, for the keywords that `schemas` uses. It
//! shares nothing with the grammars that are tested.

use serde_json::{Map, Value};

/// What is wrong with the value, and where.
pub(super) fn check(schema: &Value, value: &Value) -> Result<(), String> {
    Checker { root: schema }.check(schema, value, "$")
}

struct Checker<'s> {
    root: &'s Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let fields = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => return Err(format!("{at}: nothing is allowed, found {value}")),
            schema => schema.as_object().unwrap(),
        };
        for (keyword, rule) in fields {
            if !self.holds(fields, keyword, rule, value, at)? {
                return Err(format!("{at}: {keyword} {rule} does not hold of {value}"));
            }
        }
        Ok(())
    }

    /// Errors are those of parts of the value.
    fn holds(
        &self,
        all: &Map<String, Value>,
        key: &str,
        rule: &Value,
        value: &Value,
        at: &str,
    ) -> Result<bool, String> {
        let number = value.as_f64();
        let bound = || rule.as_f64().unwrap();
        let count = |length: Option<usize>, holds: fn(usize, usize) -> bool| {
            length.is_none_or(|length| holds(length, usize::try_from(rule.as_u64().unwrap()).unwrap()))
        };
        let characters = value.as_str().map(|text| text.chars().count());
        let items = value.as_array().map(Vec::len);
        let keys = value.as_object().map(Map::len);
        let matching = |schemas: &Value| {
            schemas.as_array().unwrap().iter().filter(|schema| self.check(schema, value, at).is_ok()).count()
        };
        Ok(match key {
            "$defs" | "description" | "default" => true,
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is(name, value)),
                name => is(name, value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => number.is_none_or(|number| number >= bound()),
            "maximum" => number.is_none_or(|number| number <= bound()),
            "exclusiveMinimum" => number.is_none_or(|number| number > bound()),
            "exclusiveMaximum" => number.is_none_or(|number| number < bound()),
            "multipleOf" => number.is_none_or(|number| number % bound() == 0.0),
            "minLength" => count(characters, |length, bound| length >= bound),
            "maxLength" => count(characters, |length, bound| length <= bound),
            "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "format" => value.as_str().is_none_or(|text| has_format(rule.as_str().unwrap(), text)),
            "minItems" => count(items, |length, bound| length >= bound),
            "maxItems" => count(items, |length, bound| length <= bound),
            "minProperties" => count(keys, |length, bound| length >= bound),
            "maxProperties" => count(keys, |length, bound| length <= bound),
            "required" => value.as_object().is_none_or(|fields| {
                rule.as_array().unwrap().iter().all(|key| fields.contains_key(key.as_str().unwrap()))
            }),
            "anyOf" => matching(rule) > 0,
            "oneOf" => matching(rule) == 1,
            "allOf" => matching(rule) == rule.as_array().unwrap().len(),
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                self.check(&self.root["$defs"][name], value, at)?;
                true
            }
            "properties" => {
                for (key, field) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = rule.get(key) {
                        self.check(schema, field, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            "patternProperties" => {
                for (key, field) in value.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("p_")) {
                    self.check(&rule["^p_"], field, &format!("{at}.{key}"))?;
                }
                true
            }
            "additionalProperties" => {
                let known = |key: &str| all.get("properties").is_some_and(|known| known.get(key).is_some());
                let pattern = |key: &str| all.contains_key("patternProperties") && key.starts_with("p_");
                for (key, field) in value.as_object().into_iter().flatten() {
                    if !known(key) && !pattern(key) {
                        self.check(rule, field, &format!("{at}.{key}"))?;
                    }
                }
                true
            }
            "prefixItems" => {
                let schemas = rule.as_array().unwrap();
                for (index, (schema, item)) in schemas.iter().zip(value.as_array().into_iter().flatten()).enumerate() {
                    self.check(schema, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            "items" => {
                let before = all.get("prefixItems").map_or(0, |schemas| schemas.as_array().unwrap().len());
                for (index, item) in value.as_array().into_iter().flatten().enumerate().skip(before) {
                    self.check(rule, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            other => panic!("the checker does not know {other}"),
        })
    }
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("no type {other}"),
    }
}

/// The patterns of `schemas`, in other words.
fn matches(pattern: &str, text: &str) -> bool {
    let all = |text: &str, holds: fn(char) -> bool| text.chars().all(holds);
    match pattern {
        "^[a-z]{2,5}$" => (2..=5).contains(&text.len()) && all(text, |c| c.is_ascii_lowercase()),
        "^[0-9]+-[0-9]{2}$" => text.split_once('-').is_some_and(|(long, short)| {
            !long.is_empty()
                && all(long, |c| c.is_ascii_digit())
                && short.len() == 2
                && all(short, |c| c.is_ascii_digit())
        }),
        "^(on|off)$" => text == "on" || text == "off",
        "^[A-Z][a-z]*$" => {
            text.starts_with(|c: char| c.is_ascii_uppercase()) && all(&text[1..], |c| c.is_ascii_lowercase())
        }
        "^#[0-9a-f]{6}$" => text
            .strip_prefix('#')
            .is_some_and(|digits| digits.len() == 6 && all(digits, |c| c.is_ascii_digit() || ('a'..='f').contains(&c))),
        other => panic!("the checker does not know {other}"),
    }
}

fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date" => is_date(text),
        "time" => is_time(text),
        "date-time" => text.split_once(['T', 't']).is_some_and(|(date, time)| is_date(date) && is_time(time)),
        "uuid" => {
            let groups: Vec<&str> = text.split('-').collect();
            groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
                && groups.concat().chars().all(|c| c.is_ascii_hexdigit())
        }
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "email" => text.rsplit_once('@').is_some_and(|(name, host)| {
            !name.is_empty() && !host.is_empty() && name.is_ascii() && !name.contains([' ', '"', '@'])
        }),
        other => panic!("the checker does not know {other}"),
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return false };
    let number = |part: &str, length: usize| part.parse::<u32>().ok().filter(|_| part.len() == length);
    let (Some(_), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2)) else { return false };
    let longest = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    (1..=12).contains(&month) && day >= 1 && day <= longest[month as usize - 1]
}

fn is_time(text: &str) -> bool {
    let (clock, zone) = match text.find(['Z', 'z', '+']).or_else(|| text.rfind('-')) {
        Some(at) => text.split_at(at),
        None => return false,
    };
    let two = |part: &str, most: u32| part.len() == 2 && part.parse::<u32>().is_ok_and(|number| number <= most);
    let pair = |text: &str| text.split_once(':').is_some_and(|(hour, minute)| two(hour, 23) && two(minute, 59));
    let zone = zone.eq_ignore_ascii_case("z") || pair(&zone[1..]);
    let parts: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = parts.as_slice() else { return false };
    let (whole, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let fraction = !fraction.is_empty() && fraction.chars().all(|c| c.is_ascii_digit());
    zone && two(hour, 23) && two(minute, 59) && two(whole, 60) && fraction
}
