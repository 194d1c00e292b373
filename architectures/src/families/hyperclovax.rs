//! HyperCLOVA X SEED. Differs from Granite:
//! - with `use_post_norm` (the default) a norm after each part of a layer too
//! - `logits_scaling` multiplies the logits
//! - without `attention_multiplier`, scores are divided by the root of head_dim
//!
//! Reference: `transformers` 5.23, `models/hyperclovax/modeling_hyperclovax.py`.

use super::{granite, llama};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = granite::describe(config)?;
    spec.logit_scale = Some(config.positive_or("logits_scaling", 1.0)? as f32).filter(|factor| *factor != 1.0);
    if config.opt_positive("attention_multiplier")?.is_none() {
        for attention in spec.attentions_mut() {
            attention.scale = (1.0 / (attention.head_dim as f64).sqrt()) as f32;
        }
    }
    if config.bool_or("use_post_norm", true)? {
        // The published models leave it at 1, so nothing has to scale what a norm gives.
        config.only("residual_multiplier", 1.0)?;
        llama::sandwich(&mut spec, ["input_layernorm", "post_norm1", "post_attention_layernorm", "post_norm2"]);
    }
    Ok(spec)
}
