//! Values written as Python writes them: `str`, `repr`, `json.dumps`.

use std::fmt::{self, Write};
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Deeper values than this are refused; JSON that was read is never as deep.
const DEEPEST: usize = 128;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("value is nested deeper than {DEEPEST}"))
}

/// `str(value)`, and nothing for what is undefined.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            write_repr(&mut out, value, 0)?;
            Ok(out)
        }
        _ => Ok(value.to_string()),
    }
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => match as_float(value) {
            Some(number) => out.push_str(&float(number)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::Seq => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0usize;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item, depth + 1)?;
                count += 1;
            }
            if count == 1 && open == '(' {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// minijinja says of both that they are sequences; only the way that they are shown tells.
pub(super) fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<minijinja::value::Tuple>().is_some()
}

/// A float that Python shows in another way than Rust. minijinja has no say for a value of this kind in how it is
/// joined to a text, as it has for its own numbers; on the other hand it does not calculate with it, and says so.
#[derive(Debug)]
struct ShownFloat(f64);

impl Object for ShownFloat {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.0 != 0.0
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&float(self.0))
    }
}

pub(super) fn is_shown_otherwise(number: f64) -> bool {
    let magnitude = number.abs();
    magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude)
}

/// JSON as a value of a template.
pub(super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Number(number) if !(number.is_i64() || number.is_u64()) => match number.as_f64() {
            Some(number) if is_shown_otherwise(number) => Value::from_object(ShownFloat(number)),
            Some(number) => Value::from(number),
            None => Value::from(number.to_string()),
        },
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), value(field))))
        }
        plain => Value::from(minijinja::value::Serde(plain)),
    }
}

/// A number of any kind.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => value.downcast_object_ref::<ShownFloat>().map(|shown| shown.0),
    }
}

/// `None` for integers.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if let Some(ShownFloat(number)) = value.downcast_object_ref() {
        return Some(*number);
    }
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok()
}

/// `repr(float)`: the shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&power) || number == 0.0 {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", power.unsigned_abs())
}

/// `repr(str)`.
fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable`, by what Rust escapes: characters that are no graphics, and all spaces but the plain one.
/// Rust also escapes what combines with the character before, which Python does not.
fn is_printable(c: char) -> bool {
    if c == ' ' || c.is_ascii_graphic() {
        return true;
    }
    if c.is_whitespace() || c.is_control() {
        return false;
    }
    let combines = format!("x{c}").escape_debug().count() == 2;
    combines || c.escape_debug().next() != Some('\\')
}

/// How `json.dumps` lays out what it writes.
pub(super) struct Layout {
    /// `\u` for all that is not ASCII.
    pub(super) ascii: bool,
    /// Keys in their order, in place of the one they came in.
    pub(super) sorted: bool,
    /// One for each level, on lines of their own.
    pub(super) indent: Option<String>,
    /// Between items, and behind a key.
    pub(super) separators: Option<(String, String)>,
}

/// `json.dumps(value)`.
pub(super) fn json(value: &Value, layout: &Layout) -> Result<String, Error> {
    let (comma, colon) = match &layout.separators {
        Some((comma, colon)) => (comma.as_str(), colon.as_str()),
        None => (if layout.indent.is_some() { "," } else { ", " }, ": "),
    };
    let mut out = String::new();
    Json { layout, comma, colon }.write(&mut out, value, 0)?;
    Ok(out)
}

struct Json<'a> {
    layout: &'a Layout,
    comma: &'a str,
    colon: &'a str,
}

impl Json<'_> {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let mut empty = true;
                out.push('[');
                for item in value.try_iter()? {
                    self.next(out, &mut empty, depth + 1);
                    self.write(out, &item, depth + 1)?;
                }
                self.end(out, empty, depth);
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.layout.sorted {
                    keys.sort();
                }
                let mut empty = true;
                out.push('{');
                for key in &keys {
                    self.next(out, &mut empty, depth + 1);
                    self.string(out, &key_text(key)?);
                    out.push_str(self.colon);
                    self.write(out, &value.get_item(key)?, depth + 1)?;
                }
                self.end(out, empty, depth);
                out.push('}');
            }
            _ if as_float(value).is_some() => out.push_str(&json_number(value)),
            kind => {
                let problem = format!("a value of kind {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, problem));
            }
        }
        Ok(())
    }

    fn next(&self, out: &mut String, empty: &mut bool, depth: usize) {
        if !*empty {
            out.push_str(self.comma);
        }
        *empty = false;
        self.line(out, depth);
    }

    fn end(&self, out: &mut String, empty: bool, depth: usize) {
        if !empty {
            self.line(out, depth);
        }
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.layout.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if u32::from(c) < 0x20
                    || (self.layout.ascii && !c.is_ascii())
                    || (self.layout.ascii && c == '\u{7f}') =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(json_number(key)),
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("a key of kind {kind} is none of JSON"))),
    }
}

fn json_number(value: &Value) -> String {
    match as_float(value) {
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Some(number) => float(number),
        None => value.to_string(),
    }
}
