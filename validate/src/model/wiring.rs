//! Which graph input and output is what. A graph is wired by the names in the configuration and checked against them
//! before the first run, so that a mismatch is a sentence and not an error deep in a kernel.

use std::collections::BTreeMap;

use ort::memory::Allocator;
use ort::session::SessionOutputs;
use ort::value::{DynTensor, Outlet, TensorElementType as Element};

use super::tensors;
use crate::config::{Config, Decoder, Template};
use crate::{Error, Matrix, Precision, Result};

/// A graph input or output; a dimension that is not fixed is -1.
#[derive(Clone, Debug)]
pub(super) struct Port {
    name: String,
    element: Option<Element>,
    dims: Vec<i64>,
}

#[derive(Debug)]
pub(crate) struct Wiring {
    pub(super) input_ids: IntegerInput,
    pub(super) attention_mask: Option<IntegerInput>,
    pub(super) position_ids: Option<PositionIds>,
    /// Whether a run takes one token and no more.
    pub(crate) one_by_one: bool,
    /// Keys and values of all layers, in the order of the layers.
    pub(crate) slots: Vec<CacheSlot>,
    pub(crate) logits: String,
    vocab_size: usize,
}

#[derive(Debug)]
pub(super) struct IntegerInput {
    pub(super) name: String,
    /// Int32 or Int64.
    pub(super) element: Element,
}

#[derive(Debug)]
pub(super) struct PositionIds {
    pub(super) input: IntegerInput,
    /// The leading dimension of `[planes, batch, tokens]`, in which every plane is the same for text.
    pub(super) planes: Option<usize>,
}

/// One tensor of the cache: `[batch, heads, tokens, head_size]`, f32 or f16, or codes of 8 bits, or pairs of codes of 4. In
/// a graph of fixed sizes the column of a token is its position, and those behind it hold nothing yet.
#[derive(Clone, Debug)]
pub(crate) struct CacheSlot {
    pub(crate) past: String,
    pub(crate) present: String,
    element: Element,
    heads: usize,
    /// What it has room for, where that is fixed.
    fixed: Option<usize>,
    head_size: usize,
    /// In tokens, where no more are kept.
    window: Option<usize>,
}

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

impl Port {
    pub(super) fn of(outlet: &Outlet) -> Self {
        let dims = outlet.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        Self { name: outlet.name().to_owned(), element: outlet.dtype().tensor_type(), dims }
    }
}

