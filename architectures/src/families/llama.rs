//! Llama, the plainest decoder: RMS norms before attention and MLP, grouped-query attention with rope, gated SiLU.
//!
//! Reference: `transformers` 5.23, `models/llama/modeling_llama.py`.

use crate::{
    Activation, Attention, Config, DecoderSpec, Embedding, Error, Layer, Linear, LmHead, Mixer, Mlp, Norm, NormKind,
    Position, Residual, Result, Rope, RopeId,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    decoder(
        config,
        &Defaults { num_kv_heads: None, head_dim: None },
        &Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias },
    )
}

/// What a family's config class assumes where the key is absent; `None` derives it from the other sizes.
pub(super) struct Defaults {
    pub(super) num_kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
}

/// Which linears carry a bias.
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) o: bool,
    pub(super) mlp: bool,
}

/// A decoder of Llama's shape, full attention in every layer: the base that close relatives adjust.
pub(super) fn decoder(config: &Config, defaults: &Defaults, biases: &Biases) -> Result<DecoderSpec> {
    let hidden_size = config.usize("hidden_size")?;
    let num_layers = config.usize("num_hidden_layers")?;
    let num_heads = config.usize("num_attention_heads")?;
    let vocab_size = config.usize("vocab_size")?;
    let intermediate_size = config.usize("intermediate_size")?;
    let max_position_embeddings = config.usize("max_position_embeddings")?;
    let num_kv_heads = config.opt_usize("num_key_value_heads")?.or(defaults.num_kv_heads).unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({num_heads})");
        return Err(Error::invalid(config.path("num_key_value_heads"), expected, num_kv_heads));
    }
    let head_dim = match config.opt_usize("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a multiple of num_attention_heads ({num_heads}) where there is no head_dim");
            return Err(Error::invalid(config.path("hidden_size"), expected, hidden_size));
        }
    };
    let eps = config.positive_or("rms_norm_eps", 1e-6)? as f32;
    let activation = Activation::read(config, "hidden_act")?;
    let rope = Rope::read(config, head_dim, max_position_embeddings)?;
    let tied = config.bool_or("tie_word_embeddings", false)?;

    let norm = |path: String| Norm { path, kind: NormKind::Rms, eps };
    let linear = |path: String, out_features: usize, in_features: usize, bias: bool| Linear {
        path,
        out_features,
        in_features,
        bias,
    };
    let layer = |index: usize| {
        let path = format!("model.layers.{index}");
        let (attention, mlp) = (format!("{path}.self_attn"), format!("{path}.mlp"));
        Layer {
            mixer: Mixer::Attention(Attention {
                num_heads,
                num_kv_heads,
                head_dim,
                q: linear(format!("{attention}.q_proj"), num_heads * head_dim, hidden_size, biases.qkv),
                k: linear(format!("{attention}.k_proj"), num_kv_heads * head_dim, hidden_size, biases.qkv),
                v: linear(format!("{attention}.v_proj"), num_kv_heads * head_dim, hidden_size, biases.qkv),
                o: linear(format!("{attention}.o_proj"), hidden_size, num_heads * head_dim, biases.o),
                q_norm: None,
                k_norm: None,
                position: Position::Rope(RopeId(0)),
                scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                window: None,
            }),
            mlp: Mlp::Gated {
                gate: linear(format!("{mlp}.gate_proj"), intermediate_size, hidden_size, biases.mlp),
                up: linear(format!("{mlp}.up_proj"), intermediate_size, hidden_size, biases.mlp),
                down: linear(format!("{mlp}.down_proj"), hidden_size, intermediate_size, biases.mlp),
                activation,
            },
            residual: Residual::PreNorm {
                mixer_norm: norm(format!("{path}.input_layernorm")),
                mlp_norm: norm(format!("{path}.post_attention_layernorm")),
            },
        }
    };
    let embedding = Embedding { path: "model.embed_tokens".to_owned() };
    let head = linear("lm_head".to_owned(), vocab_size, hidden_size, false);
    Ok(DecoderSpec {
        architecture: "",
        runtime_type: "",
        hidden_size,
        vocab_size,
        context_length: rope.context_length(max_position_embeddings),
        ropes: vec![rope],
        layers: (0..num_layers).map(layer).collect(),
        final_norm: norm("model.norm".to_owned()),
        copies: if tied { vec![(head.weight(), embedding.weight())] } else { Vec::new() },
        lm_head: if tied { LmHead::Tied } else { LmHead::Own(head) },
        embedding,
        // Buffers that older transformers saved; both are derived from the config.
        unused_tensors: vec![".rotary_emb.inv_freq", ".masked_bias"],
    })
}
