//! Methods of Python's `str`, `list` and `dict` that templates call.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Those of minijinja-contrib, but for what it lacks or does otherwise than Python.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => of_text(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => of_list(value, method, args)?,
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (of,): (Option<&str>,) = from_args(args)?;
            let stripped = |c: char| of.map_or_else(|| is_space(c), |of| of.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(stripped),
                "lstrip" => text.trim_start_matches(stripped),
                _ => text.trim_end_matches(stripped),
            })
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = named.get::<Option<Value>>("sep")?.or(separator).filter(|value| !value.is_none());
            let most = named.get::<Option<i64>>("maxsplit")?.or(most).and_then(|most| usize::try_from(most).ok());
            named.assert_all_used()?;
            let pieces = match &separator {
                None => words(text, most, method == "rsplit"),
                Some(value) => match value.as_str() {
                    None | Some("") => return Err(wrong("the separator is no text, or an empty one")),
                    Some(separator) => split(text, separator, most, method == "rsplit"),
                },
            };
            pieces.into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(wrong("the separator is an empty text"));
            }
            let first = method == "partition";
            let found = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((before, behind)) => [before, separator, behind],
                None if first => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if method == "index" { text.find(what) } else { text.rfind(what) };
            let at = found.ok_or_else(|| wrong("substring not found"))?;
            Value::from(text.get(..at).unwrap_or_default().chars().count())
        }
        "splitlines" => {
            let (kept, named): (Option<bool>, Kwargs) = from_args(args)?;
            let kept = named.get::<Option<bool>>("keepends")?.or(kept).unwrap_or(false);
            named.assert_all_used()?;
            lines(text, kept).into_iter().map(Value::from).collect()
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "istitle" => {
            let () = from_args(args)?;
            Value::from(text.chars().any(char::is_alphabetic) && title(text) == text)
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "ljust" | "rjust" | "center" | "zfill" => Value::from(padded(text, method, args)?),
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        _ => return Ok(None),
    }))
}

fn of_list(list: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = list.try_iter()?.position(|item| item == *what);
            Value::from(at.ok_or_else(|| wrong("value is not in the list"))?)
        }
        _ => return Ok(None),
    }))
}

fn wrong(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// What `str.isspace` holds for: also the separators of files, groups, records and units.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split<'t>(text: &'t str, separator: &str, most: Option<usize>, from_end: bool) -> Vec<&'t str> {
    let Some(most) = most else { return text.split(separator).collect() };
    let count = most.saturating_add(1);
    if !from_end {
        return text.splitn(count, separator).collect();
    }
    let mut pieces: Vec<&str> = text.rsplitn(count, separator).collect();
    pieces.reverse();
    pieces
}

/// At white space, with none at either end of a piece.
fn words(text: &str, most: Option<usize>, from_end: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = if from_end { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut {
            Some(at) if most.is_none_or(|most| pieces.len() < most) => {
                let (before, behind) = rest.split_at(at);
                if from_end {
                    pieces.push(behind.trim_start_matches(is_space));
                    rest = before.trim_end_matches(is_space);
                } else {
                    pieces.push(before);
                    rest = behind.trim_start_matches(is_space);
                }
            }
            _ => {
                // The last piece keeps the white space of its far end where splits ran out.
                let last = if cut.is_some() { rest } else { rest.trim_matches(is_space) };
                pieces.push(last);
                break;
            }
        }
    }
    if from_end {
        pieces.reverse();
    }
    pieces
}

/// At what `str.splitlines` takes for an end of line.
fn lines(text: &str, kept: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let behind = rest.get(at..).unwrap_or_default();
        let end = if behind.starts_with("\r\n") { 2 } else { behind.chars().next().map_or(1, char::len_utf8) };
        lines.push(rest.get(..if kept { at + end } else { at }).unwrap_or_default());
        rest = behind.get(end..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.title`: a letter behind anything but a letter is large.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn padded(text: &str, method: &str, args: &[Value]) -> Result<String, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    // Longer than any line; a hostile template shall not fill the memory.
    let width = usize::try_from(width).unwrap_or(0).min(1 << 16);
    let missing = width.saturating_sub(text.chars().count());
    if method == "zfill" {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
        return Ok(format!("{sign}{}{digits}", "0".repeat(missing)));
    }
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(wrong("the fill is not one character"));
    }
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // CPython puts the odd one on the left of an odd width.
        _ => missing / 2 + (missing & width & 1),
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
}