impl Wiring {
    pub(super) fn read(inputs: &[Port], outputs: &[Port], package: &Config) -> Result<Self> {
        let decoder = &package.decoder;
        let names = &decoder.inputs;
        let (mut input_ids, mut attention_mask, mut position_ids) = (None, None, None);
        let mut one_by_one = false;
        let mut keys = BTreeMap::new();
        let mut values = BTreeMap::new();
        for port in inputs {
            if port.name == names.input_ids {
                one_by_one = takes_one(port)?;
                input_ids = Some(IntegerInput::of(port)?);
            } else if port.name == names.attention_mask {
                attention_mask = Some(IntegerInput::of(port)?);
            } else if port.name == names.position_ids {
                position_ids = Some(PositionIds::of(port)?);
            } else if let Some(layer) = names.past_key.layer(&port.name) {
                keys.insert(layer, port);
            } else if let Some(layer) = names.past_value.layer(&port.name) {
                values.insert(layer, port);
            } else if port.name == names.inputs_embeds {
                let what = format!("graph input `{}`, embeddings in place of token ids,", port.name);
                return Err(Error::unsupported(what, "packages with their embedding, built without exclude_embeds"));
            } else {
                let known = format!(
                    "{}, {}, {} and a cache named {} and {}",
                    names.input_ids,
                    names.attention_mask,
                    names.position_ids,
                    names.past_key.name(0),
                    names.past_value.name(0)
                );
                return Err(Error::unsupported(format!("graph input `{}`", port.name), known));
            }
        }
        let lacks = |what: &str| Error::package(&decoder.model, format!("the graph has no {what}"));
        let input_ids = input_ids.ok_or_else(|| lacks(&format!("input `{}`", names.input_ids)))?;
        // Without a cache each step would forget the ones before it, in silence.
        if keys.is_empty() || !keys.keys().eq(values.keys()) {
            let (keys, values) = (keys.len(), values.len());
            let (key, value) = (names.past_key.name(0), names.past_value.name(0));
            return Err(lacks(&format!("complete cache: {keys} inputs like `{key}`, {values} like `{value}`")));
        }
        let mut slots = Vec::with_capacity(keys.len() * 2);
        for ((layer, key), value) in keys.into_iter().zip(values.into_values()) {
            slots.push(CacheSlot::of(key, &decoder.outputs.present_key, layer, outputs, decoder)?);
            slots.push(CacheSlot::of(value, &decoder.outputs.present_value, layer, outputs, decoder)?);
        }
        if let Some((first, rest)) = slots.split_first()
            && let Some(other) = rest.iter().find(|slot| slot.fixed != first.fixed)
        {
            let what = format!("`{}` and `{}` with room for different numbers of tokens", first.past, other.past);
            return Err(Error::unsupported(what, "caches of one length"));
        }
        // What is masked would have to be told for each column.
        if slots.iter().any(|slot| slot.fixed.is_some()) && attention_mask.is_some() {
            return Err(Error::unsupported("a cache of fixed length and an attention mask", "position_ids alone"));
        }
        let logits = check_logits(outputs, package)?;
        let vocab_size = package.vocab_size;
        Ok(Self { input_ids, attention_mask, position_ids, one_by_one, slots, logits, vocab_size })
    }

    /// The tokens that the cache has room for, where that is fixed.
    pub(crate) fn room(&self) -> Option<usize> {
        self.slots.first().and_then(|slot| slot.fixed)
    }

    /// The logits of a run over `[batch, tokens]`, one matrix per row of the batch: `[tokens, vocab_size]`, or
    /// `[1, vocab_size]` where the graph returns the last column only.
    pub(crate) fn take_logits(&self, outputs: &SessionOutputs, (batch, tokens): (usize, usize)) -> Result<Vec<Matrix>> {
        let refuse = |problem: String| Error::execution("reading the logits")(problem);
        let value = outputs.get(&self.logits).ok_or_else(|| refuse(format!("no output `{}`", self.logits)))?;
        let (shape, values) = tensors::floats(value)?;
        let columns = match *shape.as_slice() {
            [rows, columns, vocab] if rows == batch && vocab == self.vocab_size => columns,
            _ => return Err(refuse(format!("shape {shape:?}, expected [{batch}, {tokens}, {}]", self.vocab_size))),
        };
        if columns != tokens && columns != 1 {
            return Err(refuse(format!("{columns} columns for {tokens} tokens")));
        }
        let row = columns * self.vocab_size;
        values.chunks_exact(row).map(|row| Matrix::new(columns, self.vocab_size, row.to_vec())).collect()
    }
}

impl IntegerInput {
    fn of(port: &Port) -> Result<Self> {
        match port.element {
            Some(element @ (Element::Int32 | Element::Int64)) => Ok(Self { name: port.name.clone(), element }),
            _ => Err(wrong_element(port, "int32, int64")),
        }
    }
}

impl PositionIds {
    fn of(port: &Port) -> Result<Self> {
        let planes = match port.dims.as_slice() {
            [planes, _, _] => Some(usize::try_from(*planes).map_err(|_| {
                Error::unsupported(
                    format!("graph input `{}` with a leading dimension that is not fixed", port.name),
                    "[3, batch, tokens]",
                )
            })?),
            _ => None,
        };
        Ok(Self { input: IntegerInput::of(port)?, planes })
    }
}

