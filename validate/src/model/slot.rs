//! One tensor that a graph takes from run to run: keys, values, or a state of fixed size.

use ort::memory::Allocator;
use ort::session::SessionOutputs;
use ort::value::{DynTensor, TensorElementType as Element};

use super::port::Port;
use super::tensors;
use crate::config::Decoder;
use crate::{Error, Precision, Result};

/// A tensor of the cache: f32 or f16, or codes of 8 bits, or pairs of codes of 4.
///
/// Keys and values are `[batch, heads, tokens, head_size]`, or both in `[2, batch, heads, tokens, head_size]`. In a
/// graph of fixed sizes the column of a token is its position, and those behind it hold nothing yet. What convolutions
/// and linear attention carry on has a batch and no tokens. Pages are `[pages, tokens, heads, head_size]`, for all
/// sequences together.
#[derive(Clone, Debug)]
pub(crate) struct CacheSlot {
    pub(crate) past: String,
    pub(crate) present: String,
    element: Element,
    kind: Kind,
    /// As the graph and the configuration say; whatever stands at the axes of batch and tokens is replaced.
    dims: Vec<usize>,
    batch_axis: usize,
    /// The tokens that it has room for, where that is fixed.
    fixed: Option<usize>,
    /// In tokens, where no more are kept.
    window: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tokens {
        axis: usize,
    },
    /// Of fixed size.
    State,
    /// The first axis is that of pages, 0 where their number is open.
    Pages,
}

/// Tokens of a page where the graph leaves it open, as in the peer.
const PAGE: usize = 256;

/// Tokens that a cache holds beyond its window, as in the peer on the CPU: so many steps pass before any is forgotten.
const SLACK: usize = 16;

