//! Sequences that run together, and their cache.

mod snapshot;

use half::f16;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, SessionInputValue};
use ort::value::{DynTensor, DynValue, TensorElementType as Element};

use super::feed::Inputs;
use super::told::tell_run;
use super::{CacheSlot, Model, Past, Row, Tensor};
use crate::{CacheMode, Error, Result};

/// Rows of a batch. Every run feeds each of them as many columns; what a row has less is padded on its right.
pub(crate) struct Lanes {
    cache: Cache,
    pasts: Vec<Past>,
    max_length: usize,
    /// Inputs beyond tokens and caches, by name.
    extra: Inputs,
    /// Of the last run, but for caches.
    fed: Inputs,
    given: Vec<(String, DynValue)>,
}

enum Cache {
    Shared(Box<Bound>),
    /// In the order of the model's cache slots.
    Growing(Vec<DynTensor>),
}

/// Buffers that are input and output at once. The binding keeps them alive and serves all runs.
struct Bound {
    binding: IoBinding,
    /// Slot by slot.
    buffers: Vec<Buffer>,
}

enum Buffer {
    InPlace(DynTensor),
    /// A state is read from the first and written to the second, which then change places.
    Twofold(DynTensor, DynTensor),
}

/// Which logits a caller wants, each `vocab_size` numbers.
pub(crate) enum Wanted<'a> {
    /// Those behind the last new token of every row, one row after the other.
    Last(&'a mut Vec<f32>),
    /// Those behind every new token, row by row; behind the last alone where the graph gives no more.
    All(&'a mut [Vec<f32>]),
}

impl Lanes {
    pub(crate) fn new(model: &Model, rows: usize, max_length: usize, mode: CacheMode) -> Result<Self> {
        let wiring = &model.wiring;
        let unsupported = |what: &str, supported: &str| {
            Err(Error::unsupported(format!("{}: {what}", model.file.display()), supported))
        };
        if rows > 1 && !model.takes_batches() {
            return unsupported("a batch on a graph of fixed sizes", "one sequence at a time");
        }
        if let Some((pages, page)) = wiring.slots.first().and_then(|slot| slot.page_sizes(rows, max_length))
            && rows * max_length.div_ceil(page) > pages
        {
            let what = format!("{rows} sequences of {max_length} tokens in {pages} pages of {page}");
            return unsupported(&what, "as many as there are pages for");
        }
        let cache = match mode {
            // Pages hold all that will ever be in them.
            CacheMode::Growing if wiring.paged.is_none() => Cache::Growing(empty_cache(model, rows)?),
            _ => Cache::Shared(Box::new(Bound::new(model, rows, max_length)?)),
        };
        let pasts = vec![Past::default(); rows];
        Ok(Self { cache, pasts, max_length, extra: Vec::new(), fed: Vec::new(), given: Vec::new() })
    }

    /// Columns in the cache, the same of all rows.
    pub(crate) fn columns(&self) -> usize {
        self.pasts.iter().map(|past| past.columns()).max().unwrap_or(0)
    }

    /// Runs new tokens, at least one for each row, behind those in the cache. Only rows without a past may differ in how
    /// many. What a graph cannot take at once is run bit by bit.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if lengths differ and the graph cannot tell, [`Error::Execution`] if the run fails. The
    /// lanes are then what they were before the run that failed, except for a cache that keeps a window
    /// ([`Self::survives_failure`]).
    pub(crate) fn feed(
        &mut self,
        model: &Model,
        ids: &[&[u32]],
        options: &RunOptions,
        mut wanted: Wanted,
    ) -> Result<()> {
        let width = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let ragged = ids.iter().any(|ids| ids.len() != width);
        if ragged && model.wiring.attention_mask.is_none() && model.wiring.paged.is_none() {
            let what = "a batch of different lengths on a graph without attention mask";
            return Err(Error::unsupported(format!("{}: {what}", model.file.display()), "prompts of one length"));
        }
        let step = self.longest_step(model);
        // A window starts empty, and takes a prompt of any length then.
        let first = if self.columns() == 0 && !model.wiring.one_by_one { width } else { step };
        let mut from = 0;
        while from < width {
            let to = width.min(from.saturating_add(if from == 0 { first } else { step }));
            let part: Vec<&[u32]> =
                ids.iter().map(|ids| ids.get(from..to.min(ids.len())).unwrap_or_default()).collect();
            if let Wanted::Last(scores) = &mut wanted {
                scores.clear();
            }
            self.run(model, &part, options, &mut wanted)?;
            from = to;
        }
        Ok(())
    }

    /// The most tokens that may go in at once behind others.
    fn longest_step(&self, model: &Model) -> usize {
        if model.wiring.one_by_one {
            return 1;
        }
        let steps = model.wiring.slots.iter().filter_map(|slot| slot.longest_step(self.max_length));
        steps.min().unwrap_or(usize::MAX)
    }

    fn run(&mut self, model: &Model, ids: &[&[u32]], options: &RunOptions, wanted: &mut Wanted) -> Result<()> {
        let wiring = &model.wiring;
        let width = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let rows: Vec<Row> = ids.iter().zip(&self.pasts).map(|(&ids, &past)| Row { ids, past }).collect();
        let inputs = match &wiring.paged {
            Some(paged) => {
                let sizes = wiring.slots.first().and_then(|slot| slot.page_sizes(rows.len(), self.max_length));
                let page = sizes.map_or(1, |(_, page)| page);
                wiring.packed_inputs(paged, &rows, (page, self.max_length.div_ceil(page)))?
            }
            None => wiring.token_inputs(&rows, width, model.pad)?,
        };
        if let Some(lacking) =
            wiring.extra_inputs.iter().find(|port| !self.extra.iter().any(|(name, _)| *name == port.name))
        {
            let value = format!("without `{}`", lacking.name);
            return Err(Error::argument("the inputs of the model", value, "a value from set_model_input"));
        }
        let given = match &mut self.cache {
            Cache::Shared(bound) => bound.run(model, &inputs, &self.extra, options)?,
            Cache::Growing(past) => {
                let columns = self.pasts.first().map_or(0, |past| past.columns()) + width;
                run_growing(model, past, &inputs, &self.extra, options, (rows.len(), columns))?
            }
        };
        let logits = given.iter().find(|(name, _)| *name == wiring.logits).map(|(_, value)| value);
        let logits = logits.ok_or_else(|| Error::execution("reading the logits")("there are none"))?;
        take_logits(model, logits, &rows, width, wanted)?;
        for (past, ids) in self.pasts.iter_mut().zip(ids) {
            // Packed rows have no pads.
            let width = if wiring.paged.is_some() { ids.len() } else { width };
            *past = past.after(ids.len(), width);
        }
        tell_run(&inputs, &given, &wiring.logits);
        (self.fed, self.given) = (inputs, given);
        Ok(())
    }

    /// Whether a run that failed on its way leaves the cache as it was.
    pub(crate) fn survives_failure(&self, model: &Model) -> bool {
        matches!(self.cache, Cache::Growing(_)) || !model.keeps_windows()
    }

    /// The cache that cannot be cut back to `length` tokens, because of what it has forgotten.
    pub(crate) fn forgetful<'m>(&self, model: &'m Model, length: usize) -> Option<&'m CacheSlot> {
        let columns = self.columns();
        // From the start nothing old is looked at.
        let forgets = |slot: &&CacheSlot| slot.is_state() || slot.room(self.max_length) < columns;
        model.wiring.slots.iter().filter(|_| (1..columns).contains(&length)).find(forgets)
    }

    /// Forgets all tokens but the first `length` of each row, of a cache that is not [`Self::forgetful`]. What a buffer of
    /// full length holds beyond them stays there, unread by a right graph.
    pub(crate) fn cut(&mut self, model: &Model, length: usize) -> Result<()> {
        if length == 0 {
            return self.reset(model);
        }
        if length >= self.columns() {
            return Ok(());
        }
        if let Cache::Growing(past) = &mut self.cache
            && model.wiring.room().is_none()
        {
            let session = model.session();
            let slots = model.wiring.slots.iter().zip(past.iter());
            *past =
                slots.map(|(slot, cache)| slot.shortened(session.allocator(), cache, length)).collect::<Result<_>>()?;
        }
        self.pasts.iter_mut().for_each(|past| *past = Past::of(length));
        Ok(())
    }

    fn reset(&mut self, model: &Model) -> Result<()> {
        let rows = self.pasts.len();
        match &mut self.cache {
            Cache::Growing(past) => *past = empty_cache(model, rows)?,
            Cache::Shared(bound) => bound.clear_states(model, rows)?,
        }
        self.pasts.fill(Past::default());
        Ok(())
    }

    /// Puts the caches of the rows in another order; one may come twice.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a shared cache.
    pub(crate) fn reorder(&mut self, model: &Model, rows: &[usize]) -> Result<()> {
        let Cache::Growing(past) = &mut self.cache else {
            return Err(Error::unsupported("another order of a shared cache", "CacheMode::Growing"));
        };
        if rows.iter().copied().eq(0..self.pasts.len()) {
            return Ok(());
        }
        let session = model.session();
        let slots = model.wiring.slots.iter().zip(past.iter());
        *past = slots.map(|(slot, cache)| slot.reordered(session.allocator(), cache, rows)).collect::<Result<_>>()?;
        self.pasts = rows.iter().filter_map(|&row| self.pasts.get(row).copied()).collect();
        Ok(())
    }

    /// The tensors of a growing cache, in the order of the model's slots.
    pub(crate) fn growing(&self) -> Option<&[DynTensor]> {
        match &self.cache {
            Cache::Growing(past) => Some(past),
            Cache::Shared(_) => None,
        }
    }

    /// Gives the graph an input beyond tokens and caches, from the next run on.
    ///
    /// # Errors
    /// [`Error::Argument`] if the graph has no such input, or one of another element type.
    pub(crate) fn set_extra(&mut self, model: &Model, name: &str, tensor: &Tensor) -> Result<()> {
        let known = &model.wiring.extra_inputs;
        let Some(port) = known.iter().find(|port| port.name == name) else {
            let names: Vec<&str> = known.iter().map(|port| port.name.as_str()).collect();
            let expected = if names.is_empty() { "none: the graph takes no others".into() } else { names.join(", ") };
            return Err(Error::argument("the model input", format!("`{name}`"), expected));
        };
        if port.element != Some(tensor.element()) {
            let value = format!("{} for `{name}`", tensor.element());
            let expected = port.element.map_or_else(|| "what is no tensor".into(), |element| element.to_string());
            return Err(Error::argument("the element type", value, expected));
        }
        let value = tensor.to_ort()?;
        self.extra.retain(|(other, _)| other != name);
        self.extra.push((name.to_owned(), value));
        Ok(())
    }

    /// An input of the last run by its name in the graph; caches as they are now.
    pub(crate) fn input(&self, model: &Model, name: &str) -> Result<Tensor> {
        let fed = self.fed.iter().chain(&self.extra).find(|(other, _)| other == name).map(|(_, tensor)| tensor);
        match fed.or_else(|| self.cached(model, |slot| slot.past == name)) {
            Some(tensor) => Tensor::of(name, &tensor.clone().into_dyn()),
            None => Err(Error::argument("the graph input", format!("`{name}`"), "an input of the last run")),
        }
    }

    /// An output of the last run by its name in the graph.
    pub(crate) fn output(&self, model: &Model, name: &str) -> Result<Tensor> {
        if let Some((_, value)) = self.given.iter().find(|(other, _)| other == name) {
            return Tensor::of(name, value);
        }
        match self.cached(model, |slot| slot.present == name) {
            Some(tensor) if !self.given.is_empty() => Tensor::of(name, &tensor.clone().into_dyn()),
            _ => Err(Error::argument("the graph output", format!("`{name}`"), "an output of the last run")),
        }
    }

    fn cached(&self, model: &Model, which: impl Fn(&CacheSlot) -> bool) -> Option<&DynTensor> {
        let at = model.wiring.slots.iter().position(which)?;
        match &self.cache {
            Cache::Growing(past) => past.get(at),
            Cache::Shared(bound) => bound.buffers.get(at).map(|buffer| match buffer {
                Buffer::InPlace(tensor) | Buffer::Twofold(tensor, _) => tensor,
            }),
        }
    }
}

