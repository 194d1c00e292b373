//! One sequence and its cache.

use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions};
use ort::value::DynTensor;

use crate::model::{self, CacheSlot, CachedTensor, Model, Row};
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
pub struct Sequence {
    model: Arc<Model>,
    /// Of every run; they hold the adapter where there is one.
    options: Arc<RunOptions>,
    cache: Cache,
    length: usize,
    max_length: usize,
}

enum Cache {
    /// The binding keeps the buffers alive; one binding serves the whole sequence.
    Shared(Box<IoBinding>),
    /// In the order of the model's cache slots.
    Growing(Vec<DynTensor>),
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
        let cache = match mode {
            CacheMode::Shared => Cache::Shared(Box::new(bind_shared(model, max_length)?)),
            CacheMode::Growing => Cache::Growing(empty_cache(model)?),
        };
        Ok(Self {
            model: model.clone(),
            options: Arc::new(Adapter::run_options(adapter)?),
            cache,
            length: 0,
            max_length,
        })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Runs the new tokens behind those in the cache. The logits are `[tokens, vocab_size]`, a row for each new token,
    /// or `[1, vocab_size]` where the graph returns the last row only. A graph that takes one token a run is run for each.
    ///
    /// # Errors
    /// [`Error::Argument`] for no tokens, an id outside the vocabulary, or more tokens than `max_length`;
    /// [`Error::Execution`] if the run fails. After an error the sequence is what it was before.
    pub fn append(&mut self, ids: &[u32]) -> Result<Matrix> {
        self.model.check_ids(ids)?;
        let end = self.length.saturating_add(ids.len());
        if end > self.max_length {
            return Err(Error::argument("the sequence length", end, format!("at most max_length {}", self.max_length)));
        }
        let logits = if self.model.wiring.one_by_one && ids.len() > 1 {
            let mut rows = Vec::new();
            for (past, id) in (self.length..).zip(ids.chunks(1)) {
                rows.extend_from_slice(self.run(id, past)?.data());
            }
            Matrix::new(ids.len(), self.model.vocab_size(), rows)?
        } else {
            self.run(ids, self.length)?
        };
        self.length = end;
        Ok(logits)
    }

    /// One run, behind `past` tokens.
    fn run(&mut self, ids: &[u32], past: usize) -> Result<Matrix> {
        let inputs = self.model.token_inputs(&[Row { ids, past }], ids.len())?;
        match &mut self.cache {
            Cache::Shared(binding) => run_shared(&self.model, binding, inputs, ids.len()),
            Cache::Growing(cache) => run_growing(&self.model, &self.options, cache, inputs, past, ids.len()),
        }
    }

    /// Forgets all tokens but the first `length`. What a buffer of full length holds beyond them stays there, unread by
    /// a right graph.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length beyond the current one, [`Error::Unsupported`] where a cache that keeps a window has
    /// forgotten tokens.
    pub fn rewind(&mut self, length: usize) -> Result<()> {
        if length > self.length {
            return Err(Error::argument("the length to rewind to", length, format!("at most {}", self.length)));
        }
        let forgotten = |slot: &&CacheSlot| slot.room(self.max_length) < self.length;
        // From the start nothing old is looked at.
        if (1..self.length).contains(&length)
            && let Some(slot) = self.model.wiring.slots.iter().find(forgotten)
        {
            let room = slot.room(self.max_length);
            let what = format!("rewinding {} tokens in `{}`, which holds {room}", self.length, slot.past);
            return Err(Error::unsupported(what, "rewinding what no window has left"));
        }
        if let Cache::Growing(past) = &mut self.cache
            && length < self.length
            && self.model.wiring.room().is_none()
        {
            let session = self.model.session();
            let slots = self.model.wiring.slots.iter().zip(past.iter());
            *past =
                slots.map(|(slot, cache)| slot.shortened(session.allocator(), cache, length)).collect::<Result<_>>()?;
        }
        self.length = length;
        Ok(())
    }

    /// Keys and values of the tokens so far, of all layers. From them come the scales of a quantized cache.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in [`CacheMode::Shared`], and for a cache that is quantized already.
    pub fn cached(&self) -> Result<Vec<CachedTensor>> {
        let Cache::Growing(past) = &self.cache else {
            return Err(Error::unsupported("reading a shared cache", "CacheMode::Growing"));
        };
        let slots = self.model.wiring.slots.iter().zip(past);
        slots.map(|(slot, cache)| slot.values(cache)).collect()
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) -> Result<()> {
        self.rewind(0)
    }
}

fn empty_cache(model: &Model) -> Result<Vec<DynTensor>> {
    let session = model.session();
    model.wiring.slots.iter().map(|slot| slot.empty(session.allocator(), 1)).collect()
}

fn bind_shared(model: &Model, max_length: usize) -> Result<IoBinding> {
    let session = model.session();
    let mut binding = session.create_binding().map_err(Error::execution("creating a binding"))?;
    let device = model.provider.device_memory(&session)?;
    let memory = device.as_ref().unwrap_or_else(|| session.allocator());
    for slot in &model.wiring.slots {
        let mut buffer = slot.buffer(memory, max_length)?;
        // Both calls hold on to the buffer itself, because it was made by `DynTensor::new`; other tensors are copied.
        let doing = || format!("binding {} and {}", slot.past, slot.present);
        binding.bind_input(&slot.past, &buffer).map_err(Error::execution(doing()))?;
        binding.bind_output(&slot.present, &mut buffer).map_err(Error::execution(doing()))?;
    }
    Ok(binding)
}

fn run_shared(
    model: &Model,
    binding: &mut IoBinding,
    inputs: Vec<(String, DynTensor)>,
    tokens: usize,
) -> Result<Matrix> {
    for (name, tensor) in &inputs {
        binding.bind_input(name, tensor).map_err(Error::execution(format!("binding {name}")))?;
    }
    // Bound anew each time: the logits of the last run may have another shape.
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
        .map_err(Error::execution("describing CPU memory"))?;
    binding
        .bind_output_to_device(&model.wiring.logits, &memory)
        .map_err(Error::execution(format!("binding {}", model.wiring.logits)))?;
    let mut session = model.session();
    let outputs = session.run_binding(binding).map_err(Error::execution("running the model"))?;
    only_row(model.wiring.take_logits(&outputs, (1, tokens))?)
}

fn run_growing(
    model: &Model,
    options: &RunOptions,
    past: &mut Vec<DynTensor>,
    inputs: Vec<(String, DynTensor)>,
    length: usize,
    tokens: usize,
) -> Result<Matrix> {
    let wiring = &model.wiring;
    // Handing over the past would lose it if the run fails, so the run gets views.
    let views = wiring.slots.iter().zip(past.iter()).map(|(slot, cache)| (slot.past.clone(), cache.into()));
    let inputs = inputs.into_iter().map(|(name, tensor)| (name, tensor.into())).chain(views).collect();
    let mut session = model.session();
    let mut outputs = model::run(&mut session, inputs, options)?;
    let logits = only_row(wiring.take_logits(&outputs, (1, tokens))?)?;
    let present = wiring.slots.iter().map(|slot| slot.take_present(&mut outputs, length + tokens));
    let present = present.collect::<Result<Vec<DynTensor>>>()?;
    drop(outputs);
    *past = present;
    Ok(logits)
}

fn only_row(rows: Vec<Matrix>) -> Result<Matrix> {
    rows.into_iter().next().ok_or_else(|| Error::execution("reading the logits")("an empty batch"))
}