impl CacheSlot {
    /// The graph's own fixed dimensions count; the configuration fills the others. Layers may differ in both.
    fn of(past: &Port, present: &Template, layer: usize, outputs: &[Port], decoder: &Decoder) -> Result<Self> {
        let name = present.name(layer);
        let output = outputs.iter().find(|port| port.name == name).ok_or_else(|| {
            Error::package(&decoder.model, format!("the graph has input `{}` but no output `{name}`", past.name))
        })?;
        let element = match past.element {
            Some(element @ (Element::Float32 | Element::Float16 | Element::Int8 | Element::Uint8)) => element,
            _ => return Err(wrong_element(past, "float32, float16, int8, uint8")),
        };
        if output.element != past.element {
            let problem = format!("`{name}` is {}, but `{}` is {element}", shown(output), past.name);
            return Err(Error::package(&decoder.model, problem));
        }
        let [_, heads, tokens, head_size] = *past.dims.as_slice() else {
            let shape = format!("graph input `{}` of shape {:?}", past.name, past.dims);
            return Err(Error::unsupported(shape, "[batch, heads, tokens, head_size]"));
        };
        Ok(Self {
            past: past.name.clone(),
            present: name,
            element,
            heads: usize::try_from(heads).unwrap_or(decoder.num_key_value_heads),
            fixed: usize::try_from(tokens).ok(),
            head_size: usize::try_from(head_size).unwrap_or(decoder.head_size),
            window: decoder.window.as_ref().and_then(|window| window.of(layer)),
        })
    }

    /// How many of `tokens` it holds; a window, and what the graph fixes, is held whole in any case.
    pub(crate) fn room(&self, tokens: usize) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        self.window.map_or(tokens, |window| tokens.min(window.saturating_add(SLACK)).max(window))
    }

    /// Whether it keeps a window alone.
    pub(super) fn keeps_window(&self) -> bool {
        self.window.is_some()
    }

    /// How coarse its codes are, where it holds codes.
    pub(super) fn precision(&self) -> Option<Precision> {
        match self.element {
            Element::Int8 => Some(Precision::Int8),
            Element::Uint8 => Some(Precision::Int4),
            _ => None,
        }
    }

    /// A tensor for a sequence of up to `tokens`.
    pub(crate) fn buffer(&self, memory: &Allocator, tokens: usize) -> Result<DynTensor> {
        let tokens = self.room(tokens);
        tensors::allocated(memory, self.element, &[1, self.heads, tokens, self.head_size])
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
        tensors::allocated(memory, self.element, &[batch, self.heads, self.fixed.unwrap_or(0), self.head_size])
    }

    /// The cache after a run of one sequence, which must hold exactly `tokens`, or be as long as is fixed.
    pub(crate) fn take_present(&self, outputs: &mut SessionOutputs, tokens: usize) -> Result<DynTensor> {
        let refuse = |problem: String| Error::execution(format!("reading {}", self.present))(problem);
        let value = outputs.remove(&self.present).ok_or_else(|| refuse("no such output".into()))?;
        let tensor: DynTensor = value.downcast().map_err(|error| refuse(error.to_string()))?;
        let expected = [1, self.heads, self.fixed.unwrap_or(tokens), self.head_size]
            .map(|dim| i64::try_from(dim).unwrap_or(i64::MAX));
        if **tensor.shape() == expected {
            Ok(tensor)
        } else {
            Err(refuse(format!("shape {}, expected {expected:?}", tensor.shape())))
        }
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

    /// A copy of the first `tokens` of a one-row cache tensor.
    pub(crate) fn shortened(&self, memory: &Allocator, cache: &DynTensor, tokens: usize) -> Result<DynTensor> {
        let mut shorter = self.buffer(memory, tokens)?;
        tensors::copy_head_rows(cache, &mut shorter, self.heads, tokens * self.head_size)?;
        Ok(shorter)
    }
}

