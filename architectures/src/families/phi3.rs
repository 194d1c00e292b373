//! Phi-3, Phi-3.5, Phi-4 and Phi-4-mini. Differs from Llama:
//! - q, k and v are rows of one `qkv_proj`, gate and up of one `gate_up_proj`; no biases
//! - rope is plain or longrope (once called `su` or `yarn`) over a share of each head, `partial_rotary_factor`; it
//!   switches at the top-level `original_max_position_embeddings`, 4096 where absent
//! - `sliding_window` limits every layer; one as wide as the context limits nothing
//! - `rms_norm_eps` is 1e-5 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/phi3/modeling_phi3.py`.

use std::iter::once;

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Error, Linear, Mlp, Result, RopeScaling, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults { eps: ("rms_norm_eps", 1e-5), rotary, ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: false, o: false, mlp: false })?;
    if !matches!(spec.ropes[0].scaling, RopeScaling::None | RopeScaling::LongRope { .. }) {
        return Err(Error::Unsupported {
            key: config.path("rope_scaling"),
            value: spec.ropes[0].scaling.kind().to_owned(),
            supported: "default, longrope, su, yarn".to_owned(),
        });
    }
    let window = config.opt_usize("sliding_window")?.filter(|window| *window < spec.context_length);
    for (index, attention) in spec.attentions_mut().enumerate() {
        attention.window = window;
        let path = format!("model.layers.{index}.self_attn.qkv_proj");
        fuse(&path, once(&mut attention.q).chain(attention.key_value.linears_mut()).collect());
    }
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Gated { gate, up, .. } = &mut layer.mlp {
            fuse(&format!("model.layers.{index}.mlp.gate_up_proj"), vec![gate, up]);
        }
    }
    Ok(spec)
}

fn rotary(head_dim: usize, max_position_embeddings: usize) -> RotaryHead {
    RotaryHead {
        partial: Some(1.0),
        original_context: Some(4096),
        longrope: &["longrope", "su", "yarn"],
        ..RotaryHead::whole(head_dim, max_position_embeddings)
    }
}

/// Makes linears the rows, one after another, of one stored linear.
fn fuse(path: &str, parts: Vec<&mut Linear>) {
    let total = parts.iter().map(|part| part.out_features).sum();
    let mut start = 0;
    for part in parts {
        let end = start + part.out_features;
        *part = Linear::rows(path, Some(start..end), total, part.in_features, part.bias);
        start = end;
    }
}