/// A tensor of the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedTensor {
    /// The graph's input.
    pub name: String,
    /// `[1, heads, tokens, head size]`
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl CacheSlot {
    /// Keys or values of a layer. The graph's own fixed dimensions count; the configuration fills the others. Layers may
    /// differ in both.
    pub(super) fn keys(
        past: &Port,
        present: String,
        layer: usize,
        outputs: &[Port],
        decoder: &Decoder,
    ) -> Result<Self> {
        let element = element(past, &present, outputs, decoder)?;
        let [_, heads, tokens, head_size] = *past.dims.as_slice() else {
            return Err(misshapen(past, "[batch, heads, tokens, head_size]"));
        };
        Ok(Self {
            past: past.name.clone(),
            present,
            element,
            dims: vec![1, size(heads, decoder.num_key_value_heads), 0, size(head_size, decoder.head_size)],
            kind: Kind::Tokens { axis: 2 },
            batch_axis: 0,
            fixed: usize::try_from(tokens).ok(),
            window: decoder.window.as_ref().and_then(|window| window.of(layer)),
        })
    }

    /// Keys and values of a layer in one tensor.
    pub(super) fn joined(past: &Port, present: String, outputs: &[Port], decoder: &Decoder) -> Result<Self> {
        let element = element(past, &present, outputs, decoder)?;
        let [2, _, heads, tokens, head_size] = *past.dims.as_slice() else {
            return Err(misshapen(past, "[2, batch, heads, tokens, head_size]"));
        };
        Ok(Self {
            past: past.name.clone(),
            present,
            element,
            dims: vec![2, 1, size(heads, decoder.num_key_value_heads), 0, size(head_size, decoder.head_size)],
            kind: Kind::Tokens { axis: 3 },
            batch_axis: 1,
            fixed: usize::try_from(tokens).ok(),
            window: None,
        })
    }

    /// A state that has the same size after any number of tokens. One axis may be open, that of the batch.
    pub(super) fn state(past: &Port, present: String, outputs: &[Port], decoder: &Decoder) -> Result<Self> {
        let element = element(past, &present, outputs, decoder)?;
        let mut open = past.dims.iter().enumerate().filter(|(_, dim)| **dim < 0).map(|(axis, _)| axis);
        let batch_axis = open.next();
        if open.next().is_some() || past.dims.is_empty() {
            return Err(misshapen(past, "a state of which nothing but the batch is open"));
        }
        Ok(Self {
            past: past.name.clone(),
            present,
            element,
            dims: past.dims.iter().map(|&dim| size(dim, 1)).collect(),
            kind: Kind::State,
            batch_axis: batch_axis.unwrap_or(0),
            fixed: None,
            window: None,
        })
    }

    /// Pages of keys or values.
    pub(super) fn pages(past: &Port, present: String, outputs: &[Port], decoder: &Decoder) -> Result<Self> {
        let element = element(past, &present, outputs, decoder)?;
        let [pages, tokens, heads, head_size] = *past.dims.as_slice() else {
            return Err(misshapen(past, "[pages, tokens, heads, head_size]"));
        };
        Ok(Self {
            past: past.name.clone(),
            present,
            element,
            kind: Kind::Pages,
            dims: vec![
                size(pages, 0),
                size(tokens, PAGE).max(1),
                size(heads, decoder.num_key_value_heads),
                size(head_size, decoder.head_size),
            ],
            batch_axis: 0,
            fixed: None,
            window: None,
        })
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// How many tokens it has room for, where that is fixed.
    pub(crate) fn fixed(&self) -> Option<usize> {
        self.fixed
    }

    /// How many of `tokens` it holds; a window, and what the graph fixes, is held whole in any case.
    pub(crate) fn room(&self, tokens: usize) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        self.window.map_or(tokens, |window| tokens.min(window.saturating_add(SLACK)).max(window))
    }

    /// Whether it keeps a window alone.
    pub(crate) fn keeps_window(&self) -> bool {
        self.window.is_some()
    }

    /// The most tokens that may go in at once behind others, where it keeps a window: each must still find its own whole
    /// window when it is the last one's turn.
    pub(crate) fn longest_step(&self, max_length: usize) -> Option<usize> {
        let room = self.room(max_length);
        self.window.filter(|_| room < max_length).map(|window| room.saturating_sub(window) + 1)
    }

    /// Whether it is of fixed size, so that no token can be taken away from it again.
    pub(crate) fn is_state(&self) -> bool {
        self.kind == Kind::State
    }

    /// Whether it holds keys alone, or values alone, of tokens in their order.
    pub(crate) fn is_keys_or_values(&self) -> bool {
        matches!(self.kind, Kind::Tokens { .. }) && self.batch_axis == 0
    }

    /// 0 for a state, which is of one size for any number of tokens.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let tokens = match self.kind {
            Kind::Tokens { axis } => Some(axis),
            Kind::State => return 0,
            Kind::Pages => Some(1),
        };
        let sizes = self.dims.iter().enumerate().filter(|(axis, _)| *axis != self.batch_axis && Some(*axis) != tokens);
        let elements: usize = sizes.map(|(_, size)| *size).fold(1, usize::saturating_mul);
        let bytes = match self.element {
            Element::Float32 => 4,
            Element::Float16 => 2,
            _ => 1,
        };
        u64::try_from(elements.saturating_mul(bytes)).unwrap_or(u64::MAX)
    }

    /// Pages and tokens of a page, where it is made of pages that `batch` sequences share.
    pub(crate) fn page_sizes(&self, batch: usize, tokens: usize) -> Option<(usize, usize)> {
        match *self.shape(batch, tokens).as_slice() {
            [pages, page, _, _] if self.kind == Kind::Pages => Some((pages, page)),
            _ => None,
        }
    }

    /// How coarse its codes are, where it holds codes.
    pub(crate) fn precision(&self) -> Option<Precision> {
        match self.element {
            Element::Int8 => Some(Precision::Int8),
            Element::Uint8 => Some(Precision::Int4),
            _ => None,
        }
    }

    pub(super) fn shape(&self, batch: usize, tokens: usize) -> Vec<usize> {
        let mut shape = self.dims.clone();
        match self.kind {
            Kind::Tokens { axis } => {
                tensors::set(&mut shape, self.batch_axis, batch);
                tensors::set(&mut shape, axis, tokens);
            }
            Kind::State => tensors::set(&mut shape, self.batch_axis, batch),
            Kind::Pages => {
                let open = self.dims.first() == Some(&0);
                let page = self.dims.get(1).copied().unwrap_or(PAGE);
                if open {
                    tensors::set(&mut shape, 0, batch * tokens.div_ceil(page));
                }
            }
        }
        shape
    }

    /// A tensor for `batch` sequences of up to `tokens`.
    pub(crate) fn buffer(&self, memory: &Allocator, batch: usize, tokens: usize) -> Result<DynTensor> {
        tensors::allocated(memory, self.element, &self.shape(batch, self.room(tokens)))
    }

    /// What a sequence starts from: no tokens at all, or zeros where the length is fixed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a cache that keeps a window: there is never less than that of it.
    pub(crate) fn empty(&self, memory: &Allocator, batch: usize) -> Result<DynTensor> {
        if let Some(window) = self.window {
            let what = format!("an empty `{}`, which is a window of {window} tokens", self.past);
            return Err(Error::unsupported(what, "one sequence in a shared buffer, CacheMode::Shared"));
        }
        tensors::allocated(memory, self.element, &self.shape(batch, self.fixed.unwrap_or(0)))
    }

    /// The cache after a run of `batch` sequences, which must hold exactly `tokens`, or be as long as is fixed.
    pub(crate) fn take_present(&self, outputs: &mut SessionOutputs, batch: usize, tokens: usize) -> Result<DynTensor> {
        let refuse = |problem: String| Error::execution(format!("reading {}", self.present))(problem);
        let value = outputs.remove(&self.present).ok_or_else(|| refuse("no such output".into()))?;
        let tensor: DynTensor = value.downcast().map_err(|error| refuse(error.to_string()))?;
        let expected = self.shape(batch, self.fixed.unwrap_or(tokens));
        let found = tensors::shape(&tensor)?;
        if found == expected { Ok(tensor) } else { Err(refuse(format!("shape {found:?}, expected {expected:?}"))) }
    }

    /// The name, shape and values of a cache tensor.
    pub(crate) fn values(&self, cache: &DynTensor) -> Result<CachedTensor> {
        match self.element {
            Element::Float32 | Element::Float16 => {
                let (shape, values) = tensors::floats(cache)?;
                Ok(CachedTensor { name: self.past.clone(), shape, values })
            }
            element => Err(Error::unsupported(format!("values of `{}`, which is {element}", self.past), "f32, f16")),
        }
    }

    /// A copy with the first `tokens` only.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a state, which has none to take away.
    pub(crate) fn shortened(&self, memory: &Allocator, cache: &DynTensor, tokens: usize) -> Result<DynTensor> {
        let Kind::Tokens { axis } = self.kind else {
            let what = format!("taking tokens away from `{}`", self.past);
            return Err(Error::unsupported(what, "keys and values of a growing cache"));
        };
        let mut shape = tensors::shape(cache)?;
        let kept: Vec<usize> = (0..tokens).collect();
        tensors::set(&mut shape, axis, tokens);
        tensors::gathered(memory, cache, &shape, axis, &kept)
    }

    /// A copy with the sequences of the batch in another order; one may come twice.
    pub(crate) fn reordered(&self, memory: &Allocator, cache: &DynTensor, rows: &[usize]) -> Result<DynTensor> {
        let mut shape = tensors::shape(cache)?;
        tensors::set(&mut shape, self.batch_axis, rows.len());
        tensors::gathered(memory, cache, &shape, self.batch_axis, rows)
    }
}

fn size(dim: i64, otherwise: usize) -> usize {
    usize::try_from(dim).unwrap_or(otherwise)
}

fn misshapen(past: &Port, expected: &str) -> Error {
    Error::unsupported(format!("graph input `{}` of shape {:?}", past.name, past.dims), expected)
}

/// The element type of past and present.
fn element(past: &Port, present: &str, outputs: &[Port], decoder: &Decoder) -> Result<Element> {
    let output = outputs.iter().find(|port| port.name == present).ok_or_else(|| {
        Error::package(&decoder.model, format!("the graph has input `{}` but no output `{present}`", past.name))
    })?;
    let element = match past.element {
        Some(element @ (Element::Float32 | Element::Float16 | Element::Int8 | Element::Uint8)) => element,
        _ => return Err(past.wrong_element("float32, float16, int8, uint8")),
    };
    if output.element != past.element {
        let problem = format!("`{present}` is {}, but `{}` is {element}", output.shown(), past.name);
        return Err(Error::package(&decoder.model, problem));
    }
    Ok(element)
}
