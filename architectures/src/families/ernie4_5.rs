//! Ernie 4.5 dense. Differs from Llama:
//! - neighbouring dimensions of a head are rotated together
//! - `use_bias` covers every linear of a layer
//! - the head is tied, there are 2 key/value heads, head_dim is 128, epsilon 1e-5 and the rope's base 500000 where the
//!   config does not say
//!
//! Reference: `transformers` 5.23, `models/ernie4_5/modeling_ernie4_5.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Result, RopeLayout, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // The publisher's own code stretches positions by this; transformers does not.
    config.only("compression_ratio", 1)?;
    config.only("use_rmsnorm", true)?;
    let defaults = Defaults {
        num_kv_heads: Some(2),
        head_dim: Some(128),
        tied: true,
        eps: ("rms_norm_eps", 1e-5),
        rotary: |head_dim, context| RotaryHead {
            theta: 500_000.0,
            layout: RopeLayout::Interleaved,
            ..RotaryHead::whole(head_dim, context)
        },
        ..Defaults::default()
    };
    let bias = config.bool_or("use_bias", false)?;
    llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: bias })
}
