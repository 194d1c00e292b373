//! Qwen2 and Qwen2.5. Differs from Llama:
//! - biases on q, k and v
//! - with `use_sliding_window`, the layers that `layer_types` names (or those from `max_window_layers` on) are local
//! - 32 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/qwen2/modeling_qwen2.py`.

use super::{
    layer_type::layer_types,
    llama::{self, Biases, Defaults},
};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // Of the 1M models: how another runtime goes past the context that they were trained for. The reference has no such
    // code.
    config.ignore("dual_chunk_attention_config");
    let defaults = Defaults { num_kv_heads: Some(32), ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: true, o: false, mlp: false })?;
    let windows = windows(config, spec.layers.len())?;
    for (attention, window) in spec.attentions_mut().zip(windows) {
        attention.window = window;
    }
    Ok(spec)
}

/// The window of each layer, shared with Qwen3.
pub(super) fn windows(config: &Config, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let enabled = config.bool_or("use_sliding_window", false)?;
    let stated = if config.has("sliding_window") { config.opt_usize("sliding_window")? } else { Some(4096) };
    let first_local = config.opt_index("max_window_layers")?.unwrap_or(28);
    let window = stated.filter(|_| enabled);
    match layer_types(config, num_layers)? {
        Some(types) => types.into_iter().map(|kind| kind.window(config, window)).collect(),
        None => Ok((0..num_layers).map(|layer| window.filter(|_| layer >= first_local)).collect()),
    }
}