fn empty_cache(model: &Model, rows: usize) -> Result<Vec<DynTensor>> {
    let session = model.session();
    model.wiring.slots.iter().map(|slot| slot.empty(session.allocator(), rows)).collect()
}

fn run_growing(
    model: &Model,
    past: &mut Vec<DynTensor>,
    inputs: &Inputs,
    extra: &Inputs,
    options: &RunOptions,
    (rows, columns): (usize, usize),
) -> Result<Vec<(String, DynValue)>> {
    let wiring = &model.wiring;
    // Handing over the past would lose it if the run fails, so the run gets views.
    let views = wiring.slots.iter().zip(past.iter()).map(|(slot, cache)| (slot.past.as_str(), cache));
    let named = inputs.iter().chain(extra).map(|(name, tensor)| (name.as_str(), tensor)).chain(views);
    let named: Vec<(&str, SessionInputValue)> = named.map(|(name, tensor)| (name, tensor.into())).collect();
    let mut session = model.session();
    let mut outputs = session.run_with_options(named, options).map_err(Error::execution("running the model"))?;
    let present = wiring.slots.iter().map(|slot| slot.take_present(&mut outputs, rows, columns));
    *past = present.collect::<Result<Vec<DynTensor>>>()?;
    let others = std::iter::once(&wiring.logits).chain(&wiring.extra_outputs);
    Ok(others.filter_map(|name| Some((name.clone(), outputs.remove(name)?))).collect())
}

