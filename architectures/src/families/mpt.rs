//! MPT. Differs from Llama:
//! - ALiBi in place of rope
//! - layer norms without biases; an MLP without a gate, GELU; no biases at all
//! - q, k and v are one linear; `attn_config.clip_qkv` bounds them
//! - the head is tied where the config does not say
//!
//! Reference: `transformers` 5.23, `models/mpt/modeling_mpt.py`, which reads no other key of the original code.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{Activation, Alibi, Config, DecoderSpec, Layer, Linear, Mixer, Mlp, Norm, Position, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize_of(&["d_model", "hidden_size"])?;
    let num_layers = config.usize_of(&["n_layers", "num_hidden_layers"])?;
    let num_heads = config.usize_of(&["n_heads", "num_attention_heads"])?;
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let (mut clip_qkv, mut scale) = (None, None);
    if config.has("attn_config") {
        let attention = config.model("attn_config")?;
        attention.only("alibi", true)?;
        for key in ["qk_ln", "prefix_lm", "attn_uses_sequence_id"] {
            attention.only(key, false)?;
        }
        attention.only("attn_type", "multihead_attention")?;
        attention.only("alibi_bias_max", 8)?;
        for key in ["attn_impl", "attn_pdrop"] {
            attention.ignore(key);
        }
        // A zero counts as none.
        clip_qkv = attention.opt_f64("clip_qkv")?.filter(|bound| *bound != 0.0);
        scale = attention.opt_f64("softmax_scale")?;
    }
    config.only("no_bias", true)?;
    config.only("expansion_ratio", 4)?;
    // With ALiBi there is no table of positions, and the kind of norm is a kind of kernel.
    for key in ["learned_pos_emb", "norm_type", "embedding_fraction", "emb_pdrop", "init_config"] {
        config.ignore(key);
    }

    let heads = Heads::new(config, hidden_size, num_heads)?;
    let norm = |path: String| Norm { bias: false, ..layer_norm(path, eps) };
    let layer = |index: usize| {
        let path = format!("transformer.blocks.{index}");
        let fused = |part: usize| {
            let range = part * hidden_size..(part + 1) * hidden_size;
            Linear::rows(format!("{path}.attn.Wqkv"), Some(range), 3 * hidden_size, hidden_size, false)
        };
        let o = Linear::whole(format!("{path}.attn.out_proj"), hidden_size, hidden_size, false);
        let mut attention = heads.attention([fused(0), fused(1), fused(2)], o, Position::Alibi(Alibi::PLAIN));
        attention.clip_qkv = clip_qkv.map(|bound| bound as f32);
        attention.scale = scale.map_or(attention.scale, |scale| scale as f32);
        let up = Linear::whole(format!("{path}.ffn.up_proj"), 4 * hidden_size, hidden_size, false);
        let down = Linear::whole(format!("{path}.ffn.down_proj"), hidden_size, 4 * hidden_size, false);
        let [mixer_norm, mlp_norm] = ["norm_1", "norm_2"].map(|name| norm(format!("{path}.{name}")));
        Layer {
            mixer: Mixer::Attention(attention),
            mlp: Mlp::Plain { up, down, activation: Activation::Gelu },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length: config.opt_usize("max_seq_len")?.unwrap_or(2048),
        embedding: gpt::embedding("transformer.wte"),
        final_norm: norm("transformer.norm_f".to_owned()),
        tied: config.bool_or("tie_word_embeddings", true)?,
    };
    Ok(gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect()))
}
