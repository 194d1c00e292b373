//! `genai_config.json`: which of a checkpoint's files decides, and what clients are told.

use std::fs;
use std::path::Path;

use genai_architectures::{KeyValue, Layer, Mixer};
use genai_builder::{TARGETS, target::AttentionForm};
use serde_json::{Map, Value, json};

use crate::parity::is_by_length;
use crate::support::{Altered, Outcome, build, fixture, for_each, recorded, set, spec};

/// What the files say (a dotted key is set, null removes it), and what follows: keys of `genai_config.json`.
struct Case {
    what: &'static str,
    config: fn() -> Value,
    generation: fn() -> Value,
    tokenizer: fn() -> Value,
    expected: fn() -> Value,
}

fn unchanged() -> Value {
    json!({})
}

/// `llama-default`: begin 1, end 2, pad 0 in all three files.
const CASES: &[Case] = &[
    Case {
        what: "the files agree",
        config: unchanged,
        generation: unchanged,
        tokenizer: unchanged,
        expected: || json!({"model.bos_token_id": 1, "model.eos_token_id": 2, "model.pad_token_id": 0}),
    },
    Case {
        what: "generation_config.json goes before config.json",
        config: || json!({"bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 7}),
        generation: || json!({"bos_token_id": 3, "eos_token_id": [4, 2], "pad_token_id": 8}),
        tokenizer: unchanged,
        expected: || json!({"model.bos_token_id": 3, "model.eos_token_id": [4, 2], "model.pad_token_id": 8}),
    },
    Case {
        what: "config.json where generation_config.json is silent",
        config: || json!({"bos_token_id": 5, "eos_token_id": [2, 6], "pad_token_id": 7}),
        generation: || json!({"bos_token_id": null, "eos_token_id": null}),
        tokenizer: unchanged,
        expected: || json!({"model.bos_token_id": 5, "model.eos_token_id": [2, 6], "model.pad_token_id": 7}),
    },
    Case {
        what: "the tokenizer where both are silent",
        config: || json!({"bos_token_id": null, "eos_token_id": null, "pad_token_id": null}),
        generation: || json!({"bos_token_id": null, "eos_token_id": null}),
        tokenizer: || json!({"bos_token": "<|user|>", "eos_token": {"content": "<|assistant|>"}}),
        expected: || json!({"model.bos_token_id": 3, "model.eos_token_id": 4, "model.pad_token_id": 0}),
    },
    Case {
        what: "the tokenizer's end token is one more",
        config: unchanged,
        generation: || json!({"eos_token_id": [4, 3]}),
        tokenizer: unchanged,
        expected: || json!({"model.eos_token_id": [4, 3, 2]}),
    },
    Case {
        what: "an end token is named once",
        config: unchanged,
        generation: || json!({"eos_token_id": [2, 4, 2]}),
        tokenizer: unchanged,
        expected: || json!({"model.eos_token_id": [2, 4]}),
    },
    Case {
        what: "without a pad token the first end token pads",
        config: || json!({"pad_token_id": null}),
        generation: || json!({"eos_token_id": [4, 2]}),
        tokenizer: || json!({"pad_token": null}),
        expected: || json!({"model.pad_token_id": 4}),
    },
    Case {
        what: "a negative id is none",
        config: || json!({"pad_token_id": -1}),
        generation: unchanged,
        tokenizer: || json!({"pad_token": null}),
        expected: || json!({"model.pad_token_id": 2}),
    },
    Case {
        what: "no begin token",
        config: || json!({"bos_token_id": null}),
        generation: || json!({"bos_token_id": null}),
        tokenizer: || json!({"bos_token": null}),
        expected: || json!({"model.bos_token_id": null}),
    },
    Case {
        what: "sampling as generation_config.json wants it",
        config: unchanged,
        generation: || json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}),
        tokenizer: unchanged,
        expected: || {
            json!({
                "search.do_sample": true, "search.temperature": 0.6, "search.top_k": 20, "search.top_p": 0.95,
                "search.repetition_penalty": 1.1,
            })
        },
    },
    Case {
        what: "greedy where it wants nothing",
        config: unchanged,
        generation: unchanged,
        tokenizer: unchanged,
        expected: || {
            json!({
                "search.do_sample": false, "search.temperature": 1.0, "search.top_k": 50, "search.top_p": 1.0,
                "search.repetition_penalty": 1.0, "search.max_length": 256, "search.past_present_share_buffer": true,
            })
        },
    },
];

