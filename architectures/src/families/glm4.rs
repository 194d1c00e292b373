//! GLM-4-0414. Differs from GLM:
//! - a norm before and one after each part of a layer
//!
//! Reference: `transformers` 5.23, `models/glm4/modeling_glm4.py`.

use super::{glm, llama};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = glm::describe(config)?;
    llama::sandwich(
        &mut spec,
        ["input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"],
    );
    Ok(spec)
}
