//! Text of tokens as they come, for a state that outlives its caller.

use crate::{Result, Tokenizer};

/// As [`crate::TextStream`], but it does not borrow the tokenizer, so that it can wait in a queue.
///
/// A token's text may depend on the one before it (a leading space), and a character may be spread over several. So some
/// tokens before the new ones are decoded with them, and what these give alone is taken off.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrowingText {
    ids: Vec<u32>,
    /// Where decoding begins.
    context: usize,
    /// Up to where the text was passed on.
    shown: usize,
}

impl GrowingText {
    /// The text that `id` completes, possibly none. An id that the tokenizer does not know comes out as U+FFFD.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        if tokenizer.decode(&[id]).is_err() {
            let rest = self.finish(tokenizer)?;
            return Ok(rest + "\u{FFFD}");
        }
        self.ids.push(id);
        let piece = self.pending(tokenizer)?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.context = self.shown;
        self.shown = self.ids.len();
        Ok(piece)
    }

    /// What is left when no more ids come: the bytes of an unfinished character, as U+FFFD.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let rest = self.pending(tokenizer)?;
        *self = Self::default();
        Ok(rest)
    }

    fn pending(&self, tokenizer: &Tokenizer) -> Result<String> {
        let from = self.ids.get(self.context..).unwrap_or_default();
        let known = self.ids.get(self.context..self.shown).unwrap_or_default();
        let (before, whole) = (tokenizer.decode(known)?, tokenizer.decode(from)?);
        Ok(whole.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// A token as text within a text; bytes that are no character come out as U+FFFD. Special tokens are shown as they are
/// written.
pub(crate) fn shown(tokenizer: &Tokenizer, id: u32) -> String {
    // Some decoders strip the space before the first token.
    let alone = tokenizer.decode(&[id]).unwrap_or_default();
    let twice = tokenizer.decode(&[id, id]).unwrap_or_default();
    let inside = twice.strip_prefix(alone.as_str()).unwrap_or_default();
    let text = if inside.is_empty() { alone } else { inside.to_owned() };
    if text.is_empty() { tokenizer.token(id).unwrap_or_default() } else { text }
}

/// Bytes that a token takes in a text, at its beginning or within it. Special tokens take none.
pub(crate) fn width(tokenizer: &Tokenizer, id: u32, first: bool) -> usize {
    let alone = tokenizer.decode(&[id]).unwrap_or_default();
    if first || alone.is_empty() { alone.len() } else { shown(tokenizer, id).len() }
}

/// The bytes of a token. Those of half a character are looked up in how vocabularies spell single bytes: `<0xE2>`, or one
/// letter for each byte as GPT-2 has it.
pub(crate) fn bytes(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let shown = shown(tokenizer, id);
    if !shown.contains(char::REPLACEMENT_CHARACTER) {
        return shown.into_bytes();
    }
    let spelled = tokenizer.token(id).unwrap_or_default();
    let number = spelled.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    if let Some(byte) = number.and_then(|number| u8::from_str_radix(number, 16).ok()) {
        return vec![byte];
    }
    let letters: Option<Vec<u8>> = spelled.chars().map(byte_of_letter).collect();
    letters.unwrap_or_else(|| shown.into_bytes())
}

/// Printable characters of Latin-1 stand for themselves, the other bytes for the characters from 256 on in their order.
fn byte_of_letter(letter: char) -> Option<u8> {
    let stands_for_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(letter).checked_sub(256) {
        None => u8::try_from(letter).ok().filter(stands_for_itself),
        Some(place) => (0..=u8::MAX).filter(|byte| !stands_for_itself(byte)).nth(place as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter() {
        let letters = (0u32..512).filter_map(char::from_u32);
        let mut bytes: Vec<u8> = letters.filter_map(byte_of_letter).collect();
        assert_eq!(
            [byte_of_letter('Ġ'), byte_of_letter('Ċ'), byte_of_letter('â')],
            [Some(b' '), Some(b'\n'), Some(0xe2)]
        );
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }
}
