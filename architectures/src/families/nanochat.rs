//! NanoChat. Differs from Llama:
//! - norms have no weight, and there is one more right after the embedding
//! - an RMS norm, without a weight too, on each query and key head after the rotation
//! - heads rotate the other way round: the same as exchanging the halves of each head of q and k, in which scores do not
//!   change
//! - no gate; the MLP is `fc2(relu(fc1(x))²)`
//! - logits are softcapped, at 15 where the config does not say, not at all where it says null
//! - `attention_bias` covers q, k, v and o
//!
//! Reference: `transformers` 5.23, `models/nanochat/modeling_nanochat.py`.

use std::iter::once;

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Linear, Norm, NormOrder, NormWeight, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let bias = config.bool_or("attention_bias", false)?;
    let config = config.with_defaults([("final_logit_softcapping", 15.0.into())]);
    let defaults = Defaults { activation: Activation::ReluSquared, ..Defaults::default() };
    let mut spec = llama::decoder(&config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    llama::without_gate(&mut spec, "fc1", "fc2");
    for norm in spec.norms_mut() {
        norm.weight = NormWeight::None;
    }
    // The reference uses the final norm for it; neither has a weight.
    spec.embedding.norm = Some(Norm { path: "model.embed_norm".to_owned(), ..spec.final_norm.clone() });
    llama::norm_heads(&mut spec, NormOrder::AfterRotation, "q_norm", "k_norm");
    for attention in spec.attentions_mut() {
        let keys = attention.key_value.linears_mut().into_iter().take(1);
        for linear in once(&mut attention.q).chain(keys) {
            *linear = halves_exchanged(linear, attention.head_dim);
        }
    }
    spec.logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    Ok(spec)
}

fn halves_exchanged(linear: &Linear, head_dim: usize) -> Linear {
    let total = linear.out_features;
    let heads = (0..total).step_by(head_dim);
    let ranges = heads.flat_map(|start| {
        let (middle, end) = (start + head_dim / 2, start + head_dim);
        [middle..end, start..middle]
    });
    Linear::rows(linear.path.clone(), ranges, total, linear.in_features, linear.bias)
}
