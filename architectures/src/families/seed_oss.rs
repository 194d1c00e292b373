//! Seed-OSS. Differs from Llama:
//! - `attention_bias` (true where absent) covers q, k and v; o has `attention_out_bias`
//! - head_dim is 128 and there are 8 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/seed_oss/modeling_seed_oss.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults { num_kv_heads: Some(8), head_dim: Some(128), ..Defaults::default() };
    let qkv = config.bool_or("attention_bias", true)?;
    let o = config.bool_or("attention_out_bias", false)?;
    let mlp = config.bool_or("mlp_bias", false)?;
    llama::decoder(config, &defaults, &Biases { qkv, o, mlp })
}
