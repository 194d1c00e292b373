//! Arcee (AFM). Differs from Llama:
//! - MLP without a gate, of `relu2`
//! - `rms_norm_eps` is 1e-5 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/arcee/modeling_arcee.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let activation = Activation::ReluSquared;
    let defaults = Defaults { activation, eps: ("rms_norm_eps", 1e-5), ..Defaults::default() };
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let biases = Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias };
    let mut spec = llama::decoder(config, &defaults, &biases)?;
    llama::without_gate(&mut spec, "up_proj", "down_proj");
    Ok(spec)
}
