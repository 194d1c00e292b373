//! Packages of other layouts: an ONNX file and `config.json`, as exporters for browsers and optimum leave them.

use std::path::Path;

use serde_json::{Value, json};

use crate::graph::{Dimension, Graph};

/// ONNX files at the top and in `onnx/`, the likeliest first.
pub(super) fn models(folder: &Path, listing: &[String]) -> Vec<String> {
    let is_model = |name: &&String| name.ends_with(".onnx");
    let mut found: Vec<String> = listing.iter().filter(is_model).cloned().collect();
    if let Ok(entries) = std::fs::read_dir(folder.join("onnx")) {
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.ends_with(".onnx")).map(|name| format!("onnx/{name}")));
    }
    // The full precision has the plainest name.
    found.sort_by_key(|name| (!name.contains("decoder"), !name.contains("model"), name.len(), name.clone()));
    found
}

/// A `genai_config.json` for this graph, by the names that exporters use.
pub(super) fn config(graph: &Graph, file: &str, hf: &Value) -> Value {
    let number = |keys: &[&str]| {
        let nested = hf.get("text_config").unwrap_or(&Value::Null);
        keys.iter().find_map(|key| hf.get(key).or_else(|| nested.get(key)).filter(|value| !value.is_null()).cloned())
    };
    let fixed = |shape: Option<&Vec<Dimension>>, index: usize| match shape.and_then(|shape| shape.get(index)) {
        Some(Dimension::Fixed(size)) => Some(json!(size)),
        _ => None,
    };
    let keys: Vec<_> = graph.inputs.iter().filter_map(|input| Some((input, template(&input.name, "key")?))).collect();
    let cache = keys.first().and_then(|(input, _)| input.shape.as_ref());
    let names = |part: &str, outputs: bool| {
        let values = if outputs { &graph.outputs } else { &graph.inputs };
        values.iter().find_map(|value| template(&value.name, part))
    };
    let logits = graph.output("logits").and_then(|logits| logits.shape.as_ref());
    let inputs = ["input_ids", "inputs_embeds", "attention_mask", "position_ids"];
    let mut input_names: serde_json::Map<String, Value> =
        inputs.iter().filter(|name| graph.input(name).is_some()).map(|&name| (name.to_owned(), json!(name))).collect();
    let mut output_names = serde_json::Map::from_iter([("logits".to_owned(), json!("logits"))]);
    let named = |key: &str, part: &str, outputs: bool| names(part, outputs).map(|name| (key.to_owned(), json!(name)));
    input_names.extend(named("past_key_names", "key", false));
    input_names.extend(named("past_value_names", "value", false));
    output_names.extend(named("present_key_names", "key", true));
    output_names.extend(named("present_value_names", "value", true));
    let heads = number(&["num_attention_heads", "n_head"]);
    let mut decoder = json!({ "filename": file, "inputs": input_names, "outputs": output_names });
    let context = number(&["max_position_embeddings", "n_positions", "n_ctx", "seq_length"]);
    let entries = [
        ("head_size", fixed(cache, 3).or_else(|| number(&["head_dim"]))),
        ("hidden_size", number(&["hidden_size", "n_embd"])),
        ("num_attention_heads", heads),
        ("num_hidden_layers", Some(json!(keys.len())).filter(|_| !keys.is_empty())),
        ("num_key_value_heads", fixed(cache, 1).or_else(|| number(&["num_key_value_heads"]))),
    ];
    set(&mut decoder, entries);
    let mut model = json!({ "type": "decoder", "decoder": decoder });
    let entries = [
        ("context_length", context.clone()),
        ("vocab_size", fixed(logits, 2).or_else(|| number(&["vocab_size"]))),
        ("bos_token_id", number(&["bos_token_id"])),
        ("eos_token_id", number(&["eos_token_id"])),
        ("pad_token_id", number(&["pad_token_id"])),
    ];
    set(&mut model, entries);
    json!({
        "model": model,
        "search": { "max_length": context.unwrap_or(json!(2048)), "past_present_share_buffer": false },
    })
}

fn set<const N: usize>(object: &mut Value, entries: [(&str, Option<Value>); N]) {
    if let Some(object) = object.as_object_mut() {
        object.extend(entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
}

/// `past_key_values.0.key` as a template, if it is of a cache of this part.
fn template(name: &str, part: &str) -> Option<String> {
    let at = name.find(|c: char| c.is_ascii_digit())?;
    let (before, rest) = name.split_at(at);
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let cache = before.contains("past") || before.contains("present");
    (cache && after.contains(part) && !after.contains(|c: char| c.is_ascii_digit()))
        .then(|| format!("{before}%d{after}"))
}
