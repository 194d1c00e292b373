//! Cohere (Command R, Aya 23). Differs from Llama:
//! - layer norms without a bias, with `layer_norm_eps`
//! - attention and MLP read the same normed value, and both are added to the stream at once
//! - neighbouring dimensions of a head are rotated together; the base is 500000 where the config does not say
//! - with `use_qk_norm`, a layer norm on each query and key head, each head with a weight of its own
//! - logits are multiplied by `logit_scale`, 1/16 where the config does not say; the head is tied
//! - `attention_bias` covers q, k, v and o; no MLP biases
//!
//! Reference: `transformers` 5.23, `models/cohere/modeling_cohere.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Norm, NormKind, NormOrder, NormSpan, Residual, Result, RopeLayout, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { theta: 500_000.0, ..interleaved(head_dim, context) };
    let mut spec = decoder(config, rotary)?;
    if config.bool_or("use_qk_norm", false)? {
        llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
        for attention in spec.attentions_mut() {
            for norm in [&mut attention.q_norm, &mut attention.k_norm].into_iter().flatten() {
                norm.span = NormSpan::EachHead;
            }
        }
    }
    Ok(spec)
}

/// What Cohere's generations have in common.
pub(super) fn decoder(config: &Config, rotary: fn(usize, usize) -> RotaryHead) -> Result<DecoderSpec> {
    let bias = config.bool_or("attention_bias", false)?;
    let defaults = Defaults { tied: true, eps: ("layer_norm_eps", 1e-5), rotary, ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    spec.final_norm.kind = NormKind::Layer;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let path = format!("model.layers.{index}.input_layernorm");
        let mixer_norm = Norm { path, ..spec.final_norm.clone() };
        layer.residual = Residual::Parallel { mixer_norm, mlp_norm: None };
    }
    spec.logit_scale = Some(config.positive_or("logit_scale", 0.0625)? as f32);
    Ok(spec)
}

pub(super) fn interleaved(head_dim: usize, max_position_embeddings: usize) -> RotaryHead {
    RotaryHead { layout: RopeLayout::Interleaved, ..RotaryHead::whole(head_dim, max_position_embeddings) }
}
