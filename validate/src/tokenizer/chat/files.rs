//! Where a folder keeps its chat templates.
//!
//! transformers 5.23: `chat_template.jinja`, with others in `additional_chat_templates/NAME.jinja`, comes before
//! `chat_template` of `tokenizer_config.json`, a text or a list of `{"name", "template"}`. Processors of images keep theirs
//! in `chat_template.json`, which is read last here.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Chat, ChatTemplate, Clock};
use crate::{Error, Result};

pub(in crate::tokenizer) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE_FILE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
const MORE_TEMPLATES: &str = "additional_chat_templates";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";

/// The name of the template that is used where none is asked for.
const DEFAULT: &str = "default";
/// The name of the template that is used for tools, where there is one.
const TOOL_USE: &str = "tool_use";

const LARGEST_FILE: u64 = 16 << 20;

/// Special tokens that a template may name.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The chat templates of a folder, and the special tokens that they name.
#[derive(Clone, Debug)]
pub struct ChatTemplates {
    named: Vec<(String, String)>,
    tokens: Map<String, Value>,
}

impl ChatTemplates {
    /// Those of a folder with `tokenizer_config.json`; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Package`] for a file that is no JSON, or whose `chat_template` is no template.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let config = read_object(&folder.join(TOKENIZER_CONFIG))?.unwrap_or_default();
        let named = match jinja_files(folder)? {
            named if !named.is_empty() => named,
            _ => {
                let file = folder.join(TOKENIZER_CONFIG);
                match config.get("chat_template").filter(|value| !value.is_null()) {
                    Some(templates) => listed(templates).map_err(|problem| Error::package(&file, problem))?,
                    None => match read_object(&folder.join(TEMPLATE_JSON))?.and_then(|mut o| o.remove("chat_template"))
                    {
                        Some(templates) => listed(&templates)
                            .map_err(|problem| Error::package(&folder.join(TEMPLATE_JSON), problem))?,
                        None => return Ok(None),
                    },
                }
            }
        };
        let mut tokens = read_object(&folder.join(SPECIAL_TOKENS))?.map(|map| special_tokens(&map)).unwrap_or_default();
        tokens.extend(special_tokens(&config));
        Ok(Some(Self { named, tokens }))
    }

    /// # Errors
    /// [`Error::Argument`] for a name that is not there, and where none is given and there is no default.
    pub fn select(&self, name: Option<&str>, with_tools: bool) -> Result<ChatTemplate> {
        let find = |name: &str| self.named.iter().find(|(known, _)| known == name);
        let found = match name {
            Some(name) => find(name),
            None => with_tools.then(|| find(TOOL_USE)).flatten().or_else(|| find(DEFAULT)),
        };
        let Some((_, source)) = found else {
            let names: Vec<&str> = self.names().collect();
            return Err(Error::argument("chat template", name.unwrap_or("not named"), names.join(", ")));
        };
        Ok(ChatTemplate { source: source.clone(), tokens: self.tokens.clone() })
    }

    /// The text for a conversation of several turns, with tools where the template takes any: whether it works at all.
    /// A template that refuses systems or tools is tried without them.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] and [`Error::Chat`] of a conversation that every template should take.
    pub fn probe(&self) -> Result<String> {
        let turns = [("user", "Hello."), ("assistant", "Hello. How can I help?"), ("user", "Count to three.")];
        let said = |(role, content): (&str, &str)| json!({"role": role, "content": content});
        let tool = json!({"type": "function", "function": {
            "name": "count",
            "description": "Counts.",
            "parameters": {"type": "object", "properties": {"to": {"type": "integer"}}, "required": ["to"]},
        }});
        let plain: Vec<Value> = turns.into_iter().map(said).collect();
        let system: Vec<Value> = std::iter::once(said(("system", "Be brief."))).chain(plain.clone()).collect();
        let mut chat = Chat { tools: Some(vec![tool]), clock: Clock::at(0), ..Chat::new(system) };
        let with_tools = self.select(None, true)?.render(&chat);
        chat.tools = None;
        let template = self.select(None, false)?;
        match (with_tools, template.render(&chat)) {
            (Err(error @ Error::ChatTemplate { .. }), _) | (_, Err(error @ Error::ChatTemplate { .. })) => Err(error),
            (Ok(text), _) | (_, Ok(text)) => Ok(text),
            _ => template.render(&Chat { messages: plain, ..chat }),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(name, _)| name.as_str())
    }
}

/// `chat_template.jinja` and its kin, the default first and the others by name.
fn jinja_files(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut named = Vec::new();
    if let Some(text) = read(&folder.join(TEMPLATE_FILE))? {
        named.push((DEFAULT.to_owned(), text));
    }
    let more = folder.join(MORE_TEMPLATES);
    if more.is_dir() {
        let entries = std::fs::read_dir(&more).map_err(Error::io(&more))?;
        let mut files = entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(Error::io(&more)))
            .collect::<Result<Vec<_>>>()?;
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "jinja")) {
            if let (Some(name), Some(text)) = (file.file_stem(), read(file)?) {
                named.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    Ok(named)
}

fn listed(templates: &Value) -> Result<Vec<(String, String)>, String> {
    let expected = "expected a text, or a list of {\"name\", \"template\"}";
    match templates {
        Value::String(text) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Value::Array(entries) => entries
            .iter()
            .map(|entry| match (entry.get("name"), entry.get("template")) {
                (Some(Value::String(name)), Some(Value::String(text))) => Ok((name.clone(), text.clone())),
                _ => Err(format!("chat_template has the entry {entry}, {expected}")),
            })
            .collect(),
        other => Err(format!("chat_template is {other}, {expected}")),
    }
}

/// Special tokens by name, as texts. `extra_special_tokens` may name more.
pub(in crate::tokenizer) fn special_tokens(config: &Map<String, Value>) -> Map<String, Value> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(Value::String(text.clone())),
        value => value.get("content").filter(|content| content.is_string()).cloned(),
    };
    let mut tokens = Map::new();
    for name in TOKENS {
        tokens.extend(config.get(name).and_then(text).map(|token| (name.to_owned(), token)));
    }
    if let Some(Value::Object(more)) = config.get("extra_special_tokens") {
        tokens.extend(more.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))));
    }
    tokens
}

fn read(file: &Path) -> Result<Option<String>> {
    let size = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(file)(error)),
    };
    if size > LARGEST_FILE {
        return Err(Error::package(file, format!("has {size} bytes, expected at most {LARGEST_FILE}")));
    }
    std::fs::read_to_string(file).map(Some).map_err(Error::io(file))
}

/// `None` where there is no such file.
pub(in crate::tokenizer) fn read_object(file: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read(file)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::package(file, error.to_string()))
}
