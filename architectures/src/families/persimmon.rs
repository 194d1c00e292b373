//! Persimmon. Differs from Llama:
//! - layer norms with a bias; a bias in every linear but the head
//! - MLP without a gate, of `relu2`
//! - q, k and v are one linear, head by head; with `qk_layernorm` (the default) a layer norm on each query and key head
//! - half of each head is rotated, or `partial_rotary_factor`
//!
//! Reference: `transformers` 5.23, `models/persimmon/modeling_persimmon.py`.

use super::{
    gpt::Heads,
    llama::{self, Biases, Defaults},
};
use crate::{Activation, Attention, Config, DecoderSpec, NormKind, NormOrder, Result, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { partial: Some(0.5), ..RotaryHead::whole(head_dim, context) };
    let activation = Activation::ReluSquared;
    let defaults = Defaults { activation, eps: ("layer_norm_eps", 1e-5), rotary, ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: true, o: true, mlp: true })?;
    llama::without_gate(&mut spec, "dense_h_to_4h", "dense_4h_to_h");
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.bias = true;
    }
    if config.bool_or("qk_layernorm", true)? {
        llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_layernorm", "k_layernorm");
    }
    let hidden_size = spec.hidden_size;
    for (index, attention) in spec.attentions_mut().enumerate() {
        let &mut Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        let heads = Heads { hidden_size, num_heads, num_kv_heads, head_dim };
        attention.set_qkv(heads.grouped(&format!("model.layers.{index}.self_attn.query_key_value"), true));
    }
    spec.rename(&[(".self_attn.o_proj", ".self_attn.dense"), ("model.norm", "model.final_layernorm")]);
    Ok(spec)
}
