//! Rust source files, split into what is code and what is text in it.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file without its comments.
pub(super) struct Source {
    /// From the root of the workspace, with forward slashes.
    pub(super) path: String,
    /// Lines of the whole file.
    pub(super) lines: usize,
    /// Without comments and tests; a literal is left as a pair of quotes.
    pub(super) code: String,
    /// The string literals of `code`, unescaped.
    pub(super) literals: Vec<String>,
    /// The code with its tests.
    pub(super) code_and_tests: String,
}

impl Source {
    pub(super) fn parse(path: String, text: &str) -> Self {
        let (code_and_tests, all) = split(text);
        let whole_file = path.ends_with("/tests.rs") || path.contains("/tests/");
        let tests = if whole_file { 0 } else { tests_begin(&code_and_tests) };
        let code = code_and_tests[..tests].to_owned();
        let literals = all.into_iter().filter(|(at, _)| *at < tests).map(|(_, literal)| literal).collect();
        Self { path, lines: text.lines().count(), code, literals, code_and_tests }
    }

    /// The identifiers and keywords of the code.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
    }
}

/// The Rust files below a folder of the workspace, but for what is generated.
pub(super) fn sources(folder: &str) -> Vec<Source> {
    let files = files_below(&root().join(folder));
    let rust = files.into_iter().filter(|file| file.ends_with(".rs") && file != "onnx/src/proto.rs");
    let read = |file: String| {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        Source::parse(file, &text)
    };
    let sources: Vec<_> = rust.map(read).collect();
    assert!(!sources.is_empty(), "no sources in {folder}");
    sources
}

/// Every file below a folder, from the root of the workspace, but for what `.gitignore` names.
pub(super) fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        if [".git", "target", "out", "fuzz/target", "fuzz/found", "fuzz/artifacts"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(name) }
    }
    files.sort();
    files
}

pub(super) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where `#[cfg(test)] mod` begins: tests are the end of a file.
fn tests_begin(code: &str) -> usize {
    let attributes = code.match_indices("#[cfg(").map(|(at, _)| at);
    let is_tests = |at: usize| {
        let (condition, item) = code[at..].split_once(']').unwrap_or_default();
        let item = item.trim_start().trim_start_matches("pub(crate) ");
        condition.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test") && item.starts_with("mod ")
    };
    attributes.into_iter().find(|at| is_tests(*at)).unwrap_or(code.len())
}

/// The code without comments and with `""` for each string literal, and the literals by where in that code they stood.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let (mut code, mut literals) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, literal) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), None)
        } else if rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), None)
        } else if let Some(hashes) = raw_string(rest, &code) {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = hashes + 2;
            let length = rest[start..].find(&close).unwrap();
            (start + length + close.len(), Some(rest[start..start + length].to_owned()))
        } else if first == '"' {
            let length = quoted(rest);
            (length, Some(rest[1..length - 1].replace("\\\"", "\"")))
        } else if let Some(length) = character(rest) {
            (length, Some(String::new()))
        } else {
            code.push(first);
            (first.len_utf8(), None)
        };
        if let Some(literal) = literal {
            literals.push((code.len(), literal));
            code.push_str("\"\"");
        }
        rest = &rest[taken..];
    }
    (code, literals)
}

/// The number of hashes, where a raw string begins.
fn raw_string(rest: &str, before: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let inside_a_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with('b');
    (after[hashes..].starts_with('"') && !inside_a_word).then_some(hashes)
}

/// The length of a string literal with its quotes.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    panic!("a string that does not end: {}", &rest[..rest.len().min(80)])
}

/// The length of a character literal; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    let mut chars = inner.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        return inner[2..].find('\'').map(|end| end + 4);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

#[test]
fn text_is_told_from_code() {
    let text = "let a = \"one // \\\" two\"; // three \"four\"\n/* five */ let b = r#\"six \"seven\"\"#; let c: &'a str = '\"';\n";
    let source = Source::parse("x.rs".to_owned(), &format!("{text}#[cfg(test)]\nmod tests {{ \"eight\" }}\n"));
    assert_eq!(source.literals, ["one // \" two", "six \"seven\"", ""]);
    assert_eq!(source.code, "let a = \"\"; \n let b = \"\"; let c: &'a str = \"\";\n");
    assert!(source.code_and_tests.ends_with("mod tests { \"\" }\n"));
    assert_eq!(source.words().filter(|word| *word == "let").count(), 3);
}
