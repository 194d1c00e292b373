//! Prompt in, text out, in one call. [`crate::Generator`] is the way to do more than that.

use std::sync::Arc;
use std::time::Instant;

use crate::sampling::{Sampler, SamplingOptions};
use crate::{Model, Result, Sequence, SequenceOptions, Tokenizer};

#[derive(Clone, Copy)]
pub struct GenerateOptions<'a> {
    pub sequence: SequenceOptions<'a>,
    /// Any of these ends the text; normally [`crate::Config::eos_token_ids`].
    pub eos_token_ids: &'a [u32],
    pub sampling: SamplingOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new tokens, without the prompt and without the one that ended the text.
    pub ids: Vec<u32>,
    pub text: String,
    pub finish: Finish,
    /// From the prompt to the first logits.
    pub prefill_seconds: f64,
    /// All runs after that; there is one for each id but the last, and one for it too if an end token follows.
    pub decode_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    Eos,
    MaxLength,
}

/// Continues `prompt` until an end token or `max_length`; `on_text` gets the text piece by piece, in whole characters.
///
/// # Errors
/// Those of [`Sequence::append`], [`Sampler::pick`] and [`crate::TextStream::push`]; the text so far was passed on.
pub fn generate(
    model: &Arc<Model>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: GenerateOptions,
    on_text: &mut dyn FnMut(&str),
) -> Result<Generation> {
    let mut sampler = Sampler::new(options.sampling)?;
    let max_length = options.sequence.max_length;
    let mut sequence = Sequence::new(model, options.sequence)?;
    let mut stream = tokenizer.stream();
    let mut ids = Vec::new();

    let started = Instant::now();
    let mut logits = sequence.append(prompt)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
    let mut decode_seconds = 0.0;

    let finish = loop {
        if prompt.len() + ids.len() == max_length {
            break Finish::MaxLength;
        }
        let id = sampler.pick(logits.last_row())?;
        if options.eos_token_ids.contains(&id) {
            break Finish::Eos;
        }
        ids.push(id);
        emit(&stream.push(id)?, on_text);
        // The logits behind the last possible token would not be used.
        if prompt.len() + ids.len() < max_length {
            let started = Instant::now();
            logits = sequence.append(&[id])?;
            decode_seconds += started.elapsed().as_secs_f64();
        }
    };
    let (rest, text) = stream.finish()?;
    emit(&rest, on_text);
    Ok(Generation { ids, text, finish, prefill_seconds, decode_seconds })
}

fn emit(piece: &str, on_text: &mut dyn FnMut(&str)) {
    if !piece.is_empty() {
        on_text(piece);
    }
}