/// Whether `[batch, tokens]` is one token; its number is either open or that.
fn takes_one(port: &Port) -> Result<bool> {
    match *port.dims.as_slice() {
        [_, tokens] if tokens > 1 => Err(Error::unsupported(
            format!("graph input `{}` for exactly {tokens} tokens", port.name),
            "one token or any number",
        )),
        [_, tokens] => Ok(tokens == 1),
        _ => Ok(false),
    }
}

fn check_logits(outputs: &[Port], package: &Config) -> Result<String> {
    let decoder = &package.decoder;
    let name = &decoder.outputs.logits;
    let port = outputs.iter().find(|port| port.name == *name).ok_or_else(|| {
        let hidden_states = &decoder.outputs.hidden_states;
        match outputs.iter().any(|port| port.name == *hidden_states) {
            true => Error::unsupported(
                format!("a graph that gives `{hidden_states}` and no `{name}`"),
                "packages with their head, built without exclude_lm_head",
            ),
            false => Error::package(&decoder.model, format!("the graph has no output `{name}`")),
        }
    })?;
    if !matches!(port.element, Some(Element::Float32 | Element::Float16)) {
        return Err(wrong_element(port, "float32, float16"));
    }
    if let [_, _, columns] = *port.dims.as_slice()
        && columns >= 0
        && usize::try_from(columns) != Ok(package.vocab_size)
    {
        let problem =
            format!("`{name}` has {columns} columns, genai_config.json says vocab_size {}", package.vocab_size);
        return Err(Error::package(&decoder.model, problem));
    }
    Ok(name.clone())
}

fn wrong_element(port: &Port, supported: &str) -> Error {
    Error::unsupported(format!("element type {} of `{}`", shown(port), port.name), supported)
}

