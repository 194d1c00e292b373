//! Attributes of attention and norms: against weights and caches, and from layer to layer.

use std::collections::BTreeMap;

use super::cache::Caches;
use super::package::{CONFIG, Part};
use super::{Findings, Package};
use crate::graph::{Graph, Node};

fn is_grouped(node: &Node) -> bool {
    node.is_contrib() && matches!(node.op_type.as_str(), "GroupQueryAttention" | "PagedAttention")
}

/// Numbers of heads fit the caches and the products around them.
pub(super) fn heads(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let said = package.number("model.decoder.num_attention_heads");
    let caches = Caches::find(package);
    let mut told = false;
    for node in part.graph.nodes.iter().filter(|node| is_grouped(node)) {
        let at = format!("{}: {}", part.file, node.label());
        let count = |name: &str| node.int(name).and_then(|count| u64::try_from(count).ok()).filter(|&count| count > 0);
        let (Some(heads), Some(kv_heads)) = (count("num_heads"), count("kv_num_heads")) else {
            findings.error("attention", at, "lacks num_heads or kv_num_heads");
            continue;
        };
        if heads % kv_heads != 0 {
            findings.error(
                "attention",
                at.as_str(),
                format!("has {heads} heads and {kv_heads} of keys, which do not divide them"),
            );
        }
        if let Some(said) = said.filter(|&said| said != heads && !told) {
            told = true;
            let message = format!("is {said}, `{}` has num_heads {heads}", node.label());
            findings.warning("attention", format!("{CONFIG}: model.decoder.num_attention_heads"), message);
        }
        let past = node.input(3).and_then(|name| part.graph.input(name));
        let (cached, head_size) = match (&caches, past) {
            (Some(caches), Some(past)) => caches.heads(past),
            _ => (None, None),
        };
        if let Some(cached) = cached.filter(|&cached| cached != kv_heads) {
            findings
                .error("attention", at.as_str(), format!("has kv_num_heads {kv_heads}, its cache has {cached} heads"))
                .hint("heads are grouped wrongly: each query reads the keys of another one");
        }
        let coded = past.is_some_and(|past| !past.dtype.as_str_name().contains("FLOAT"));
        let head_size = head_size.filter(|_| !coded).or(package.number("model.decoder.head_size"));
        let Some(head_size) = head_size.filter(|_| !coded) else { continue };
        widths(part, node, (heads, kv_heads, head_size), &at, findings);
    }
}

fn widths(part: &Part, node: &Node, (heads, kv_heads, head_size): (u64, u64, u64), at: &str, findings: &mut Findings) {
    let packed = node.input(1).is_none();
    let own = if packed { heads.saturating_add(kv_heads.saturating_mul(2)) } else { heads };
    let expected = [("queries", 0, own), ("keys", 1, kv_heads), ("values", 2, kv_heads)];
    for (what, slot, heads) in expected {
        let Some(name) = node.input(slot) else { continue };
        let width = width_of(part, name);
        let wanted = heads.saturating_mul(head_size);
        if let Some(width) = width.filter(|&width| width != wanted) {
            let what = if packed { "queries, keys and values" } else { what };
            findings
                .error(
                    "attention",
                    at,
                    format!("gets {what} of width {width}, expected {heads} heads of {head_size}: {wanted}"),
                )
                .hint("num_heads, kv_num_heads or head_size is of another model than the weights");
        }
    }
    let output = node.output(0).unwrap_or_default();
    let next = part.graph.consumers(output).next();
    let product = next.and_then(|next| part.weights.matrices.iter().find(|weight| weight.node == next.label()));
    if let Some(product) = product.filter(|product| product.k as u64 != heads.saturating_mul(head_size)) {
        let message = format!("gives {heads} heads of {head_size}, and `{}` takes {}", product.node, product.k);
        findings.error("attention", at, message);
    }
}

/// The width of a value that comes from a product, through what changes none.
fn width_of(part: &Part, name: &str) -> Option<u64> {
    let mut name = name;
    for _ in 0..16 {
        let node = part.graph.producer(name)?;
        if let Some(weight) = part.weights.matrices.iter().find(|weight| weight.node == node.label()) {
            return Some(weight.n as u64);
        }
        match node.op_type.as_str() {
            "Split" => {
                let index = node.outputs.iter().position(|output| output == name)?;
                let sizes = part.graph.integers_of(node.input(1)?).ok()?;
                return sizes.get(index).and_then(|&size| u64::try_from(size).ok());
            }
            "Add" => {
                let computed = node.inputs.iter().find(|input| part.graph.initializer(input).is_none())?;
                name = computed;
            }
            // These keep the last axis, or a pair of them undo each other.
            "Reshape"
            | "Cast"
            | "Identity"
            | "Clip"
            | "RotaryEmbedding"
            | "SimplifiedLayerNormalization"
            | "LayerNormalization"
            | "RMSNormalization" => name = node.input(0)?,
            _ => return None,
        }
    }
    None
}

/// What a node does in its layer, with the layer's number taken out of its name; and that number.
fn place(node: &Node) -> Option<(String, usize)> {
    let label = node.label();
    let (start, number) = ["layers.", "layer.", "h.", "blocks.", "layers/"].iter().find_map(|word| {
        let at = label.find(word)? + word.len();
        let digits: String =
            label.chars().skip(label.get(..at)?.chars().count()).take_while(char::is_ascii_digit).collect();
        Some((at, digits)).filter(|(_, digits)| !digits.is_empty())
    })?;
    let rest = label.get(start + number.len()..)?;
    Some((format!("{}#{rest}", label.get(..start)?), number.parse().ok()?))
}

