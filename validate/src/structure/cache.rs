//! Caches of keys and values: how many, of what shape, and whether one buffer may hold past and present.

use std::collections::{BTreeMap, BTreeSet};

use super::package::{CONFIG, Part};
use super::{Findings, Package, some_of};
use crate::Template;
use crate::graph::{Dimension, ElementType, Value};
use crate::report::bytes;

/// A cache of one layer, past and present.
pub(super) struct Caches<'a> {
    pub(super) part: &'a Part,
    pub(super) past_keys: BTreeMap<usize, &'a Value>,
    pub(super) past_values: BTreeMap<usize, &'a Value>,
    present_keys: BTreeMap<usize, &'a Value>,
    present_values: BTreeMap<usize, &'a Value>,
    /// `[blocks, block size, heads, head size]` and not `[batch, heads, length, head size]`.
    paged: bool,
}

impl<'a> Caches<'a> {
    /// `None` where there are none of the usual kind.
    pub(super) fn find(package: &'a Package) -> Option<Self> {
        let part = package.decoder()?;
        let list = |side: &str, values: &'a [Value], key: &str, default: &'static str| {
            let name = package.name_or(&format!("model.decoder.{side}.{key}"), default);
            let template = Template::parse(name).ok();
            let layer = |value: &'a Value| Some((template.as_ref()?.layer(&value.name)?, value));
            values.iter().filter_map(layer).collect::<BTreeMap<_, _>>()
        };
        let table = package.name_or("model.decoder.inputs.block_table", "block_table");
        let graph = &part.graph;
        let caches = Self {
            part,
            past_keys: list("inputs", &graph.inputs, "past_key_names", "past_key_values.%d.key"),
            past_values: list("inputs", &graph.inputs, "past_value_names", "past_key_values.%d.value"),
            present_keys: list("outputs", &graph.outputs, "present_key_names", "present.%d.key"),
            present_values: list("outputs", &graph.outputs, "present_value_names", "present.%d.value"),
            paged: graph.input(table).is_some(),
        };
        (!caches.past_keys.is_empty() || !caches.present_keys.is_empty()).then_some(caches)
    }

    /// Heads and the size of a head, as far as the graph fixes them.
    pub(super) fn heads(&self, value: &Value) -> (Option<u64>, Option<u64>) {
        let fixed = |index: usize| match value.shape.as_ref().and_then(|shape| shape.get(index)) {
            Some(Dimension::Fixed(size)) => Some(*size),
            _ => None,
        };
        (fixed(if self.paged { 2 } else { 1 }), fixed(3))
    }

    fn is_coded(value: &Value) -> bool {
        matches!(value.dtype, ElementType::Int8 | ElementType::Uint8 | ElementType::Int4 | ElementType::Uint4)
    }

    fn at(&self, value: &Value) -> String {
        format!("{}: {}", self.part.file, value.name)
    }
}

