//! Nemotron and Minitron (dense). Differs from Llama:
//! - layer norms with a bias, whose weight is one more than what is stored; their epsilon is `norm_eps`
//! - MLP without a gate, of `relu2`
//! - half of each head is rotated, or `partial_rotary_factor`
//!
//! Reference: `transformers` 5.23, `models/nemotron/modeling_nemotron.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, NormKind, NormWeight, Result, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { partial: Some(0.5), ..RotaryHead::whole(head_dim, context) };
    let activation = Activation::ReluSquared;
    let defaults = Defaults { activation, eps: ("norm_eps", 1e-5), rotary, ..Defaults::default() };
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    // Megatron's name for head_dim, which the reference takes from the other keys.
    config.ignore("kv_channels");
    let biases = Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias };
    let mut spec = llama::decoder(config, &defaults, &biases)?;
    llama::without_gate(&mut spec, "up_proj", "down_proj");
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.weight = NormWeight::OnePlus;
        norm.bias = true;
    }
    Ok(spec)
}
