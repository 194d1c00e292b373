//! The description of a decoder: data only, one value per layer, every default resolved.
//!
//! Modules are named, tensors are not: a [`Linear`] says `model.layers.0.mlp.up_proj`, and whether the checkpoint holds
//! `.weight` alone or a quantized triple is the reader's business.

use crate::{Config, Error, Result, Rope};

/// A causal language model: embedding, layers, final norm, head.
///
/// Hidden states are `[batch, sequence, hidden_size]`; logits are `[batch, sequence, vocab_size]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// The `architectures[0]` string of the config, for example `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// The `model.type` under which onnxruntime-genai runs this family.
    pub runtime_type: &'static str,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// The longest sequence, in tokens, prompt and continuation together.
    pub context_length: usize,
    pub embedding: Embedding,
    /// The distinct rotary tables of the model; layers refer to them by [`RopeId`].
    pub ropes: Vec<Rope>,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
    pub lm_head: LmHead,
    /// Ends of the names of tensors that checkpoints of this family carry and the maths does not use.
    pub unused_tensors: Vec<&'static str>,
    /// Tensors that some checkpoints store although the model uses another in their place: `(copy, original)`. Where
    /// the two differ, the checkpoint contradicts its config.
    pub copies: Vec<(String, String)>,
}

/// An index into [`DecoderSpec::ropes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RopeId(pub usize);

/// A table `[vocab_size, hidden_size]`; row `t` is the first hidden state of token `t`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Module path; the table is the tensor `{path}.weight`.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LmHead {
    /// The head has a weight of its own.
    Own(Linear),
    /// The head multiplies by the embedding table.
    Tied,
}

/// One decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub mixer: Mixer,
    pub mlp: Mlp,
    pub residual: Residual,
}

/// What mixes information between positions.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    Attention(Attention),
}

/// Grouped-query attention; `num_heads == num_kv_heads` is multi-head attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// `[num_heads * head_dim, hidden_size]`
    pub q: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`
    pub k: Linear,
    /// `[num_kv_heads * head_dim, hidden_size]`
    pub v: Linear,
    /// `[hidden_size, num_heads * head_dim]`
    pub o: Linear,
    /// Norm of each query head over `head_dim`, before the rotation.
    pub q_norm: Option<Norm>,
    /// Norm of each key head over `head_dim`, before the rotation.
    pub k_norm: Option<Norm>,
    pub position: Position,
    /// Factor on `q · k` before the softmax.
    pub scale: f32,
    /// A position sees itself and the `window - 1` positions before it; `None` sees all that precede.
    pub window: Option<usize>,
}

/// How attention learns where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Rope(RopeId),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`
    Gated { gate: Linear, up: Linear, down: Linear, activation: Activation },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// Exact, with the error function.
    Gelu,
    /// The approximation by `tanh`.
    GeluTanh,
    Relu,
}

/// How a layer's parts join the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Residual {
    /// `x += mixer(mixer_norm(x)); x += mlp(mlp_norm(x))`
    PreNorm { mixer_norm: Norm, mlp_norm: Norm },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Module path; the weight is the tensor `{path}.weight`.
    pub path: String,
    pub kind: NormKind,
    /// Added to the mean square (or the variance) before the root.
    pub eps: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) * weight`
    Rms,
}

/// `y = x · Wᵀ + b`, with `W` stored `[out_features, in_features]` as the tensor `{path}.weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub path: String,
    pub out_features: usize,
    pub in_features: usize,
    /// Whether there is a tensor `{path}.bias` of `[out_features]`.
    pub bias: bool,
}

impl DecoderSpec {
    /// The rotary table that a layer refers to.
    pub fn rope(&self, id: RopeId) -> &Rope {
        &self.ropes[id.0]
    }

    /// The attention of each layer that has one, in order, for a family that adjusts another's description.
    pub(crate) fn attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.layers.iter_mut().map(|layer| match &mut layer.mixer {
            Mixer::Attention(attention) => attention,
        })
    }

    /// Learned parameters, tied weights counted once.
    pub fn num_parameters(&self) -> u64 {
        let head = match &self.lm_head {
            LmHead::Own(linear) => linear.num_parameters(),
            LmHead::Tied => 0,
        };
        let embedding = self.vocab_size as u64 * self.hidden_size as u64;
        let layers: u64 = self.layers.iter().map(|layer| layer.num_parameters(self.hidden_size)).sum();
        embedding + layers + self.hidden_size as u64 + head
    }
}

impl Activation {
    /// Reads the name of an activation as transformers' `ACT2FN` knows it; an absent key means SiLU.
    pub(crate) fn read(config: &Config, key: &str) -> Result<Self> {
        let Some(name) = config.opt_str(key)? else { return Ok(Self::Silu) };
        match name.as_str() {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            _ => Err(Error::Unsupported {
                key: config.path(key),
                value: name,
                supported: "silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu".to_owned(),
            }),
        }
    }
}

impl Layer {
    fn num_parameters(&self, hidden_size: usize) -> u64 {
        let Mixer::Attention(attention) = &self.mixer;
        let Mlp::Gated { gate, up, down, .. } = &self.mlp;
        let Residual::PreNorm { .. } = &self.residual;
        let linears = [&attention.q, &attention.k, &attention.v, &attention.o, gate, up, down];
        let head_norms = attention.q_norm.iter().chain(&attention.k_norm).count() as u64;
        linears.iter().map(|linear| linear.num_parameters()).sum::<u64>()
            + 2 * hidden_size as u64
            + head_norms * attention.head_dim as u64
    }
}

impl Linear {
    pub fn num_parameters(&self) -> u64 {
        self.out_features as u64 * (self.in_features as u64 + u64::from(self.bias))
    }

    /// The name of the tensor `[out_features, in_features]`.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// The name of the tensor `[out_features]`, present when [`Linear::bias`] is true.
    pub fn bias_name(&self) -> String {
        format!("{}.bias", self.path)
    }
}

impl Norm {
    /// The name of the weight tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }
}

impl Embedding {
    /// The name of the table tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }
}
