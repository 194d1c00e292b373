//! What Jinja knows and minijinja does not is put in other words before a template is parsed:
//! - `{% generation %}`, by which transformers marks what the model said: `{% with %}`, which has a scope too;
//! - `'%s' % x`: the operator is a filter behind a string that is written out. minijinja's `%` takes numbers alone, and
//!   says so where a text is in a variable.

/// The filter that stands for `%` behind a string.
pub(super) const PERCENT: &str = "__percent__";

/// Lines end as Jinja has them: `\n`, and none behind the last line.
pub(super) fn rewrite(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len());
    let mut rest = template.as_str();
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some((code, close)) = opened(tag) else {
            out.push('{');
            rest = tag.get(1..).unwrap_or_default();
            continue;
        };
        if close == "#}" {
            let end = tag.find(close).map_or(tag.len(), |end| end + close.len());
            let (comment, behind) = tag.split_at(end);
            out.push_str(comment);
            rest = behind;
            continue;
        }
        let (head, body) = tag.split_at(code);
        let end = end_of_code(body, close);
        let (body, behind) = body.split_at(end);
        out.push_str(head);
        let words = body.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match words {
            "generation" => out.push_str(&body.replace("generation", "with")),
            "endgeneration" => out.push_str(&body.replace("endgeneration", "endwith")),
            _ => percent(&mut out, body),
        }
        rest = behind;
        if words == "raw" && close == "%}" {
            let end = end_of_raw(rest);
            let (raw, behind) = rest.split_at(end);
            out.push_str(raw);
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

/// Where code starts behind `{{`, `{%` or `{#`, and what ends it.
fn opened(tag: &str) -> Option<(usize, &'static str)> {
    match tag.as_bytes().get(1)? {
        b'{' => Some((2, "}}")),
        b'%' => Some((2, "%}")),
        b'#' => Some((2, "#}")),
        _ => None,
    }
}

/// Where `close` stands outside of strings and braces.
fn end_of_code(body: &str, close: &str) -> usize {
    let mut open = 0usize;
    let mut at = 0;
    while let Some(rest) = body.get(at..) {
        let Some(c) = rest.chars().next() else { break };
        match c {
            '\'' | '"' => {
                at += string(rest);
                continue;
            }
            _ if open == 0 && rest.starts_with(close) => return at,
            '{' => open += 1,
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
    }
    body.len()
}

/// The length of the string that `text` starts with, quotes included.
fn string(text: &str) -> usize {
    let mut chars = text.char_indices();
    let Some((_, quote)) = chars.next() else { return 0 };
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return at + c.len_utf8();
        }
    }
    text.len()
}

/// Where the tag starts that ends a raw block.
fn end_of_raw(text: &str) -> usize {
    let tags = text.match_indices("{%").find(|(at, open)| {
        let inside = text.get(at + open.len()..).unwrap_or_default();
        inside.trim_start_matches(['-', '+']).trim_start().starts_with("endraw")
    });
    tags.map_or(text.len(), |(at, _)| at)
}

/// Copies code, with `'…' % x` as `'…' | PERCENT(x)`.
fn percent(out: &mut String, code: &str) {
    let mut at = 0;
    while let Some(rest) = code.get(at..) {
        let Some(c) = rest.chars().next() else { break };
        if c != '\'' && c != '"' {
            out.push(c);
            at += c.len_utf8();
            continue;
        }
        let length = string(rest);
        let (literal, behind) = rest.split_at(length);
        out.push_str(literal);
        at += length;
        let operand = behind.trim_start().strip_prefix('%').filter(|operand| !operand.starts_with('}'));
        if let Some(operand) = operand {
            let length = operand_length(operand);
            let (operand, behind) = operand.split_at(length);
            out.push_str(&format!("|{PERCENT}("));
            percent(out, operand);
            out.push(')');
            at = code.len() - behind.len();
        }
    }
}

/// The length of the operand that `text` starts with: a value with what is called, looked up or filtered of it.
fn operand_length(text: &str) -> usize {
    let mut at = text.len() - text.trim_start().len();
    at += text.get(at..).map_or(0, |rest| rest.len() - rest.trim_start_matches(['-', '+']).len());
    at += primary(text.get(at..).unwrap_or_default());
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        let blanks = rest.len() - trimmed.len();
        let length = match trimmed.chars().next() {
            Some('(' | '[') => group(trimmed),
            Some(c @ ('.' | '|')) => {
                let behind = trimmed.get(c.len_utf8()..).unwrap_or_default();
                let name = behind.trim_start();
                trimmed.len() - name.len() + primary(name)
            }
            _ => return at,
        };
        at += blanks + length;
    }
}

fn primary(text: &str) -> usize {
    match text.chars().next() {
        Some('\'' | '"') => string(text),
        Some('(' | '[' | '{') => group(text),
        _ => text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len()),
    }
}

/// The length of the bracketed part that `text` starts with.
fn group(text: &str) -> usize {
    let mut open = 0usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..) {
        let Some(c) = rest.chars().next() else { break };
        match c {
            '\'' | '"' => {
                at += string(rest);
                continue;
            }
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if open == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_generation_change() {
        assert_eq!(rewrite("{%- generation -%}a{% endgeneration %}"), "{%- with -%}a{% endwith %}");
        for same in [
            "{% if generation %}{{ '{% generation %}' }}{% endif %}",
            "{% raw %}{% generation %}{% endraw %}",
            "{# {% generation %} #}{ % { {",
            "{{ {'a': {'b': 1}} }} 100 % {%",
            "{{ '",
            "{% raw %}{{",
        ] {
            assert_eq!(rewrite(same), same);
        }
        assert_eq!(rewrite("a\r\nb\rc"), "a\nb\nc");
    }

    #[test]
    fn percent_behind_a_string_is_a_filter() {
        let changed = |code: &str| rewrite(&format!("{{{{ {code} }}}}"));
        assert_eq!(changed("'%s' % x"), "{{ '%s'|__percent__( x) }}");
        assert_eq!(changed("'%s' % (a, ')') ~ b"), "{{ '%s'|__percent__( (a, ')')) ~ b }}");
        assert_eq!(changed("'%s' % a.b['c](']|upper + 1"), "{{ '%s'|__percent__( a.b['c](']|upper) + 1 }}");
        assert_eq!(changed("'%s' % '%s' % x"), "{{ '%s'|__percent__( '%s') % x }}");
        assert_eq!(changed("7 % 4"), "{{ 7 % 4 }}");
        assert_eq!(rewrite("{% set x = 'a' %}"), "{% set x = 'a' %}");
    }
}