#[test]
fn tokens_and_sampling_come_from_the_file_that_decides() {
    for_each(
        CASES,
        |case| case.what.to_owned(),
        |case| {
            let change = |changes: Value| {
                move |object: &mut Map<String, Value>| {
                    for (key, value) in changes.as_object().unwrap() {
                        set(object, key, value.clone());
                    }
                }
            };
            let altered = Altered::copy_of("llama-default")
                .json("config.json", change((case.config)()))
                .json("generation_config.json", change((case.generation)()))
                .json("tokenizer_config.json", change((case.tokenizer)()));
            let package = build(altered.path(), "fp32", "cpu", &[])?;
            let written = read(package.path())?;
            for (key, expected) in (case.expected)().as_object().unwrap() {
                assert_eq!(at(&written, key), expected, "{key}");
            }
            Ok(())
        },
    );
}

#[test]
fn sizes_and_names_are_those_of_the_model() {
    for_each(&recorded(), String::clone, |name| {
        let spec = spec(&fixture(name))?;
        let Mixer::Attention(attention) = &spec.layers[0].mixer;
        for target in TARGETS {
            let Some(cell) = target.cell(genai_builder::Precision::Fp16) else { continue };
            let form = cell.attention.of(&spec);
            let fixed = cell.attention == AttentionForm::Fixed;
            if fixed && is_by_length(&spec) {
                continue;
            }
            let context_length = if fixed { spec.context_length.min(4096) } else { spec.context_length };
            let package = build(&fixture(name), "fp16", target.provider, &["filename=decoder.onnx"])?;
            let written = read(package.path())?;
            for (key, expected) in [
                ("model.vocab_size", json!(spec.vocab_size)),
                ("model.context_length", json!(context_length)),
                ("model.decoder.filename", json!("decoder.onnx")),
                ("model.decoder.hidden_size", json!(spec.hidden_size)),
                ("model.decoder.head_size", json!(form.padded_head_dim(attention.head_dim))),
                ("model.decoder.num_attention_heads", json!(attention.num_heads)),
                ("model.decoder.num_key_value_heads", json!(attention.num_kv_heads)),
                ("model.decoder.num_hidden_layers", json!(spec.layers.iter().filter(|layer| has_cache(layer)).count())),
                ("model.decoder.inputs.past_key_names", json!("past_key_values.%d.key")),
                ("model.decoder.outputs.present_value_names", json!("present.%d.value")),
                ("search.max_length", json!(context_length)),
            ] {
                assert_eq!(at(&written, key), &expected, "{key}");
            }
            let providers = at(&written, "model.decoder.session_options.provider_options").as_array().unwrap();
            let named: Vec<_> = providers.iter().flat_map(|provider| provider.as_object().unwrap().keys()).collect();
            // The CPU is what is left when no provider is named.
            assert_eq!(named, if ["cpu", "onnx"].contains(&target.provider) { vec![] } else { vec![target.provider] });
            assert_eq!(at(&written, "search.past_present_share_buffer"), form.shares_buffer());
            assert!(package.path().join("decoder.onnx.data").is_file());
        }
        Ok(())
    });
}

fn has_cache(layer: &Layer) -> bool {
    let Mixer::Attention(attention) = &layer.mixer;
    !matches!(attention.key_value, KeyValue::OfLayer(_))
}

fn read(package: &Path) -> Outcome<Value> {
    Ok(serde_json::from_slice(&fs::read(package.join("genai_config.json"))?)?)
}

/// What a dotted key leads to; null where there is nothing.
fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(value, |value, part| &value[part])
}
