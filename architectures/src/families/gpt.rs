//! What GPT-2 and its relatives have in common: layer norms with biases, an MLP without a gate, and one fused linear for
//! q, k and v.

use crate::{
    Attention, Config, DecoderSpec, Embedding, Error, KeyValue, Layer, Linear, LmHead, Norm, NormKind, NormOrder,
    NormWeight, Position, Result,
};

/// The sizes of attention; a head is an equal share of the hidden state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) hidden_size: usize,
    pub(super) num_heads: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Everything outside the layers.
pub(super) struct Frame {
    pub(super) vocab_size: usize,
    pub(super) context_length: usize,
    pub(super) embedding: Embedding,
    pub(super) final_norm: Norm,
    pub(super) tied: bool,
}

impl Heads {
    /// As many key/value heads as heads.
    pub(super) fn new(config: &Config, hidden_size: usize, num_heads: usize) -> Result<Self> {
        if !hidden_size.is_multiple_of(num_heads) {
            let expected = format!("a divisor of the hidden size, {hidden_size}");
            return Err(Error::invalid(config.path("num_attention_heads"), expected, num_heads));
        }
        Ok(Self { hidden_size, num_heads, num_kv_heads: num_heads, head_dim: hidden_size / num_heads })
    }

    /// q, k and v of a fused weight `[(heads + 2 kv heads) * head_dim, hidden]` in which each key/value head follows
    /// the query heads that read it: `q.. k v, q.. k v, ...`.
    pub(super) fn grouped(self, path: &str, bias: bool) -> [Linear; 3] {
        let Self { hidden_size, num_heads, num_kv_heads, head_dim } = self;
        let queries = num_heads / num_kv_heads * head_dim;
        let group = queries + 2 * head_dim;
        let part = |start: usize, length: usize| {
            let ranges = (0..num_kv_heads).map(|i| i * group + start..i * group + start + length);
            Linear::rows(path, ranges, num_kv_heads * group, hidden_size, bias)
        };
        [part(0, queries), part(queries, head_dim), part(queries + head_dim, head_dim)]
    }

    /// Full attention with scores over the root of `head_dim`.
    pub(super) fn attention(self, [q, k, v]: [Linear; 3], o: Linear, position: Position) -> Attention {
        Attention {
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            q,
            key_value: KeyValue::Own { k, v },
            o,
            clip_qkv: None,
            q_norm: None,
            k_norm: None,
            v_norm: None,
            norm_order: NormOrder::BeforeRotation,
            position,
            query_scaling: None,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            softcap: None,
            window: None,
            blocks: None,
        }
    }
}

/// A layer norm with weight and bias.
pub(super) fn layer_norm(path: impl Into<String>, eps: f64) -> Norm {
    Norm { path: path.into(), kind: NormKind::Layer, weight: NormWeight::Plain, bias: true, eps: eps as f32 }
}

/// Token embeddings alone.
pub(super) fn embedding(path: &str) -> Embedding {
    Embedding { path: path.to_owned(), scale: None, positions: None, norm: None }
}

/// The head is `lm_head`, and there is no rope yet.
pub(super) fn decoder(hidden_size: usize, frame: Frame, layers: Vec<Layer>) -> DecoderSpec {
    let mut spec = DecoderSpec {
        architecture: "",
        runtime_type: "",
        hidden_size,
        vocab_size: frame.vocab_size,
        context_length: frame.context_length,
        embedding: frame.embedding,
        ropes: Vec::new(),
        layers,
        final_norm: frame.final_norm,
        lm_head: LmHead::Tied,
        logit_scale: None,
        logit_softcap: None,
        masked_tokens: Vec::new(),
        prefixes: Vec::new(),
        wide_residual: false,
        unused_tensors: Vec::new(),
        copies: Vec::new(),
        constants: Vec::new(),
        layer_inputs: None,
        streams: None,
    };
    spec.set_head(Linear::whole("lm_head", frame.vocab_size, hidden_size, false), frame.tied);
    spec
}
