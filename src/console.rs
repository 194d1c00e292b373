//! The two streams: results on stdout, for people or as one JSON object; everything else on stderr, as lines for people
//! or as JSON events. docs/json.md has the schema.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::OnceLock,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, code};

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A bar, where stderr is a terminal.
    Auto,
    None,
    /// Events, as lines.
    Json,
}

/// How this run speaks; set once, from the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) command: &'static str,
    /// The result is one JSON object, in failure too.
    pub(crate) json: bool,
    pub(crate) progress: ProgressArg,
}

static MODE: OnceLock<Mode> = OnceLock::new();

pub(crate) fn set_mode(mode: Mode) {
    let _ = MODE.set(mode);
}

fn mode() -> Mode {
    MODE.get().copied().unwrap_or(Mode { command: "genai-build", json: false, progress: ProgressArg::Auto })
}

/// Writes a result to stdout. A reader that went away is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match write_out(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&error)),
        _ => Ok(()),
    }
}

/// Writes a result as one JSON object. Here a reader that went away did not get what it asked for.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Success<'a, T> {
        ok: bool,
        command: &'static str,
        #[serde(flatten)]
        result: &'a T,
    }
    let success = Success { ok: true, command: mode().command, result: value };
    let text = serde_json::to_string_pretty(&success)
        .map_err(|error| Failure::new(code::INTERNAL, format!("cannot write the result as JSON: {error}")))?;
    write_out(&format!("{text}\n")).map_err(|error| unwritten(&error))
}

/// Writes what is no text.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    write_bytes(bytes).map_err(|error| unwritten(&error))
}

fn write_out(text: &str) -> io::Result<()> {
    write_bytes(text.as_bytes())
}

fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush())
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(code::RESOURCES, format!("cannot write to standard output: {error}"))
}

/// Writes a line for people to stderr, where a failure to write has no one to tell.
pub(crate) fn note(line: &str) {
    if mode().progress == ProgressArg::Json {
        return event("note", json!({"text": line}));
    }
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Writes to stderr that something is to be typed.
pub(crate) fn print_prompt(text: &str) {
    let _ = write!(io::stderr(), "{text}");
}

/// Says why a run failed: on stderr always, on stdout too where a JSON object is expected there.
pub(crate) fn fail(failure: &Failure) {
    if mode().progress == ProgressArg::Json {
        event("error", failure.to_json());
    } else {
        let _ = writeln!(io::stderr(), "{}", printable(&failure.to_string()));
    }
    answer(failure);
}

/// The JSON object of a failure, where one is expected on stdout.
pub(crate) fn answer(failure: &Failure) {
    if mode().json {
        let mut object = Map::new();
        object.insert("ok".to_owned(), false.into());
        object.insert("command".to_owned(), mode().command.into());
        object.insert("error".to_owned(), failure.to_json());
        object.extend(failure.details.report.clone());
        // The exit code tells the rest where this cannot be written.
        let _ = write_out(&format!("{:#}\n", Value::Object(object)));
    }
}

/// A line of JSON on stderr, with `--progress json`.
pub(crate) fn event(kind: &str, mut fields: Value) {
    if mode().progress != ProgressArg::Json {
        return;
    }
    let mut line = json!({"event": kind});
    if let (Some(line), Some(fields)) = (line.as_object_mut(), fields.as_object_mut()) {
        line.append(fields);
    }
    let _ = writeln!(io::stderr(), "{line}");
}

/// Text for a terminal: names from files must not move the cursor or turn lines around.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\'' | '"' | '\\' => shown.push(c),
            '\t' => shown.push(' '),
            c if c.is_control() || is_bidirectional(c) => {
                let _ = write!(shown, "{}", c.escape_unicode());
            }
            c => shown.push(c),
        }
    }
    shown
}

fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes done of bytes to do: a bar, events, or nothing.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stage: &'static str,
    /// When the last event was, where events are wanted.
    told: Option<std::sync::Mutex<Option<Instant>>>,
}

impl Progress {
    /// At most four events a second.
    const PAUSE: Duration = Duration::from_millis(250);

    pub(crate) fn start(stage: &'static str) -> Self {
        event("stage", json!({"stage": stage}));
        let wanted = mode().progress;
        let bar = (wanted == ProgressArg::Auto).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = "{msg}{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
            bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, stage, told: (wanted == ProgressArg::Json).then(Default::default) }
    }

    pub(crate) fn at(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
        let Some(told) = &self.told else { return };
        let mut told = told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if done >= total || told.is_none_or(|then| then.elapsed() >= Self::PAUSE) {
            *told = Some(Instant::now());
            event("progress", json!({"stage": self.stage, "done": done, "total": total}));
        }
    }
}

impl Progress {
    /// What stands before the bar.
    pub(crate) fn describe(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{text} "));
        }
    }

    /// Whether there would be a bar, if there were a terminal.
    pub(crate) fn lacks_a_terminal(&self) -> bool {
        self.bar.as_ref().is_some_and(ProgressBar::is_hidden)
    }

    /// A line for people, above the bar.
    pub(crate) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_terminal_gets_no_controls() {
        assert_eq!(printable("a\u{1b}[31m\u{202e}b\r\nc\u{7f}"), "a\\u{1b}[31m\\u{202e}b\\u{d}\nc\\u{7f}");
        assert_eq!(printable("tensor \"ü\\n\""), "tensor \"ü\\n\"");
    }
}
