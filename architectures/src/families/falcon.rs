//! Falcon. Differs from Llama:
//! - layer norms with biases; an MLP without a gate, GELU; biases on linears only with `bias`
//! - q, k and v are one linear, each key/value head behind the query heads that read it: one key/value head for all
//!   (`multi_query`, the default), as many as heads, or `num_kv_heads` (`new_decoder_architecture`)
//! - attention and MLP read the same hidden state (`parallel_attn`, the default), through one norm, or through two in the
//!   new architecture unless `num_ln_in_parallel_attn` is 1
//! - with `alibi` there is no rope; the biases are scaled as the scores are, and rounded as bfloat16
//! - the head is tied where the config does not say
//!
//! Reference: `transformers` 5.23, `models/falcon/modeling_falcon.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    Activation, Alibi, AlibiRounding, Config, DecoderSpec, Error, Layer, Linear, Mixer, Mlp, Position, Residual,
    Result, Rope, RopeId, RotaryHead,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize_of(&["hidden_size", "n_embed"])?;
    let num_layers = config.usize_of(&["num_hidden_layers", "n_layer"])?;
    let num_heads = config.usize_of(&["num_attention_heads", "n_head"])?;
    let max_position_embeddings = config.opt_usize("max_position_embeddings")?.unwrap_or(2048);
    let ffn = config.opt_usize("ffn_hidden_size")?.unwrap_or(4 * hidden_size);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = Activation::read(config, "activation", Activation::Gelu)?;
    let bias = config.bool_or("bias", false)?;
    let new_architecture = config.bool_or("new_decoder_architecture", false)?;
    let multi_query = config.bool_or("multi_query", true)?;
    let kv_heads = config.opt_usize("num_kv_heads")?.unwrap_or(num_heads);
    let norms = norms(config, new_architecture)?;
    // Stands beside ffn_hidden_size in Falcon 2 and is not read.
    config.ignore("ff_factor");

    let mut heads = Heads::new(config, hidden_size, num_heads)?;
    heads.num_kv_heads = match (new_architecture, multi_query) {
        (true, _) => kv_heads,
        (false, true) => 1,
        (false, false) => num_heads,
    };
    if !num_heads.is_multiple_of(heads.num_kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({num_heads})");
        return Err(Error::invalid(config.path("num_kv_heads"), expected, kv_heads));
    }
    let rope = Rope::read(config, &RotaryHead::whole(heads.head_dim, max_position_embeddings))?;
    let alibi = config.bool_or("alibi", false)?;
    let scale = (1.0 / (heads.head_dim as f64).sqrt()) as f32;
    let position = match alibi {
        true => Position::Alibi(Alibi { scale, rounding: AlibiRounding::Bfloat16 }),
        false => Position::Rope(RopeId(0)),
    };

    let layer = |index: usize| {
        let path = format!("transformer.h.{index}");
        let norm = |name: &str| layer_norm(format!("{path}.{name}"), eps);
        let qkv = heads.grouped(&format!("{path}.self_attention.query_key_value"), bias);
        let o = Linear::whole(format!("{path}.self_attention.dense"), hidden_size, hidden_size, bias);
        let up = Linear::whole(format!("{path}.mlp.dense_h_to_4h"), ffn, hidden_size, bias);
        let down = Linear::whole(format!("{path}.mlp.dense_4h_to_h"), hidden_size, ffn, bias);
        Layer {
            mixer: Mixer::Attention(heads.attention(qkv, o, position)),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: match norms {
                Norms::Sequential => Residual::PreNorm {
                    mixer_norm: norm("input_layernorm"),
                    mlp_norm: norm("post_attention_layernorm"),
                    scale: None,
                },
                Norms::Shared => Residual::Parallel { mixer_norm: norm("input_layernorm"), mlp_norm: None },
                Norms::Two => Residual::Parallel { mixer_norm: norm("ln_attn"), mlp_norm: Some(norm("ln_mlp")) },
            },
        }
    };
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length: rope.context_length(max_position_embeddings),
        embedding: gpt::embedding("transformer.word_embeddings"),
        final_norm: layer_norm("transformer.ln_f", eps),
        tied: config.bool_or("tie_word_embeddings", true)?,
    };
    let mut spec = gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect());
    spec.ropes = if alibi { Vec::new() } else { vec![rope] };
    Ok(spec)
}

#[derive(Clone, Copy)]
enum Norms {
    Sequential,
    Shared,
    Two,
}

/// The combinations that the reference runs.
fn norms(config: &Config, new_architecture: bool) -> Result<Norms> {
    let parallel = config.bool_or("parallel_attn", true)?;
    let count = config.opt_usize("num_ln_in_parallel_attn")?;
    match (new_architecture, parallel, count) {
        (true, true, None | Some(2)) => Ok(Norms::Two),
        (true, true, Some(1)) | (false, true, None | Some(1)) => Ok(Norms::Shared),
        (false, false, _) => Ok(Norms::Sequential),
        (true, false, _) => Err(Error::Unsupported {
            key: config.path("parallel_attn"),
            value: "false".to_owned(),
            supported: "true with new_decoder_architecture".to_owned(),
        }),
        (_, true, Some(count)) => Err(Error::Unsupported {
            key: config.path("num_ln_in_parallel_attn"),
            value: count.to_string(),
            supported: if new_architecture { "1, 2" } else { "1 without new_decoder_architecture" }.to_owned(),
        }),
    }
}
