//! Granite (dense). Differs from Llama:
//! - `embedding_multiplier` on the embedding, `residual_multiplier` on what each half of a layer adds
//! - `attention_multiplier` is the factor on the scores, in place of the root of head_dim; 1 where absent
//! - `logits_scaling` divides the logits
//!
//! Reference: `transformers` 5.23, `models/granite/modeling_granite.py`.

use super::llama;
use crate::{Config, DecoderSpec, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = llama::describe(config)?;
    let factor = |key| Ok(Some(config.positive_or(key, 1.0)?).filter(|factor| *factor != 1.0));
    let residual_multiplier = factor("residual_multiplier")?.map(|factor| factor as f32);
    let attention_multiplier = config.positive_or("attention_multiplier", 1.0)? as f32;
    spec.embedding.scale = factor("embedding_multiplier")?.map(|factor| factor as f32);
    spec.logit_scale = factor("logits_scaling")?.map(|divisor| (1.0 / divisor) as f32);
    for attention in spec.attentions_mut() {
        attention.scale = attention_multiplier;
    }
    for layer in &mut spec.layers {
        if let Residual::PreNorm { scale, .. } = &mut layer.residual {
            *scale = residual_multiplier;
        }
    }
    Ok(spec)
}
