//! The tokens of a tokenizer as bytes, which is how llguidance sees them.

#[cfg(test)]
use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use serde_json::Value;

use crate::tokenizer::{SpecialTokens, TOKENIZER_FILE};
use crate::{Error, Result, Tokenizer};

/// What llguidance's trie can hold of a token. Longer ones are runs of blanks, which can do without.
const LONGEST_TOKEN: usize = 1000;

/// How a vocabulary spells bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// One character for each byte, by GPT-2's table.
    ByteLevel,
    /// Characters, with a sign in place of blanks; `<0x0A>` for bytes of characters that are not in the vocabulary.
    Characters { blank: Option<char> },
}

pub(super) fn environment(tokenizer: &Tokenizer, vocab_size: usize, eos: &[u32]) -> Result<TokEnv> {
    if eos.is_empty() {
        return Err(Error::argument("the number of end tokens", 0, "at least one, by which a text can end"));
    }
    if let Some(outside) = eos.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(Error::argument("eos_token_id", outside, format!("below the model's vocab_size {vocab_size}")));
    }
    let spelling = Spelling::of(tokenizer)?;
    let mut words = vec![Vec::new(); vocab_size];
    let inner = tokenizer.inner();
    for (token, id) in inner.get_vocab(false) {
        if let Some(word) = words.get_mut(id as usize) {
            *word = spelling.bytes(&token);
        }
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        if let Some(word) = words.get_mut(id as usize) {
            *word = if token.special { special(&token.content) } else { token.content.into_bytes() };
        }
    }
    for id in eos {
        if let Some(word) = words.get_mut(*id as usize) {
            // An end token ends the text, whatever the tokenizer says of it.
            *word = special(&tokenizer.token(*id).unwrap_or_else(|| format!("<end {id}>")));
        }
    }
    for word in words.iter_mut().filter(|word| word.len() > LONGEST_TOKEN) {
        word.clear();
    }
    let size = u32::try_from(vocab_size).map_err(|_| Error::argument("vocab_size", vocab_size, "below 2^32"))?;
    let info = TokRxInfo::new(size, eos.first().copied().unwrap_or_default());
    let trie = TokTrie::from(&info, &words).with_eos_tokens(eos);
    Ok(Arc::new(Vocabulary { tokenizer: tokenizer.clone(), canonical: spelling == Spelling::ByteLevel, trie }))
}

/// As llguidance marks tokens that are no text.
fn special(content: &str) -> Vec<u8> {
    let mut bytes = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    bytes.extend_from_slice(content.as_bytes());
    bytes
}

impl Spelling {
    /// By the decoder, which has to undo the spelling.
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let decoder = serde_json::to_value(tokenizer.inner().get_decoder()).unwrap_or(Value::Null);
        let mut steps = Vec::new();
        flatten(&decoder, &mut steps);
        let kind = |step: &Value| step.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        if steps.iter().any(|step| kind(step) == "ByteLevel") {
            return Ok(Self::ByteLevel);
        }
        let blank = steps.iter().find_map(|step| match kind(step).as_str() {
            "Metaspace" => step.get("replacement")?.as_str()?.chars().next(),
            "Replace" if step.get("content")?.as_str()? == " " => {
                let mut pattern = step.get("pattern")?.get("String")?.as_str()?.chars();
                pattern.next().filter(|_| pattern.next().is_none())
            }
            _ => None,
        });
        if blank.is_some() || steps.iter().any(|step| kind(step) == "ByteFallback") {
            return Ok(Self::Characters { blank });
        }
        let found = match decoder {
            Value::Null => "none".to_owned(),
            _ => steps.iter().map(|step| kind(step)).collect::<Vec<_>>().join(", "),
        };
        let what = format!("guidance with the decoder of this {TOKENIZER_FILE} ({found})");
        Err(Error::unsupported(what, "ByteLevel, Metaspace, ByteFallback"))
    }

    fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let mut bytes = Vec::with_capacity(token.len());
                for c in token.chars() {
                    match byte_of(c) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                bytes
            }
            Self::Characters { blank } => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => match blank {
                        Some(blank) => token.replace(blank, " ").into_bytes(),
                        None => token.as_bytes().to_vec(),
                    },
                }
            }
        }
    }
}

fn flatten<'v>(decoder: &'v Value, steps: &mut Vec<&'v Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(inner) => inner.iter().for_each(|step| flatten(step, steps)),
        None => steps.push(decoder),
    }
}

/// GPT-2's table: printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on, in
/// their order.
fn byte_of(c: char) -> Option<u8> {
    let itself = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(c);
    if code < 0x100 {
        return itself(code).then_some(code).and_then(|code| u8::try_from(code).ok());
    }
    let place = usize::try_from(code - 0x100).ok()?;
    (0..=255u8).filter(|&byte| !itself(byte.into())).nth(place)
}

struct Vocabulary {
    tokenizer: Tokenizer,
    /// Whether a text is cut alike wherever it stands. Where a blank is put before a text, it is not.
    canonical: bool,
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.canonical {
            return self.trie.greedy_tokenize(bytes);
        }
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            // The name of a special token in a text is a text; ids that the model lacks cannot come.
            let usable = |&id: &u32| (id as usize) < self.trie.vocab_size() && !self.trie.is_special_token(id);
            match self.tokenizer.encode(text, SpecialTokens::AsWritten) {
                Ok(ids) if ids.iter().all(usable) => ids,
                _ => self.trie.greedy_tokenize(text.as_bytes()),
            }
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// Bytes of each token, for the tests.
#[cfg(test)]
pub(super) fn words(environment: &TokEnv) -> HashMap<u32, Vec<u8>> {
    let trie = environment.tok_trie();
    (0u32..).take(trie.vocab_size()).map(|id| (id, trie.token(id).to_vec())).collect()
}