impl Bound {
    fn new(model: &Model, rows: usize, max_length: usize) -> Result<Self> {
        let session = model.session();
        let binding = session.create_binding().map_err(Error::execution("creating a binding"))?;
        let device = model.provider.device_memory(&session)?;
        let memory = device.as_ref().unwrap_or_else(|| session.allocator());
        let buffers = model.wiring.slots.iter().map(|slot| {
            let buffer = slot.buffer(memory, rows, max_length)?;
            Ok(match slot.is_state() {
                true => Buffer::Twofold(buffer, slot.buffer(memory, rows, max_length)?),
                false => Buffer::InPlace(buffer),
            })
        });
        let buffers = buffers.collect::<Result<Vec<_>>>()?;
        let mut bound = Self { binding, buffers };
        for (slot, buffer) in model.wiring.slots.iter().zip(&mut bound.buffers) {
            buffer.bind(&mut bound.binding, slot)?;
        }
        Ok(bound)
    }

    fn run(
        &mut self,
        model: &Model,
        inputs: &Inputs,
        extra: &Inputs,
        options: &RunOptions,
    ) -> Result<Vec<(String, DynValue)>> {
        let wiring = &model.wiring;
        let binding = &mut self.binding;
        for (name, tensor) in inputs.iter().chain(extra) {
            binding.bind_input(name, tensor).map_err(|error| Error::execution(format!("binding {name}"))(error))?;
        }
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(Error::execution("describing CPU memory"))?;
        // Bound anew each time: the outputs of the last run may have had another shape, and may still be in use.
        for name in std::iter::once(&wiring.logits).chain(&wiring.extra_outputs) {
            let bound = binding.bind_output_to_device(name, &memory);
            bound.map_err(|error| Error::execution(format!("binding {name}"))(error))?;
        }
        let mut session = model.session();
        let mut outputs =
            session.run_binding_with_options(binding, options).map_err(Error::execution("running the model"))?;
        let others = std::iter::once(&wiring.logits).chain(&wiring.extra_outputs);
        let given = others.filter_map(|name| Some((name.clone(), outputs.remove(name)?))).collect();
        drop(outputs);
        drop(session);
        for (slot, buffer) in wiring.slots.iter().zip(&mut self.buffers) {
            if let Buffer::Twofold(read, written) = buffer {
                std::mem::swap(read, written);
                buffer.bind(&mut self.binding, slot)?;
            }
        }
        Ok(given)
    }

