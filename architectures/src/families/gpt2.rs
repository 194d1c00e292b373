//! GPT-2. Differs from Llama:
//! - learned positions, no rope
//! - layer norms with biases; an MLP without a gate, tanh GELU by default; biases everywhere
//! - q, k and v are one linear; all weights are stored `[in, out]` (transformers' `Conv1D`)
//! - the head is tied where the config does not say
//!
//! Reference: `transformers` 5.23, `models/gpt2/modeling_gpt2.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    Activation, Config, DecoderSpec, Layer, LearnedPositions, Linear, Mixer, Mlp, Position, Residual, Result,
    TensorPattern,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize_of(&["n_embd", "hidden_size"])?;
    let num_layers = config.usize_of(&["n_layer", "num_hidden_layers"])?;
    let num_heads = config.usize_of(&["n_head", "num_attention_heads"])?;
    let context_length = config.usize_of(&["n_positions", "max_position_embeddings"])?;
    let inner = config.opt_usize("n_inner")?.unwrap_or(4 * hidden_size);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = Activation::read(config, "activation_function", Activation::GeluTanh)?;
    let scaled = config.bool_or("scale_attn_weights", true)?;
    let scaled_by_layer = config.bool_or("scale_attn_by_inverse_layer_idx", false)?;
    config.only("add_cross_attention", false)?;
    // An order of operations that matters to half precision alone.
    config.ignore("reorder_and_upcast_attn");

    let heads = Heads::new(config, hidden_size, num_heads)?;
    let column = |path: String, out, size| Linear::columns(path, Some(0..out), out, size, true);
    let layer = |index: usize| {
        let path = format!("transformer.h.{index}");
        let fused = |part: usize| {
            let range = part * hidden_size..(part + 1) * hidden_size;
            Linear::columns(format!("{path}.attn.c_attn"), Some(range), 3 * hidden_size, hidden_size, true)
        };
        let o = column(format!("{path}.attn.c_proj"), hidden_size, hidden_size);
        let mut attention = heads.attention([fused(0), fused(1), fused(2)], o, Position::None);
        attention.scale = if scaled { attention.scale } else { 1.0 };
        if scaled_by_layer {
            attention.scale /= (index + 1) as f32;
        }
        let up = column(format!("{path}.mlp.c_fc"), inner, hidden_size);
        let down = column(format!("{path}.mlp.c_proj"), hidden_size, inner);
        let [mixer_norm, mlp_norm] = ["ln_1", "ln_2"].map(|name| layer_norm(format!("{path}.{name}"), eps));
        Layer {
            mixer: Mixer::Attention(attention),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let frame = frame(config, context_length, eps)?;
    let mut spec = gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect());
    // Masks that older transformers saved.
    spec.unused_tensors = vec![TensorPattern::Ends(".attn.bias"), TensorPattern::Ends(".attn.masked_bias")];
    Ok(spec)
}

/// Learned positions beside the tokens, and a head that is tied where the config does not say.
pub(super) fn frame(config: &Config, context_length: usize, eps: f64) -> Result<Frame> {
    let mut embedding = gpt::embedding("transformer.wte");
    embedding.positions =
        Some(LearnedPositions { path: "transformer.wpe".to_owned(), rows: context_length, offset: 0 });
    Ok(Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length,
        embedding,
        final_norm: layer_norm("transformer.ln_f", eps),
        tied: config.bool_or("tie_word_embeddings", true)?,
    })
}
