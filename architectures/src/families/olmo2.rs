//! OLMo 2. Differs from Llama:
//! - the norms of a layer are on what attention and MLP give, not on what they read
//! - RMS norm over all queries together, and over all keys, before the rotation
//! - no MLP biases; `rms_norm_eps` is 1e-5 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/olmo2/modeling_olmo2.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, HeadNorm, Norm, NormSpan, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    decoder(config, &Defaults { eps: ("rms_norm_eps", 1e-5), ..Defaults::default() })
}

/// A decoder of OLMo 2's shape, which OLMo 3 adjusts.
pub(super) fn decoder(config: &Config, defaults: &Defaults) -> Result<DecoderSpec> {
    let bias = config.bool_or("attention_bias", false)?;
    let mut spec = llama::decoder(config, defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    let like = spec.final_norm.clone();
    let norm = |path: String| Norm { path, ..like.clone() };
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let path = format!("model.layers.{index}");
        layer.residual = Residual::PostNorm {
            mixer_norm: norm(format!("{path}.post_attention_layernorm")),
            mlp_norm: norm(format!("{path}.post_feedforward_layernorm")),
        };
    }
    for (index, attention) in spec.attentions_mut().enumerate() {
        let path = format!("model.layers.{index}.self_attn");
        let whole = |name| Some(HeadNorm { norm: norm(format!("{path}.{name}")), span: NormSpan::Whole });
        attention.q_norm = whole("q_norm");
        attention.k_norm = whole("k_norm");
    }
    Ok(spec)
}
