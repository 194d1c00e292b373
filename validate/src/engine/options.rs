//! What an engine and its sessions may use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Error, Model, Result};

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Any of these ends a text.
    pub eos_token_ids: Vec<u32>,
    /// Turns that run at a time. Each has a cache, in the mode in which the peer would run the model, and so has each
    /// session that is kept between its turns.
    pub max_active: usize,
    /// Turns that wait for that. One more is refused with [`Error::Busy`].
    pub max_waiting: usize,
    /// Tokens of a step at most. One token of each text and one chunk of the oldest prompt run in any case, so that
    /// nothing waits for ever.
    pub max_scheduled_tokens: usize,
    /// Prompt tokens of a run. Chunks are counted from the start of the turn.
    pub chunk_tokens: usize,
    /// The length of a session that does not name one, in tokens.
    pub max_length: usize,
    /// Caches that are kept of texts that are over, for prompts that begin in the same way; 0 keeps none. A prompt is then
    /// computed in other chunks than without, which can change the last bits of its logits.
    pub kept_prefixes: usize,
    /// `.onnx_adapter` files by the names by which sessions ask for them.
    pub adapters: BTreeMap<String, PathBuf>,
}

impl EngineOptions {
    /// For a model, with the end tokens of its package. A session has 4096 tokens or the context length, whichever is less.
    pub fn of(model: &Model) -> Self {
        Self {
            eos_token_ids: model.eos_token_ids().to_vec(),
            max_active: 16,
            max_waiting: 256,
            max_scheduled_tokens: 2048,
            chunk_tokens: 512,
            max_length: model.context_length().min(4096),
            kept_prefixes: 0,
            adapters: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self, model: &Model) -> Result<()> {
        let counts = [
            ("max_active", self.max_active),
            ("max_waiting", self.max_waiting),
            ("max_scheduled_tokens", self.max_scheduled_tokens),
            ("chunk_tokens", self.chunk_tokens),
        ];
        for (name, count) in counts {
            if count == 0 {
                return Err(Error::argument(name, 0, "at least 1"));
            }
        }
        check_length(model, self.max_length)
    }
}

#[derive(Clone, Default)]
pub struct SessionOptions {
    /// In tokens, of all turns together; none takes [`EngineOptions::max_length`].
    pub max_length: Option<usize>,
    /// For the whole session, one of [`EngineOptions::adapters`].
    pub adapter: Option<String>,
}

impl SessionOptions {
    /// The length of the session.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length that the model does not have and an adapter that the engine does not.
    pub(super) fn check(&self, model: &Model, engine: &EngineOptions) -> Result<usize> {
        let max_length = self.max_length.unwrap_or(engine.max_length);
        check_length(model, max_length)?;
        match self.adapter.as_ref().filter(|name| !engine.adapters.contains_key(*name)) {
            Some(name) => {
                let known: Vec<&str> = engine.adapters.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(Error::argument("the adapter of a session", name, format!("one of the engine: {known}")))
            }
            None => Ok(max_length),
        }
    }
}

fn check_length(model: &Model, max_length: usize) -> Result<()> {
    let longest = model.context_length();
    if (1..=longest).contains(&max_length) {
        Ok(())
    } else {
        Err(Error::argument("max_length", max_length, format!("1 to context_length {longest}")))
    }
}
