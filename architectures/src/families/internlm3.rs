//! InternLM3. Differs from Llama:
//! - `qkv_bias` covers q, k and v, and `bias` covers o and the MLP; transformers saves them as `attention_bias` and
//!   `mlp_bias`, and takes them only where they are equal
//! - 2 key/value heads, head_dim 128 and an epsilon of 1e-5 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/internlm3/configuration_internlm3.py`, whose model is `LlamaForCausalLM`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults =
        Defaults { num_kv_heads: Some(2), head_dim: Some(128), eps: ("rms_norm_eps", 1e-5), ..Defaults::default() };
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let qkv = config.bool_or("qkv_bias", attention_bias)?;
    let others = config.bool_or("bias", mlp_bias)?;
    llama::decoder(config, &defaults, &Biases { qkv, o: others, mlp: others })
}
