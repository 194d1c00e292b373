//! Gemma. Differs from Llama:
//! - the norms multiply by one more than the stored weight
//! - embeddings are scaled by the root of `hidden_size`
//! - the activation is the approximate GELU, also where the config says `gelu`, as the first checkpoints do
//! - the head is tied, heads have 256 dimensions, and there are 16 key/value heads where the config does not say
//! - `attention_bias` covers q, k, v and o; no MLP biases
//! - a residual stream that outgrows fp16: Gemma was trained in bfloat16
//!
//! Reference: `transformers` 5.23, `models/gemma/modeling_gemma.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Mlp, NormWeight, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // A second name of the activation, from a time when both were written.
    config.only("hidden_activation", "gelu_pytorch_tanh")?;
    let mut spec = decoder(config, 16)?;
    for layer in &mut spec.layers {
        if let Mlp::Gated { activation: activation @ Activation::Gelu, .. } = &mut layer.mlp {
            *activation = Activation::GeluTanh;
        }
    }
    Ok(spec)
}

/// What all Gemmas have in common.
pub(super) fn decoder(config: &Config, num_kv_heads: usize) -> Result<DecoderSpec> {
    config.only("use_bidirectional_attention", false)?;
    let bias = config.bool_or("attention_bias", false)?;
    let defaults = Defaults {
        num_kv_heads: Some(num_kv_heads),
        head_dim: Some(256),
        activation: Activation::GeluTanh,
        tied: true,
        ..Defaults::default()
    };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    for norm in spec.norms_mut() {
        norm.weight = NormWeight::OnePlus;
    }
    spec.wide_residual = true;
    spec.embedding.scale = Some((spec.hidden_size as f64).sqrt() as f32);
    Ok(spec)
}
