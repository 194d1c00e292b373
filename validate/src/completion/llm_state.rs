//! Contexts that are put away and taken up again.

use super::llm::Llm;
use super::state::{LlmState, PrefixCache, fingerprint};
use crate::engine::common;
use crate::sampling::Sampler;
use crate::{Error, Result};

impl Llm {
    /// The context as it is now.
    ///
    /// # Errors
    /// [`Error::Io`] if the package cannot be read, for its fingerprint; [`Error::Unsupported`] for a cache that is not on
    /// the CPU.
    pub fn save_state(&self) -> Result<LlmState> {
        let mut cache = self.sequence.saved()?;
        cache.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(LlmState {
            tokens: self.tokens.clone(),
            logits: self.logits.clone(),
            sampler: self.sampler.state(),
            cache,
            model: self.fingerprint()?.to_owned(),
        })
    }

    /// Takes up a context that was saved with the same package.
    ///
    /// # Errors
    /// [`Error::Argument`] for a state of another package, or one that is longer than the context has room for. The
    /// context is then what it was.
    pub fn load_state(&mut self, state: &LlmState) -> Result<()> {
        let own = self.fingerprint()?;
        if state.model != own {
            let value = format!("of model {}", state.model);
            return Err(Error::argument("a state", value, format!("of this one, {own}")));
        }
        let sampler = Sampler::restored(&state.sampler)?;
        self.take_up(state)?;
        self.sampler = sampler;
        Ok(())
    }

    /// The same without the sampler.
    fn take_up(&mut self, state: &LlmState) -> Result<()> {
        if !state.logits.is_empty() && state.logits.len() != self.n_vocab() {
            let value = format!("with {} logits", state.logits.len());
            return Err(Error::argument("a state", value, format!("with {}", self.n_vocab())));
        }
        if !state.tokens.is_empty() {
            self.model.check_ids(&state.tokens)?;
        }
        self.sequence.restore(state.tokens.len(), &state.cache)?;
        self.tokens.clone_from(&state.tokens);
        self.logits.clone_from(&state.logits);
        Ok(())
    }

    /// Keeps contexts of texts that are over in memory, up to that many bytes, for prompts that begin in the same way;
    /// none keeps none. The one used longest ago goes first. Each costs a copy of the cache.
    pub fn set_cache(&mut self, capacity: Option<usize>) {
        self.prefixes = capacity.map(PrefixCache::of);
    }

    /// Takes up a kept context, if it has more of the prompt than the present one.
    pub(super) fn take_prefix(&mut self, prompt: &[u32]) -> Result<()> {
        let Some(prefixes) = &mut self.prefixes else { return Ok(()) };
        let present = common(&self.tokens, prompt);
        let Some(state) = prefixes.find(prompt).filter(|state| common(&state.tokens, prompt) > present) else {
            return Ok(());
        };
        self.take_up(&state)
    }

    /// Keeps the context, where [`Self::set_cache`] asks for it.
    pub(super) fn keep_prefix(&mut self) -> Result<()> {
        if self.prefixes.is_some() {
            let state = self.save_state()?;
            if let Some(prefixes) = &mut self.prefixes {
                prefixes.keep(state);
            }
        }
        Ok(())
    }

    fn fingerprint(&self) -> Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let found = fingerprint(&self.config.folder, self.adapter.as_deref())?;
        Ok(self.fingerprint.get_or_init(|| found))
    }
}
