//! Gemma 3, text. Differs from Gemma 2:
//! - RMS norm on each query and key head before the rotation
//! - no softcap on the scores, and on the logits only where the config asks for it
//! - every sixth layer (`sliding_window_pattern`) is global, or those that `layer_types` names
//! - two ropes: the local layers turn by `rope_local_base_freq` and are never stretched, the global ones by
//!   `rope_theta` and `rope_scaling`; transformers 5 writes both as objects of `rope_parameters`
//! - the checkpoints with a vision tower nest this config in `text_config` and leave much of it to the defaults
//!
//! Reference: `transformers` 5.23, `models/gemma3/modeling_gemma3.py`.

use serde_json::Value;

use super::{gemma2, layer_type, llama, text_part};
use crate::{Config, DecoderSpec, NormOrder, Position, Result, Rope, RopeId, RotaryHead};

const GLOBAL: RopeId = RopeId(0);
const LOCAL: RopeId = RopeId(1);

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // A copy of the pattern that transformers 4.55 wrote beside `layer_types`.
    config.ignore("_sliding_window_pattern");
    let config = config.with_defaults([
        ("num_attention_heads", 8.into()),
        ("head_dim", 256.into()),
        ("vocab_size", 262_208.into()),
        ("max_position_embeddings", 131_072.into()),
        ("sliding_window", 4096.into()),
        ("sliding_window_pattern", 6.into()),
        ("rope_theta", 1e6.into()),
        ("rope_local_base_freq", 1e4.into()),
    ]);
    let mut spec = gemma2::decoder(&config)?;
    llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
    local_layers(&mut spec, &config, config.usize("sliding_window_pattern")?)?;
    Ok(spec)
}

/// Makes all layers but every `pattern`th local, or those that `layer_types` names, and gives both kinds their ropes.
pub(super) fn local_layers(spec: &mut DecoderSpec, config: &Config, pattern: usize) -> Result<()> {
    let head = RotaryHead::whole(config.usize("head_dim")?, config.usize("max_position_embeddings")?);
    if let Some(rope) = Rope::read_for(config, "full_attention", &head)? {
        config.only("rope_scaling", Value::Null)?;
        spec.ropes = vec![rope];
    }
    let local = config.with_names(&[("rope_theta", "rope_local_base_freq")]);
    spec.ropes.push(match Rope::read_for(&local, "sliding_attention", &head)? {
        Some(rope) => rope,
        None => Rope::from_parameters(&local, None, &head)?,
    });
    let window = config.opt_usize("sliding_window")?;
    let windows = layer_type::windows(config, spec.layers.len(), window, pattern)?;
    for (attention, window) in spec.attentions_mut().zip(windows) {
        attention.window = window;
        attention.position = Position::Rope(if window.is_some() { LOCAL } else { GLOBAL });
    }
    Ok(())
}

/// The text part of `Gemma3ForConditionalGeneration`.
pub(super) fn describe_text_part(config: &Config) -> Result<DecoderSpec> {
    text_part::describe_tied(config, describe)
}
