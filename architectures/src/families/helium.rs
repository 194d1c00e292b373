//! Helium. Differs from Llama:
//! - rope turns neighbouring dimensions; its base is 100000 where the config does not say
//! - `attention_bias` covers q, k and v alone
//! - head_dim is 128, there are 20 key/value heads and `rms_norm_eps` is 1e-8 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/helium/modeling_helium.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Error, Result, RopeLayout, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead {
        theta: 100_000.0,
        layout: RopeLayout::Interleaved,
        ..RotaryHead::whole(head_dim, context)
    };
    let eps = ("rms_norm_eps", 1e-8);
    let defaults = Defaults { num_kv_heads: Some(20), head_dim: Some(128), eps, rotary, ..Defaults::default() };
    let qkv = config.bool_or("attention_bias", false)?;
    let mlp = config.bool_or("mlp_bias", false)?;
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv, o: false, mlp })?;
    let hidden_size = spec.hidden_size;
    // The reference makes `o_proj` a square of hidden_size.
    if let Some(attention) = spec.attentions_mut().find(|attention| attention.o.in_features != hidden_size) {
        let expected = format!("{}, which is num_attention_heads * head_dim", attention.o.in_features);
        return Err(Error::invalid(config.path("hidden_size"), expected, hidden_size));
    }
    Ok(spec)
}
