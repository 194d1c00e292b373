//! How a package's texts become tokens, and tokens words.

use std::path::Path;

use crate::report::{Finding, Severity};
use crate::tokenizer::TOKENIZER_FILE;
use crate::{Result, SpecialTokens, Tokenizer};

/// The package's tokenizer, as far as the model knows its tokens. Where there is none, or one with ids that the model
/// does not have, the bytes of a text stand for its tokens: whether a package agrees with itself, or with a reference that
/// has tokens of its own, can be seen with any tokens.
pub(super) struct Words {
    tokenizer: Option<Tokenizer>,
    vocab_size: usize,
}

impl Words {
    /// # Errors
    /// For a tokenizer that cannot be read. One that is not there is none.
    pub(super) fn open(folder: &Path, vocab_size: usize) -> Result<Self> {
        let there = folder.join(TOKENIZER_FILE).exists();
        let tokenizer = if there { Some(Tokenizer::load(folder)?) } else { None };
        Ok(Self { tokenizer, vocab_size })
    }

    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Never empty for a text that is not, and all of the model's vocabulary.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(tokenizer) = &self.tokenizer {
            let ids = tokenizer.encode(text, SpecialTokens::Added)?;
            if self.knows(&ids) {
                return Ok(ids);
            }
        }
        let size = u32::try_from(self.vocab_size).unwrap_or(u32::MAX).max(1);
        Ok(text.bytes().map(|byte| u32::from(byte) % size).collect())
    }

    /// What stands in the place of the tokenizer for a text, if anything does.
    pub(super) fn substitute(&self, text: &str) -> Option<Finding> {
        let why = match &self.tokenizer {
            None => format!("there is no {TOKENIZER_FILE}"),
            Some(tokenizer) => match tokenizer.encode(text, SpecialTokens::Added) {
                Ok(ids) if !self.knows(&ids) => format!("{TOKENIZER_FILE} has tokens that the model does not know"),
                _ => return None,
            },
        };
        let message = format!("{why}: the bytes of the texts stand for tokens");
        Some(Finding::new(Severity::Info, "tokenizer", TOKENIZER_FILE, message))
    }

    /// The text of a token by itself, or its name where it has none.
    pub(super) fn word(&self, id: u32) -> String {
        let Some(tokenizer) = &self.tokenizer else { return format!("#{id}") };
        let text = tokenizer.decode(&[id]).unwrap_or_default();
        if text.is_empty() { tokenizer.token(id).unwrap_or_else(|| format!("#{id}")) } else { text }
    }

    fn knows(&self, ids: &[u32]) -> bool {
        ids.iter().all(|&id| (id as usize) < self.vocab_size)
    }
}
