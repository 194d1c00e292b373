//! Qwen3 dense. Differs from Llama:
//! - RMS norm on each query and key head before the rotation
//! - `attention_bias` covers q, k, v and o; no MLP biases
//! - head_dim is 128 and there are 32 key/value heads where the config does not say
//! - local layers as in Qwen2
//!
//! Reference: `transformers` 5.23, `models/qwen3/modeling_qwen3.py`.

use super::{
    llama::{self, Biases, Defaults},
    qwen2,
};
use crate::{Config, DecoderSpec, NormOrder, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let bias = config.bool_or("attention_bias", false)?;
    let defaults = Defaults { num_kv_heads: Some(32), head_dim: Some(128), ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    let windows = qwen2::windows(config, spec.layers.len())?;
    llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
    for (attention, window) in spec.attentions_mut().zip(windows) {
        attention.window = window;
    }
    Ok(spec)
}
