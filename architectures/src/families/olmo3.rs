//! OLMo 3. Differs from OLMo 2:
//! - local layers of `sliding_window` (4096 where absent), as `layer_types` says; three of four where absent
//! - full and sliding layers have ropes of their own in `rope_parameters`; the older `rope_scaling` is that of the full
//!   layers, and the sliding ones are plain
//!
//! Reference: `transformers` 5.23, `models/olmo3/modeling_olmo3.py`.

use super::{
    layer_type::{LayerType, layer_types},
    llama::Defaults,
    olmo2,
};
use crate::{Config, DecoderSpec, Error, Position, Result, Rope, RopeId, RopeScaling, RotaryHead};

const THETA: f64 = 500_000.0;

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = olmo2::decoder(config, &Defaults { eps: ("rms_norm_eps", 1e-5), rotary, ..Defaults::default() })?;
    let num_layers = spec.layers.len();
    let kinds = match layer_types(config, num_layers)? {
        Some(kinds) => kinds,
        None => {
            let kind = |layer: usize| if layer.is_multiple_of(4) { LayerType::Full } else { LayerType::Sliding };
            (1..=num_layers).map(kind).collect()
        }
    };
    let window = if config.has("sliding_window") { config.opt_usize("sliding_window")? } else { Some(4096) };
    let Some(head_dim) = spec.attentions_mut().map(|attention| attention.head_dim).next() else { return Ok(spec) };
    let max_position_embeddings = config.usize("max_position_embeddings")?;
    let (full, sliding) = ropes(config, &rotary(head_dim, max_position_embeddings))?;
    spec.context_length = full.context_length(max_position_embeddings);
    let ids = if full == sliding { [RopeId(0), RopeId(0)] } else { [RopeId(0), RopeId(1)] };
    spec.ropes = if full == sliding { vec![full] } else { vec![full, sliding] };
    for (attention, kind) in spec.attentions_mut().zip(kinds) {
        attention.window = kind.window(config, window)?;
        attention.position = Position::Rope(match kind {
            LayerType::Full => ids[0],
            LayerType::Sliding => ids[1],
        });
    }
    Ok(spec)
}

fn rotary(head_dim: usize, max_position_embeddings: usize) -> RotaryHead {
    RotaryHead { theta: THETA, ..RotaryHead::whole(head_dim, max_position_embeddings) }
}

/// The ropes of full and of sliding layers.
fn ropes(config: &Config, head: &RotaryHead) -> Result<(Rope, Rope)> {
    // transformers 4 took an outer base for all layers, transformers 5.23 for the full ones alone.
    if let Some(theta) = config.opt_f64("rope_theta")?.filter(|theta| *theta != THETA) {
        return Err(Error::Unsupported {
            key: config.path("rope_theta"),
            value: theta.to_string(),
            supported: format!("{THETA}, or a rope_theta for each layer type in rope_parameters"),
        });
    }
    let plain = Rope { dim: head.head_dim, theta: THETA, layout: head.layout, scaling: RopeScaling::None };
    let Some(parameters) = config.object("rope_parameters")? else {
        return Ok((Rope::read(config, head)?, plain));
    };
    // The reference mixes such a file, or overlooks a part of it.
    let is_flat = ["rope_type", "type", "rope_theta", "factor"].iter().any(|key| parameters.has(key));
    if is_flat || config.object("rope_scaling")?.is_some() {
        let expected = "an object for each of full_attention and sliding_attention, without rope_scaling";
        return Err(Error::invalid(config.path("rope_parameters"), expected, "another form"));
    }
    let full = Rope::read_for(config, "full_attention", head)?.unwrap_or_else(|| plain.clone());
    Ok((full, Rope::read_for(config, "sliding_attention", head)?.unwrap_or(plain)))
}
