//! Llama, the plainest decoder: RMS norms before attention and MLP, grouped-query attention with rope, gated SiLU.
//!
//! Reference: `transformers` 5.23, `models/llama/modeling_llama.py`.

use crate::{
    Activation, Attention, Config, DecoderSpec, Embedding, Error, HeadNorm, KeyValue, Layer, Linear, LmHead, Mixer,
    Mlp, Norm, NormKind, NormOrder, NormSpan, NormWeight, Position, Residual, Result, Rope, RopeId, RotaryHead,
    TensorPattern,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let attention_bias = config.bool_or("attention_bias", false)?;
    let mlp_bias = config.bool_or("mlp_bias", false)?;
    decoder(config, &Defaults::default(), &Biases { qkv: attention_bias, o: attention_bias, mlp: mlp_bias })
}

/// What a family's config class assumes where a key is absent.
pub(super) struct Defaults {
    /// `None` is one for each query head.
    pub(super) num_kv_heads: Option<usize>,
    /// `None` is `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) activation: Activation,
    pub(super) tied: bool,
    /// The key of the epsilon of the norms, and its value.
    pub(super) eps: (&'static str, f64),
    /// From head_dim and max_position_embeddings.
    pub(super) rotary: fn(usize, usize) -> RotaryHead,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            num_kv_heads: None,
            head_dim: None,
            activation: Activation::Silu,
            tied: false,
            eps: ("rms_norm_eps", 1e-6),
            rotary: RotaryHead::whole,
        }
    }
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
    // An explicit null derives the value from the other sizes, whatever the default.
    let or_default = |key, default| if config.has(key) { config.opt_usize(key) } else { Ok(default) };
    let num_kv_heads = or_default("num_key_value_heads", defaults.num_kv_heads)?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({num_heads})");
        return Err(Error::invalid(config.path("num_key_value_heads"), expected, num_kv_heads));
    }
    let head_dim = match or_default("head_dim", defaults.head_dim)? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let expected = format!("a multiple of num_attention_heads ({num_heads}) where there is no head_dim");
            return Err(Error::invalid(config.path("hidden_size"), expected, hidden_size));
        }
    };
    let eps = config.positive_or(defaults.eps.0, defaults.eps.1)? as f32;
    let activation = Activation::read(config, "hidden_act", defaults.activation.clone())?;
    let rope = Rope::read(config, &(defaults.rotary)(head_dim, max_position_embeddings))?;
    let tied = config.bool_or("tie_word_embeddings", defaults.tied)?;

    let norm = |path: String| Norm { path, kind: NormKind::Rms, weight: NormWeight::Plain, bias: false, eps };
    let layer = |index: usize| {
        let path = format!("model.layers.{index}");
        let (attention, mlp) = (format!("{path}.self_attn"), format!("{path}.mlp"));
        Layer {
            mixer: Mixer::Attention(Attention {
                num_heads,
                num_kv_heads,
                head_dim,
                q: Linear::whole(format!("{attention}.q_proj"), num_heads * head_dim, hidden_size, biases.qkv),
                key_value: KeyValue::Own {
                    k: Linear::whole(format!("{attention}.k_proj"), num_kv_heads * head_dim, hidden_size, biases.qkv),
                    v: Linear::whole(format!("{attention}.v_proj"), num_kv_heads * head_dim, hidden_size, biases.qkv),
                },
                o: Linear::whole(format!("{attention}.o_proj"), hidden_size, num_heads * head_dim, biases.o),
                clip_qkv: None,
                q_norm: None,
                k_norm: None,
                v_norm: None,
                norm_order: NormOrder::BeforeRotation,
                position: Position::Rope(RopeId(0)),
                query_scaling: None,
                scale: (1.0 / (head_dim as f64).sqrt()) as f32,
                softcap: None,
                window: None,
                blocks: None,
            }),
            mlp: Mlp::Gated {
                gate: Linear::whole(format!("{mlp}.gate_proj"), intermediate_size, hidden_size, biases.mlp),
                up: Linear::whole(format!("{mlp}.up_proj"), intermediate_size, hidden_size, biases.mlp),
                down: Linear::whole(format!("{mlp}.down_proj"), hidden_size, intermediate_size, biases.mlp),
                activation: activation.clone(),
                cutoff: None,
            },
            residual: Residual::PreNorm {
                mixer_norm: norm(format!("{path}.input_layernorm")),
                mlp_norm: norm(format!("{path}.post_attention_layernorm")),
                scale: None,
            },
        }
    };
    let embedding = Embedding { path: "model.embed_tokens".to_owned(), scale: None, positions: None, norm: None };
    let head = Linear::whole("lm_head".to_owned(), vocab_size, hidden_size, false);
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
        constants: Vec::new(),
        layer_inputs: None,
        streams: None,
        lm_head: if tied { LmHead::Tied } else { LmHead::Own(head) },
        embedding,
        logit_scale: None,
        logit_softcap: None,
        masked_tokens: Vec::new(),
        prefixes: Vec::new(),
        wide_residual: false,
        // Buffers that older transformers and other training code saved; all are derived from the config.
        unused_tensors: [".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached", ".masked_bias"]
            .map(TensorPattern::Ends)
            .to_vec(),
    })
}

/// Makes every MLP `down(activation(up(x)))`, of linears with these names.
pub(super) fn without_gate(spec: &mut DecoderSpec, up_name: &str, down_name: &str) {
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let named =
            |name: &str, linear: &Linear| Linear { path: format!("model.layers.{index}.mlp.{name}"), ..linear.clone() };
        if let Mlp::Gated { up, down, activation, .. } = &layer.mlp {
            let (up, down) = (named(up_name, up), named(down_name, down));
            layer.mlp = Mlp::Plain { up, down, activation: activation.clone() };
        }
    }
}

/// Changes how wide a gated MLP is inside.
pub(super) fn widen(mlp: &mut Mlp, width: impl Fn(usize) -> usize) {
    if let Mlp::Gated { gate, up, down, .. } = mlp {
        for size in [&mut gate.out_features, &mut up.out_features, &mut down.in_features] {
            *size = width(*size);
        }
    }
}

/// Gives each part of a layer a norm before it and one after it, of the kind of the final norm, under the module names
/// `[mixer_pre, mixer_post, mlp_pre, mlp_post]`.
pub(super) fn sandwich(spec: &mut DecoderSpec, names: [&str; 4]) {
    let like = spec.final_norm.clone();
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let [mixer_pre, mixer_post, mlp_pre, mlp_post] =
            names.map(|name| Norm { path: format!("model.layers.{index}.{name}"), ..like.clone() });
        layer.residual = Residual::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post };
    }
}

/// Adds a norm on each query and key head, of the kind of the final norm, under these module names.
pub(super) fn norm_heads(spec: &mut DecoderSpec, order: NormOrder, q: &str, k: &str) {
    let like = spec.final_norm.clone();
    for (index, attention) in spec.attentions_mut().enumerate() {
        let norm = |name: &str| {
            let norm = Norm { path: format!("model.layers.{index}.self_attn.{name}"), ..like.clone() };
            Some(HeadNorm { norm, span: NormSpan::Head })
        };
        attention.norm_order = order;
        attention.q_norm = norm(q);
        attention.k_norm = norm(k);
    }
}

/// Makes attention and MLP read the same norm, and adds both to the stream at once.
pub(super) fn in_parallel(spec: &mut DecoderSpec) {
    for layer in &mut spec.layers {
        if let Residual::PreNorm { mixer_norm, .. } = &layer.residual {
            layer.residual = Residual::Parallel { mixer_norm: mixer_norm.clone(), mlp_norm: None };
        }
    }
}
