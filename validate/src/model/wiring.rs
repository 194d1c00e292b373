//! Which graph input and output is what. A graph is wired by the names in the configuration and checked against them
//! before the first run, so that a mismatch is a sentence and not an error deep in a kernel.

use std::collections::BTreeMap;

use ort::value::TensorElementType as Element;

use super::port::Port;
use super::slot::CacheSlot;
use crate::config::{Config, Inputs};
use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct Wiring {
    pub(super) input_ids: IntegerInput,
    pub(super) attention_mask: Option<IntegerInput>,
    pub(super) position_ids: Option<PositionIds>,
    /// Whether a run takes one token and no more.
    pub(crate) one_by_one: bool,
    /// Keys and values of all layers, in the order of the layers; then states.
    pub(crate) slots: Vec<CacheSlot>,
    pub(crate) logits: String,
    /// Where tokens of all sequences come in one row and their caches in pages.
    pub(crate) paged: Option<Paged>,
    /// Single numbers about a run.
    pub(super) scalars: Vec<(ScalarInput, IntegerInput)>,
    /// What the caller has to give.
    pub(crate) extra_inputs: Vec<Port>,
    /// Besides logits and caches.
    pub(crate) extra_outputs: Vec<String>,
}

/// Inputs beside packed tokens, all int32.
#[derive(Debug)]
pub(crate) struct Paged {
    /// `[batch + 1]`: where each sequence's new tokens begin, and the end.
    pub(crate) starts: String,
    /// `[batch]`: tokens in the cache.
    pub(crate) pasts: String,
    /// `[batch, pages]`: the pages of each sequence, -1 for none.
    pub(crate) pages: String,
    /// `[3]`: the most new tokens of a sequence; the most tokens, new ones included; the fewest.
    pub(crate) bounds: Option<String>,
}

/// What a number about a run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarInput {
    /// `[1]`: tokens behind the run.
    TotalLength,
    /// `[1, 1]`: the last token's position.
    LastPosition,
    /// `[1]`: how many logits are wanted; 0 stands for all.
    AllLogits,
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

impl Wiring {
    pub(super) fn read(inputs: &[Port], outputs: &[Port], package: &Config) -> Result<Self> {
        let decoder = &package.decoder;
        let (names, given) = (&decoder.inputs, &decoder.outputs);
        let (mut input_ids, mut attention_mask, mut position_ids) = (None, None, None);
        let mut one_by_one = false;
        let (mut keys, mut values, mut slots, mut states) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        let (mut scalars, mut extra_inputs) = (Vec::new(), Vec::new());
        let paged = Paged::of(inputs, names);
        for port in inputs {
            if port.name == names.input_ids {
                one_by_one = takes_one(port)?;
                input_ids = Some(IntegerInput::of(port)?);
            } else if port.name == names.attention_mask {
                attention_mask = Some(IntegerInput::of(port)?);
            } else if port.name == names.position_ids {
                position_ids = Some(PositionIds::of(port)?);
            } else if paged.as_ref().is_some_and(|paged| paged.names().any(|name| *name == port.name)) {
                IntegerInput::of(port)?;
            } else if let Some(scalar) = ScalarInput::of(&port.name, names) {
                scalars.push((scalar, IntegerInput::of(port)?));
            } else if let Some(layer) = names.past_key.layer(&port.name) {
                keys.insert(layer, port);
            } else if let Some(layer) = names.past_value.layer(&port.name) {
                values.insert(layer, port);
            } else if let (Some(past), Some(present)) = (&names.past, &given.present)
                && let Some(layer) = past.layer(&port.name)
            {
                slots.push((layer, CacheSlot::joined(port, present.name(layer), outputs, decoder)?));
            } else if let Some(present) = state_of(port, package) {
                states.push(CacheSlot::state(port, present, outputs, decoder)?);
            } else if port.name == names.inputs_embeds {
                let what = format!("graph input `{}`, embeddings in place of token ids,", port.name);
                return Err(Error::unsupported(what, "packages with their embedding, built without exclude_embeds"));
            } else {
                extra_inputs.push(port.clone());
            }
        }
        let lacks = |what: &str| Error::package(&decoder.model, format!("the graph has no {what}"));
        let input_ids = input_ids.ok_or_else(|| lacks(&format!("input `{}`", names.input_ids)))?;
        slots.sort_by_key(|(layer, _)| *layer);
        let mut slots: Vec<CacheSlot> = slots.into_iter().map(|(_, slot)| slot).collect();
        // Without a cache each step would forget the ones before it, in silence.
        if (keys.is_empty() && slots.is_empty()) || !keys.keys().eq(values.keys()) {
            let (keys, values) = (keys.len(), values.len());
            let (key, value) = (names.past_key.name(0), names.past_value.name(0));
            return Err(lacks(&format!("complete cache: {keys} inputs like `{key}`, {values} like `{value}`")));
        }
        for ((layer, key), value) in keys.into_iter().zip(values.into_values()) {
            for (past, present) in [(key, &given.present_key), (value, &given.present_value)] {
                slots.push(match paged {
                    Some(_) => CacheSlot::pages(past, present.name(layer), outputs, decoder)?,
                    None => CacheSlot::keys(past, present.name(layer), layer, outputs, decoder)?,
                });
            }
        }
        if let Some((first, rest)) = slots.split_first()
            && let Some(other) = rest.iter().find(|slot| slot.fixed() != first.fixed())
        {
            let what = format!("`{}` and `{}` with room for different numbers of tokens", first.past, other.past);
            return Err(Error::unsupported(what, "caches of one length"));
        }
        // What is masked would have to be told for each column.
        if slots.iter().any(|slot| slot.fixed().is_some()) && attention_mask.is_some() {
            return Err(Error::unsupported("a cache of fixed length and an attention mask", "position_ids alone"));
        }
        slots.append(&mut states);
        let logits = check_logits(outputs, package)?;
        let extra = outputs.iter().map(|port| &port.name);
        let extra = extra.filter(|name| **name != logits && !slots.iter().any(|slot| slot.present == **name));
        Ok(Self {
            input_ids,
            attention_mask,
            position_ids,
            one_by_one,
            extra_outputs: extra.cloned().collect(),
            slots,
            logits,
            paged,
            scalars,
            extra_inputs,
        })
    }