/// As many pairs as layers, unless some layers have no cache of their own.
pub(super) fn layers(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let at = format!("{CONFIG}: model.decoder.num_hidden_layers");
    let said = package.number("model.decoder.num_hidden_layers");
    let combined = package.value("model.decoder.inputs.past_names").is_some();
    if said.is_none() && combined {
        findings.error("layers", at, "is missing, and caches of keys and values in one are counted by it");
        return;
    }
    let Some(caches) = Caches::find(package) else {
        let attention = part.graph.nodes.iter().find(|node| node.op_type.contains("Attention"));
        if let (Some(node), false) = (attention, combined) {
            findings
                .warning(
                    "layers",
                    format!("{}: {}", part.file, node.label()),
                    "computes attention, and the graph has no cache",
                )
                .hint("each token is computed from all before it: generation takes time that grows with the square");
        }
        return;
    };
    let Some(said) = said else { return };
    let sets = [&caches.past_keys, &caches.past_values].map(|set| set.keys().copied().collect::<BTreeSet<_>>());
    let [keys, values] = &sets;
    for layer in keys.symmetric_difference(values) {
        let (has, lacks) = if keys.contains(layer) { ("keys", "values") } else { ("values", "keys") };
        findings.error(
            "layers",
            format!("{}: layer {layer}", part.file),
            format!("has a cache of {has} and none of {lacks}"),
        );
    }
    let count = keys.len() as u64;
    if let Some(&last) = keys.last().filter(|last| **last as u64 >= said) {
        findings
            .error("layers", at, format!("is {said}, and the graph has a cache of layer {last}, counted from 0"))
            .hint("the graph and the configuration are of different models, or the number was changed");
    } else if count != said {
        let hybrid = package.value("model.decoder.layer_types").is_some()
            || part.graph.inputs.iter().any(|input| input.name.contains("conv") || input.name.contains("recurrent"));
        let attention = part.graph.nodes.iter().filter(|node| node.op_type.contains("Attention")).count() as u64;
        let message = format!("is {said}, and the graph has caches of {count} layers");
        // Layers may read the cache of another one.
        if hybrid || attention == said {
            findings.info("layers", at, message);
        } else {
            findings.error("layers", at, message).hint("caches of some layers are lost, or the number was changed");
        }
    }
}

/// Rank, heads and head size of each cache.
pub(super) fn shapes(package: &Package, findings: &mut Findings) {
    let Some(caches) = Caches::find(package) else { return };
    let said = (package.number("model.decoder.num_key_value_heads"), package.number("model.decoder.head_size"));
    let all = caches.past_keys.values().chain(caches.past_values.values());
    let mut found: BTreeMap<(Option<u64>, Option<u64>), Vec<&str>> = BTreeMap::new();
    for &value in all {
        match &value.shape {
            Some(shape) if shape.len() != 4 => {
                findings.error("cache", caches.at(value), format!("has {} dimensions, expected 4", shape.len()));
            }
            Some(_) => found.entry(caches.heads(value)).or_default().push(&value.name),
            None => {}
        }
    }
    let mixed = found.len() > 1;
    let coded = caches.past_keys.values().any(|value| Caches::is_coded(value));
    let moved = package.flag("model.decoder.sliding_window.slide_key_value_cache").unwrap_or(false);
    if moved {
        return;
    }
    for ((heads, head_size), names) in found {
        let differs = |found: Option<u64>, said: Option<u64>| found.zip(said).filter(|(found, said)| found != said);
        // A code or a word holds several numbers.
        let head_size = if coded { None } else { head_size };
        for (key, pair) in [("num_key_value_heads", differs(heads, said.0)), ("head_size", differs(head_size, said.1))]
        {
            let Some((found, said)) = pair else { continue };
            let at = format!("{CONFIG}: model.decoder.{key}");
            let message = format!("is {said}, the graph has {found} in {}", some_of(&names));
            if mixed {
                findings.info("cache", at, message).hint("layers differ: the runtime takes the graph's own sizes");
            } else {
                findings.error("cache", at, message).hint("the graph and the configuration are of different models");
            }
        }
    }
}

