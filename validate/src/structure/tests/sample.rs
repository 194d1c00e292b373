//! A small sound package, to be damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genai_onnx::tensor_proto::DataType;
use genai_onnx::{GraphProto, ModelProto, NodeProto, TensorProto};
use prost::Message;
use serde_json::{Value, json};

use crate::graph::sample::{external, float, floats, int, model, node, packed, tensor, value};

const HIDDEN: i64 = 32;
const VOCABULARY: i64 = 140;
const CONTEXT: usize = 64;

/// All that is written, still in pieces.
pub(super) struct Sample {
    pub(super) model: ModelProto,
    pub(super) config: Value,
    pub(super) tokenizer: Value,
    pub(super) tokenizer_config: Value,
    /// Of `model.onnx.data`.
    pub(super) data: Vec<u8>,
    pub(super) files: BTreeMap<String, String>,
}

impl Sample {
    pub(super) fn new() -> Self {
        let mut noise = Noise(1);
        let table: Vec<u8> =
            noise.floats((VOCABULARY * HIDDEN) as usize).iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut graph = GraphProto {
            node: vec![
                named("/model/embed_tokens/Gather", node("Gather", &["embed", "input_ids"], &["h0"], vec![])),
                node("Cast", &["attention_mask"], &["lengths"], vec![int("to", 6)]),
                node("Shape", &["attention_mask"], &["total"], vec![]),
            ],
            initializer: vec![
                external(
                    "embed",
                    &[VOCABULARY, HIDDEN],
                    &[("location", "model.onnx.data"), ("offset", "0"), ("length", "17920")],
                ),
                rope("cos", f32::cos),
                rope("sin", f32::sin),
            ],
            input: vec![
                value("input_ids", DataType::Int64, &["batch", "length"]),
                value("attention_mask", DataType::Int64, &["batch", "total"]),
            ],
            output: vec![value("logits", DataType::Float, &["batch", "length", "140"])],
            ..GraphProto::default()
        };
        for layer in 0..3 {
            add_layer(&mut graph, layer, &mut noise);
        }
        graph.node.push(named("/model/norm", norm("h3", "norm.weight", "last")));
        graph.node.push(named("/lm_head/MatMul", node("MatMul", &["last", "lm_head"], &["logits"], vec![])));
        graph.initializer.push(floats("norm.weight", &[HIDDEN], &[1.0; 32]));
        graph.initializer.push(floats("lm_head", &[HIDDEN, VOCABULARY], &noise.floats((HIDDEN * VOCABULARY) as usize)));
        let words = (4..VOCABULARY).map(|id| (format!("w{id}"), json!(id)));
        let special = ["<pad>", "<bos>", "<|im_end|>", "<unk>"];
        let vocabulary: serde_json::Map<String, Value> =
            special.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), json!(id))).chain(words).collect();
        let added = |(id, token): (usize, &&str)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        };
        Self {
            model: model(graph),
            config: json!({
                "model": {
                    "type": "decoder", "vocab_size": VOCABULARY, "context_length": CONTEXT,
                    "bos_token_id": 1, "eos_token_id": [2], "pad_token_id": 0,
                    "decoder": {
                        "filename": "model.onnx", "head_size": 16, "hidden_size": HIDDEN, "num_attention_heads": 2,
                        "num_hidden_layers": 3, "num_key_value_heads": 1,
                        "session_options": { "provider_options": [] },
                        "inputs": { "input_ids": "input_ids", "attention_mask": "attention_mask",
                                    "past_key_names": "past.%d.key", "past_value_names": "past.%d.value" },
                        "outputs": { "logits": "logits", "present_key_names": "present.%d.key",
                                     "present_value_names": "present.%d.value" },
                    },
                },
                "search": { "max_length": CONTEXT, "past_present_share_buffer": true },
            }),
            tokenizer: json!({
                "version": "1.0", "truncation": null, "padding": null,
                "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
                "normalizer": null, "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
                "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
            }),
            tokenizer_config: json!({ "eos_token": "<|im_end|>", "bos_token": "<bos>" }),
            data: table,
            files: BTreeMap::from([
                (
                    "chat_template.jinja".to_owned(),
                    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}".to_owned(),
                ),
                ("LICENSE".to_owned(), "MIT".to_owned()),
                ("README.md".to_owned(), "# Sample".to_owned()),
            ]),
        }
    }

    pub(super) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    /// The node whose name ends so.
    pub(super) fn node(&mut self, end: &str) -> &mut NodeProto {
        let nodes = &mut self.graph().node;
        nodes.iter_mut().find(|node| node.name().ends_with(end)).unwrap_or_else(|| panic!("{end}"))
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut TensorProto {
        self.graph().initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Sets an attribute of the node whose name ends so.
    pub(super) fn attribute(&mut self, end: &str, attribute: genai_onnx::AttributeProto) {
        let node = self.node(end);
        node.attribute.retain(|other| other.name != attribute.name);
        node.attribute.push(attribute);
    }

    /// Sets numbers of a float tensor that the model holds.
    pub(super) fn numbers(&mut self, name: &str, change: impl Fn(usize, f32) -> f32) {
        let bytes = self.tensor(name).raw_data.as_mut().unwrap();
        for (index, number) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *number = change(index, f32::from_le_bytes(*number)).to_le_bytes();
        }
    }

    pub(super) fn write(&self, folder: &Path) {
        fs::write(folder.join("model.onnx"), self.model.encode_to_vec()).unwrap();
        fs::write(folder.join("model.onnx.data"), &self.data).unwrap();
        for (name, value) in [
            ("genai_config.json", &self.config),
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.tokenizer_config),
        ] {
            if !value.is_null() {
                fs::write(folder.join(name), value.to_string()).unwrap();
            }
        }
        for (name, text) in &self.files {
            fs::write(folder.join(name), text).unwrap();
        }
    }
}