    /// States start from zeros; what buffers of tokens hold is not looked at.
    fn clear_states(&mut self, model: &Model, rows: usize) -> Result<()> {
        let session = model.session();
        let device = model.provider.device_memory(&session)?;
        let memory = device.as_ref().unwrap_or_else(|| session.allocator());
        for (slot, buffer) in model.wiring.slots.iter().zip(&mut self.buffers) {
            if let Buffer::Twofold(read, _) = buffer {
                *read = slot.buffer(memory, rows, 0)?;
                buffer.bind(&mut self.binding, slot)?;
            }
        }
        Ok(())
    }
}

impl Buffer {
    /// Both calls hold on to the buffer itself, because it was made by `DynTensor::new`; other tensors are copied.
    fn bind(&mut self, binding: &mut IoBinding, slot: &CacheSlot) -> Result<()> {
        let doing = || format!("binding {} and {}", slot.past, slot.present);
        match self {
            Self::InPlace(buffer) => {
                binding.bind_input(&slot.past, buffer).map_err(Error::execution(doing()))?;
                binding.bind_output(&slot.present, buffer).map_err(Error::execution(doing()))
            }
            Self::Twofold(read, written) => {
                binding.bind_input(&slot.past, read).map_err(Error::execution(doing()))?;
                binding.bind_output(&slot.present, written).map_err(Error::execution(doing()))
            }
        }
    }
}

