//! `create_completion`: a text behind a prompt.

use std::collections::BTreeMap;

use super::llm::{Generate, Llm};
use super::logprobs::TokenLogprobs;
use super::response::{Completion, CompletionChoice, CompletionLogprobs, CompletionUsage, Heading, finish_word};
use super::text;
use super::turn::{Token, TurnOptions};
use crate::{Error, Result, SpecialTokens, Tokenizer};

/// What a completion continues.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'p> {
    /// Encoded with the tokens that the tokenizer puts around a text, such as a leading BOS.
    Text(&'p str),
    Tokens(&'p [u32]),
}

/// Of [`Llm::create_completion`]. The default is OpenAI's: 16 tokens.
pub struct CompletionOptions {
    pub turn: TurnOptions,
    /// Puts the prompt before the text; with logprobs also theirs.
    pub echo: bool,
    /// Text behind the gap that is to be filled.
    pub suffix: Option<String>,
}

impl Default for CompletionOptions {
    fn default() -> Self {
        let turn = TurnOptions { max_tokens: Some(16), ..TurnOptions::default() };
        Self { turn, echo: false, suffix: None }
    }
}

/// How vocabularies spell the parts of a text with a gap: before it, behind it, and where it is written.
const GAPS: &[[&str; 3]] = &[
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
];

impl Llm {
    /// Continues a prompt.
    ///
    /// # Errors
    /// As [`Self::stream_completion`], and what ends a text as failed.
    pub fn create_completion(&mut self, prompt: Prompt, options: CompletionOptions) -> Result<Completion> {
        let mut stream = self.stream_completion(prompt, options)?;
        let (mut text, mut logprobs): (String, Option<CompletionLogprobs>) = Default::default();
        let mut last = None;
        for piece in stream.by_ref() {
            let piece = piece?;
            for choice in &piece.choices {
                text.push_str(&choice.text);
                if let Some(found) = &choice.logprobs {
                    extend(logprobs.get_or_insert_default(), found);
                }
            }
            last = Some(piece);
        }
        let mut whole = last.ok_or_else(|| Error::execution("completing a text")("it has no end"))?;
        if let Some(logprobs) = &mut logprobs {
            // Tokens of a stop string are no part of the text.
            let kept = logprobs.text_offset.iter().take_while(|offset| **offset < text.len()).count();
            logprobs.tokens.truncate(kept);
            logprobs.token_logprobs.truncate(kept);
            logprobs.top_logprobs.truncate(kept);
            logprobs.text_offset.truncate(kept);
        }
        if let Some(choice) = whole.choices.first_mut() {
            choice.text = text;
            choice.logprobs = logprobs;
        }
        Ok(whole)
    }

    /// The same in pieces, as they come; the last has the reason of the end, and usage.
    ///
    /// # Errors
    /// [`Error::Argument`] for a prompt that is empty or too long, and for options out of their range;
    /// [`Error::Unsupported`] for a suffix where the vocabulary has no tokens for it, and for logprobs of an echoed prompt
    /// on a graph that returns the last logits only.
    pub fn stream_completion(&mut self, prompt: Prompt, options: CompletionOptions) -> Result<CompletionStream<'_>> {
        let CompletionOptions { turn, echo, suffix } = options;
        let heading = Heading::new("cmpl", self.name());
        let tokens = match (prompt, &suffix) {
            (Prompt::Text(text), Some(suffix)) => around_a_gap(self.tokenizer(), text, suffix)?,
            (Prompt::Tokens(_), Some(_)) => {
                return Err(Error::unsupported("a suffix of a prompt in tokens", "a suffix of a prompt in text"));
            }
            (Prompt::Text(text), None) => self.tokenize(text, SpecialTokens::Added)?,
            (Prompt::Tokens(tokens), None) => tokens.to_vec(),
        };
        let mut offset = 0;
        let mut echoed = None;
        if echo {
            let text = match prompt {
                Prompt::Text(text) => text.to_owned(),
                Prompt::Tokens(tokens) => self.detokenize(tokens)?,
            };
            let logprobs = turn.logprobs.map(|count| self.prompt_logprobs(&tokens, count)).transpose()?;
            offset = text.len();
            echoed = Some((text, logprobs));
        }
        let generate = self.generate(&tokens, turn)?;
        Ok(CompletionStream { generate, heading, echoed, offset, over: false })
    }

    /// Of every token but the first, by the logits before it. Leaves the prompt in the context.
    fn prompt_logprobs(&mut self, tokens: &[u32], count: usize) -> Result<CompletionLogprobs> {
        self.model.check_ids(tokens)?;
        self.reset()?;
        let mut found = vec![None];
        let tokenizer = self.tokenizer.clone();
        self.eval_with(tokens, &mut |rows| {
            for row in 0..rows.rows() {
                if let Some(&next) = tokens.get(found.len()) {
                    found.push(Some(TokenLogprobs::of(rows.row(row), next, count)));
                }
            }
            Ok(())
        })?;
        if found.len() != tokens.len() {
            let what = "logprobs of a prompt on a graph that returns the last logits only";
            return Err(Error::unsupported(what, "those of new tokens"));
        }
        let mut logprobs = CompletionLogprobs::default();
        let mut offset = 0;
        for (&token, found) in tokens.iter().zip(found) {
            push(&mut logprobs, &tokenizer, token, found.as_ref(), offset);
            offset += text::width(&tokenizer, token, offset == 0);
        }
        Ok(logprobs)
    }
}