fn add_layer(graph: &mut GraphProto, layer: usize, noise: &mut Noise) {
    let path = format!("/model/layers.{layer}");
    let name = |part: &str| format!("layers.{layer}.{part}");
    let (past, present) = (format!("past.{layer}"), format!("present.{layer}"));
    let (input, output) = (format!("h{layer}"), format!("h{}", layer + 1));
    let (normed, qkv, attended, projected) = (name("normed"), name("qkv"), name("attended"), name("projected"));
    let cache = |side: &str, part: &str| format!("{side}.{part}");
    let (key, value_name) = (cache(&past, "key"), cache(&past, "value"));
    let (next_key, next_value) = (cache(&present, "key"), cache(&present, "value"));
    let attention = vec![
        int("num_heads", 2),
        int("kv_num_heads", 1),
        int("do_rotary", 1),
        float("scale", 0.25),
        float("softcap", 0.0),
        int("local_window_size", -1),
    ];
    let attention = node(
        "GroupQueryAttention",
        &[&qkv, "", "", &key, &value_name, "lengths", "total", "cos", "sin"],
        &[&attended, &next_key, &next_value],
        attention,
    );
    graph.node.extend([
        named(&format!("{path}/input_layernorm"), norm(&input, &name("norm.weight"), &normed)),
        named(&format!("{path}/attn/qkv_proj"), product(&normed, &name("qkv_proj"), &qkv, 64)),
        named(&format!("{path}/attn/GroupQueryAttention"), attention),
        named(&format!("{path}/attn/o_proj"), product(&attended, &name("o_proj"), &projected, 32)),
        named(&format!("{path}/Add"), node("Add", &[&input, &projected], &[&output], vec![])),
    ]);
    graph.initializer.push(floats(&name("norm.weight"), &[HIDDEN], &[1.0; 32]));
    for (part, n) in [("qkv_proj", 64_i64), ("o_proj", 32)] {
        let rows = n as usize;
        let codes: Vec<u8> =
            noise.floats(rows * 32).iter().map(|value| (value * 4.0 + 8.5).clamp(0.0, 15.0) as u8).collect();
        // Whose mean is just the zero point that is not stored.
        let mirrored: Vec<u8> = codes.chunks(2).flat_map(|pair| [pair[0].max(1), 16 - pair[0].max(1)]).collect();
        graph.initializer.push(tensor(
            &name(&format!("{part}.codes")),
            DataType::Uint8,
            &[n, 1, 16],
            packed(&mirrored, 4),
        ));
        graph.initializer.push(floats(&name(&format!("{part}.scales")), &[n, 1], &vec![0.01; rows]));
    }
    for (list, side, sequence) in [(&mut graph.input, &past, "past"), (&mut graph.output, &present, "total")] {
        for part in ["key", "value"] {
            list.push(value(&cache(side, part), DataType::Float, &["batch", "1", sequence, "16"]));
        }
    }
}

fn named(name: &str, node: NodeProto) -> NodeProto {
    NodeProto { name: Some(name.to_owned()), ..node }
}

fn norm(input: &str, weight: &str, output: &str) -> NodeProto {
    node("SimplifiedLayerNormalization", &[input, weight], &[output], vec![int("axis", -1), float("epsilon", 1e-5)])
}

fn product(input: &str, weight: &str, output: &str, n: i64) -> NodeProto {
    let (codes, scales) = (format!("{weight}.codes"), format!("{weight}.scales"));
    let attributes = vec![int("K", HIDDEN), int("N", n), int("bits", 4), int("block_size", 32)];
    node("MatMulNBits", &[input, &codes, &scales], &[output], attributes)
}

fn rope(name: &str, function: fn(f32) -> f32) -> TensorProto {
    let value = |position: usize, column: usize| function(position as f32 * 10000_f32.powf(-(column as f32) / 8.0));
    let values: Vec<f32> = (0..CONTEXT).flat_map(|p| (0..8).map(move |c| (p, c))).map(|(p, c)| value(p, c)).collect();
    floats(name, &[CONTEXT as i64, 8], &values)
}

/// Numbers between -1 and 1.
struct Noise(u64);

impl Noise {
    fn floats(&mut self, count: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }
}
