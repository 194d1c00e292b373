//! Names in `genai_config.json` against those of the graph, in both directions.

use super::package::{CONFIG, Part};
use super::{Findings, Package};
use crate::Template;

const DECODER: &str = "model.decoder";

/// Names of inputs that the runtime feeds without being told (their defaults are their own keys).
const FED: [&str; 21] = [
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "past_key_values_length",
    "past_sequence_length",
    "current_sequence_length",
    "total_sequence_length",
    "cache_indirection",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "rnn_states_prev",
    "cumulative_sequence_lengths",
    "past_sequence_lengths",
    "block_table",
    "block_table_windowed",
    "attention_metadata",
    "targets",
    "lstm_hidden_state",
    "lstm_cell_state",
    "per_layer_inputs",
];

/// Keys of templates, with their defaults.
const PAST: [(&str, &str); 6] = [
    ("past_key_names", "past_key_values.%d.key"),
    ("past_value_names", "past_key_values.%d.value"),
    ("past_names", ""),
    ("cross_past_key_names", ""),
    ("cross_past_value_names", ""),
    ("past_conv_names", "past_conv.%d"),
];

/// The decoder of a package that has nothing else.
fn plain(package: &Package) -> Option<&Part> {
    package.decoder().filter(|_| !package.is_composed())
}

pub(super) fn named_in_config(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    for (side, values) in [("inputs", &part.graph.inputs), ("outputs", &part.graph.outputs)] {
        for (key, name) in package.names(&format!("{DECODER}.{side}")) {
            let at = format!("{CONFIG}: {DECODER}.{side}.{key}");
            if key.ends_with("_names") && !name.is_empty() {
                match Template::parse(name) {
                    Err(problem) => {
                        findings.error("names", at, problem);
                    }
                    Ok(template) if !values.iter().any(|value| template.layer(&value.name).is_some()) => {
                        findings
                            .error(
                                "names",
                                at,
                                format!("is {name:?}, and no name among the graph's {side} is of this kind"),
                            )
                            .hint("the peer leaves the cache out in silence, and fails in the graph");
                    }
                    Ok(_) => {}
                }
            } else if !name.is_empty() && !values.iter().any(|value| value.name == name) {
                let defaulted = part.graph.defaults.iter().any(|value| value.name == name);
                // Ids or their embeddings: one of the two is enough.
                let other = match key {
                    "input_ids" => "inputs_embeds",
                    "inputs_embeds" => "input_ids",
                    _ => "",
                };
                let other = package.name_or(&format!("{DECODER}.inputs.{other}"), other);
                let needed = matches!(key, "input_ids" | "inputs_embeds" | "logits")
                    && !defaulted
                    && (key == "logits" || part.graph.input(other).is_none());
                let among: Vec<&str> = values.iter().map(|value| value.name.as_str()).take(6).collect();
                let message = format!("is {name:?}, which is not among the graph's {side}: {}", among.join(", "));
                if needed {
                    findings.error("names", at, message).hint("a name was changed on one side alone");
                } else if !defaulted {
                    findings.warning("names", at, message).hint("the runtime does not feed it, and says nothing");
                }
            }
        }
    }
    let logits = package.name_or("model.decoder.outputs.logits", "logits");
    let plain = plain(package).is_some() && package.value("model.decoder.outputs.logits").is_none();
    if plain && part.graph.output(logits).is_none() {
        findings.error("names", part.file.as_str(), format!("has no output `{logits}`"));
    }
}

/// Every input without a default is fed by something.
pub(super) fn claimed_inputs(package: &Package, findings: &mut Findings) {
    let Some(part) = plain(package) else { return };
    let inputs = package.names("model.decoder.inputs");
    let named = |wanted: &str| inputs.iter().find(|(key, _)| *key == wanted).map(|(_, name)| *name);
    let past: Vec<Template> =
        PAST.iter().filter_map(|(key, default)| Template::parse(named(key).unwrap_or(default)).ok()).collect();
    for input in &part.graph.inputs {
        let name = input.name.as_str();
        let plain = inputs.iter().any(|(key, value)| !key.ends_with("_names") && *value == name)
            || FED.iter().any(|key| named(key).unwrap_or(key) == name);
        let kept = name == "num_logits_to_keep" || name.starts_with("onnx::Neg_");
        // States of hybrid models are found by these words.
        let state = name.contains("past") && (name.contains("conv") || name.contains("recurrent"));
        if plain || kept || state || past.iter().any(|template| template.layer(name).is_some()) {
            continue;
        }
        let message = format!("is an input without a default, and no name in {CONFIG} is for it: nothing feeds it");
        let hint = match nearest(name, inputs.iter().map(|(_, name)| *name).chain(FED)) {
            Some(near) => format!("is it `{near}`? A name was changed on one side alone"),
            None => "name it in model.decoder.inputs, or give it a default in the graph".to_owned(),
        };
        findings.error("names", format!("{}: {name}", part.file), message).hint(hint);
    }
}

/// A name that differs by a few letters.
fn nearest<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let common = |other: &str| {
        let start = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let end = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        (start + end).min(other.len())
    };
    others.map(|other| (common(other), other)).filter(|(count, other)| count * 2 > other.len()).max().map(|(_, o)| o)
}
