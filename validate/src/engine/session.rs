//! One session: a context that grows by turns, and its cache.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::event::{Event, Usage};
use super::options::SessionOptions;
use crate::completion::FinishReason;
use crate::completion::turn::Turn;
use crate::{Adapter, CacheMode, Error, Model, Result, Sequence, SequenceOptions};

pub(super) struct State {
    pub(super) options: SessionOptions,
    pub(super) max_length: usize,
    /// None before the first turn, and where what it held cannot be kept.
    pub(super) sequence: Option<Sequence>,
    /// Of all turns that are over. The cache may lack the last of them, which no run has seen yet.
    tokens: Vec<u32>,
    active: Option<Active>,
    /// To be forgotten with the end of the turn.
    pub(super) closing: bool,
}

struct Active {
    turn: Turn,
    /// Set by who does not want it any more.
    cancel: Arc<AtomicBool>,
    /// Given up when it starts to run.
    place: Option<Place>,
    /// Tokens of the session before the turn.
    before: usize,
}

/// A place in the queue of an engine, until it is dropped.
pub(super) struct Place(pub(super) Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    pub(super) fn new(options: SessionOptions, max_length: usize) -> Self {
        Self { options, max_length, sequence: None, tokens: Vec::new(), active: None, closing: false }
    }

    /// # Errors
    /// [`Error::Argument`] while a turn is under way, without tokens, and if they do not fit.
    pub(super) fn begin(
        &mut self,
        mut turn: Turn,
        tokens: &[u32],
        cancel: Arc<AtomicBool>,
        place: Option<Place>,
    ) -> Result<()> {
        if self.active.is_some() {
            return Err(Error::argument("the turn of a session", "under way", "one that is over"));
        }
        if tokens.is_empty() {
            return Err(Error::argument("the number of tokens", 0, "at least 1"));
        }
        turn.begin([self.tokens.as_slice(), tokens].concat(), self.max_length)?;
        self.active = Some(Active { turn, cancel, place, before: self.tokens.len() });
        Ok(())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.is_none()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.cancel.load(Ordering::Relaxed))
    }

    pub(super) fn cancel(&self) {
        if let Some(active) = &self.active {
            active.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// What the next runs are about to be given: of the prompt, or the last token.
    pub(super) fn context(&self) -> &[u32] {
        self.active.as_ref().map_or(&self.tokens, |active| active.turn.context())
    }

    /// Whether the first token of the turn is out.
    pub(super) fn decodes(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.turn.generated() > 0)
    }

    /// Tokens of the next run, none where nothing runs.
    pub(super) fn next_run(&self, chunk: usize) -> usize {
        let held = self.sequence.as_ref().map_or(0, Sequence::len);
        if self.active.is_some() { self.context().len().saturating_sub(held).min(chunk) } else { 0 }
    }

    /// Makes a cache, unless there is one. Notes what it holds already.
    pub(super) fn prepare(&mut self, model: &Arc<Model>, adapter: Option<&Adapter>) -> Result<()> {
        if self.sequence.is_none() {
            let cache = if adapter.is_some() { CacheMode::Growing } else { CacheMode::of(model) };
            let options = SequenceOptions { max_length: self.max_length, cache, adapter };
            self.sequence = Some(Sequence::new(model, options)?);
        }
        let held = self.sequence.as_ref().map_or(0, Sequence::len);
        if let Some(active) = &mut self.active {
            active.turn.note_cached(held);
            active.place = None;
        }
        Ok(())
    }

    /// Runs the next tokens, and chooses a token behind the last of them. Ends the turn by itself where that fails, even
    /// by a panic, so that other sessions go on.
    pub(super) fn run(&mut self, chunk: usize, on_event: &mut dyn FnMut(Event)) {
        if self.is_cancelled() {
            return self.finish(FinishReason::Cancelled, None, on_event);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| self.run_next(chunk, on_event)));
        let error = match outcome {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(reason))) => return self.finish(reason, None, on_event),
            Ok(Err(error)) => error,
            Err(panic) => Error::execution("continuing a text")(told(panic.as_ref())),
        };
        self.finish(FinishReason::Failed, Some(error), on_event);
    }

    fn run_next(&mut self, chunk: usize, on_event: &mut dyn FnMut(Event)) -> Result<Option<FinishReason>> {
        let (Some(active), Some(sequence)) = (&mut self.active, &mut self.sequence) else { return Ok(None) };
        let held = sequence.len();
        let context = active.turn.context();
        let end = context.len().min(held.saturating_add(chunk));
        let is_last = end == context.len();
        let logits = sequence.append(context.get(held..end).unwrap_or_default())?;
        if !is_last {
            return Ok(None);
        }
        if let Some(reason) = active.turn.is_full() {
            return Ok(Some(reason));
        }
        let chosen = active.turn.choose(logits.last_row())?;
        if let Some(token) = chosen.token {
            on_event(Event::Token(token));
        }
        Ok(chosen.finish)
    }

    /// Ends the turn and tells so. A turn that failed leaves no trace in the session.
    pub(super) fn finish(&mut self, reason: FinishReason, error: Option<Error>, on_event: &mut dyn FnMut(Event)) {
        let Some(mut active) = self.active.take() else { return };
        let text = active.turn.rest().unwrap_or_default();
        let usage = Usage {
            prompt_tokens: active.turn.prompt_length(),
            cached_prompt_tokens: active.turn.cached(),
            generated_tokens: active.turn.generated(),
        };
        self.tokens = active.turn.into_context();
        if reason == FinishReason::Failed {
            self.rewind(active.before);
        }
        on_event(Event::Finished { reason, text, usage, error });
    }

    /// Forgets all tokens but the first `length`. A cache that cannot go back is made anew by the next turn.
    pub(super) fn rewind(&mut self, length: usize) {
        self.tokens.truncate(length);
        if let Some(sequence) = &mut self.sequence
            && sequence.len() > length
            && sequence.rewind(length).is_err()
        {
            self.sequence = None;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The cache and the tokens in it.
    pub(super) fn into_prefix(self) -> Option<(Vec<u32>, Sequence)> {
        let (mut tokens, sequence) = (self.tokens, self.sequence?);
        tokens.truncate(sequence.len());
        Some((tokens, sequence))
    }
}

/// What a panic says.
fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without a message"))
}
