//! Qwen2 and Qwen2.5. Differs from Llama:
//! - biases on q, k and v
//! - with `use_sliding_window`, the layers that `layer_types` names (or those from `max_window_layers` on) are local
//! - 32 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/qwen2/modeling_qwen2.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Error, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults { num_kv_heads: Some(32), head_dim: None };
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
    let Some(layer_types) = config.opt_strings("layer_types")? else {
        return Ok((0..num_layers).map(|layer| window.filter(|_| layer >= first_local)).collect());
    };
    if layer_types.len() != num_layers {
        let expected = format!("{num_layers} entries, one for each of num_hidden_layers");
        return Err(Error::invalid(config.path("layer_types"), expected, format!("{} entries", layer_types.len())));
    }
    let local = |kind: &String| match (kind.as_str(), window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(window)) => Ok(Some(window)),
        ("sliding_attention", None) => {
            let expected = "a window, since layer_types has sliding_attention (and use_sliding_window: true)";
            Err(Error::invalid(config.path("sliding_window"), expected, "off"))
        }
        _ => Err(Error::Unsupported {
            key: config.path("layer_types"),
            value: kind.clone(),
            supported: "full_attention, sliding_attention".to_owned(),
        }),
    };
    layer_types.iter().map(local).collect()
}
