//! Names, sizes, operators, attributes.

use genai_onnx::tensor_proto::DataType;
use genai_onnx::{AttributeProto, GraphProto, OperatorSetIdProto, attribute_proto::AttributeType};
use serde_json::json;

use super::{assert_found, set};
use crate::graph::sample::{float, int, node, value};
use crate::report::Severity::{Doubt, Error, Info, Warning};

#[test]
fn damage_to_names_and_sizes() {
    assert_found(&[
        (
            "an input of another name",
            |s| s.graph().input[1].name = Some("mask".into()),
            Error,
            "names",
            "mask: is an input without a default",
        ),
        (
            "that input in the graph",
            |s| s.graph().input[1].name = Some("mask".into()),
            Error,
            "model-file",
            "attention_mask: is read by",
        ),
        (
            "logits of another name",
            |s| set(s, "/model/decoder/outputs/logits", json!("scores")),
            Error,
            "names",
            "is \"scores\", which is not among the graph's outputs: logits",
        ),
        (
            "a template for nothing",
            |s| set(s, "/model/decoder/inputs/past_key_names", json!("cache.%d.key")),
            Error,
            "names",
            "no name among the graph's inputs is of this kind",
        ),
        (
            "a template that crashes",
            |s| set(s, "/model/decoder/inputs/past_key_names", json!("past.%s.key")),
            Error,
            "names",
            "exactly one %d",
        ),
        (
            "more layers",
            |s| set(s, "/model/decoder/num_hidden_layers", json!(4)),
            Error,
            "layers",
            "is 4, and the graph has caches of 3 layers",
        ),
        (
            "fewer layers",
            |s| set(s, "/model/decoder/num_hidden_layers", json!(2)),
            Error,
            "layers",
            "cache of layer 2, counted from 0",
        ),
        (
            "heads of keys",
            |s| set(s, "/model/decoder/num_key_value_heads", json!(2)),
            Error,
            "cache",
            "num_key_value_heads: is 2, the graph has 1",
        ),
        (
            "size of heads",
            |s| set(s, "/model/decoder/head_size", json!(8)),
            Error,
            "cache",
            "head_size: is 8, the graph has 16",
        ),
        (
            "a vocabulary",
            |s| set(s, "/model/vocab_size", json!(141)),
            Error,
            "vocabulary",
            "is 141, the logits are 140 wide",
        ),
        (
            "a context",
            |s| set(s, "/model/context_length", json!(128)),
            Error,
            "context",
            "is 128, table `cos` has 64 rows",
        ),
        (
            "types of masks",
            |s| {
                s.graph().input.push(value("position_ids", DataType::Int32, &["batch", "length"]));
            },
            Error,
            "integer-inputs",
            "INT32, those of `attention_mask` are INT64",
        ),
        (
            "ids of floats",
            |s| s.graph().input[0] = value("input_ids", DataType::Float, &["1", "1"]),
            Error,
            "integer-inputs",
            "FLOAT",
        ),
        (
            "fixed sizes",
            |s| s.graph().input[0] = value("input_ids", DataType::Int64, &["1", "8"]),
            Info,
            "sizes",
            "takes 8 tokens at a time",
        ),
        (
            "the last row alone",
            |s| s.graph().output[0] = value("logits", DataType::Float, &["batch", "1", "140"]),
            Info,
            "logits",
            "the last token alone",
        ),
        (
            "caches of two types",
            |s| s.graph().output[1] = value("present.0.key", DataType::Float16, &["batch", "1", "total", "16"]),
            Error,
            "cache",
            "is of FLOAT, `present.0.key` of FLOAT16",
        ),
        (
            "caches of two sizes",
            |s| s.graph().output[1] = value("present.0.key", DataType::Float, &["batch", "1", "total", "8"]),
            Error,
            "cache",
            "other sizes than `present.0.key`",
        ),
        ("a cache lost", |s| drop(s.graph().output.remove(1)), Error, "cache", "no cache of layer 0 comes out"),
        (
            "a cache that grows",
            |s| {
                let concat = node("Concat", &["past.0.key", "layers.0.qkv"], &["longer"], vec![int("axis", 2)]);
                s.graph().node.push(concat);
            },
            Error,
            "shared-cache",
            "Concat `Concat_longer` makes the cache of `past.0.key` anew",
        ),
    ]);
}

