//! JSON schemas by the dozen, the same at every run.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Numbers that look random.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len())]
    }
}

const NAMES: [&str; 12] =
    ["name", "age", "is_old", "tags", "Größe", "a b", "x", "\"quoted\"", "path/to", "$id", "日本", "zip-code"];

/// Those that `checker` knows.
pub(super) const PATTERNS: [&str; 5] =
    ["^[a-z]{2,5}$", "^[0-9]+-[0-9]{2}$", "^(on|off)$", "^[A-Z][a-z]*$", "^#[0-9a-f]{6}$"];
pub(super) const FORMATS: [&str; 6] = ["date", "time", "date-time", "uuid", "ipv4", "email"];

/// `count` different schemas.
pub(super) fn schemas(count: usize) -> Vec<Value> {
    let mut numbers = Numbers(2026);
    let mut seen = BTreeSet::new();
    let mut schemas = Vec::new();
    while schemas.len() < count {
        let depth = schemas.len() % 4;
        let mut schema = match schemas.len() % 10 {
            0..6 => object(&mut numbers, depth),
            6 | 7 => array(&mut numbers, depth),
            _ => any(&mut numbers, depth),
        };
        if schema.to_string().contains("#/$defs/") {
            schema["$defs"] = definitions(&mut numbers);
        }
        if seen.insert(schema.to_string()) {
            schemas.push(schema);
        }
    }
    schemas
}

fn definitions(numbers: &mut Numbers) -> Value {
    json!({
        "leaf": leaf(numbers),
        // A list that ends, and one that goes on.
        "node": {"type": "object", "properties": {
            "value": {"type": "integer", "minimum": 0, "maximum": 9},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        }, "required": ["value", "next"], "additionalProperties": false},
    })
}

fn any(numbers: &mut Numbers, depth: usize) -> Value {
    if depth == 0 {
        return leaf(numbers);
    }
    match numbers.below(10) {
        0..3 => object(numbers, depth - 1),
        3 | 4 => array(numbers, depth - 1),
        5 => json!({"anyOf": [any(numbers, depth - 1), leaf(numbers)]}),
        6 => json!({"oneOf": [string(numbers), {"type": "integer", "minimum": 5}, {"type": "boolean"}]}),
        7 => json!({"$ref": *numbers.pick(&["#/$defs/leaf", "#/$defs/node"])}),
        _ => leaf(numbers),
    }
}

fn object(numbers: &mut Numbers, depth: usize) -> Value {
    let mut names: Vec<&str> = NAMES.to_vec();
    let count = 1 + numbers.below(4);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for _ in 0..count {
        let name = names.remove(numbers.below(names.len()));
        properties.insert(name.to_owned(), any(numbers, depth.saturating_sub(1)));
        if numbers.below(3) > 0 {
            required.push(name);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    match numbers.below(8) {
        0 => {}
        1 => schema["additionalProperties"] = leaf(numbers),
        2 => {
            schema["patternProperties"] = json!({"^p_": leaf(numbers)});
            schema["additionalProperties"] = json!(false);
        }
        3 => {
            return json!({"type": "object", "additionalProperties": leaf(numbers), "minProperties": 1, "maxProperties": 3});
        }
        _ => schema["additionalProperties"] = json!(false),
    }
    schema
}

fn array(numbers: &mut Numbers, depth: usize) -> Value {
    let inner = depth.saturating_sub(1);
    match numbers.below(4) {
        0 => {
            json!({"type": "array", "prefixItems": [any(numbers, inner), leaf(numbers)], "items": false, "minItems": 2})
        }
        1 => json!({"type": "array", "prefixItems": [leaf(numbers)], "items": leaf(numbers), "maxItems": 3}),
        2 => {
            json!({"type": "array", "items": {"type": "array", "items": leaf(numbers), "maxItems": 2}, "minItems": 1, "maxItems": 3})
        }
        _ => {
            let least = numbers.below(3);
            json!({"type": "array", "items": any(numbers, inner), "minItems": least, "maxItems": least + numbers.below(3)})
        }
    }
}

fn string(numbers: &mut Numbers) -> Value {
    let least = numbers.below(4);
    json!({"type": "string", "minLength": least, "maxLength": least + numbers.below(12)})
}

fn leaf(numbers: &mut Numbers) -> Value {
    let low = i64::try_from(numbers.below(200)).unwrap() - 100;
    let high = low + i64::try_from(numbers.below(300)).unwrap();
    match numbers.below(20) {
        0 | 1 => json!({"type": "integer", "minimum": low, "maximum": high}),
        2 => json!({"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high + 2}),
        3 => json!({"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 1 + numbers.below(9)}),
        4 => json!({"type": "number", "minimum": low, "maximum": high + 1}),
        5 => json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}),
        6 | 7 => string(numbers),
        8 => json!({"type": "string"}),
        9 | 10 => json!({"type": "string", "pattern": *numbers.pick(&PATTERNS)}),
        11 | 12 => json!({"type": "string", "format": *numbers.pick(&FORMATS)}),
        13 => json!({"enum": ["red", "Grün", 3, null, -1.5, {"deep": [true]}]}),
        14 => json!({"const": *numbers.pick(&["one", "\"two\"\n", "🙂"])}),
        15 => json!({"type": "boolean", "description": "yes or no", "default": false}),
        16 => json!({"type": ["string", "null"], "maxLength": 5}),
        17 => json!({"allOf": [{"type": "integer", "minimum": low}, {"maximum": high}]}),
        18 => json!({"type": ["integer", "boolean"], "minimum": low, "maximum": high}),
        _ => json!({"type": "null"}),
    }
}