    /// The outputs of keys, in the order of the layers; none where keys and values are one tensor.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let pairs = self.slots.iter().filter(|slot| slot.is_keys_or_values());
        pairs.step_by(2).map(|slot| slot.present.as_str())
    }

    /// What the caches of one sequence take for each token.
    pub(crate) fn cache_bytes_per_token(&self) -> u64 {
        self.slots.iter().map(CacheSlot::bytes_per_token).fold(0, u64::saturating_add)
    }

    /// The tokens that the cache has room for, where that is fixed.
    pub(crate) fn room(&self) -> Option<usize> {
        self.slots.first().and_then(CacheSlot::fixed)
    }

    /// What a caller would have to give who only has tokens.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is such an input, with its name.
    pub(crate) fn needs_tokens_alone(&self, names: &Inputs) -> Result<()> {
        let Some(port) = self.extra_inputs.first() else { return Ok(()) };
        let known = format!(
            "{}, {}, {} and a cache named {} and {}",
            names.input_ids,
            names.attention_mask,
            names.position_ids,
            names.past_key.name(0),
            names.past_value.name(0)
        );
        Err(Error::unsupported(format!("graph input `{}`", port.name), known))
    }
}

/// The output that carries on a state of convolutions or linear attention, if `port` is the input of one. The peer finds
/// those of hybrid models by the names of keys, with another ending.
fn state_of(port: &Port, package: &Config) -> Option<String> {
    let (names, given) = (&package.decoder.inputs, &package.decoder.outputs);
    let named = [(&names.past_conv, &given.present_conv), (&names.past_recurrent, &given.present_recurrent)];
    let found = named.iter().find_map(|(past, present)| Some(present.name(past.layer(&port.name)?)));
    found.or_else(|| {
        ["conv_state", "recurrent_state"].iter().find_map(|ending| {
            let layer = names.past_key.with_ending(ending)?.layer(&port.name)?;
            Some(given.present_key.with_ending(ending)?.name(layer))
        })
    })
}

impl Paged {
    fn of(inputs: &[Port], names: &Inputs) -> Option<Self> {
        let has = |name: &String| inputs.iter().any(|port| port.name == *name).then(|| name.clone());
        Some(Self {
            starts: has(&names.cumulative_sequence_lengths)?,
            pasts: has(&names.past_sequence_lengths)?,
            pages: has(&names.block_table)?,
            bounds: has(&names.attention_metadata),
        })
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        [&self.starts, &self.pasts, &self.pages].into_iter().chain(&self.bounds)
    }
}

impl ScalarInput {
    fn of(name: &str, names: &Inputs) -> Option<Self> {
        match name {
            name if name == names.current_sequence_length => Some(Self::TotalLength),
            name if name == names.past_sequence_length => Some(Self::LastPosition),
            "num_logits_to_keep" => Some(Self::AllLogits),
            // As the exporter of PyTorch calls it where it has lost the name.
            name if name.starts_with("onnx::Neg_") => Some(Self::AllLogits),
            _ => None,
        }
    }
}

impl IntegerInput {
    fn of(port: &Port) -> Result<Self> {
        match port.element {
            Some(element @ (Element::Int32 | Element::Int64)) => Ok(Self { name: port.name.clone(), element }),
            _ => Err(port.wrong_element("int32, int64")),
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
        return Err(port.wrong_element("float32, float16"));
    }
    if let [.., columns] = *port.dims.as_slice()
        && columns >= 0
        && usize::try_from(columns) != Ok(package.vocab_size)
    {
        let problem =
            format!("`{name}` has {columns} columns, genai_config.json says vocab_size {}", package.vocab_size);
        return Err(Error::package(&decoder.model, problem));
    }
    Ok(name.clone())
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
        let package = Config::parse(CONFIG.as_bytes(), Path::new("")).unwrap();
        let wiring = Wiring::read(inputs, outputs, &package)?;
        wiring.needs_tokens_alone(&package.decoder.inputs).map(|()| wiring)
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
        assert!(wiring.slots.iter().all(|slot| slot.shape(2, 7) == [2, 5, 7, 16]));
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
