//! Gemma 2. Differs from Gemma:
//! - a norm before and one after each part of a layer
//! - every other layer is local, from the first on, or those that `layer_types` names; the window is 4096 where the
//!   config does not say
//! - scores are divided by the root of `query_pre_attn_scalar` and softcapped, and so are the logits: at 50 and 30 where
//!   the config does not say, not at all where it says null
//! - the activation is `hidden_activation`; a `hidden_act` beside it means nothing
//! - 4 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/gemma2/modeling_gemma2.py`.

use super::{gemma, layer_type, llama};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // Written beside `sliding_window` by an early conversion, and read by nothing.
    config.ignore("sliding_window_size");
    let config = config.with_defaults([
        ("sliding_window", 4096.into()),
        ("attn_logit_softcapping", 50.0.into()),
        ("final_logit_softcapping", 30.0.into()),
    ]);
    let mut spec = decoder(&config)?;
    let softcap = config.opt_positive("attn_logit_softcapping")?;
    let window = config.opt_usize("sliding_window")?;
    let windows = layer_type::windows(&config, spec.layers.len(), window, 2)?;
    for (attention, window) in spec.attentions_mut().zip(windows) {
        attention.window = window;
        attention.softcap = softcap.map(|cap| cap as f32);
    }
    Ok(spec)
}

/// What Gemma 2 and 3 have in common.
pub(super) fn decoder(config: &Config) -> Result<DecoderSpec> {
    config.ignore("hidden_act");
    let mut spec = gemma::decoder(&config.with_names(&[("hidden_act", "hidden_activation")]), 4)?;
    llama::sandwich(
        &mut spec,
        ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"],
    );
    let scale = 1.0 / config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt();
    for attention in spec.attentions_mut() {
        attention.scale = scale as f32;
    }
    spec.logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    Ok(spec)
}
