//! CWM (Code World Model). Differs from Llama:
//! - the layers that `layer_types` names (all but the first of every four where absent) see `sliding_window` positions
//! - 8 key/value heads, head_dim 128, a window of 8192, an epsilon of 1e-5 and a `llama3` rope over the base 1000000
//!   where the config does not say
//! - no biases in attention
//!
//! Reference: `transformers` 5.23, `models/cwm/modeling_cwm.py`.

use serde_json::json;

use super::{
    layer_type::{LayerType, layer_types},
    llama::{self, Biases, Defaults},
};
use crate::{Config, DecoderSpec, Result, Rope, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults {
        num_kv_heads: Some(8),
        head_dim: Some(128),
        eps: ("rms_norm_eps", 1e-5),
        rotary: |head_dim, context| RotaryHead { theta: 1e6, ..RotaryHead::whole(head_dim, context) },
        ..Defaults::default()
    };
    let config = match Rope::parameters(config)? {
        Some(_) => config.clone(),
        // With the base inside, so that a `rope_theta` outside says nothing.
        None => config.with(
            "rope_parameters",
            json!({
                "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            }),
        ),
    };
    let mlp = config.bool_or("mlp_bias", false)?;
    let mut spec = llama::decoder(&config, &defaults, &Biases { qkv: false, o: false, mlp })?;
    let kind = |layer: usize| if layer.is_multiple_of(4) { LayerType::Full } else { LayerType::Sliding };
    let kinds = layer_types(&config, spec.layers.len())?;
    let kinds = kinds.unwrap_or_else(|| (0..spec.layers.len()).map(kind).collect());
    let window = if config.has("sliding_window") { config.opt_usize("sliding_window")? } else { Some(8192) };
    for (attention, kind) in spec.attentions_mut().zip(kinds) {
        attention.window = kind.window(&config, window)?;
    }
    Ok(spec)
}
