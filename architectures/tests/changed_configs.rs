//! The configs of the fixtures, changed: what a family supports in transformers and not here is refused with key and value.

use std::path::Path;

use genai_architectures::{Config, describe};
use serde_json::{Value, json};

#[test]
fn an_unsupported_value_is_named() {
    let cases = [
        ("gpt2-default", json!({"add_cross_attention": true}), "`add_cross_attention` is \"true\""),
        ("gpt2-default", json!({"n_head": 5}), "`num_attention_heads` is 5, expected a divisor"),
        ("gpt2-default", json!({"hidden_size": 64}), "`hidden_size` is 64, expected 72, as n_embd is"),
        ("neox-parallel", json!({"partial_rotary_factor": 1.0}), "`partial_rotary_factor` is 1, expected 0.5"),
        ("opt-default", json!({"do_layer_norm_before": false}), "`do_layer_norm_before` is \"false\""),
        ("opt-default", json!({"word_embed_proj_dim": 36}), "`word_embed_proj_dim` is \"36\""),
        ("opt-default", json!({"_remove_final_layer_norm": true}), "`_remove_final_layer_norm` is \"true\""),
        (
            "bloom-default",
            json!({"apply_residual_connection_post_layernorm": true}),
            "`apply_residual_connection_post_layernorm` is \"true\"",
        ),
        ("falcon-grouped", json!({"parallel_attn": false}), "`parallel_attn` is \"false\""),
        ("falcon-grouped", json!({"num_ln_in_parallel_attn": 3}), "`num_ln_in_parallel_attn` is \"3\""),
        ("falcon-multi-query", json!({"num_ln_in_parallel_attn": 2}), "`num_ln_in_parallel_attn` is \"2\""),
        ("falcon-grouped", json!({"num_kv_heads": 4}), "`num_kv_heads` is 4, expected a divisor"),
        ("mpt-default", json!({"attn_config": {"alibi": false}}), "`attn_config.alibi` is \"false\""),
        ("mpt-default", json!({"attn_config": {"alibi_bias_max": 16}}), "`attn_config.alibi_bias_max` is \"16\""),
        ("mpt-default", json!({"logit_scale": 0.5}), "`logit_scale` = 0.5"),
        ("phi3small-default", json!({"hidden_act": "gelu"}), "supported: \"gegelu\""),
        ("phi3small-default", json!({"num_key_value_heads": 3}), "`num_key_value_heads` is 3, expected a divisor"),
        ("phi3small-default", json!({"ff_dim_multiplier": 4}), "`ff_dim_multiplier` is a number, expected null"),
        ("phi3small-alike", json!({"ff_dim_multiplier": null}), "`ff_dim_multiplier` is missing"),
        ("phi3small-default", json!({"dummy_token_indices": [331]}), "`dummy_token_indices` is 331, expected tokens"),
        ("phi3small-default", json!({"dummy_token_indices": null}), "`vocab_size` is 331, expected at least 100352"),
        (
            "phi3small-default",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "`rope_scaling` is \"linear\"",
        ),
        (
            "phi3small-longrope",
            json!({"original_max_position_embeddings": 64}),
            "`original_max_position_embeddings` is \"64\"",
        ),
        ("ministral-layers", json!({"layer_types": ["full_attention"]}), "`layer_types` is 1 entries"),
        ("ministral3-default", json!({"layer_types": ["sliding_attention"]}), "`layer_types` = "),
        ("mistral3-mistral", json!({"text_config": {"model_type": "llama"}}), "`text_config.model_type` is \"llama\""),
        ("mistral3-mistral", json!({"text_config": {"qk_scale": 2.0}}), "`text_config.qk_scale` = 2.0"),
        ("qwen2-vl-flat", json!({"rope_scaling": {"mrope_section": [2, 3, 4]}}), "`rope_scaling.mrope_section` is"),
        ("qwen3-vl-nested", json!({"text_config": {"num_experts": 8}}), "`text_config.num_experts` = 8"),
    ];
    for (fixture, change, says) in cases {
        let mut config = published(fixture);
        merge(&mut config, &change);
        let error = describe(&Config::from_json(config).unwrap()).expect_err(says).to_string();
        assert!(error.contains(says), "{fixture} with {change}: {error}");
    }
}

#[test]
fn keys_saved_inside_and_outside_are_read_inside() {
    let mut config = published("qwen2-5-vl-nested");
    let text = config["text_config"].clone();
    let plain = describe(&Config::from_json(config.clone()).unwrap()).unwrap();
    for (key, value) in text.as_object().unwrap() {
        if config.get(key).is_none() {
            config[key] = value.clone();
        }
    }
    assert_eq!(describe(&Config::from_json(config.clone()).unwrap()).unwrap(), plain);
    config["num_attention_heads"] = json!(6);
    assert!(
        describe(&Config::from_json(config).unwrap()).unwrap_err().to_string().contains("`num_attention_heads` = 6")
    );
}

fn published(fixture: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(fixture).join("config.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Objects are merged, everything else is replaced.
fn merge(into: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *into = change.clone();
        return;
    };
    for (key, value) in change {
        if into.get(key).is_some_and(Value::is_object) {
            merge(&mut into[key], value)
        } else {
            into[key] = value.clone()
        }
    }
}