/// Past and present of each layer are of one type and shape.
pub(super) fn pairs(package: &Package, findings: &mut Findings) {
    let Some(caches) = Caches::find(package) else { return };
    let sides = [(&caches.past_keys, &caches.present_keys), (&caches.past_values, &caches.present_values)];
    for (past, present) in sides {
        for (layer, &value) in past {
            let Some(&next) = present.get(layer) else {
                findings.error("cache", caches.at(value), format!("goes in, and no cache of layer {layer} comes out"));
                continue;
            };
            if value.dtype != next.dtype {
                let message = format!(
                    "is of {}, `{}` of {}: what comes out of a run goes into the next",
                    value.dtype.as_str_name(),
                    next.name,
                    next.dtype.as_str_name()
                );
                findings.error("cache", caches.at(value), message);
            }
            let (sizes, next_sizes) = (caches.heads(value), caches.heads(next));
            let same = |a: Option<u64>, b: Option<u64>| a.is_none() || b.is_none() || a == b;
            if !same(sizes.0, next_sizes.0) || !same(sizes.1, next_sizes.1) {
                let message = format!("has other sizes than `{}`: {:?} and {:?}", next.name, value.shape, next.shape);
                findings.error("cache", caches.at(value), message);
            }
        }
        for (layer, &next) in present.iter().filter(|(layer, _)| !past.contains_key(layer)) {
            findings.error("cache", caches.at(next), format!("comes out, and no cache of layer {layer} goes in"));
        }
    }
    let (keys, values) = (&caches.past_keys, &caches.past_values);
    for (layer, key) in keys {
        if values.get(layer).is_some_and(|value| value.dtype != key.dtype) {
            findings.error("cache", caches.at(key), "is of another type than the cache of values");
        }
    }
}

/// Whether the operators write into the buffer that holds the past.
pub(super) fn shared(package: &Package, findings: &mut Findings) {
    if package.flag("search.past_present_share_buffer") != Some(true) {
        return;
    }
    let Some(caches) = Caches::find(package) else { return };
    let graph = &caches.part.graph;
    for value in caches.past_keys.values().chain(caches.past_values.values()) {
        let grows = graph.consumers(&value.name).find(|node| {
            let standard = node.domain.is_empty() && matches!(node.op_type.as_str(), "Concat" | "Attention");
            standard || node.op_type == "MultiHeadAttention"
        });
        if let Some(node) = grows {
            findings
                .error(
                    "shared-cache",
                    format!("{CONFIG}: search.past_present_share_buffer"),
                    format!(
                        "is true, and {} `{}` makes the cache of `{}` anew, longer each time",
                        node.op_type,
                        node.label(),
                        value.name
                    ),
                )
                .hint("set it to false: wrong text comes of it without a word");
            return;
        }
    }
}

/// What the caches take at the length that the package asks for.
pub(super) fn memory(package: &Package, findings: &mut Findings) {
    let Some(caches) = Caches::find(package) else { return };
    let context = package.number("model.context_length");
    let length = package.number("search.max_length").filter(|&length| length > 0).or(context);
    let Some(length) = length.filter(|_| !caches.paged) else { return };
    let window = package.number("model.decoder.sliding_window.window_size").filter(|&window| window > 0);
    let windowed: Option<Vec<u64>> = package
        .value("model.decoder.sliding_window.layers")
        .and_then(serde_json::Value::as_array)
        .map(|layers| layers.iter().filter_map(serde_json::Value::as_u64).collect());
    let mut total = 0_u64;
    for (layer, value) in caches.past_keys.iter().chain(&caches.past_values) {
        let (heads, head_size) = caches.heads(value);
        let heads = heads.or(package.number("model.decoder.num_key_value_heads")).unwrap_or(0);
        let head_size = head_size.or(package.number("model.decoder.head_size")).unwrap_or(0);
        let width = match value.dtype {
            ElementType::Float => 4,
            ElementType::Float16 | ElementType::Bfloat16 => 2,
            _ => 1,
        };
        let here = windowed.as_ref().is_none_or(|layers| layers.is_empty() || layers.contains(&(*layer as u64)));
        let length = window.filter(|_| here).map_or(length, |window| window.min(length));
        let bytes = [heads, head_size, length].into_iter().fold(width, u64::saturating_mul);
        total = total.saturating_add(bytes);
    }
    let message = format!(
        "{} for each sequence at search.max_length {length}, in {} caches",
        bytes(total),
        caches.past_keys.len() + caches.past_values.len()
    );
    let shared = package.flag("search.past_present_share_buffer") == Some(true);
    let finding = findings.info("cache-memory", CONFIG, message);
    if shared {
        finding.hint("taken as a whole when generation begins; a smaller search.max_length takes less");
    }
}
