//! ChatGLM 3 and GLM-4 as first published. Differs from Llama:
//! - q, k and v are one tensor, gate and up another
//! - neighbouring dimensions of the first half of a head are rotated; the base is 10000 times `rope_ratio`
//! - `add_qkv_bias` covers q, k and v; `add_bias_linear` these, the output and the MLP
//! - config keys and module names of its own
//!
//! Reference: `modeling_chatglm.py` of `THUDM/chatglm3-6b` and `THUDM/glm-4-9b`; no code in `transformers`.

use std::iter::once;

use serde_json::Value;

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Layer, Linear, Mixer, Mlp, Result, RopeLayout, RotaryHead, TensorPattern};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    refuse_other_variants(config)?;
    let all = config.bool_or("add_bias_linear", false)?;
    let qkv = all || config.bool_or("add_qkv_bias", false)?;
    let ratio = config.positive_or("rope_ratio", 1.0)?;
    let config = config.with_defaults([("kv_channels", 128.into()), ("multi_query_group_num", 1.into())]);
    let config = config.with_names(&[
        ("num_hidden_layers", "num_layers"),
        ("num_key_value_heads", "multi_query_group_num"),
        ("head_dim", "kv_channels"),
        ("intermediate_size", "ffn_hidden_size"),
        ("vocab_size", "padded_vocab_size"),
        ("max_position_embeddings", "seq_length"),
    ]);
    let rotary = |head_dim, context| RotaryHead {
        partial: Some(0.5),
        layout: RopeLayout::Interleaved,
        ..RotaryHead::whole(head_dim, context)
    };
    let defaults = Defaults { eps: ("layernorm_epsilon", 1e-5), rotary, ..Defaults::default() };
    let mut spec = llama::decoder(&config, &defaults, &Biases { qkv, o: all, mlp: all })?;
    for rope in &mut spec.ropes {
        rope.theta *= ratio;
    }
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        fuse(layer, &format!("model.layers.{index}"));
    }
    spec.rename(&[
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.layers.", "transformer.encoder.layers."),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("lm_head", "transformer.output_layer"),
        (".self_attn.o_proj", ".self_attention.dense"),
        (".mlp.down_proj", ".mlp.dense_4h_to_h"),
    ]);
    spec.unused_tensors.push(TensorPattern::Starts("transformer.rotary_pos_emb."));
    Ok(spec)
}

/// The code has switches that no published checkpoint of these generations turns.
fn refuse_other_variants(config: &Config) -> Result<()> {
    for (key, only) in [
        ("rmsnorm", true),
        ("post_layer_norm", true),
        ("apply_residual_connection_post_layernorm", false),
        ("interleaved_qkv", false),
    ] {
        config.only(key, only)?;
    }
    config.with_defaults([("multi_query_attention", false.into())]).only("multi_query_attention", true)?;
    for key in ["pre_seq_len", "quantization_bit"] {
        config.only(key, 0)?;
    }
    for key in ["rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor"] {
        config.only(key, Value::Null)?;
    }
    // Rounding, the order of two factors that cancel, and how buffers are made.
    for key in [
        "attention_softmax_in_fp32",
        "fp32_residual_connection",
        "apply_query_key_layer_scaling",
        "bias_dropout_fusion",
        "original_rope",
    ] {
        config.ignore(key);
    }
    Ok(())
}

fn fuse(layer: &mut Layer, path: &str) {
    let Mixer::Attention(attention) = &mut layer.mixer;
    let (queries, keys) = (attention.q.out_features, attention.num_kv_heads * attention.head_dim);
    let (hidden_size, bias) = (attention.q.in_features, attention.q.bias);
    let part = |range| {
        let path = format!("{path}.self_attention.query_key_value");
        Linear::rows(path, once(range), queries + 2 * keys, hidden_size, bias)
    };
    let (k, v) = (queries..queries + keys, queries + keys..queries + 2 * keys);
    attention.set_qkv([part(0..queries), part(k), part(v)]);
    if let Mlp::Gated { gate, up, .. } = &mut layer.mlp {
        let (width, bias) = (gate.out_features, gate.bias);
        let half = |range| Linear::rows(format!("{path}.mlp.dense_h_to_4h"), once(range), 2 * width, hidden_size, bias);
        *gate = half(0..width);
        *up = half(width..2 * width);
    }
}
