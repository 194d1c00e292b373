//! OLMo, the first generation. Differs from Llama:
//! - layer norms without weight and bias, epsilon 1e-5 whatever the config says
//! - `clip_qkv` bounds queries, keys and values
//! - no MLP biases
//!
//! Reference: `transformers` 5.23, `models/olmo/modeling_olmo.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, NormKind, NormWeight, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let bias = config.bool_or("attention_bias", false)?;
    let mut spec = llama::decoder(config, &Defaults::default(), &Biases { qkv: bias, o: bias, mlp: false })?;
    let clip = config.opt_f64("clip_qkv")?.map(|_| config.positive("clip_qkv")).transpose()?;
    for attention in spec.attentions_mut() {
        attention.clip_qkv = clip.map(|bound| bound as f32);
    }
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.weight = NormWeight::None;
        norm.eps = 1e-5;
    }
    Ok(spec)
}
