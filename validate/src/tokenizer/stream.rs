//! Ids to text, one by one.

use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::Tokenizer;
use crate::{Error, Result};

/// Text as it grows. A character spread over several tokens comes out whole, with the last of them. An id that the
/// tokenizer does not know (models often have more rows than their tokenizer has tokens) comes out as U+FFFD.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    decoder:
        DecodeStream<'t, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
    /// The ids since the start or the last unknown one.
    held: Vec<u32>,
    text: Text,
}

#[derive(Default)]
struct Text {
    whole: String,
    /// Where the text of the held ids starts.
    held_from: usize,
}

impl<'t> TextStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { tokenizer, decoder: tokenizer.inner.decode_stream(true), held: Vec::new(), text: Text::default() }
    }

    /// The text that `id` completes, possibly none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let piece = if self.tokenizer.knows(id) {
            self.held.push(id);
            self.decoder.step(id).map_err(Error::execution("decoding a token"))?.unwrap_or_default()
        } else {
            let rest = self.rest()?;
            self.held.clear();
            self.decoder = self.tokenizer.inner.decode_stream(true);
            self.text.held_from = self.text.whole.len() + rest.len() + char::REPLACEMENT_CHARACTER.len_utf8();
            rest + "\u{FFFD}"
        };
        self.text.whole.push_str(&piece);
        Ok(piece)
    }

    /// What is left when no more ids come: the bytes of an unfinished character, as U+FFFD. Returns the rest and the
    /// whole text.
    pub fn finish(mut self) -> Result<(String, String)> {
        let rest = self.rest()?;
        self.text.whole.push_str(&rest);
        Ok((rest, self.text.whole))
    }

    fn rest(&self) -> Result<String> {
        let decoded = self.tokenizer.decode(&self.held)?;
        let shown = self.text.whole.get(self.text.held_from..).unwrap_or_default();
        Ok(decoded.strip_prefix(shown).unwrap_or_default().to_owned())
    }
}
