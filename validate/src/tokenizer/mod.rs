//! Text to ids and back, by the package's `tokenizer.json`.

mod stop;

use std::path::Path;

use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

pub use stop::{Passed, StopStrings};

use crate::{Error, Result};

pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The largest vocabularies in use take 40 MB.
const LARGEST_FILE: u64 = 512 << 20;

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

/// What is done about the tokens that a model family puts around a text, such as a leading BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Only those written out in the text: right behind a chat template, which writes them itself.
    AsWritten,
    /// Also those that the tokenizer's post-processor adds.
    Added,
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
        Ok(Self { inner })
    }

    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let added = special == SpecialTokens::Added;
        let encoding = self.inner.encode_fast(text, added).map_err(Error::execution("encoding text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Leaves special tokens out.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that the tokenizer does not know.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(unknown) = ids.iter().find(|&&id| !self.knows(id)) {
            return Err(Error::argument("token id", unknown, format!("one that {TOKENIZER_FILE} knows")));
        }
        self.inner.decode(ids, true).map_err(Error::execution("decoding tokens"))
    }

    /// The id of a token by its exact text, special ones included.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary spells it, which is not always its text.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Decodes ids one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, decoder: self.inner.decode_stream(true), held: Vec::new(), text: Text::default() }
    }

    fn knows(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }
}

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

impl TextStream<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level vocabulary: id = place in this list; `Ġ` is a space, and the last four are the bytes of U+1F600.
    fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
        let vocab: serde_json::Map<String, serde_json::Value> = ["<s>", "h", "i", "Ġ", "hi", "ð", "Ł", "ĺ", "Ģ"]
            .iter()
            .zip(0..)
            .map(|(t, id)| (t.to_string(), id.into()))
            .collect();
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "<s>"},
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": [["h", "i"]]}
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(TOKENIZER_FILE), json.to_string()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        (folder, tokenizer)
    }

    #[test]
    fn adds_no_special_token_unless_asked_and_neither_pads_nor_truncates() {
        let (_folder, tokenizer) = tokenizer();
        assert_eq!(tokenizer.encode("hi hi h", SpecialTokens::AsWritten).unwrap(), [4, 3, 4, 3, 1]);
        assert_eq!(tokenizer.encode("<s>hi", SpecialTokens::AsWritten).unwrap(), [0, 4]);
        assert_eq!(tokenizer.encode("hi", SpecialTokens::Added).unwrap(), [0, 4]);
        assert_eq!(tokenizer.encode("", SpecialTokens::AsWritten).unwrap(), [0; 0]);
        assert_eq!(tokenizer.token_id("<s>"), Some(0));
    }

    #[test]
    fn decoding_skips_specials_and_refuses_unknown_ids() {
        let (_folder, tokenizer) = tokenizer();
        assert_eq!(tokenizer.decode(&[0, 4, 3, 4]).unwrap(), "hi hi");
        assert!(tokenizer.decode(&[4, 99]).unwrap_err().to_string().contains("token id is 99"));
    }

    #[test]
    fn a_stream_shows_unknown_ids() {
        let (_folder, tokenizer) = tokenizer();
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = [4, 99, 5, 6, 7, 8, 5, 99, 1].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["hi", "\u{FFFD}", "", "", "", "\u{1F600}", "", "\u{FFFD}\u{FFFD}", "h"]);
        assert_eq!(stream.finish().unwrap(), (String::new(), pieces.concat()));
    }

    #[test]
    fn a_stream_holds_back_half_characters() {
        let (_folder, tokenizer) = tokenizer();
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = [4, 5, 6, 7, 8, 3, 1].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["hi", "", "", "", "\u{1F600}", " ", "h"]);
        assert_eq!(stream.finish().unwrap(), (String::new(), "hi\u{1F600} h".into()));

        let mut cut = tokenizer.stream();
        assert_eq!([4, 5, 6].map(|id| cut.push(id).unwrap()), ["hi", "", ""]);
        let (rest, whole) = cut.finish().unwrap();
        assert_eq!(whole, format!("hi{rest}"));
        assert!(!rest.is_empty() && rest.chars().all(|c| c == '\u{FFFD}'), "{rest:?}");
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Tokenizer::load(folder.path()).err().unwrap().kind(), crate::ErrorKind::Io);
        for text in ["", "{}", "[1, 2]", "{\"model\": {\"type\": \"BPE\", \"vocab\": 3}}"] {
            std::fs::write(folder.path().join(TOKENIZER_FILE), text).unwrap();
            assert_eq!(Tokenizer::load(folder.path()).err().unwrap().kind(), crate::ErrorKind::Package, "{text}");
        }
    }
}
