//! GLM (the glm-4-9b-hf generation). Differs from Llama:
//! - `attention_bias`, on where the config does not say, covers q, k and v
//! - gate and up are one tensor
//! - neighbouring dimensions of the first half of a head are rotated, or of the share `partial_rotary_factor`
//! - 2 key/value heads, head_dim 128 and an epsilon of 1.5625e-7 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/glm/modeling_glm.py`.

use std::iter::once;

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Linear, Mlp, Result, RopeLayout, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults {
        num_kv_heads: Some(2),
        head_dim: Some(128),
        eps: ("rms_norm_eps", 1.5625e-7),
        rotary: |head_dim, context| RotaryHead {
            partial: Some(0.5),
            layout: RopeLayout::Interleaved,
            ..RotaryHead::whole(head_dim, context)
        },
        ..Defaults::default()
    };
    let bias = config.bool_or("attention_bias", true)?;
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: false, mlp: false })?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Gated { gate, up, .. } = &mut layer.mlp {
            let (width, hidden_size) = (gate.out_features, gate.in_features);
            let path = format!("model.layers.{index}.mlp.gate_up_proj");
            *gate = Linear::rows(path.clone(), once(0..width), 2 * width, hidden_size, false);
            *up = Linear::rows(path, once(width..2 * width), 2 * width, hidden_size, false);
        }
    }
    Ok(spec)
}