/// An attribute's value, layer by layer.
type ByLayer<'a> = Vec<(usize, f64, &'a Node)>;

/// Values of an attribute by layer, for each kind of place.
fn by_layer(
    graph: &Graph,
    wanted: impl Fn(&Node) -> bool,
    value: impl Fn(&Node) -> Option<f64>,
) -> Vec<(String, ByLayer<'_>)> {
    let mut places: BTreeMap<String, ByLayer> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|node| wanted(node)) {
        if let (Some((place, layer)), Some(value)) = (place(node), value(node)) {
            places.entry(place).or_default().push((layer, value, node));
        }
    }
    for list in places.values_mut() {
        list.sort_by_key(|(layer, ..)| *layer);
    }
    places.into_iter().collect()
}

/// Attributes of attention do not differ from layer to layer, but for those that may.
pub(super) fn alike(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    for name in ["softcap", "rotary_interleaved", "scale"] {
        // A layer that does not rotate does not say how.
        let turns = |node: &Node| name != "rotary_interleaved" || node.int("do_rotary") == Some(1);
        let value = |node: &Node| match node.float(name) {
            Some(value) => Some(f64::from(value)),
            None => Some(node.int(name).map_or(0.0, |value| value as f64)),
        };
        for (_, layers) in by_layer(&part.graph, |node| is_grouped(node) && turns(node), value) {
            let by_depth = |&(layer, scale, _): &(usize, f64, &Node)| scale * (layer + 1) as f64;
            let first = layers.first().map_or(0.0, by_depth);
            if name == "scale" && layers.iter().all(|layer| (by_depth(layer) - first).abs() < 1e-3 * first.abs()) {
                continue;
            }
            // Layers with heads of other sizes have scales of their own.
            let differ = name == "scale" && sizes_differ(package);
            odd_ones(part, name, &layers, !differ, findings);
        }
    }
    let turned = by_layer(&part.graph, is_grouped, |node| Some(node.int("do_rotary").unwrap_or(0) as f64));
    for (_, layers) in turned {
        let still: Vec<String> =
            layers.iter().filter(|(_, turns, _)| *turns == 0.0).map(|(layer, ..)| layer.to_string()).collect();
        if !still.is_empty() && still.len() < layers.len() {
            findings.info("attention", part.file.as_str(), format!("layers without rotation: {}", still.join(" ")));
        }
    }
    let windows = by_layer(&part.graph, is_grouped, |node| Some(node.int("local_window_size").unwrap_or(-1) as f64));
    for (_, layers) in windows {
        let mut values: Vec<i64> = layers.iter().map(|(_, value, _)| *value as i64).collect();
        values.sort_unstable();
        values.dedup();
        if values.len() > 1 {
            let each: Vec<String> = layers
                .iter()
                .map(|(_, window, _)| if *window < 0.0 { "-".to_owned() } else { window.to_string() })
                .collect();
            findings.info("attention", part.file.as_str(), format!("windows by layer: {}", each.join(" ")));
        }
        if let Some((layer, window, _)) = layers.iter().find(|(_, window, _)| *window == 0.0 || *window < -1.0) {
            findings.error(
                "attention",
                format!("{}: layer {layer}", part.file),
                format!("has a window of {window} tokens"),
            );
        }
    }
}

fn sizes_differ(package: &Package) -> bool {
    Caches::find(package).is_some_and(|caches| {
        let mut sizes: Vec<_> = caches.past_keys.values().map(|value| caches.heads(value)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.len() > 1
    })
}

/// One epsilon for all norms of a kind.
pub(super) fn norms(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let is_norm = |node: &Node| node.op_type.ends_with("LayerNormalization") || node.op_type == "RMSNormalization";
        let epsilon = |node: &Node| node.float("epsilon").map(f64::from);
        for node in part.graph.nodes.iter().filter(|node| is_norm(node)) {
            if let Some(value) = epsilon(node).filter(|value| !(0.0..1.0).contains(value)) {
                let message = format!("has epsilon {value}, expected a small positive number");
                findings.error("norms", format!("{}: {}", part.file, node.label()), message);
            }
        }
        // The first norm of a layer may be of another operator than the others: compare by values alone.
        let mut all: ByLayer = by_layer(&part.graph, is_norm, epsilon).into_iter().flat_map(|(_, list)| list).collect();
        all.sort_by_key(|(layer, ..)| *layer);
        let own = |node: &Node| node.label().contains("q_norm") || node.label().contains("k_norm");
        let (of_heads, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, _, node)| own(node));
        for list in [of_heads, others] {
            odd_ones(part, "epsilon", &list, true, findings);
        }
    }
}

/// The few that are not like the most.
fn odd_ones(part: &Part, name: &str, layers: &[(usize, f64, &Node)], always: bool, findings: &mut Findings) {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, value, _) in layers {
        *counts.entry(value.to_bits()).or_default() += 1;
    }
    let Some((&most, _)) = counts.iter().max_by_key(|(_, count)| **count).filter(|_| counts.len() > 1) else { return };
    let check = if name == "epsilon" { "norms" } else { "attention" };
    for (layer, value, node) in layers.iter().filter(|(_, value, _)| value.to_bits() != most).take(3) {
        let message = format!("layer {layer} has {name} {value}, most others have {}", f64::from_bits(most));
        let at = format!("{}: {}", part.file, node.label());
        if always {
            findings
                .doubt(check, at, message)
                .hint("no model is known in which this differs by layer: the layer was built wrongly");
        } else {
            findings.info(check, at, message);
        }
    }
}
