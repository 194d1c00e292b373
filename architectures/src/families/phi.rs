//! Phi-1, Phi-1.5 and Phi-2. Differs from Llama:
//! - attention and MLP read the same layer norm, and both are added to the stream at once
//! - every linear has a bias, the head too; `o_proj` is called `dense`, the final norm `final_layernorm`
//! - MLP without a gate, of `fc1` and `fc2`, GELU by tanh
//! - half of each head is rotated, or `partial_rotary_factor`
//! - with `qk_layernorm`, a layer norm on each query and key head before the rotation
//!
//! Reference: `transformers` 5.23, `models/phi/modeling_phi.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Error, HeadNorm, LmHead, Norm, NormKind, NormSpan, Result, RotaryHead};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let rotary = |head_dim, context| RotaryHead { partial: Some(0.5), ..RotaryHead::whole(head_dim, context) };
    let activation = Activation::GeluTanh;
    let defaults = Defaults { activation, eps: ("layer_norm_eps", 1e-5), rotary, ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: true, o: true, mlp: true })?;
    llama::without_gate(&mut spec, "fc1", "fc2");
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.bias = true;
    }
    spec.final_norm.path = "model.final_layernorm".to_owned();
    let LmHead::Own(head) = &mut spec.lm_head else {
        // The bias would still be the head's own.
        return Err(Error::Unsupported {
            key: config.path("tie_word_embeddings"),
            value: "true".to_owned(),
            supported: "false".to_owned(),
        });
    };
    head.bias = true;
    let qk_layernorm = config.bool_or("qk_layernorm", false)?;
    let like = spec.final_norm.clone();
    for (index, attention) in spec.attentions_mut().enumerate() {
        let path = |name| format!("model.layers.{index}.self_attn.{name}");
        let norm = |name| HeadNorm { norm: Norm { path: path(name), ..like.clone() }, span: NormSpan::Head };
        attention.o.path = path("dense");
        attention.q_norm = qk_layernorm.then(|| norm("q_layernorm"));
        attention.k_norm = qk_layernorm.then(|| norm("k_layernorm"));
    }
    llama::in_parallel(&mut spec);
    Ok(spec)
}
