//! BLOOM and BLOOMZ. Differs from Llama:
//! - ALiBi in place of rope, so nothing limits the length; `seq_length` is what the model was trained on
//! - a norm of the embeddings
//! - layer norms with biases; an MLP of four times the hidden size without a gate, tanh GELU; biases everywhere
//! - q, k and v are one linear, head by head
//! - the head is tied where the config does not say
//!
//! Reference: `transformers` 5.23, `models/bloom/modeling_bloom.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{Activation, Alibi, Config, DecoderSpec, Layer, Linear, Mixer, Mlp, Position, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize_of(&["hidden_size", "n_embed"])?;
    let num_layers = config.usize_of(&["n_layer", "num_hidden_layers"])?;
    let num_heads = config.usize_of(&["n_head", "num_attention_heads"])?;
    let context_length = config.opt_usize("seq_length")?.unwrap_or(2048);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    config.only("apply_residual_connection_post_layernorm", false)?;
    // Settings of the kernels that the model was trained with; transformers reads none of them.
    let softmax = ["attention_softmax_in_fp32", "masked_softmax_fusion", "offset_alibi"];
    let biases = ["bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv"];
    for key in softmax.into_iter().chain(biases) {
        config.ignore(key);
    }

    let heads = Heads::new(config, hidden_size, num_heads)?;
    let layer = |index: usize| {
        let path = format!("transformer.h.{index}");
        let qkv = heads.grouped(&format!("{path}.self_attention.query_key_value"), true);
        let o = Linear::whole(format!("{path}.self_attention.dense"), hidden_size, hidden_size, true);
        let up = Linear::whole(format!("{path}.mlp.dense_h_to_4h"), 4 * hidden_size, hidden_size, true);
        let down = Linear::whole(format!("{path}.mlp.dense_4h_to_h"), hidden_size, 4 * hidden_size, true);
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let [mixer_norm, mlp_norm] = norms.map(|name| layer_norm(format!("{path}.{name}"), eps));
        Layer {
            mixer: Mixer::Attention(heads.attention(qkv, o, Position::Alibi(Alibi::PLAIN))),
            mlp: Mlp::Plain { up, down, activation: Activation::GeluTanh },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let mut embedding = gpt::embedding("transformer.word_embeddings");
    embedding.norm = Some(layer_norm("transformer.word_embeddings_layernorm", eps));
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length,
        embedding,
        final_norm: layer_norm("transformer.ln_f", eps),
        tied: config.bool_or("tie_word_embeddings", true)?,
    };
    Ok(gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect()))
}
