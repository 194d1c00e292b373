//! SmolLM3. Differs from Llama:
//! - layers where `no_rope_layers` is 0 (every fourth, or `no_rope_layer_interval`, where absent) know no positions
//! - `layer_types` names local layers; where absent, `use_sliding_window` makes the layers without rope local
//! - tied head, 4 key/value heads and a rope base of 2000000 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/smollm3/modeling_smollm3.py`.

use super::{
    layer_type::layer_types,
    llama::{self, Biases, Defaults},
};
use crate::{Config, DecoderSpec, Error, Position, Result, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { theta: 2_000_000.0, ..RotaryHead::whole(head_dim, context) };
    let defaults = Defaults { num_kv_heads: Some(4), tied: true, rotary, ..Defaults::default() };
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    let biases = Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias };
    let mut spec = llama::decoder(config, &defaults, &biases)?;
    let rotated = rotated_layers(config, spec.layers.len())?;
    let windows = windows(config, &rotated)?;
    for ((attention, rotated), window) in spec.attentions_mut().zip(rotated).zip(windows) {
        attention.window = window;
        if !rotated {
            attention.position = Position::None;
        }
    }
    Ok(spec)
}

fn rotated_layers(config: &Config, num_layers: usize) -> Result<Vec<bool>> {
    let interval = config.opt_usize("no_rope_layer_interval")?.unwrap_or(4);
    let Some(listed) = config.opt_switches("no_rope_layers")? else {
        return Ok((1..=num_layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    if listed.len() < num_layers {
        let expected = format!("at least {num_layers} entries, one for each of num_hidden_layers");
        return Err(Error::invalid(config.path("no_rope_layers"), expected, format!("{} entries", listed.len())));
    }
    Ok(listed.into_iter().take(num_layers).collect())
}

fn windows(config: &Config, rotated: &[bool]) -> Result<Vec<Option<usize>>> {
    // Kept from Qwen2, whose code this model began with; the reference does not read it.
    config.ignore("max_window_layers");
    let enabled = config.bool_or("use_sliding_window", false)?;
    let window = config.opt_usize("sliding_window")?.filter(|_| enabled);
    match layer_types(config, rotated.len())? {
        Some(types) => types.into_iter().map(|kind| kind.window(config, window)).collect(),
        None => Ok(rotated.iter().map(|rotated| window.filter(|_| !rotated)).collect()),
    }
}
