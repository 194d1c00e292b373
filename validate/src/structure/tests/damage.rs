//! One damage for each check, and what is said of it.

use genai_onnx::tensor_proto::DataType;
use genai_onnx::{AttributeProto, GraphProto, OperatorSetIdProto, attribute_proto::AttributeType};
use serde_json::json;

use super::findings;
use super::sample::Sample;
use crate::graph::sample::{external, float, floats, int, node, tensor, value};
use crate::report::Severity::{self, Doubt, Error, Info, Warning};

type Damage = (&'static str, fn(&mut Sample), Severity, &'static str, &'static str);

/// Each is found by the check of this name, where and what says so.
fn assert_found(damages: &[Damage]) {
    for (what, damage, severity, check, says) in damages {
        let mut sample = Sample::new();
        damage(&mut sample);
        let found = findings(&sample);
        let hit = found.iter().any(|finding| {
            let text = format!("{}: {}", finding.at, finding.message);
            finding.severity == *severity && finding.check == *check && text.contains(says)
        });
        assert!(hit, "{what}: expected {severity:?} {check} {says:?}, found {found:#?}");
    }
}

fn set(sample: &mut Sample, path: &str, value: serde_json::Value) {
    *sample.config.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
}

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
fn damage_to_weights() {
    assert_found(&[
        (
            "NaN",
            |s| s.numbers("lm_head", |index, value| if index == 77 { f32::NAN } else { value }),
            Error,
            "weights",
            "lm_head: 1 of 4480 values are NaN and 0 infinite, the first is number 77",
        ),
        (
            "infinity",
            |s| s.numbers("layers.1.qkv_proj.scales", |index, value| if index == 3 { f32::INFINITY } else { value }),
            Error,
            "weights",
            "1 infinite, the first is number 3",
        ),
        (
            "a matrix of zeros",
            |s| s.numbers("lm_head", |_, _| 0.0),
            Error,
            "weights",
            "lm_head: all 4480 values are zero",
        ),
        (
            "codes of zeros",
            |s| s.tensor("layers.2.o_proj.codes").raw_data = Some(vec![0; 512]),
            Error,
            "weights",
            "layers.2.o_proj.codes: all 512 values are zero",
        ),
        (
            "scales of zeros",
            |s| s.numbers("layers.0.o_proj.scales", |_, _| 0.0),
            Error,
            "weights",
            "layers.0.o_proj.scales: all 32 values are zero",
        ),
        (
            "a norm of zeros",
            |s| s.numbers("layers.1.norm.weight", |_, _| 0.0),
            Doubt,
            "weights",
            "layers.1.norm.weight",
        ),
        (
            "an exponent",
            |s| s.numbers("lm_head", |index, value| if index == 5 { 3e12 } else { value }),
            Doubt,
            "weights",
            "the largest value is 3000000000000",
        ),
        (
            "one scale",
            |s| s.numbers("layers.0.qkv_proj.scales", |index, value| if index == 5 { 90.0 } else { value }),
            Doubt,
            "weights",
            "the largest scale is 90",
        ),
        (
            "all scales of a layer",
            |s| s.numbers("layers.1.o_proj.scales", |_, value| value * 40.0),
            Doubt,
            "weights",
            "layers.1.o_proj.codes: is of size",
        ),
    ]);
    let mut sample = Sample::new();
    sample.graph().initializer[0] = external("embed", &[700, 32], &[("location", "model.onnx.data")]);
    sample.data = sample.data.repeat(5);
    let from = sample.data.len() / 4 * 3;
    sample.data[from..].fill(0);
    let found = findings(&sample);
    assert!(
        found.iter().any(|f| f.severity == Warning && f.message.contains("the last 5600 of 22400 values are zero")),
        "{found:#?}"
    );
}

#[test]
fn damage_to_quantized_matrices() {
    assert_found(&[
        (
            "another width",
            |s| s.attribute("layers.1/attn/qkv_proj", int("bits", 8)),
            Error,
            "quantized",
            "/model/layers.1/attn/qkv_proj: has codes",
        ),
        (
            "other blocks",
            |s| s.attribute("layers.1/attn/qkv_proj", int("block_size", 16)),
            Error,
            "quantized",
            "expected UINT8 [64, 2, 8]",
        ),
        (
            "scales of another matrix",
            |s| s.node("layers.0/attn/o_proj").input[2] = "layers.0.qkv_proj.scales".into(),
            Error,
            "quantized",
            "scales `layers.0.qkv_proj.scales` of shape [64, 1], expected [32, 1]",
        ),
        ("zero points one off", off_by_one, Doubt, "quantized", "has the mean"),
        (
            "group indices",
            |s| {
                let bytes = (0..32_i32).flat_map(|column| (column / 31).to_le_bytes()).collect();
                s.graph().initializer.push(tensor("groups", DataType::Int32, &[32], bytes));
                s.node("layers.0/attn/o_proj").input.extend(["".to_owned(), "groups".to_owned()]);
            },
            Error,
            "quantized",
            "has the group index 1 in `groups`, there are 1 blocks",
        ),
    ]);
}

/// Replaces the head by a quantized one, large enough to have a mean, whose zero points should be one more.
fn off_by_one(sample: &mut Sample) {
    let codes: Vec<u8> = (0..140 * 16_u32).map(|at| [0x86_u8, 0x97, 0xa5, 0x68][(at % 4) as usize]).collect();
    sample.graph().initializer.retain(|tensor| tensor.name() != "lm_head");
    sample.graph().initializer.extend([
        tensor("lm_head", DataType::Uint8, &[140, 1, 16], codes),
        floats("head.scales", &[140, 1], &[0.1; 140]),
        tensor("head.zeros", DataType::Uint8, &[140, 1], vec![0x06; 140]),
    ]);
    let head = sample.node("lm_head/MatMul");
    head.op_type = Some("MatMulNBits".into());
    head.domain = Some("com.microsoft".into());
    head.input.extend(["head.scales".to_owned(), "head.zeros".to_owned()]);
    head.attribute = vec![int("K", 32), int("N", 140), int("bits", 4), int("block_size", 32)];
}

#[test]
fn damage_to_positions() {
    assert_found(&[
        (
            "from position 1 on",
            |s| {
                for (name, function) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
                    s.numbers(name, |index, _| {
                        function((index / 8 + 1) as f32 * 10000_f32.powf(-((index % 8) as f32) / 8.0))
                    });
                }
            },
            Error,
            "rope-table",
            "row 0 is not the angle 0",
        ),
        (
            "swapped",
            |s| s.node("layers.0/attn/GroupQueryAttention").input.swap(7, 8),
            Error,
            "rope-table",
            "sin, cos: row 0 is not the angle 0",
        ),
        (
            "one number",
            |s| s.numbers("sin", |index, value| if index == 8 * 40 + 3 { value + 0.1 } else { value }),
            Error,
            "rope-table",
            "row 40",
        ),
        (
            "rows out of order",
            |s| {
                for name in ["cos", "sin"] {
                    let bytes = s.tensor(name).raw_data.as_mut().unwrap();
                    let (left, right) = bytes.split_at_mut(30 * 32);
                    left[29 * 32..].swap_with_slice(&mut right[..32]);
                }
            },
            Error,
            "rope-table",
            "row 29 is not one step on from row 28",
        ),
        (
            "of two tables",
            |s| s.numbers("sin", |index, _| ((index / 8) as f32 * 500_000_f32.powf(-((index % 8) as f32) / 8.0)).sin()),
            Error,
            "rope-table",
            "column 1 does not lie on the circle",
        ),
        (
            "of two lengths",
            |s| {
                let sin = s.tensor("sin");
                sin.dims = vec![32, 8];
                sin.raw_data.as_mut().unwrap().truncate(32 * 32);
            },
            Error,
            "rope-table",
            "[64, 8] and [32, 8]",
        ),
        (
            "of another head size",
            |s| {
                for name in ["cos", "sin"] {
                    s.tensor(name).dims = vec![32, 16];
                }
            },
            Warning,
            "rope-table",
            "16 columns, more than half of head_size 16",
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

#[test]
fn damage_to_files() {
    assert_found(&[
        ("a file cut off", |s| s.data.truncate(17_000), Error, "external-data", "embed: ends past its file"),
        (
            "a name that leads out",
            |s| s.tensor("embed").external_data[0].value = Some("../x".into()),
            Error,
            "external-data",
            "leads out of the folder",
        ),
        (
            "a file of another name",
            |s| s.tensor("embed").external_data[0].value = Some("model.data".into()),
            Error,
            "external-data",
            "there is no model.data",
        ),
        (
            "another size",
            |s| s.tensor("embed").dims = vec![140, 33],
            Error,
            "external-data",
            "has 17920 bytes, expected 18480",
        ),
        (
            "a tensor cut off",
            |s| s.tensor("norm.weight").dims = vec![33],
            Error,
            "model-file",
            "has 128 bytes, expected 132",
        ),
        (
            "no model",
            |s| set(s, "/model/decoder/filename", json!("decoder.onnx")),
            Error,
            "model-file",
            "there is no decoder.onnx",
        ),
        (
            "a model elsewhere",
            |s| set(s, "/model/decoder/filename", json!("/etc/passwd")),
            Error,
            "paths",
            "absolute path",
        ),
        (
            "a tokenizer elsewhere",
            |s| s.config["model"]["tokenizer_dir"] = json!("../.."),
            Error,
            "paths",
            "tokenizer_dir",
        ),
        ("no licence", |s| drop(s.files.remove("LICENSE")), Info, "licence", "has not a licence"),
        (
            "a tensor for nothing",
            |s| s.graph().initializer.push(floats("left", &[2], &[1.0, 2.0])),
            Info,
            "unused",
            "1 tensors that no node reads, 8 B: `left`",
        ),
        (
            "the same twice",
            |s| {
                let numbers = vec![0.5; 20_000];
                for name in ["one", "other"] {
                    s.graph().initializer.push(floats(name, &[20_000], &numbers));
                }
            },
            Info,
            "duplicates",
            "other: holds the same 78.1 KiB as `one`",
        ),
        ("an unknown key", |s| s.config["model"]["decoder"]["windows"] = json!({}), Error, "config", "windows"),
        ("a wrong type", |s| set(s, "/model/vocab_size", json!("140")), Error, "config", "vocab_size"),
        ("too long", |s| set(s, "/search/max_length", json!(65)), Error, "config", "max_length: is 65"),
    ]);
}

#[test]
fn damage_to_text() {
    assert_found(&[
        (
            "no tokenizer",
            |s| s.tokenizer = serde_json::Value::Null,
            Warning,
            "tokenizer",
            "tokenizer.json: is not in the package",
        ),
        (
            "a broken tokenizer",
            |s| s.tokenizer["model"]["type"] = json!("Nothing"),
            Error,
            "tokenizer",
            "tokenizer.json",
        ),
        (
            "a larger tokenizer",
            |s| s.tokenizer["model"]["vocab"]["extra"] = json!(140),
            Error,
            "vocabulary",
            "token \"extra\" has the id 140, the model has 140 tokens",
        ),
        (
            "a smaller tokenizer",
            |s| drop(s.tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("w139")),
            Info,
            "vocabulary",
            "1 of 140 rows",
        ),
        (
            "an id past the vocabulary",
            |s| set(s, "/model/eos_token_id", json!([2, 140])),
            Error,
            "special-ids",
            "is 140, the vocabulary has 140 tokens",
        ),
        (
            "another end",
            |s| set(s, "/model/eos_token_id", json!(5)),
            Warning,
            "special-ids",
            "is [5], tokenizer_config.json has eos_token \"<|im_end|>\" with the id 2",
        ),
        (
            "an end forgotten",
            |s| {
                s.files.insert("generation_config.json".into(), r#"{"eos_token_id": [2, 7]}"#.into());
            },
            Warning,
            "special-ids",
            "generation_config.json ends at 7 too",
        ),
        (
            "another begin",
            |s| set(s, "/model/bos_token_id", json!(9)),
            Warning,
            "special-ids",
            "bos_token \"<bos>\" with the id 1",
        ),
        (
            "a turn without an end",
            |s| set(s, "/model/eos_token_id", json!(5)),
            Warning,
            "chat-template",
            "ends answers with \"<|im_end|>\" (id 2), which is not in eos_token_id [5]",
        ),
        (
            "an empty template",
            |s| drop(s.files.insert("chat_template.jinja".into(), " \n".into())),
            Error,
            "chat-template",
            "leaves out what was said",
        ),
        (
            "a broken template",
            |s| drop(s.files.insert("chat_template.jinja".into(), "{% for m in messages %}".into())),
            Error,
            "chat-template",
            "chat_template.jinja",
        ),
        ("no template", |s| drop(s.files.remove("chat_template.jinja")), Info, "chat-template", "no chat template"),
        (
            "padding that ends",
            |s| set(s, "/model/pad_token_id", json!(2)),
            Warning,
            "pad",
            "is 2, which is also an end-of-text id",
        ),
        ("padding that begins", |s| set(s, "/model/pad_token_id", json!(1)), Warning, "pad", "also begins each text"),
    ]);
}
