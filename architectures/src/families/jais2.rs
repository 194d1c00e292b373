//! Jais 2. Differs from Llama:
//! - layer norms with a bias; their epsilon is `layer_norm_eps`
//! - MLP without a gate, of `relu2`
//! - `attention_bias` and `mlp_bias` are on where the config does not say
//!
//! Reference: `transformers` 5.23, `models/jais2/modeling_jais2.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, NormKind, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let activation = Activation::ReluSquared;
    let defaults = Defaults { activation, eps: ("layer_norm_eps", 1e-5), ..Defaults::default() };
    let attention_bias = config.bool_or("attention_bias", true)?;
    let mlp_bias = config.bool_or("mlp_bias", true)?;
    let biases = Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias };
    let mut spec = llama::decoder(config, &defaults, &biases)?;
    llama::without_gate(&mut spec, "up_proj", "down_proj");
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.bias = true;
    }
    Ok(spec)
}
