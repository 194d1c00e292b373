//! What is wrong around the graph: files, names, shapes and configuration. No checkpoint is needed to see it.

use std::fs;
use std::path::Path;

use genai_onnx::{OperatorSetIdProto, StringStringEntryProto, tensor_shape_proto::dimension};
use genai_validate::report::Stage::Structure;
use serde_json::json;

use super::{By, Damage, STANDARD, fp32, gqa, node};
use crate::parts::Parts;

/// A damage that is seen without the checkpoint.
const fn seen(
    what: &'static str,
    by: fn(&mut Parts),
    check: &'static str,
    at: &'static str,
    says: &'static [&'static str],
) -> Damage {
    Damage { what, to: fp32("llama-default"), by: By::Parts(by), stage: Structure, check, at, says }
}

const fn seen_in_files(
    what: &'static str,
    by: fn(&Path),
    check: &'static str,
    at: &'static str,
    says: &'static [&'static str],
) -> Damage {
    Damage { what, to: fp32("llama-default"), by: By::Files(by), stage: Structure, check, at, says }
}

/// Sets where the bytes of a tensor lie.
fn place(parts: &mut Parts, tensor: &str, key: &str, value: String) {
    let entries = &mut parts.initializer(tensor).external_data;
    let entry: &mut StringStringEntryProto = entries.iter_mut().find(|entry| entry.key() == key).unwrap();
    entry.value = Some(value);
}

fn offset(parts: &mut Parts, tensor: &str) -> u64 {
    let entries = &parts.initializer(tensor).external_data;
    entries.iter().find(|entry| entry.key() == "offset").unwrap().value().parse().unwrap()
}

/// Changes one dimension of an input or output of the graph.
fn resize(parts: &mut Parts, name: &str, axis: usize, size: i64) {
    let graph = parts.graph();
    let value = graph.input.iter_mut().chain(&mut graph.output).find(|value| value.name() == name).unwrap();
    let genai_onnx::type_proto::Value::TensorType(tensor) = value.r#type.as_mut().unwrap().value.as_mut().unwrap()
    else {
        panic!("{name} is no tensor");
    };
    tensor.shape.as_mut().unwrap().dim[axis].value = Some(dimension::Value::DimValue(size));
}

fn retype(parts: &mut Parts, name: &str, dtype: i32) {
    let graph = parts.graph();
    let value = graph.input.iter_mut().chain(&mut graph.output).find(|value| value.name() == name).unwrap();
    let genai_onnx::type_proto::Value::TensorType(tensor) = value.r#type.as_mut().unwrap().value.as_mut().unwrap()
    else {
        panic!("{name} is no tensor");
    };
    tensor.elem_type = Some(dtype);
}

const GATE: &str = "model.layers.1.mlp.gate_proj.MatMul.weight";
const UP: &str = "model.layers.1.mlp.up_proj.MatMul.weight";