/// Copies the wanted rows of `[batch, tokens, vocab]`, of `[batch, 1, vocab]`, or of packed `[tokens, vocab]` or
/// `[batch, vocab]`.
fn take_logits(model: &Model, value: &DynValue, rows: &[Row], width: usize, wanted: &mut Wanted) -> Result<()> {
    let doing = "reading the logits";
    match value.dtype().tensor_type() {
        Some(Element::Float16) => {
            let (shape, values) = value.try_extract_tensor::<f16>().map_err(Error::execution(doing))?;
            pick_logits(model, shape, rows, width, wanted, |range, into| {
                into.extend(values.get(range).unwrap_or_default().iter().map(|value| value.to_f32()));
            })
        }
        _ => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(Error::execution(doing))?;
            pick_logits(model, shape, rows, width, wanted, |range, into| {
                into.extend_from_slice(values.get(range).unwrap_or_default());
            })
        }
    }
}

fn pick_logits(
    model: &Model,
    shape: &[i64],
    rows: &[Row],
    width: usize,
    wanted: &mut Wanted,
    copy: impl Fn(std::ops::Range<usize>, &mut Vec<f32>),
) -> Result<()> {
    let refuse = |problem: String| Error::execution("reading the logits")(problem);
    let vocab = model.vocab_size;
    let shape: Vec<usize> = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect();
    let packed: usize = rows.iter().map(|row| row.ids.len()).sum();
    // Where the logits of a row begin, and how many there are.
    let (stride, given) = match *shape.as_slice() {
        [batch, columns, size] if batch == rows.len() && size == vocab && (columns == width || columns == 1) => {
            (Some(columns), columns)
        }
        [batch, size] if size == vocab && batch == rows.len() && batch != packed => (Some(1), 1),
        [tokens, size] if size == vocab && tokens == packed => (None, width),
        _ => return Err(refuse(format!("shape {shape:?}, expected [{}, {width}, {vocab}]", rows.len()))),
    };
    if given == 1 && rows.iter().any(|row| row.ids.len() != width) && model.wiring.paged.is_none() {
        let what = format!(
            "{}: a batch of different lengths on a graph that returns the last logits only",
            model.file.display()
        );
        return Err(Error::unsupported(what, "prompts of one length"));
    }
    let mut start = 0;
    for (index, row) in rows.iter().enumerate() {
        let own = if stride == Some(1) { 1 } else { row.ids.len() };
        let from = stride.map_or(start, |stride| index * stride) * vocab;
        match wanted {
            Wanted::Last(scores) => {
                let last = from + own.saturating_sub(1) * vocab;
                copy(last..last + vocab, scores);
            }
            Wanted::All(all) => {
                if let Some(into) = all.get_mut(index) {
                    copy(from..from + own * vocab, into);
                }
            }
        }
        start += row.ids.len();
    }
    Ok(())
}
