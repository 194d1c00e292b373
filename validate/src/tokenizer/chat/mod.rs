//! Conversations to prompts, by the chat templates that checkpoints bring along.
//!
//! The text is what transformers' `apply_chat_template` gives, byte for byte: `fixtures/chat` has recordings of it. Jinja
//! is minijinja's, with Python's ways of writing values; what either cannot do is an error, never another text.
//!
//! A template is the work of a stranger: it sees the conversation and a clock and nothing else, and its instructions and
//! its output are limited. Not limited is the memory of texts that it builds and never writes.

mod clock;
mod environment;
mod files;
mod methods;
mod python;
mod source;

use serde_json::{Map, Value as Json};

pub use clock::Clock;
pub use files::ChatTemplates;
pub(super) use files::{TOKENIZER_CONFIG, read_object, special_tokens};

use crate::{Error, Result};

/// More than the longest context of any model, in bytes.
const LONGEST_PROMPT: usize = 64 << 20;

/// Fields that a thought is known by; templates read one or the other.
const THOUGHT: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation, and what a template may know beside it.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Objects such as `{"role": "user", "content": "Hello"}`, with whatever else the template reads.
    pub messages: Vec<Json>,
    /// Descriptions of functions, as objects.
    pub tools: Option<Vec<Json>>,
    /// Objects with `title` and `text`.
    pub documents: Option<Vec<Json>>,
    /// Other variables of the template, such as `enable_thinking`. They come before special tokens of the same name.
    pub variables: Map<String, Json>,
    pub ending: ChatEnding,
    /// What `strftime_now` tells.
    pub clock: Clock,
}

/// How the prompt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// With what starts a message of the assistant.
    #[default]
    Answer,
    /// With the last message.
    Closed,
    /// In the midst of the last message, which the model shall go on with.
    Continued,
}

impl Chat {
    /// The messages alone, to be answered now.
    pub fn new(messages: Vec<Json>) -> Self {
        Self {
            messages,
            tools: None,
            documents: None,
            variables: Map::new(),
            ending: ChatEnding::default(),
            clock: Clock::now(),
        }
    }
}

/// A chat template by itself.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// Jinja.
    pub source: String,
    /// Variables such as `bos_token`.
    pub tokens: Map<String, Json>,
}

impl ChatTemplate {
    /// # Errors
    /// [`Error::Chat`] where the template refuses the conversation, and [`Error::ChatTemplate`] where it fails.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let mut messages = chat.messages.iter().map(message).collect::<Result<Vec<_>>>()?;
        if messages.is_empty() {
            return Err(refused("has no message, expected one at least"));
        }
        for (key, value) in [("tools", &chat.tools), ("documents", &chat.documents)] {
            if value.iter().flatten().any(|item| !item.is_object()) {
                return Err(refused(format!("{key}: an item is no JSON object")));
            }
        }
        let continued = match chat.ending {
            ChatEnding::Continued => Some(mark_end(&mut messages, &self.source)?),
            _ => None,
        };
        let list = |items: &Option<Vec<Json>>| items.clone().map_or(Json::Null, Json::Array);
        let mut variables = self.tokens.clone();
        variables.extend(chat.variables.clone());
        // What transformers passes by name; a variable cannot stand for it.
        variables.insert("messages".to_owned(), Json::Array(messages.into_iter().map(Json::Object).collect()));
        variables.insert("tools".to_owned(), list(&chat.tools));
        variables.insert("documents".to_owned(), list(&chat.documents));
        variables.insert("add_generation_prompt".to_owned(), Json::Bool(chat.ending == ChatEnding::Answer));
        let text = self.run(&Json::Object(variables), chat.clock)?;
        match continued {
            Some(last) => cut_at_mark(&text, &last),
            None => Ok(text),
        }
    }

    /// The same with the whole context given.
    fn run(&self, context: &Json, clock: Clock) -> Result<String> {
        let source = source::rewrite(&self.source);
        let environment = environment::environment(clock).map_err(failed)?;
        let template = environment.template_from_str(&source).map_err(failed)?;
        let mut out = Limited(Vec::new());
        template.render_captured_to(python::value(context), &mut out).map_err(failed)?;
        String::from_utf8(out.0).map_err(Error::execution("rendering a chat template"))
    }
}

/// A buffer that takes no more than [`LONGEST_PROMPT`].
struct Limited(Vec<u8>);

impl std::io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_PROMPT {
            return Err(std::io::Error::other(format!("the prompt is longer than {LONGEST_PROMPT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn refused(problem: impl Into<String>) -> Error {
    Error::Chat { problem: problem.into() }
}

fn failed(error: minijinja::Error) -> Error {
    let detail = error.detail().unwrap_or_default();
    if let Some(message) = detail.strip_prefix(environment::RAISED) {
        return refused(format!("is refused by the chat template: {message}"));
    }
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    Error::ChatTemplate { line: error.line().unwrap_or(0), problem: format!("{}{detail}{cause}", error.kind()) }
}

/// A message without its nulls, and with a thought under each of its names, as transformers has it.
fn message(message: &Json) -> Result<Map<String, Json>> {
    let Some(fields) = message.as_object() else {
        return Err(refused(format!("has a message that is no JSON object: {message}")));
    };
    let mut fields: Map<String, Json> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(thought) = THOUGHT.iter().find_map(|key| fields.get(*key)).cloned() {
        if !fields.contains_key("thinking") {
            fields.shift_insert(0, "thinking".to_owned(), thought.clone());
        }
        fields.insert("reasoning_content".to_owned(), thought);
    }
    Ok(fields)
}

/// Stands behind the text that is to be continued, while the template works.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Puts [`MARK`] behind the last text of the last message, which it returns.
fn mark_end(messages: &mut [Map<String, Json>], source: &str) -> Result<String> {
    let content = messages.last_mut().and_then(|last| last.get_mut("content"));
    if !source.contains("content") {
        return Err(refused("cannot be continued: the chat template reads no content"));
    }
    let text = match content {
        Some(Json::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Json::String(text)) = text else {
        return Err(refused("cannot be continued: its last message has no text"));
    };
    let last = text.clone();
    text.push_str(MARK);
    Ok(last)
}

fn cut_at_mark(text: &str, last: &str) -> Result<String> {
    let tag = MARK.trim_end();
    let at = text.rfind(tag).filter(|_| text.contains(last.trim_matches(methods::is_space)));
    let Some(at) = at else {
        return Err(refused("cannot be continued: the chat template changes its last message"));
    };
    let (before, behind) = text.split_at(at);
    // Where the template trims the text, so is what is left of it.
    let kept = if behind.starts_with(MARK) { before } else { before.trim_end_matches(methods::is_space) };
    Ok(kept.to_owned())
}

#[cfg(test)]
mod tests;
