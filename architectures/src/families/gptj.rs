//! GPT-J. Differs from Llama:
//! - attention and MLP read the same layer norm, and both are added to the stream at once
//! - neighbouring dimensions of the first `rotary_dim` of each head are rotated, with the base 10000
//! - MLP without a gate, of `fc_in` and `fc_out`, GELU by tanh where the config does not say; biases there and in the head
//! - keys and module names of its own, from GPT-2
//!
//! Reference: `transformers` 5.23, `models/gptj/modeling_gptj.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    Activation, Config, DecoderSpec, Error, Layer, Linear, LmHead, Mixer, Mlp, Position, Residual, Result, Rope,
    RopeId, RopeLayout, RopeScaling, TensorPattern,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    decoder(config, |heads, path| {
        let whole = |name| Linear::whole(format!("{path}.{name}"), heads.hidden_size, heads.hidden_size, false);
        Ok(["q_proj", "k_proj", "v_proj"].map(whole))
    })
}

/// A decoder of this shape, whose queries, keys and values are those linears of the module of an attention.
pub(super) fn decoder(
    config: &Config,
    queries_keys_values: impl Fn(Heads, &str) -> Result<[Linear; 3]>,
) -> Result<DecoderSpec> {
    let hidden_size = config.usize_of(&["n_embd", "hidden_size"])?;
    let num_layers = config.usize_of(&["n_layer", "num_hidden_layers"])?;
    let num_heads = config.usize_of(&["n_head", "num_attention_heads"])?;
    let context_length = config.usize_of(&["n_positions", "max_position_embeddings"])?;
    let inner = config.opt_usize("n_inner")?.unwrap_or(4 * hidden_size);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = Activation::read(config, "activation_function", Activation::GeluTanh)?;
    // Keys of the training code, which the reference does not read.
    config.only("rotary", true)?;
    config.only("scale_attn_weights", true)?;
    // The head's bias would still be its own.
    config.only("tie_word_embeddings", false)?;
    let heads = Heads::new(config, hidden_size, num_heads)?;
    let rope = rope(config, heads.head_dim)?;

    let layer = |index: usize| {
        let path = format!("transformer.h.{index}");
        let qkv = queries_keys_values(heads, &format!("{path}.attn"))?;
        let o = Linear::whole(format!("{path}.attn.out_proj"), hidden_size, hidden_size, false);
        let up = Linear::whole(format!("{path}.mlp.fc_in"), inner, hidden_size, true);
        let down = Linear::whole(format!("{path}.mlp.fc_out"), hidden_size, inner, true);
        Ok(Layer {
            mixer: Mixer::Attention(heads.attention(qkv, o, Position::Rope(RopeId(0)))),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: Residual::Parallel { mixer_norm: layer_norm(format!("{path}.ln_1"), eps), mlp_norm: None },
        })
    };
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length,
        embedding: gpt::embedding("transformer.wte"),
        final_norm: layer_norm("transformer.ln_f", eps),
        tied: false,
    };
    let mut spec = gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect::<Result<_>>()?);
    if let LmHead::Own(head) = &mut spec.lm_head {
        head.bias = true;
    }
    spec.ropes = vec![rope];
    // Masks and tables that older transformers saved.
    let buffers = [".attn.bias", ".attn.masked_bias", ".attn.causal_mask", ".attn.embed_positions"];
    spec.unused_tensors = buffers.map(TensorPattern::Ends).to_vec();
    Ok(spec)
}

fn rope(config: &Config, head_dim: usize) -> Result<Rope> {
    // Of a null, which rotates the whole head, the reference makes a table as wide as the hidden state.
    let dim = if config.has("rotary_dim") { config.usize("rotary_dim")? } else { 64 };
    if dim > head_dim || !dim.is_multiple_of(2) {
        let expected = format!("an even number, at most {head_dim}, the size of a head");
        return Err(Error::invalid(config.path("rotary_dim"), expected, dim));
    }
    Ok(Rope { dim, theta: 10_000.0, layout: RopeLayout::Interleaved, scaling: RopeScaling::None })
}