#[test]
fn damage_to_operators_and_versions() {
    assert_found(&[
        (
            "a new opset",
            |s| s.model.opset_import[0].version = Some(27),
            Error,
            "opset",
            "imports ai.onnx 27, ONNX Runtime 1.31 has 7 to 26",
        ),
        ("a new format", |s| s.model.ir_version = Some(14), Error, "opset", "IR version 14"),
        (
            "a domain without a version",
            |s| drop(s.model.opset_import.pop()),
            Error,
            "opset",
            "is of the domain com.microsoft",
        ),
        (
            "a misspelled operator",
            |s| s.node("o_proj").op_type = Some("MatMulNBit".into()),
            Error,
            "operators",
            "com.microsoft.MatMulNBit",
        ),
        (
            "a foreign operator",
            |s| {
                s.model.opset_import.push(OperatorSetIdProto { domain: Some("my.ops".into()), version: Some(1) });
                s.node("layers.1/Add").domain = Some("my.ops".into());
            },
            Error,
            "operators",
            "my.ops.Add",
        ),
        (
            "a native library",
            |s| {
                set(
                    s,
                    "/model/decoder/session_options",
                    json!({ "custom_ops_library": "x.so", "provider_options": [] }),
                );
            },
            Error,
            "operators",
            "native library \"x.so\"",
        ),
        (
            "branches of two types",
            |s| {
                let branch = |name: &str, dtype| AttributeProto {
                    name: Some(name.into()),
                    r#type: Some(AttributeType::Graph.into()),
                    g: Some(GraphProto {
                        node: vec![node("Identity", &["h0"], &[name], vec![])],
                        output: vec![value(name, dtype, &["n"])],
                        ..GraphProto::default()
                    }),
                    ..AttributeProto::default()
                };
                let branches = vec![branch("then_branch", DataType::Float), branch("else_branch", DataType::Float16)];
                s.graph().node.push(node("If", &["total"], &["chosen"], branches));
            },
            Error,
            "branches",
            "`then_branch` of FLOAT or `else_branch` of FLOAT16",
        ),
    ]);
}

#[test]
fn damage_to_attention_and_norms() {
    assert_found(&[
        (
            "heads",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("num_heads", 4)),
            Error,
            "attention",
            "of width 64, expected 6 heads of 16: 96",
        ),
        (
            "heads of keys",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("kv_num_heads", 2)),
            Error,
            "attention",
            "kv_num_heads 2, its cache has 1 heads",
        ),
        (
            "heads that do not divide",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("num_heads", 3)),
            Error,
            "attention",
            "gives 3 heads of 16, and `/model/layers.1/attn/o_proj` takes 32",
        ),
        (
            "heads in the configuration",
            |s| set(s, "/model/decoder/num_attention_heads", json!(4)),
            Warning,
            "attention",
            "is 4, `/model/layers.0/attn/GroupQueryAttention` has num_heads 2",
        ),
        (
            "a softcap lost",
            |s| {
                for layer in 0..2 {
                    s.attribute(&format!("layers.{layer}/attn/GroupQueryAttention"), float("softcap", 30.0));
                }
            },
            Doubt,
            "attention",
            "layer 2 has softcap 0, most others have 30",
        ),
        (
            "a scale",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", float("scale", 1.0)),
            Doubt,
            "attention",
            "layer 1 has scale 1, most others have 0.25",
        ),
        (
            "another rotation",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("rotary_interleaved", 1)),
            Doubt,
            "attention",
            "layer 1 has rotary_interleaved 1",
        ),
        (
            "a layer that does not rotate",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("do_rotary", 0)),
            Info,
            "attention",
            "layers without rotation: 1",
        ),
        (
            "windows",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("local_window_size", 8)),
            Info,
            "attention",
            "windows by layer: - 8 -",
        ),
        (
            "no window",
            |s| s.attribute("layers.1/attn/GroupQueryAttention", int("local_window_size", 0)),
            Error,
            "attention",
            "has a window of 0 tokens",
        ),
        (
            "an epsilon",
            |s| s.attribute("layers.1/input_layernorm", float("epsilon", 1e-3)),
            Doubt,
            "norms",
            "layer 1 has epsilon",
        ),
        (
            "no epsilon",
            |s| s.attribute("layers.1/input_layernorm", float("epsilon", -1.0)),
            Error,
            "norms",
            "has epsilon -1",
        ),
    ]);
}
