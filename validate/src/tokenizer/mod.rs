//! Text to ids and back, by the package's `tokenizer.json`.

mod chat;
mod special;
mod stop;
mod stream;

use std::path::Path;
use std::sync::Arc;

pub use chat::{Chat, ChatEnding, ChatTemplate, ChatTemplates, Clock};
pub use special::{Disagreement, Markers};
pub use stop::{Passed, StopStrings};
pub use stream::TextStream;

use crate::{Error, Result};

pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The largest vocabularies in use take 40 MB.
const LARGEST_FILE: u64 = 512 << 20;

/// Cheap to clone: clones share the vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
}

/// What is done about the tokens that a model family puts around a text, such as a leading BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Only those written out in the text: right behind a chat template, which writes them itself.
    AsWritten,
    /// Also those that the tokenizer's post-processor adds.
    Added,
}

/// What a decoded text shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// Special tokens by their names, such as `</s>`, in place of nothing.
    pub special_tokens: bool,
    /// U+FFFD for an id that the tokenizer does not know, in place of an error.
    pub unknown_ids: bool,
}

/// Rows of ids as a rectangle. Rows are filled up on the right, as onnxruntime-genai wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padded {
    /// `lengths.len() * columns` ids, row by row.
    pub ids: Vec<u32>,
    pub columns: usize,
    /// Of each row, without what was filled up. The pad id may be part of a text; the lengths tell.
    pub lengths: Vec<usize>,
}

impl Padded {
    pub fn new<R: AsRef<[u32]>>(rows: &[R], pad: u32) -> Self {
        let lengths: Vec<usize> = rows.iter().map(|row| row.as_ref().len()).collect();
        let columns = lengths.iter().copied().max().unwrap_or(0);
        let filled = rows.iter().flat_map(|row| {
            let row = row.as_ref();
            row.iter().copied().chain(std::iter::repeat_n(pad, columns - row.len()))
        });
        Self { ids: filled.collect(), columns, lengths }
    }

    /// The rows without what was filled up.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        let rows = self.ids.chunks(self.columns.max(1));
        let nothing = std::iter::repeat::<&[u32]>(&[]);
        self.lengths.iter().zip(rows.chain(nothing)).map(|(length, row)| row.get(..*length).unwrap_or_default())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `folder`. Its padding and truncation settings are switched off: they are training
    /// leftovers, and either would change a prompt in silence.
    ///
    /// # Errors
    /// [`Error::Package`] if the file is not a tokenizer.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = folder.join(TOKENIZER_FILE);
        let size = file.metadata().map_err(Error::io(&file))?.len();
        if size > LARGEST_FILE {
            return Err(Error::package(&file, format!("has {size} bytes, expected at most {LARGEST_FILE}")));
        }
        let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
        let refuse = |error: tokenizers::Error| Error::package(&file, error.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(refuse)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(refuse)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let added = special == SpecialTokens::Added;
        let encoding = self.inner.encode_fast(text, added).map_err(Error::execution("encoding text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Each text by itself, in rows as long as they come. For a rectangle see [`Padded`].
    pub fn encode_batch(&self, texts: &[&str], special: SpecialTokens) -> Result<Vec<Vec<u32>>> {
        let added = special == SpecialTokens::Added;
        let rows = self.inner.encode_batch_fast(texts.to_vec(), added).map_err(Error::execution("encoding texts"))?;
        Ok(rows.iter().map(|row| row.get_ids().to_vec()).collect())
    }

    /// Leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that the tokenizer does not know.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, Decoding::default())
    }

    /// # Errors
    /// [`Error::Argument`] for an id that the tokenizer does not know, unless they are shown.
    pub fn decode_with(&self, ids: &[u32], decoding: Decoding) -> Result<String> {
        let skipped = !decoding.special_tokens;
        let decode = |ids: &[u32]| self.inner.decode(ids, skipped).map_err(Error::execution("decoding tokens"));
        match ids.iter().find(|&&id| !self.knows(id)) {
            None => decode(ids),
            Some(_) if decoding.unknown_ids => {
                let pieces = ids.split(|&id| !self.knows(id)).map(decode).collect::<Result<Vec<_>>>()?;
                Ok(pieces.join("\u{FFFD}"))
            }
            Some(unknown) => Err(Error::argument("token id", unknown, format!("one that {TOKENIZER_FILE} knows"))),
        }
    }

    /// Rows of a batch, without what was padded.
    pub fn decode_batch<R: AsRef<[u32]>>(&self, rows: &[R], decoding: Decoding) -> Result<Vec<String>> {
        rows.iter().map(|row| self.decode_with(row.as_ref(), decoding)).collect()
    }

    /// The id of a token by its exact text, special ones included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary spells it, which is not always its text.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest id. Models often have more rows than that.
    pub fn vocab_size(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// Whether `id` stands for no text of its own.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Decodes ids one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    fn knows(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }
}

#[cfg(test)]
mod tests;
