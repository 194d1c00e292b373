//! GPT-Neo. Differs from GPT-2:
//! - q, k and v are linears of their own, without biases; weights are stored `[out, in]`
//! - scores are not divided by the root of head_dim
//! - the layers that `attention_types` calls local (every other one where it does not say) see `window_size` positions
//!
//! Reference: `transformers` 5.23, `models/gpt_neo/modeling_gpt_neo.py`.

use super::gpt::{self, Heads, layer_norm};
use super::gpt2;
use crate::{
    Activation, Config, DecoderSpec, Error, Layer, Linear, Mixer, Mlp, Position, Residual, Result, TensorPattern,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let hidden_size = config.usize("hidden_size")?;
    let num_layers = config.usize_of(&["num_layers", "num_hidden_layers"])?;
    let num_heads = config.usize_of(&["num_heads", "num_attention_heads"])?;
    let context_length = config.usize("max_position_embeddings")?;
    let inner = config.opt_usize("intermediate_size")?.unwrap_or(4 * hidden_size);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = Activation::read(config, "activation_function", Activation::GeluTanh)?;
    let windows = windows(config, num_layers)?;
    // Of training alone.
    config.ignore("embed_dropout");

    let heads = Heads::new(config, hidden_size, num_heads)?;
    let layer = |(index, window): (usize, Option<usize>)| {
        let path = format!("transformer.h.{index}");
        let square =
            |name, bias| Linear::whole(format!("{path}.attn.attention.{name}"), hidden_size, hidden_size, bias);
        let qkv = ["q_proj", "k_proj", "v_proj"].map(|name| square(name, false));
        let mut attention = heads.attention(qkv, square("out_proj", true), Position::None);
        attention.scale = 1.0;
        attention.window = window;
        let up = Linear::whole(format!("{path}.mlp.c_fc"), inner, hidden_size, true);
        let down = Linear::whole(format!("{path}.mlp.c_proj"), hidden_size, inner, true);
        let [mixer_norm, mlp_norm] = ["ln_1", "ln_2"].map(|name| layer_norm(format!("{path}.{name}"), eps));
        Layer {
            mixer: Mixer::Attention(attention),
            mlp: Mlp::Plain { up, down, activation: activation.clone() },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let frame = gpt2::frame(config, context_length, eps)?;
    let mut spec = gpt::decoder(hidden_size, frame, windows.into_iter().enumerate().map(layer).collect());
    // Masks that older transformers saved.
    spec.unused_tensors = vec![TensorPattern::Ends(".attention.bias"), TensorPattern::Ends(".attention.masked_bias")];
    Ok(spec)
}

/// The window of each layer.
fn windows(config: &Config, num_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = config.opt_usize("window_size")?.unwrap_or(256);
    let kinds = match config.opt_repeated_strings("attention_types", num_layers)? {
        Some(kinds) => kinds,
        None => (0..num_layers).map(|layer| ["global", "local"][layer % 2].to_owned()).collect(),
    };
    // The same, written out.
    let listed = config.opt_strings("attention_layers")?.unwrap_or_else(|| kinds.clone());
    if listed != kinds || kinds.len() != num_layers {
        let expected = format!("a kind for each of {num_layers} layers, as in attention_layers where that is written");
        return Err(Error::invalid(config.path("attention_types"), expected, format!("{kinds:?}")));
    }
    let window_of = |kind: String| match kind.as_str() {
        "global" => Ok(None),
        "local" => Ok(Some(window)),
        _ => Err(Error::Unsupported {
            key: config.path("attention_types"),
            value: kind,
            supported: "global, local".to_owned(),
        }),
    };
    kinds.into_iter().map(window_of).collect()
}