fn shown(port: &Port) -> String {
    port.element.map_or_else(|| "other than tensor".into(), |element| element.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = r#"{"model": {"type": "llama", "vocab_size": 99, "context_length": 64, "eos_token_id": 2,
        "decoder": {"filename": "model.onnx", "head_size": 16, "num_hidden_layers": 2, "num_key_value_heads": 3}}}"#;

    fn port(name: &str, element: Element, dims: &[i64]) -> Port {
        Port { name: name.into(), element: Some(element), dims: dims.to_vec() }
    }

    fn graph() -> (Vec<Port>, Vec<Port>) {
        let mut inputs =
            vec![port("input_ids", Element::Int64, &[-1, -1]), port("attention_mask", Element::Int32, &[-1, -1])];
        let mut outputs = vec![port("logits", Element::Float32, &[-1, -1, 99])];
        // Not 0 and 1: layers may be sparse, and the graph's order is not ours.
        for layer in [7, 2] {
            for kind in ["value", "key"] {
                inputs.push(port(&format!("past_key_values.{layer}.{kind}"), Element::Float16, &[-1, 5, -1, -1]));
                outputs.push(port(&format!("present.{layer}.{kind}"), Element::Float16, &[-1, 5, -1, -1]));
            }
        }
        (inputs, outputs)
    }

    fn read(inputs: &[Port], outputs: &[Port]) -> Result<Wiring> {
        Wiring::read(inputs, outputs, &Config::parse(CONFIG.as_bytes(), Path::new("")).unwrap())
    }

    fn refused(change: impl FnOnce(&mut Vec<Port>, &mut Vec<Port>)) -> String {
        let (mut inputs, mut outputs) = graph();
        change(&mut inputs, &mut outputs);
        read(&inputs, &outputs).unwrap_err().to_string()
    }

    #[test]
    fn wires_a_graph_by_its_names_and_fixed_dimensions() {
        let (inputs, outputs) = graph();
        let wiring = read(&inputs, &outputs).unwrap();
        let pasts: Vec<&str> = wiring.slots.iter().map(|slot| slot.past.as_str()).collect();
        assert_eq!(
            pasts,
            ["past_key_values.2.key", "past_key_values.2.value", "past_key_values.7.key", "past_key_values.7.value"]
        );
        assert_eq!(wiring.slots[3].present, "present.7.value");
        // Heads from the graph, head size from the configuration.
        assert!(wiring.slots.iter().all(|slot| (slot.heads, slot.head_size) == (5, 16)));
        assert_eq!(wiring.attention_mask.unwrap().element, Element::Int32);
        assert!(wiring.position_ids.is_none());
    }

    #[test]
    fn all_sizes_may_be_fixed() {
        let (mut inputs, outputs) = graph();
        assert!(read(&inputs, &outputs).is_ok_and(|wiring| wiring.room().is_none() && !wiring.one_by_one));
        inputs.remove(1);
        inputs[0].dims = vec![1, 1];
        inputs[1..].iter_mut().for_each(|cache| cache.dims = vec![1, 5, 32, 16]);
        assert!(read(&inputs, &outputs).is_ok_and(|wiring| wiring.room() == Some(32) && wiring.one_by_one));
    }

    #[test]
    fn positions_may_have_planes() {
        let (mut inputs, outputs) = graph();
        inputs.push(port("position_ids", Element::Int64, &[3, -1, -1]));
        assert_eq!(read(&inputs, &outputs).unwrap().position_ids.unwrap().planes, Some(3));
        inputs.last_mut().unwrap().dims = vec![-1, -1, -1];
        assert!(read(&inputs, &outputs).unwrap_err().to_string().contains("leading dimension"));
    }

    #[test]
    fn what_cannot_be_fed_or_run_is_named() {
        for (message, expected) in [
            (
                refused(|inputs, _| inputs.push(port("pixels", Element::Float32, &[]))),
                "graph input `pixels` is not supported",
            ),
            (
                refused(|inputs, _| inputs[0] = port("inputs_embeds", Element::Float32, &[-1, -1, 48])),
                "graph input `inputs_embeds`, embeddings in place of token ids, is not supported",
            ),
            (
                refused(|_, outputs| outputs[0] = port("hidden_states", Element::Float32, &[-1, -1, 48])),
                "a graph that gives `hidden_states` and no `logits` is not supported",
            ),
            (refused(|inputs, _| inputs[0].element = Some(Element::Float32)), "`input_ids`"),
            (refused(|inputs, _| drop(inputs.remove(0))), "no input `input_ids`"),
            (refused(|inputs, _| inputs.truncate(2)), "complete cache: 0 inputs"),
            (
                refused(|inputs, _| drop(inputs.remove(2))),
                "complete cache: 2 inputs like `past_key_values.0.key`, 1 like",
            ),
            (
                refused(|_, outputs| drop(outputs.remove(1))),
                "has input `past_key_values.7.value` but no output `present.7.value`",
            ),
            (
                refused(|inputs, _| inputs[3].element = Some(Element::Bfloat16)),
                "supported: float32, float16, int8, uint8",
            ),
            (refused(|_, outputs| outputs[1].element = Some(Element::Float32)), "`present.7.value` is f32"),
            (refused(|inputs, _| inputs[2].dims = vec![-1, 5, 32, 16]), "different numbers of tokens"),
            (
                refused(|inputs, _| inputs[2..].iter_mut().for_each(|cache| cache.dims = vec![1, 5, 32, 16])),
                "a cache of fixed length and an attention mask",
            ),
            (refused(|inputs, _| inputs[0].dims = vec![1, 64]), "`input_ids` for exactly 64 tokens"),
            (refused(|inputs, _| inputs[2].dims = vec![2, -1, 5, -1, 16]), "of shape [2, -1, 5, -1, 16]"),
            (
                refused(|_, outputs| outputs[0].dims = vec![-1, -1, 98]),
                "`logits` has 98 columns, genai_config.json says vocab_size 99",
            ),
            (refused(|_, outputs| outputs[0].element = Some(Element::Bfloat16)), "of `logits`"),
            (refused(|_, outputs| drop(outputs.remove(0))), "no output `logits`"),
        ] {
            assert!(message.contains(expected), "expected {expected:?} in: {message}");
        }
    }
}