pub(super) const ALL: &[Damage] = &[
    seen("a data file cut short", |p| p.data.truncate(p.data.len() - 64), "external-data", "", &["model.onnx.data"]),
    seen(
        "a tensor a few bytes late",
        |p| {
            let late = offset(p, GATE) + 64;
            place(p, GATE, "offset", late.to_string());
        },
        "external-data",
        "",
        &["overlaps"],
    ),
    seen(
        "two tensors in one place",
        |p| {
            let other = offset(p, GATE) + 16;
            place(p, UP, "offset", other.to_string());
        },
        "external-data",
        "",
        &["overlaps", GATE],
    ),
    seen(
        "weights from a folder outside",
        |p| place(p, GATE, "location", "../model.onnx.data".to_owned()),
        "external-data",
        "",
        &[".."],
    ),
    seen_in_files(
        "weights behind a link that leads outside",
        |folder| {
            let outside = folder.with_extension("outside");
            fs::rename(folder.join("model.onnx.data"), &outside).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink(&outside, folder.join("model.onnx.data")).unwrap();
        },
        "external-data",
        "model.onnx.data",
        &["symbolic link that leads out"],
    ),
    seen_in_files(
        "bytes behind the graph",
        |folder| {
            let mut bytes = fs::read(folder.join("model.onnx")).unwrap();
            bytes.extend_from_slice(b"\x8a\x7ftrailing");
            fs::write(folder.join("model.onnx"), bytes).unwrap();
        },
        "model-file",
        "model.onnx",
        &["no part of an ONNX model"],
    ),
    seen_in_files(
        "a graph cut short",
        |folder| {
            let bytes = fs::read(folder.join("model.onnx")).unwrap();
            fs::write(folder.join("model.onnx"), &bytes[..bytes.len() / 2]).unwrap();
        },
        "model-file",
        "model.onnx",
        &["cut off"],
    ),
    seen(
        "an input renamed in the configuration",
        |p| p.configure("model.decoder.inputs.past_key_names", "past.%d.key"),
        "names",
        "past_key_names",
        &["past.%d.key", "no name among the graph's inputs"],
    ),
    seen(
        "an input renamed in the graph",
        |p| {
            let rename = |name: &mut String| {
                if name == "input_ids" {
                    "tokens".clone_into(name);
                }
            };
            let graph = p.graph();
            graph.node.iter_mut().flat_map(|node| &mut node.input).for_each(rename);
            graph.input.iter_mut().for_each(|value| rename(value.name.as_mut().unwrap()));
        },
        "names",
        "input_ids",
        &["not among the graph's inputs: tokens"],
    ),
    seen(
        "an output renamed in the graph",
        |p| {
            p.node(&gqa(1)).output[2] = "value_of_layer_1".to_owned();
            let output = p.graph().output.iter_mut().find(|value| value.name() == "present.1.value").unwrap();
            output.name = Some("value_of_layer_1".to_owned());
        },
        "cache",
        "past_key_values.1.value",
        &["no cache of layer 1 comes out"],
    ),
    seen(
        "a value that nothing gives",
        |p| p.node(&gqa(0)).input[3].push_str(".gone"),
        "model-file",
        "gone",
        &["nothing gives it"],
    ),
    seen(
        "a past that is no input",
        |p| p.graph().input.retain(|value| value.name() != "past_key_values.2.key"),
        "layers",
        "layer 2",
        &["a cache of values and none of keys"],
    ),
    seen(
        "keys of another type than goes out",
        // fp16.
        |p| retype(p, "past_key_values.0.key", 10),
        "cache",
        "past_key_values.0.key",
        &["FLOAT16"],
    ),
    seen(
        "opset of the future",
        |p| p.model().opset_import[0] = OperatorSetIdProto { domain: Some(String::new()), version: Some(99) },
        "opset",
        "model.onnx",
        &["99"],
    ),
    seen(
        "an operator of another library",
        |p| {
            let norm = p.node("/model/layers.0/input_layernorm/LayerNorm");
            norm.domain = Some("com.example.kernels".to_owned());
            let opset = OperatorSetIdProto { domain: Some("com.example.kernels".to_owned()), version: Some(1) };
            p.model().opset_import.push(opset);
        },
        "operators",
        "model.onnx",
        &["com.example.kernels"],
    ),
    seen(
        "an operator that is misspelled",
        |p| p.node(&gqa(0)).op_type = Some("GroupedQueryAttention".to_owned()),
        "operators",
        "model.onnx",
        &["GroupedQueryAttention"],
    ),
    seen("another vocabulary", |p| p.configure("model.vocab_size", 325), "vocabulary", "", &["325", "331"]),
    seen("another head size", |p| p.configure("model.decoder.head_size", 32), "cache", "", &["32", "16"]),
    seen("other kv heads", |p| p.configure("model.decoder.num_key_value_heads", 4), "cache", "", &["4", "2"]),
    seen(
        "a layer fewer",
        |p| p.configure("model.decoder.num_hidden_layers", 2),
        "layers",
        "",
        &["is 2", "a cache of layer 2"],
    ),
    seen(
        "a layer more",
        |p| p.configure("model.decoder.num_hidden_layers", 4),
        "layers",
        "",
        &["is 4", "caches of 3 layers"],
    ),
    seen(
        "a cache of another shape",
        |p| resize(p, "past_key_values.1.value", 1, 4),
        "cache",
        "past_key_values.1.value",
        &["4", "2"],
    ),
    seen(
        "a name template for text",
        |p| p.configure("model.decoder.inputs.past_key_names", "past_key_values.%s.key"),
        "names",
        "past_key_names",
        &["%s", "%d"],
    ),
    seen("no end token", |p| p.configure("model.eos_token_id", json!([])), "config", "eos_token_id", &[]),
    seen(
        "an end token past the vocabulary",
        |p| p.configure("model.eos_token_id", 331),
        "special-ids",
        "eos_token_id",
        &["331"],
    ),
    seen(
        "a context past the rotation's tables",
        |p| p.configure("model.context_length", 512),
        "context",
        "context_length",
        &["512", "256 rows"],
    ),
    Damage {
        to: STANDARD,
        ..seen(
            "one buffer for past and present of a graph that joins them",
            |p| p.configure("search.past_present_share_buffer", true),
            "shared-cache",
            "past_present_share_buffer",
            &["Concat"],
        )
    },
    seen_in_files(
        "the tokenizer of another model",
        |folder| {
            fs::copy(crate::support::fixture("tales-llama/tokenizer.json"), folder.join("tokenizer.json")).unwrap();
        },
        "vocabulary",
        "tokenizer.json",
        &["331"],
    ),
    seen(
        "the graph of another folder",
        |p| p.configure("model.decoder.filename", "../model.onnx"),
        "paths",
        "filename",
        &[".."],
    ),
    seen(
        "a cache that is computed twice",
        |p| p.graph().node.push(node("Identity", &["past_key_values.1.key"], "present.1.key")),
        "model-file",
        "present.1.key",
        &["computed twice"],
    ),
];
