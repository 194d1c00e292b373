//! What may stand in the objects: tables of keys with what their values are.

use serde_json::Value;

use crate::{failure::Failure, options::closest};

pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) is: Kind,
}

/// What a value is.
pub(super) enum Kind {
    Flag,
    /// An integer in these bounds.
    Whole(i64, i64),
    /// A number in these bounds.
    Number(f64, f64),
    /// A number above zero.
    Positive,
    Text,
    OneOf(&'static [&'static str]),
    Texts,
    /// Integers in these bounds.
    Wholes(i64, i64),
    Object(&'static [Field]),
    /// Objects of these fields.
    Objects(&'static [Field]),
    /// Texts under names that are the runtime's own.
    Entries,
    /// These fields, and texts under names of ONNX Runtime, which have a dot.
    Session(&'static [Field]),
    /// Objects of one provider each with its options, all texts.
    Providers,
    /// Not supported, with what to do instead.
    Refused(&'static str),
}

pub(super) const fn field(key: &'static str, is: Kind) -> Field {
    Field { key, is }
}

/// Fails unless a value is of its kind, all the way down. `path` is what leads to it.
pub(super) fn check(path: &str, value: &Value, kind: &Kind) -> Result<(), Failure> {
    let expect = |fits: bool, expected: &str| {
        if fits { Ok(()) } else { Err(Failure::usage(format!("{path} is {value}, expected {expected}"))) }
    };
    let whole = |value: &Value, from: i64, to: i64| value.as_i64().is_some_and(|number| (from..=to).contains(&number));
    let bounds = |from: i64, to: i64| match (from, to) {
        (from, i64::MAX) => format!("of at least {from}"),
        (from, to) if from == to => format!("{from}"),
        (from, to) => format!("from {from} to {to}"),
    };
    match kind {
        Kind::Flag => expect(value.is_boolean(), "true or false"),
        Kind::Whole(from, to) => expect(whole(value, *from, *to), &format!("an integer {}", bounds(*from, *to))),
        Kind::Number(from, to) => {
            let fits = value.as_f64().is_some_and(|number| (*from..=*to).contains(&number));
            let bounds = if *to == f64::MAX { String::new() } else { format!(" from {from} to {to}") };
            expect(fits, &format!("a number{bounds}"))
        }
        Kind::Positive => expect(value.as_f64().is_some_and(|number| number > 0.0), "a number above 0"),
        Kind::Text => expect(value.as_str().is_some_and(|text| !text.is_empty()), "a text"),
        Kind::OneOf(texts) => expect(value.as_str().is_some_and(|text| texts.contains(&text)), &texts.join(", ")),
        Kind::Texts => {
            let texts = value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string));
            expect(texts, "an array of texts")
        }
        Kind::Wholes(from, to) => {
            let fits = value.as_array().is_some_and(|items| items.iter().all(|item| whole(item, *from, *to)));
            expect(fits, &format!("an array of integers {}", bounds(*from, *to)))
        }
        Kind::Object(fields) => {
            let Some(object) = value.as_object() else { return expect(false, "an object") };
            object.iter().try_for_each(|(key, value)| {
                let field = fields.iter().find(|field| field.key == key).ok_or_else(|| unknown(path, key, fields))?;
                check(&format!("{path}.{key}"), value, &field.is)
            })
        }
        Kind::Objects(fields) => {
            let Some(items) = value.as_array() else { return expect(false, "an array of objects") };
            let mut items = items.iter().enumerate();
            items.try_for_each(|(at, item)| check(&format!("{path}[{at}]"), item, &Kind::Object(fields)))
        }
        Kind::Entries => {
            let Some(object) = value.as_object() else { return expect(false, "an object of texts") };
            object.iter().try_for_each(|(key, value)| check(&format!("{path}.{key}"), value, &Kind::Text))
        }
        Kind::Session(fields) => {
            let Some(object) = value.as_object() else { return expect(false, "an object") };
            object.iter().try_for_each(|(key, value)| match fields.iter().find(|field| field.key == key) {
                Some(field) => check(&format!("{path}.{key}"), value, &field.is),
                None if key.contains('.') => check(&format!("{path}.{key}"), value, &Kind::Text),
                None => Err(unknown(path, key, fields)),
            })
        }
        Kind::Providers => {
            let Some(items) = value.as_array() else {
                return expect(false, "an array of objects of one provider each");
            };
            items.iter().enumerate().try_for_each(|(at, item)| {
                let Some((provider, options)) =
                    item.as_object().filter(|one| one.len() == 1).and_then(|one| one.iter().next())
                else {
                    return expect(false, "an array of objects of one provider each");
                };
                check(&format!("{path}[{at}].{provider}"), options, &Kind::Entries)
            })
        }
        Kind::Refused(hint) => Err(Failure::unsupported(format!("{path} is not supported"), hint)),
    }
}

fn unknown(path: &str, key: &str, fields: &[Field]) -> Failure {
    let known: Vec<_> = fields.iter().map(|field| field.key).collect();
    let near = closest(known.iter().copied(), key).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    Failure::usage(format!("{path} has the unknown key {key:?}"))
        .with_hint(format!("{near}known: {}", known.join(", ")))
}
