//! OPT. Differs from Llama:
//! - learned positions, stored from row 2 on; no rope
//! - layer norms with biases (or without weights, `layer_norm_elementwise_affine`); an MLP without a gate, ReLU by
//!   default; biases everywhere (or nowhere, `enable_bias`)
//! - the head is tied where the config does not say
//!
//! Of the published sizes, 350m alone norms after the residual and projects its embeddings; it is not supported.
//!
//! Reference: `transformers` 5.23, `models/opt/modeling_opt.py`.

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    Activation, Config, DecoderSpec, Layer, LearnedPositions, Linear, Mixer, Mlp, Norm, NormWeight, Position, Residual,
    Result,
};

/// `torch.nn.LayerNorm`'s own; the config has no key for it.
const EPS: f64 = 1e-5;

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize("hidden_size")?;
    let num_layers = config.usize("num_hidden_layers")?;
    let context_length = config.usize("max_position_embeddings")?;
    let ffn_dim = config.usize("ffn_dim")?;
    let activation = Activation::read(config, "activation_function", Activation::Relu)?;
    let bias = config.bool_or("enable_bias", true)?;
    let affine = config.bool_or("layer_norm_elementwise_affine", true)?;
    config.only("do_layer_norm_before", true)?;
    config.only("_remove_final_layer_norm", false)?;
    config.only("word_embed_proj_dim", hidden_size)?;
    // Of training alone.
    for key in ["layerdrop", "activation_dropout"] {
        config.ignore(key);
    }

    let heads = Heads::new(config, hidden_size, config.usize("num_attention_heads")?)?;
    let norm = |path: String| match affine {
        true => layer_norm(path, EPS),
        false => Norm { weight: NormWeight::None, bias: false, ..layer_norm(path, EPS) },
    };
    let layer = |index: usize| {
        let path = format!("model.decoder.layers.{index}");
        let square = |name| Linear::whole(format!("{path}.self_attn.{name}"), hidden_size, hidden_size, bias);
        let qkv = ["q_proj", "k_proj", "v_proj"].map(square);
        let up = Linear::whole(format!("{path}.fc1"), ffn_dim, hidden_size, bias);
        let down = Linear::whole(format!("{path}.fc2"), hidden_size, ffn_dim, bias);
        let mixer_norm = norm(format!("{path}.self_attn_layer_norm"));
        let mlp_norm = norm(format!("{path}.final_layer_norm"));
        Layer {
            mixer: Mixer::Attention(heads.attention(qkv, square("out_proj"), Position::None)),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let mut embedding = gpt::embedding("model.decoder.embed_tokens");
    let path = "model.decoder.embed_positions".to_owned();
    embedding.positions = Some(LearnedPositions { path, rows: context_length + 2, offset: 2 });
    let frame = Frame {
        vocab_size: config.usize("vocab_size")?,
        context_length,
        embedding,
        final_norm: norm("model.decoder.final_layer_norm".to_owned()),
        tied: config.bool_or("tie_word_embeddings", true)?,
    };
    Ok(gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect()))
}
