//! minijinja set up as transformers sets up Jinja: its filters, functions and methods, with Python's way of writing.

use minijinja::formatting::{FormatStyle, format};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};

use super::clock::Clock;
use super::methods;
use super::python::{self, Layout};
use super::source::PERCENT;

/// Instructions that one rendering may take. A thousand messages take some hundred thousand.
const FUEL: u64 = 20_000_000;

const WIDEST_INDENT: usize = 256;

/// What a template says by `raise_exception`, to be told from errors of the template itself.
pub(super) const RAISED: &str = "raised by the template: ";

pub(super) fn environment(clock: Clock) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        let text = python::text(value)?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::text(value).map(Value::from));
    environment.add_filter("join", join);
    environment.add_filter("attr", attr);
    environment.add_filter("indent", indent);
    environment.add_filter("round", round);
    environment.add_filter("format", |text: &str, values: Rest<Value>| percent(text, &values));
    environment.add_filter(PERCENT, |text: &str, values: &Value| percent_of(text, values));
    // Indented lines are not what Python's pprint gives; without it, the template fails.
    environment.remove_filter("pprint");
    // As in Python, texts and dicts have a length and items too, and so has what is undefined.
    let sized = [ValueKind::Seq, ValueKind::Map, ValueKind::String, ValueKind::Undefined];
    environment.add_test("sequence", move |value: &Value| sized.contains(&value.kind()));
    let walked = [&sized[..], &[ValueKind::Iterable]].concat();
    environment.add_test("iterable", move |value: &Value| walked.contains(&value.kind()));
    environment.add_test("number", |value: &Value| python::number(value).is_some() || value.kind() == ValueKind::Bool);
    environment.add_test("float", |value: &Value| python::as_float(value).is_some());
    environment.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.to_vec()));
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |directives: &str| {
        clock.format(directives).ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now({directives:?}) has a directive not known"))
        })
    });
    Ok(environment)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{}", python::text(message)?)))
}

/// With the arguments of transformers' filter: `ensure_ascii`, `indent`, `separators` by place or by name, `sort_keys` by name.
fn tojson(
    value: &Value,
    ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let given = |name: &str, place: Option<Value>| -> Result<Option<Value>, Error> {
        Ok(named.get::<Option<Value>>(name)?.or(place).filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let indent = match given("indent", indent)? {
        None => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(value)?).unwrap_or(0).min(WIDEST_INDENT)),
        }),
    };
    let separators = match given("separators", separators)? {
        None => None,
        Some(pair) => match pair.try_iter()?.collect::<Vec<_>>().as_slice() {
            [comma, colon] => Some((comma.to_string(), colon.to_string())),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
        },
    };
    let ascii = given("ensure_ascii", ascii)?.is_some_and(|value| value.is_true());
    let sorted = given("sort_keys", None)?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    python::json(value, &Layout { ascii, sorted, indent, separators }).map(Value::from)
}

fn join(values: &Value, separator: Option<&str>, options: Kwargs) -> Result<Value, Error> {
    let attribute: Option<Value> = options.get("attribute")?;
    let given: Option<&str> = options.get("d")?;
    options.assert_all_used()?;
    let mut out = String::new();
    let items = if values.is_undefined() { Vec::new() } else { values.try_iter()?.collect() };
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(separator.or(given).unwrap_or_default());
        }
        match &attribute {
            Some(name) => out.push_str(&python::text(&item.get_item(name)?)?),
            None => out.push_str(&python::text(item)?),
        }
    }
    Ok(Value::from(out))
}

/// Attributes alone: the values under the keys of a dict are none.
fn attr(value: &Value, name: &str) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map { Ok(Value::UNDEFINED) } else { value.get_attr(name) }
}

/// Every line but the first, unless `first`, and none that is empty, unless `blank`.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = named.get::<Option<Value>>("width")?.or(width);
    let first = named.get::<Option<bool>>("first")?.or(first).unwrap_or(false);
    let blank = named.get::<Option<bool>>("blank")?.or(blank).unwrap_or(false);
    named.assert_all_used()?;
    let width = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(width)?).unwrap_or(0).min(WIDEST_INDENT)),
        },
    };
    let mut out = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Always a float by `ceil` and `floor`, and what it was else.
fn round(value: &Value, precision: Option<i32>, method: Option<&str>, named: Kwargs) -> Result<Value, Error> {
    let precision = named.get::<Option<i32>>("precision")?.or(precision).unwrap_or(0);
    let method = named.get::<Option<&str>>("method")?.or(method).unwrap_or("common");
    named.assert_all_used()?;
    let number = python::number(value)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("cannot round a {}", value.kind())))?;
    let scale = 10f64.powi(precision);
    match method {
        "ceil" => Ok(Value::from((number * scale).ceil() / scale)),
        "floor" => Ok(Value::from((number * scale).floor() / scale)),
        "common" if value.is_integer() && precision >= 0 => Ok(value.clone()),
        // Rust rounds what it writes as Python does: to the nearest, exactly, and a tie to the even digit.
        "common" if (0..=300).contains(&precision) => {
            let digits = usize::try_from(precision).unwrap_or(0);
            Ok(Value::from(format!("{number:.digits$}").parse::<f64>().unwrap_or(number)))
        }
        _ => Err(Error::new(ErrorKind::InvalidOperation, format!("round({precision}, {method:?}) is not known"))),
    }
}

/// `text % values`, a tuple of values or one alone.
fn percent_of(text: &str, values: &Value) -> Result<Value, Error> {
    if python::is_tuple(values) {
        let values: Vec<Value> = values.try_iter()?.collect();
        return percent(text, &values);
    }
    percent(text, std::slice::from_ref(values))
}

fn percent(text: &str, values: &[Value]) -> Result<Value, Error> {
    // What `%s` would show of these is Rust's.
    let shown = |value: &Value| match value.kind() {
        ValueKind::Seq => python::text(value).map(Value::from),
        _ if python::as_float(value).is_some_and(python::is_shown_otherwise) => python::text(value).map(Value::from),
        _ => Ok(value.clone()),
    };
    let values = values.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    format(FormatStyle::Printf, text, &values).map(Value::from)
}
