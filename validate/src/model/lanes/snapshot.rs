//! The cache of one sequence as values, and back.

use half::f16;
use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType as Element};

use super::{Buffer, Cache, Lanes};
use crate::model::{CacheSlot, Model, Past, Tensor, tensors};
use crate::{Error, Result};

impl Lanes {
    /// The tensors of the cache by the names of the graph's inputs. Of buffers of full length what is in use; windows,
    /// states and pages whole.
    ///
    /// # Errors
    /// [`Error::Execution`] for a cache that is not in the CPU's memory.
    pub(crate) fn saved(&self, model: &Model) -> Result<Vec<(String, Tensor)>> {
        let length = self.columns();
        let session = model.session();
        let slots = model.wiring.slots.iter().enumerate().map(|(at, slot)| {
            let tensor = match &self.cache {
                Cache::Growing(past) => past.get(at),
                Cache::Shared(bound) => bound.buffers.get(at).map(Buffer::current),
            };
            let tensor = tensor.ok_or_else(|| Error::execution("saving a cache")("a tensor is missing"))?;
            let shortened = match self.is_cut(slot) {
                true => slot.shortened(session.allocator(), tensor, length)?,
                false => tensor.clone(),
            };
            Ok((slot.past.clone(), Tensor::of(&slot.past, &shortened.into_dyn())?))
        });
        slots.collect()
    }

    /// Puts `length` tokens into the cache as they were saved.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a tensor of the right shape for each input of the cache, and room for it. The
    /// cache is then what it was.
    pub(crate) fn restore(&mut self, model: &Model, length: usize, saved: &[(String, Tensor)]) -> Result<()> {
        if length > self.max_length {
            return Err(Error::argument("the length to restore", length, format!("at most {}", self.max_length)));
        }
        let slots = &model.wiring.slots;
        if saved.len() != slots.len() {
            return Err(Error::argument("the number of cache tensors", saved.len(), slots.len().to_string()));
        }
        let mut tensors = Vec::with_capacity(slots.len());
        for slot in slots {
            let found = saved.iter().find(|(name, _)| *name == slot.past).map(|(_, tensor)| tensor);
            let expected = match self.is_cut(slot) {
                true => slot.shape(1, length),
                false => slot.shape(1, slot.room(self.max_length)),
            };
            let found = found.filter(|tensor| tensor.shape == expected && tensor.element() == slot.element());
            let Some(tensor) = found else {
                let expected = format!("{} of shape {expected:?}", slot.element());
                return Err(Error::argument(
                    "a cache tensor",
                    format!("missing or different: `{}`", slot.past),
                    expected,
                ));
            };
            tensors.push(tensor.to_ort()?);
        }
        let session = model.session();
        match &mut self.cache {
            Cache::Growing(past) => {
                let made = slots.iter().zip(&tensors).map(|(slot, from)| {
                    let mut to = tensors::allocated(session.allocator(), slot.element(), &tensors::shape(from)?)?;
                    fill(from, &mut to)?;
                    Ok(to)
                });
                *past = made.collect::<Result<_>>()?;
            }
            Cache::Shared(bound) => {
                for (buffer, from) in bound.buffers.iter_mut().zip(&tensors) {
                    fill(from, buffer.current_mut())?;
                }
            }
        }
        self.pasts.iter_mut().for_each(|past| *past = Past::of(length));
        Ok(())
    }

    /// Whether what is beyond the tokens in use is left out of what is saved.
    fn is_cut(&self, slot: &CacheSlot) -> bool {
        let whole = slot.is_state()
            || slot.keeps_window()
            || slot.fixed().is_some()
            || slot.page_sizes(1, self.max_length).is_some();
        !whole
    }
}

impl Buffer {
    fn current(&self) -> &DynTensor {
        match self {
            Self::InPlace(tensor) | Self::Twofold(tensor, _) => tensor,
        }
    }

    fn current_mut(&mut self) -> &mut DynTensor {
        match self {
            Self::InPlace(tensor) | Self::Twofold(tensor, _) => tensor,
        }
    }
}

/// Copies a tensor to the start of one that is as large, or larger along one axis.
fn fill(from: &DynTensor, to: &mut DynTensor) -> Result<()> {
    match from.data_type() {
        Element::Float16 => fill_of::<f16>(from, to),
        Element::Int8 => fill_of::<i8>(from, to),
        Element::Uint8 => fill_of::<u8>(from, to),
        _ => fill_of::<f32>(from, to),
    }
}

fn fill_of<T: PrimitiveTensorElementType + Copy>(from: &DynTensor, to: &mut DynTensor) -> Result<()> {
    let doing = "restoring a cache";
    let (small, large) = (tensors::shape(from)?, tensors::shape(to)?);
    let axis = small.iter().zip(&large).position(|(small, large)| small != large).unwrap_or(0);
    let inner: usize = small.iter().skip(axis + 1).product();
    let run = |shape: &[usize]| shape.get(axis).copied().unwrap_or(1) * inner;
    let (_, source) = from.try_extract_tensor::<T>().map_err(Error::execution(doing))?;
    let (_, target) = to.try_extract_tensor_mut::<T>().map_err(Error::execution(doing))?;
    if run(&small) == 0 {
        return Ok(());
    }
    for (source, target) in source.chunks_exact(run(&small)).zip(target.chunks_exact_mut(run(&large))) {
        let target = target.get_mut(..source.len());
        target.ok_or_else(|| Error::execution(doing)("it is shorter than what was saved"))?.copy_from_slice(source);
    }
    Ok(())
}
