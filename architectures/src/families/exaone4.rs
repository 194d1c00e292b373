//! EXAONE 4. Differs from Llama:
//! - norms after attention and MLP, none before
//! - RMS norm on each query and key head before the rotation
//! - with `sliding_window`, every fourth layer (`sliding_window_pattern`) is global, or those that `layer_types` names,
//!   and the global layers do not rotate; with `sliding_window: null` all layers are global and rotate
//! - 32 key/value heads and an epsilon of 1e-5 where the config does not say; no biases
//!
//! Reference: `transformers` 5.23, `models/exaone4/modeling_exaone4.py`.

use super::{
    layer_type,
    llama::{self, Biases, Defaults},
};
use crate::{Config, DecoderSpec, Norm, NormOrder, Position, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let config = config.with_defaults([("sliding_window", 4096.into()), ("sliding_window_pattern", 4.into())]);
    let defaults = Defaults { num_kv_heads: Some(32), eps: ("rms_norm_eps", 1e-5), ..Defaults::default() };
    let mut spec = llama::decoder(&config, &defaults, &Biases { qkv: false, o: false, mlp: false })?;
    llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |name| Norm { path: format!("model.layers.{index}.{name}"), ..spec.final_norm.clone() };
        layer.residual = Residual::PostNorm {
            mixer_norm: norm("post_attention_layernorm"),
            mlp_norm: norm("post_feedforward_layernorm"),
        };
    }
    let window = config.opt_usize("sliding_window")?;
    let pattern = if window.is_none() || config.opt_strings("layer_types")?.is_some() {
        // Then it says nothing, and may be a word such as `LLLG`.
        config.ignore("sliding_window_pattern");
        1
    } else {
        config.usize("sliding_window_pattern")?
    };
    let windows = layer_type::windows(&config, spec.layers.len(), window, pattern)?;
    for (attention, layer_window) in spec.attentions_mut().zip(windows) {
        attention.window = layer_window;
        if window.is_some() && layer_window.is_none() {
            attention.position = Position::None;
        }
    }
    Ok(spec)
}
