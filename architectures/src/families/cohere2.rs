//! Cohere 2 (Command R7B, Command A). Differs from Cohere:
//! - every fourth layer (`sliding_window_pattern`) is global, or those that `layer_types` names; the window is 4096
//!   where the config does not say
//! - only the local layers rotate; the base is 10000 where the config does not say
//! - no norms on queries and keys
//!
//! Reference: `transformers` 5.23, `models/cohere2/modeling_cohere2.py`.

use super::{cohere, layer_type};
use crate::{Config, DecoderSpec, Position, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // The publisher's own names for what every checkpoint does.
    config.only("position_embedding_type", "rope_gptj")?;
    config.only("order_of_interleaved_layers", "local_attn_first")?;
    config.only("rotary_pct", 1)?;
    for key in ["use_embedding_sharing", "use_gated_activation", "use_parallel_block"] {
        config.only(key, true)?;
    }
    config.ignore("layer_switch");
    let config = config.with_defaults([("sliding_window", 4096.into()), ("sliding_window_pattern", 4.into())]);
    let mut spec = cohere::decoder(&config, cohere::interleaved)?;
    let pattern = config.usize("sliding_window_pattern")?;
    let window = config.opt_usize("sliding_window")?;
    let windows = layer_type::windows(&config, spec.layers.len(), window, pattern)?;
    for (attention, window) in spec.attentions_mut().zip(windows) {
        attention.window = window;
        if window.is_none() {
            attention.position = Position::None;
        }
    }
    Ok(spec)
}
