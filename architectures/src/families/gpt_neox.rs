//! GPT-NeoX, Pythia, RedPajama-INCITE. Differs from Llama:
//! - layer norms with biases; an MLP without a gate, GELU by default; biases everywhere
//! - q, k and v are one linear, head by head
//! - with `use_parallel_residual` (the default) attention and MLP read the same hidden state, each through its norm
//! - rope over `rotary_pct` of a head, a quarter where the config does not say, with base `rotary_emb_base`
//! - the head was called `embed_out` up to transformers 4
//!
//! Reference: `transformers` 5.23, `models/gpt_neox/modeling_gpt_neox.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    Activation, Config, DecoderSpec, Error, Layer, Linear, Mixer, Mlp, Position, Residual, Result, Rope, RopeId,
    RotaryHead, TensorPattern, TensorPrefix,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize("hidden_size")?;
    let num_layers = config.usize("num_hidden_layers")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let max_position_embeddings = config.opt_usize("max_position_embeddings")?.unwrap_or(2048);
    let eps = config.positive_or("layer_norm_eps", 1e-5)?;
    let activation = Activation::read(config, "hidden_act", Activation::Gelu)?;
    let bias = config.bool_or("attention_bias", true)?;
    let parallel = config.bool_or("use_parallel_residual", true)?;
    let heads = Heads::new(config, hidden_size, config.usize("num_attention_heads")?)?;
    let rotary = RotaryHead {
        theta: own_key(config, "rotary_emb_base", "rope_theta", 10_000.0)?,
        partial: Some(own_key(config, "rotary_pct", "partial_rotary_factor", 0.25)?),
        ..RotaryHead::whole(heads.head_dim, max_position_embeddings)
    };
    let rope = Rope::read(config, &rotary)?;

    let layer = |index: usize| {
        let path = format!("gpt_neox.layers.{index}");
        let qkv = heads.grouped(&format!("{path}.attention.query_key_value"), bias);
        let o = Linear::whole(format!("{path}.attention.dense"), hidden_size, hidden_size, bias);
        let up = Linear::whole(format!("{path}.mlp.dense_h_to_4h"), intermediate_size, hidden_size, true);
        let down = Linear::whole(format!("{path}.mlp.dense_4h_to_h"), hidden_size, intermediate_size, true);
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let [mixer_norm, mlp_norm] = norms.map(|name| layer_norm(format!("{path}.{name}"), eps));
        Layer {
            mixer: Mixer::Attention(heads.attention(qkv, o, Position::Rope(RopeId(0)))),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: match parallel {
                true => Residual::Parallel { mixer_norm, mlp_norm: Some(mlp_norm) },
                false => Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
            },
        }
    };
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length: rope.context_length(max_position_embeddings),
        embedding: gpt::embedding("gpt_neox.embed_in"),
        final_norm: layer_norm("gpt_neox.final_layer_norm", eps),
        tied: config.bool_or("tie_word_embeddings", false)?,
    };
    let mut spec = gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect());
    spec.ropes = vec![rope];
    spec.prefixes = vec![TensorPrefix { stored: "embed_out.", named: "lm_head." }];
    // Masks and frequencies that older transformers saved.
    let buffers = [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"];
    spec.unused_tensors = buffers.map(TensorPattern::Ends).to_vec();
    Ok(spec)
}

/// The value of a key of this family that most others spell another way. Outside `rope_parameters` transformers 5 reads
/// the family's own spelling alone and transformers 4 wrote both, so the other one must say the same.
fn own_key(config: &Config, own: &str, common: &str, default: f64) -> Result<f64> {
    let value = config.opt_f64(own)?.unwrap_or(default);
    match config.opt_f64(common)? {
        Some(other) if other != value => {
            Err(Error::invalid(config.path(common), format!("{value}, which {own} says or defaults to"), other))
        }
        _ => Ok(value),
    }
}
