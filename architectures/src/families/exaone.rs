//! EXAONE 3 and 3.5. Differs from Llama:
//! - config keys and module names of its own, from GPT-2
//! - the head is tied, epsilon is 1e-5 and the MLP four times as wide as the hidden state where the config does not say
//! - no biases
//!
//! Reference: `modeling_exaone.py` of `LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct`; no code in `transformers`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let wide = config.usize("hidden_size")?.saturating_mul(4);
    let config = config.with_defaults([("intermediate_size", wide.into())]);
    let config = config.with_names(&[("num_hidden_layers", "num_layers"), ("hidden_act", "activation_function")]);
    let defaults = Defaults { tied: true, eps: ("layer_norm_epsilon", 1e-5), ..Defaults::default() };
    let mut spec = llama::decoder(&config, &defaults, &Biases { qkv: false, o: false, mlp: false })?;
    spec.rename(&[
        ("model.embed_tokens", "transformer.wte"),
        ("model.layers.", "transformer.h."),
        ("model.norm", "transformer.ln_f"),
        (".self_attn.o_proj", ".attn.attention.out_proj"),
        (".self_attn.", ".attn.attention."),
        (".mlp.gate_proj", ".mlp.c_fc_0"),
        (".mlp.up_proj", ".mlp.c_fc_1"),
        (".mlp.down_proj", ".mlp.c_proj"),
        (".input_layernorm", ".ln_1"),
        (".post_attention_layernorm", ".ln_2"),
    ]);
    Ok(spec)
}
