//! StarCoder2. Differs from Llama:
//! - layer norms with a bias; their epsilon is `norm_epsilon`
//! - MLP without a gate, of `c_fc` and `c_proj`, GELU by tanh
//! - `use_bias` (true where absent) covers every linear but the head
//! - `sliding_window` limits every layer
//! - tied head and 2 key/value heads where the config does not say
//!
//! Reference: `transformers` 5.23, `models/starcoder2/modeling_starcoder2.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Error, NormKind, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    ignore_training_keys(config)?;
    let defaults = Defaults {
        num_kv_heads: Some(2),
        activation: Activation::GeluTanh,
        tied: true,
        eps: ("norm_epsilon", 1e-5),
        ..Defaults::default()
    };
    let bias = config.bool_or("use_bias", true)?;
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: bias })?;
    llama::without_gate(&mut spec, "c_fc", "c_proj");
    let window = config.opt_usize("sliding_window")?;
    for attention in spec.attentions_mut() {
        attention.window = window;
    }
    for norm in spec.norms_mut() {
        norm.kind = NormKind::Layer;
        norm.bias = true;
    }
    Ok(spec)
}

/// The published configs keep keys of the training code, which the reference does not read. Two of them name parts of
/// the model.
fn ignore_training_keys(config: &Config) -> Result<()> {
    for key in [
        "activation_function",
        "attention_softmax_in_fp32",
        "layer_norm_epsilon",
        "scale_attention_softmax_in_fp32",
        "scale_attn_weights",
    ] {
        config.ignore(key);
    }
    for (key, only) in [("mlp_type", "default"), ("norm_type", "layer_norm")] {
        if let Some(value) = config.opt_str(key)?.filter(|value| value != only) {
            return Err(Error::Unsupported { key: config.path(key), value, supported: only.to_owned() });
        }
    }
    Ok(())
}
