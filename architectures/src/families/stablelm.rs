//! StableLM 3B, 2 1.6B and 2 12B. Differs from Llama:
//! - layer norms with a bias; their epsilon is `layer_norm_eps`
//! - with `use_parallel_residual`, attention and MLP read the same norm, and both are added to the stream at once
//! - a quarter of each head is rotated, or `partial_rotary_factor`
//! - with `qk_layernorm`, a layer norm without bias on each query and key head, with a weight for each
//! - `use_qkv_bias` covers q, k and v
//! - 32 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/stablelm/modeling_stablelm.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, HeadNorm, Norm, NormKind, NormSpan, Result, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { partial: Some(0.25), ..RotaryHead::whole(head_dim, context) };
    let defaults = Defaults { num_kv_heads: Some(32), eps: ("layer_norm_eps", 1e-5), rotary, ..Defaults::default() };
    let qkv = config.bool_or("use_qkv_bias", false)?;
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv, o: false, mlp: false })?;
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.bias = true;
    }
    if config.bool_or("qk_layernorm", false)? {
        let like = Norm { bias: false, ..spec.final_norm.clone() };
        for (index, attention) in spec.attentions_mut().enumerate() {
            let norm = |name| {
                let path = format!("model.layers.{index}.self_attn.{name}.norms");
                Some(HeadNorm { norm: Norm { path, ..like.clone() }, span: NormSpan::EachHeadApart })
            };
            attention.q_norm = norm("q_layernorm");
            attention.k_norm = norm("k_layernorm");
        }
    }
    if config.bool_or("use_parallel_residual", false)? {
        llama::in_parallel(&mut spec);
    }
    Ok(spec)
}
