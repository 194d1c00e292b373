//! Tokens with a meaning: what the files of a package say of them, and whether they agree.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Tokenizer;
use super::chat::{TOKENIZER_CONFIG, read_object, special_tokens};
use crate::{Config, Result};

const GENERATION_CONFIG: &str = "generation_config.json";

/// Tokens around what a model says to a tool, and around what it says to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    pub tool_call_start: Option<u32>,
    pub tool_call_end: Option<u32>,
    pub reasoning_start: Option<u32>,
    pub reasoning_end: Option<u32>,
}

/// Texts of such tokens in published tokenizers.
const TOOL_CALLS: [(&str, &str); 5] = [
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("[TOOL_CALLS]", ""),
];
const THOUGHTS: [(&str, &str); 3] =
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")];

/// A token that `genai_config.json` and another file of the package have different ids for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Such as `eos_token_id`.
    pub key: &'static str,
    pub configured: Vec<u32>,
    pub file: PathBuf,
    /// What the other file says.
    pub found: Vec<u32>,
}

impl Tokenizer {
    /// By the texts that published tokenizers use; `None` for what this one has no token for.
    pub fn markers(&self) -> Markers {
        let pair = |pairs: &[(&str, &str)]| {
            let found = pairs.iter().find_map(|(start, end)| Some((self.token_id(start)?, self.token_id(end))));
            (found.map(|(start, _)| start), found.and_then(|(_, end)| end))
        };
        let (tool_call_start, tool_call_end) = pair(&TOOL_CALLS);
        let (reasoning_start, reasoning_end) = pair(&THOUGHTS);
        Markers { tool_call_start, tool_call_end, reasoning_start, reasoning_end }
    }

    /// Compares `genai_config.json`, which generation goes by, with `tokenizer_config.json` and
    /// `generation_config.json` beside it, as far as they are there. What only one file names is no disagreement; of end
    /// tokens, those of the others have to be among the configured ones.
    ///
    /// # Errors
    /// [`crate::Error::Package`] for a file that is no JSON object.
    pub fn disagreements(&self, config: &Config) -> Result<Vec<Disagreement>> {
        let ids = |id: Option<u32>| id.into_iter().collect::<Vec<u32>>();
        let keys = [
            ("bos_token_id", "bos_token", ids(config.bos_token_id)),
            ("eos_token_id", "eos_token", config.eos_token_ids.clone()),
            ("pad_token_id", "pad_token", ids(config.pad_token_id)),
        ];
        let mut found = Vec::new();
        let folder = &config.tokenizer_folder;
        if let Some(fields) = read_object(&folder.join(TOKENIZER_CONFIG))? {
            let tokens = special_tokens(&fields);
            for (key, token, configured) in &keys {
                let id = tokens.get(*token).and_then(Value::as_str).and_then(|text| self.token_id(text));
                compare(key, configured, &folder.join(TOKENIZER_CONFIG), ids(id), &mut found);
            }
        }
        if let Some(fields) = read_object(&config.folder.join(GENERATION_CONFIG))? {
            for (key, _, configured) in &keys {
                compare(key, configured, &config.folder.join(GENERATION_CONFIG), listed(&fields, key), &mut found);
            }
        }
        Ok(found)
    }
}

fn compare(key: &'static str, configured: &[u32], file: &Path, other: Vec<u32>, found: &mut Vec<Disagreement>) {
    if !configured.is_empty() && other.iter().any(|id| !configured.contains(id)) {
        found.push(Disagreement { key, configured: configured.to_vec(), file: file.to_path_buf(), found: other });
    }
}

/// An id or a list of them.
fn listed(fields: &Map<String, Value>, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match fields.get(key) {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        value => value.and_then(id).into_iter().collect(),
    }
}
