//! One sequence and its cache.

use std::sync::Arc;

use ort::session::RunOptions;

use crate::model::{CachedTensor, Lanes, Model, Tensor, Wanted};
use crate::{Adapter, Error, Matrix, Result};

/// How keys and values are carried from step to step. A right package gives the same numbers in both, which is worth
/// checking: a graph can be wrong in one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// One buffer of full length per tensor, input and output at once; the graph writes in place
    /// (GroupQueryAttention does).
    Shared,
    /// The present of one run is the past of the next, one step longer, or as long where the graph fixes the length.
    Growing,
}

impl CacheMode {
    /// The mode in which the peer would run the model.
    pub fn of(model: &Model) -> Self {
        if model.shares_buffer() || model.wiring.room().is_some() { Self::Shared } else { Self::Growing }
    }

    /// The mode that every ONNX Runtime can do: growing, unless a cache keeps a window, which is never empty.
    pub fn plainest(model: &Model) -> Self {
        if model.keeps_windows() { Self::Shared } else { Self::Growing }
    }
}

#[derive(Clone, Copy)]
pub struct SequenceOptions<'a> {
    /// In tokens. Shared mode takes the memory for all of them at once: 2 x layers x heads x `max_length` x head size
    /// elements.
    pub max_length: usize,
    pub cache: CacheMode,
    pub adapter: Option<&'a Adapter>,
}

/// Feeds tokens to a [`Model`] and returns logits. Lengths are counted, never inferred from pad ids.
///
/// Choosing tokens, batches and beams are a [`crate::Generator`]'s.
pub struct Sequence {
    model: Arc<Model>,
    /// Of every run; they hold the adapter where there is one.
    options: RunOptions,
    lanes: Lanes,
    max_length: usize,
}

impl Sequence {
    /// # Errors
    /// [`Error::Argument`] unless `max_length` is from 1 to the context length; [`Error::Unsupported`] for shared mode
    /// with an adapter: ONNX Runtime gives adapters to runs whose inputs are not bound.
    pub fn new(model: &Arc<Model>, sequence: SequenceOptions) -> Result<Self> {
        let SequenceOptions { max_length, cache: mode, adapter } = sequence;
        let longest = model.context_length();
        if !(1..=longest).contains(&max_length) {
            return Err(Error::argument("max_length", max_length, format!("1 to context_length {longest}")));
        }
        if mode == CacheMode::Shared && adapter.is_some() {
            return Err(Error::unsupported("an adapter with a shared cache", "an adapter with a growing cache"));
        }
        let lanes = Lanes::new(model, 1, max_length, mode)?;
        Ok(Self { model: model.clone(), options: Adapter::run_options(adapter)?, lanes, max_length })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.lanes.columns()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs the new tokens behind those in the cache. The logits are `[tokens, vocab_size]`, a row for each new token,
    /// or `[1, vocab_size]` where the graph returns the last row only. A graph that takes one token a run is run for each.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, an id outside the vocabulary, or more tokens than `max_length`;
    /// [`Error::Execution`] if the run fails. After an error the sequence is what it was before; one that keeps a window
    /// is empty then.
    pub fn append(&mut self, ids: &[u32]) -> Result<Matrix> {
        self.model.check_ids(ids)?;
        let before = self.len();
        let end = before.saturating_add(ids.len());
        if end > self.max_length {
            return Err(Error::argument("the sequence length", end, format!("at most max_length {}", self.max_length)));
        }
        let mut logits = [Vec::new()];
        let ran = self.lanes.feed(&self.model, &[ids], &self.options, Wanted::All(&mut logits));
        if let Err(error) = ran {
            let whole = self.lanes.survives_failure(&self.model) && self.lanes.forgetful(&self.model, before).is_none();
            self.lanes.cut(&self.model, if whole { before } else { 0 })?;
            return Err(error);
        }
        let [values] = logits;
        let columns = self.model.vocab_size();
        Matrix::new(values.len() / columns, columns, values)
    }

    /// Forgets all tokens but the first `length`. What a buffer of full length holds beyond them stays there, unread by
    /// a right graph.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length beyond the current one, [`Error::Unsupported`] where a cache that keeps a window has
    /// forgotten tokens, or the graph carries a state on.
    pub fn rewind(&mut self, length: usize) -> Result<()> {
        if length > self.len() {
            return Err(Error::argument("the length to rewind to", length, format!("at most {}", self.len())));
        }
        if let Some(slot) = self.lanes.forgetful(&self.model, length) {
            let what = match slot.is_state() {
                true => format!("rewinding the state `{}`", slot.past),
                false => {
                    let room = slot.room(self.max_length);
                    format!("rewinding {} tokens in `{}`, which holds {room}", self.len(), slot.past)
                }
            };
            return Err(Error::unsupported(what, "rewinding what no window has left"));
        }
        self.lanes.cut(&self.model, length)
    }

    /// Keys and values of the tokens so far, of all layers. From them come the scales of a quantized cache.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in [`CacheMode::Shared`], and for a cache that is quantized already.
    pub fn cached(&self) -> Result<Vec<CachedTensor>> {
        let Some(past) = self.lanes.growing() else {
            return Err(Error::unsupported("reading a shared cache", "CacheMode::Growing"));
        };
        let slots = self.model.wiring.slots.iter().zip(past);
        slots.map(|(slot, cache)| slot.values(cache)).collect()
    }

    /// The cache by the names of the graph's inputs, as it is in memory but for what is not in use.
    ///
    /// # Errors
    /// [`Error::Execution`] for a cache that is not in the CPU's memory.
    pub(crate) fn saved(&self) -> Result<Vec<(String, Tensor)>> {
        self.lanes.saved(&self.model)
    }

    /// Puts `length` tokens into the cache as [`Self::saved`] gave them.
    ///
    /// # Errors
    /// [`Error::Argument`] for what does not fit. The sequence is then what it was.
    pub(crate) fn restore(&mut self, length: usize, saved: &[(String, Tensor)]) -> Result<()> {
        self.lanes.restore(&self.model, length, saved)
    }

    /// An output of the last run by its name in the graph.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is none of that name, or nothing ran.
    pub fn output(&self, name: &str) -> Result<Tensor> {
        self.lanes.output(&self.model, name)
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) -> Result<()> {
        self.rewind(0)
    }
}