/// A completion in pieces; see [`Llm::stream_completion`].
pub struct CompletionStream<'l> {
    generate: Generate<'l>,
    heading: Heading,
    echoed: Option<(String, Option<CompletionLogprobs>)>,
    /// Where the next token's text begins.
    offset: usize,
    over: bool,
}

impl CompletionStream<'_> {
    fn piece(&self, text: String, logprobs: Option<CompletionLogprobs>) -> Completion {
        self.heading.completion(CompletionChoice { text, index: 0, logprobs, finish_reason: None }, None)
    }

    fn token(&mut self, token: Token) -> Completion {
        let logprobs = token.logprobs.as_ref().map(|found| {
            let mut logprobs = CompletionLogprobs::default();
            let tokenizer = self.generate.llm().tokenizer();
            push(&mut logprobs, tokenizer, token.id, Some(found), self.offset);
            self.offset += text::width(tokenizer, token.id, false);
            logprobs
        });
        self.piece(token.text, logprobs)
    }

    fn end(&mut self) -> Result<Completion> {
        let text = self.generate.rest()?;
        let (prompt, cached, generated) = self.generate.counts();
        let mut piece = self.piece(text, None);
        piece.usage = Some(CompletionUsage::new(prompt, generated, cached));
        if let (Some(choice), Some(reason)) = (piece.choices.first_mut(), self.generate.finish_reason()) {
            choice.finish_reason = Some(finish_word(reason).to_owned());
        }
        Ok(piece)
    }
}

impl Iterator for CompletionStream<'_> {
    type Item = Result<Completion>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if let Some((text, logprobs)) = self.echoed.take() {
            return Some(Ok(self.piece(text, logprobs)));
        }
        match self.generate.next() {
            Some(Ok(token)) => Some(Ok(self.token(token))),
            Some(Err(error)) => {
                self.over = true;
                Some(Err(error))
            }
            None => {
                self.over = true;
                Some(self.end())
            }
        }
    }
}

/// The tokens of a prompt with a gap to be filled.
fn around_a_gap(tokenizer: &Tokenizer, before: &str, behind: &str) -> Result<Vec<u32>> {
    let ids = |names: &[&str; 3]| {
        let [before, behind, gap] = names.map(|name| tokenizer.token_id(name));
        Some([before?, behind?, gap?])
    };
    let Some([prefix, suffix, middle]) = GAPS.iter().find_map(ids) else {
        return Err(Error::unsupported(
            "a suffix with this vocabulary",
            "one with tokens for prefix, suffix and middle",
        ));
    };
    let mut tokens = vec![prefix];
    tokens.extend(tokenizer.encode(before, SpecialTokens::AsWritten)?);
    tokens.push(suffix);
    tokens.extend(tokenizer.encode(behind, SpecialTokens::AsWritten)?);
    tokens.push(middle);
    Ok(tokens)
}

fn push(
    logprobs: &mut CompletionLogprobs,
    tokenizer: &Tokenizer,
    token: u32,
    found: Option<&TokenLogprobs>,
    offset: usize,
) {
    let shown = |token: u32| text::shown(tokenizer, token);
    logprobs.tokens.push(shown(token));
    logprobs.token_logprobs.push(found.map(|found| found.logprob));
    // Of tokens that look alike the likeliest is shown.
    let top = found.map(|found| {
        let mut top = BTreeMap::new();
        for (token, logprob) in &found.top {
            top.entry(shown(*token)).or_insert(*logprob);
        }
        top
    });
    logprobs.top_logprobs.push(top);
    logprobs.text_offset.push(offset);
}

fn extend(all: &mut CompletionLogprobs, more: &CompletionLogprobs) {
    all.tokens.extend_from_slice(&more.tokens);
    all.token_logprobs.extend_from_slice(&more.token_logprobs);
    all.top_logprobs.extend_from_slice(&more.top_logprobs);
    all.text_offset.extend_from_slice(&more.text_offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(special: [&str; 3]) -> Tokenizer {
        let words = ["a", "b", "c"].into_iter().chain(special).zip(0..);
        let vocab: serde_json::Map<String, serde_json::Value> =
            words.map(|(word, id)| (word.to_owned(), id.into())).collect();
        let added: Vec<serde_json::Value> = (3..)
            .zip(special)
            .map(|(id, content)| {
                serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    #[test]
    fn a_gap_is_written_in_the_words_of_the_vocabulary() {
        for names in GAPS {
            let found = around_a_gap(&tokenizer(*names), "b c", "c");
            assert_eq!(found.unwrap(), [3, 1, 2, 4, 2, 5], "{names:?}");
        }
        let refused = around_a_gap(&tokenizer(["<x>", "<y>", "<z>"]), "b", "c").unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Unsupported);
    }
}
