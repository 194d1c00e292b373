//! Values that a family knows and this crate does not, or that contradict each other, are errors that name the key.

use genai_architectures::{Config, Error, RopeScaling, describe};
use serde_json::{Value, json};

#[test]
fn values_that_would_change_the_maths_are_refused() {
    let longrope = json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]});
    let cases = [
        ("Phi3ForCausalLM", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling"),
        ("Phi3ForCausalLM", json!({"rope_scaling": longrope}), "rope_scaling.short_factor"),
        ("Phi3ForCausalLM", json!({"attention_bias": true}), "attention_bias"),
        ("PhiForCausalLM", json!({"tie_word_embeddings": true}), "tie_word_embeddings"),
        ("GraniteForCausalLM", json!({"logits_scaling": 0.0}), "logits_scaling"),
        ("SmolLM3ForCausalLM", json!({"no_rope_layers": [1]}), "no_rope_layers"),
        ("SmolLM3ForCausalLM", json!({"no_rope_layers": [1, 2]}), "no_rope_layers"),
        ("SmolLM3ForCausalLM", json!({"layer_types": ["sliding_attention", "full_attention"]}), "sliding_window"),
        ("Starcoder2ForCausalLM", json!({"mlp_type": "gated"}), "mlp_type"),
        ("Starcoder2ForCausalLM", json!({"norm_type": "rms_norm"}), "norm_type"),
        ("OlmoForCausalLM", json!({"clip_qkv": -1.0}), "clip_qkv"),
        ("Olmo2ForCausalLM", json!({"clip_qkv": 8.0}), "clip_qkv"),
        ("Olmo3ForCausalLM", json!({"rope_theta": 10000.0}), "rope_theta"),
        ("Olmo3ForCausalLM", json!({"rope_parameters": {"rope_theta": 10000.0}}), "rope_parameters"),
        ("Olmo3ForCausalLM", json!({"sliding_window": null}), "sliding_window"),
        ("Olmo3ForCausalLM", json!({"layer_types": ["chunked_attention", "full_attention"]}), "layer_types"),
        ("HeliumForCausalLM", json!({"head_dim": 16}), "hidden_size"),
        ("SeedOssForCausalLM", json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        ("StableLmForCausalLM", json!({"partial_rotary_factor": 0.1}), "head_dim"),
        ("GlmForCausalLM", json!({"partial_rotary_factor": null}), "partial_rotary_factor"),
        ("LlamaForCausalLM", json!({"is_causal": false}), "is_causal"),
        ("HyperCLOVAXForCausalLM", json!({"residual_multiplier": 0.5}), "residual_multiplier"),
        ("GraniteMoeHybridForCausalLM", json!({"num_local_experts": 2}), "num_local_experts"),
        ("GraniteMoeHybridForCausalLM", json!({"num_local_experts": 0}), "layers_block_type"),
    ];
    for (architecture, extra, key) in cases {
        let what = format!("{architecture} with {extra}");
        let error = describe(&config(architecture, extra)).map(|_| ()).expect_err(&what);
        let named = match &error {
            Error::Unread { keys } => keys.concat(),
            Error::Missing { key, .. } | Error::Invalid { key, .. } | Error::Unsupported { key, .. } => {
                format!("`{key}`")
            }
            other => panic!("{what}: {other}"),
        };
        assert!(named.contains(&format!("`{key}`")), "{what}: {error}");
    }
}

#[test]
fn phi3_takes_its_old_names_for_longrope() {
    for name in ["longrope", "su", "yarn"] {
        let rope = json!({"type": name, "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]});
        let spec = describe(&config(
            "Phi3ForCausalLM",
            json!({"rope_scaling": rope, "max_position_embeddings": 16384, "sliding_window": 16384}),
        ))
        .unwrap();
        let scaling = &spec.ropes[0].scaling;
        let RopeScaling::LongRope {
            short,
            long,
            original_context,
            short_attention_factor,
            long_attention_factor: attention_factor,
        } = scaling
        else {
            panic!("{name}: {scaling:?}");
        };
        assert_eq!(short_attention_factor, attention_factor);
        assert_eq!((short.as_slice(), long.as_slice()), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
        // Of the class, where the config has none: sqrt(1 + ln(16384 / 4096) / ln(4096)).
        assert_eq!(*original_context, 4096);
        assert!((attention_factor - (1.0_f32 + 1.0 / 6.0).sqrt()).abs() < 1e-6, "{attention_factor}");
    }
}

/// Two layers, two heads of four dimensions.
fn config(architecture: &str, extra: Value) -> Config {
    let mut values = json!({
        "architectures": [architecture], "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 8, "vocab_size": 16, "max_position_embeddings": 128,
        "hidden_act": "silu", "head_dim": 4,
    });
    let (Value::Object(values), Value::Object(extra)) = (&mut values, extra) else { unreachable!() };
    values.extend(extra);
    Config::from_json(Value::Object(values.clone())).unwrap()
}
