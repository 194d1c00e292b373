//! Text of strangers, such as tokens and names of tensors, made harmless for each page.

use std::fmt::{self, Display, Formatter, Write};

/// For a terminal or a log: nothing that moves the cursor or turns the direction of writing.
pub(super) struct Plain<'a>(pub(super) &'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| visible(c, f))
    }
}

/// For elements and attributes of HTML.
pub(super) struct Html<'a>(pub(super) &'a str);

impl Display for Html<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match entity(c) {
            Some(entity) => f.write_str(entity),
            None => visible(c, f),
        })
    }
}

/// For elements and attributes of XML 1.0, which has no way at all to write most control characters.
pub(super) struct Xml<'a>(pub(super) &'a str);

impl Display for Xml<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match (entity(c), c) {
            (Some(entity), _) => f.write_str(entity),
            // A reader of attributes makes spaces of these unless they are written so.
            (None, '\n' | '\t') => write!(f, "&#{};", u32::from(c)),
            (None, '\u{fffe}' | '\u{ffff}') => write!(f, "{}", c.escape_unicode()),
            _ => visible(c, f),
        })
    }
}

/// For a line of Markdown in which HTML is allowed: no character of it has a meaning.
pub(super) struct Markdown<'a>(pub(super) &'a str);

impl Display for Markdown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' => f.write_str("<br>"),
            ' ' | ',' | '.' | ';' | '%' | '?' => f.write_char(c),
            _ if c.is_ascii_punctuation() => write!(f, "&#{};", u32::from(c)),
            _ => visible(c, f),
        })
    }
}

fn entity(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&#39;"),
        _ => None,
    }
}

/// Control characters, and those that turn or hide text, as `\u{1b}`.
fn visible(c: char, f: &mut Formatter<'_>) -> fmt::Result {
    let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if hidden || (c.is_control() && !matches!(c, '\n' | '\t')) {
        write!(f, "{}", c.escape_unicode())
    } else {
        f.write_char(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J<b a='\"'>&\n\u{202e}|`*_[x](y)\u{0}\u{ffff}";

    #[test]
    fn nothing_of_a_stranger_has_a_meaning() {
        let plain = Plain(HOSTILE).to_string();
        assert!(plain.starts_with("a\\u{1b}[2J") && plain.contains("\\u{202e}") && plain.contains("\\u{0}"));
        let html = Html(HOSTILE).to_string();
        assert!(html.contains("&lt;b a=&#39;&quot;&#39;&gt;&amp;\n") && !html.contains(['<', '>', '"', '\'']));
        let xml = Xml(HOSTILE).to_string();
        assert!(xml.contains("&#10;") && xml.ends_with("\\u{0}\\u{ffff}") && !xml.contains('\n'));
        let markdown = Markdown(HOSTILE).to_string();
        assert!(!markdown.contains(['|', '`', '*', '[', ']', '\n']) && !markdown.contains("<b "));
    }
}
