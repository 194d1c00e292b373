//! The description of a decoder: data only, one value per layer, every default resolved.
//!
//! Modules are named, tensors are not: a [`Linear`] says `model.layers.0.mlp.up_proj`, and whether the checkpoint holds
//! `.weight` alone or a quantized triple is the reader's business.

mod attention;
mod layer;
mod linear;
mod mlp;
mod norm;
mod streams;
mod tensors;

use std::ops::Range;

pub use attention::{
    Alibi, AlibiRounding, Attention, BlockSparsity, HeadNorm, KeyValue, NormOrder, NormSpan, Position, QueryScaling,
    alibi_slopes,
};
pub use layer::{Layer, Mixer, Residual};
pub use linear::{Linear, View};
pub use mlp::{Activation, Mlp};
pub use norm::{Norm, NormKind, NormWeight};
pub use streams::{AltUp, LayerInput, LayerInputs, LowRank, Streams};
pub use tensors::{TensorPattern, TensorPrefix};

use crate::Rope;

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
    /// Whether the residual stream of trained checkpoints outgrows the 65504 of fp16, so that a package which computes
    /// in fp16 must carry it in f32.
    pub wide_residual: bool,
    pub final_norm: Norm,
    pub lm_head: LmHead,
    /// Factor on the logits.
    pub logit_scale: Option<f32>,
    /// `cap * tanh(logit / cap)`, after the factor.
    pub logit_softcap: Option<f32>,
    /// Tokens that the model never gives: in the end their logits are the lowest finite number.
    pub masked_tokens: Vec<Range<usize>>,
    /// Other names under which checkpoints of this family store their tensors; the first that fits a name counts.
    pub prefixes: Vec<TensorPrefix>,
    /// Tensors that checkpoints of this family carry and that this model does not use.
    pub unused_tensors: Vec<TensorPattern>,
    /// Tensors that some checkpoints store although the model uses another in their place: `(copy, original)`. Where
    /// the two differ, the checkpoint contradicts its config.
    pub copies: Vec<(String, String)>,
    /// Tensors that some checkpoints store although the model has the number in this value: `(tensor, value)`, one
    /// element up to the rounding of the tensor's dtype. Where the two differ, the checkpoint is another model.
    pub constants: Vec<(String, f32)>,
    /// What makes the inputs of layers that have one of their own.
    pub layer_inputs: Option<LayerInputs>,
    /// How one hidden state becomes several that run side by side, for layers that join them by [`Residual::AltUp`].
    pub streams: Option<Streams>,
}

/// An index into [`DecoderSpec::ropes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RopeId(pub usize);

/// A table `[vocab_size, hidden_size]`; row `t` is the first hidden state of token `t`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Module path; the table is the tensor `{path}.weight`.
    pub path: String,
    /// Factor on the rows of the table, before anything is added.
    pub scale: Option<f32>,
    /// A table of positions, added to the rows of the tokens.
    pub positions: Option<LearnedPositions>,
    /// Norm of the sum.
    pub norm: Option<Norm>,
}

/// A table `[rows, hidden_size]`; position `p` adds row `p + offset`.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnedPositions {
    /// Module path; the table is the tensor `{path}.weight`.
    pub path: String,
    pub rows: usize,
    pub offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LmHead {
    /// The head has a weight of its own.
    Own(Linear),
    /// The head multiplies by the embedding table.
    Tied,
}

impl DecoderSpec {
    /// The rotary table that a layer refers to.
    pub fn rope(&self, id: RopeId) -> &Rope {
        &self.ropes[id.0]
    }

    /// Whether another layer reads the keys and values of this one.
    pub fn shares_keys(&self, layer: usize) -> bool {
        self.layers.iter().any(|other| {
            let Mixer::Attention(attention) = &other.mixer;
            attention.key_value == KeyValue::OfLayer(layer)
        })
    }

    /// What this spec calls a tensor of the checkpoint; `None` where it is the stored name.
    pub fn name_of(&self, stored: &str) -> Option<String> {
        let renamed = self.prefixes.iter().find_map(|prefix| {
            let rest = stored.strip_prefix(prefix.stored)?;
            Some(format!("{}{rest}", prefix.named))
        });
        renamed.or_else(|| self.name_in_root(stored))
    }

    /// The name of a tensor of a model that was saved without its head, so without the module around all others:
    /// `model.layers.0…` for a stored `layers.0…`.
    fn name_in_root(&self, stored: &str) -> Option<String> {
        let (root, _) = self.embedding.path.split_once('.')?;
        let (start, _) = stored.split_once('.')?;
        let norm_of_layer = self.layers.first().and_then(|layer| layer.residual.norms().first().map(|norm| &norm.path));
        let positions = self.embedding.positions.as_ref().map(|positions| &positions.path);
        let norm = self.embedding.norm.as_ref().map(|norm| &norm.path);
        let modules = [Some(&self.embedding.path), positions, norm, norm_of_layer, Some(&self.final_norm.path)];
        let is_there = modules.into_iter().flatten().any(|path| {
            let inside = path.strip_prefix(root).and_then(|rest| rest.strip_prefix('.'));
            inside.is_some_and(|inside| inside.split('.').next() == Some(start))
        });
        is_there.then(|| format!("{root}.{stored}"))
    }

    /// Sets the head: `own`, or the embedding table in its place.
    pub(crate) fn set_head(&mut self, own: Linear, tied: bool) {
        self.copies = if tied { vec![(own.weight(), self.embedding.weight())] } else { Vec::new() };
        self.lm_head = if tied { LmHead::Tied } else { LmHead::Own(own) };
    }

    /// The attention of each layer that has one, in order, for a family that adjusts another's description.
    pub(crate) fn attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.layers.iter_mut().map(|layer| match &mut layer.mixer {
            Mixer::Attention(attention) => attention,
        })
    }

    /// The norms over the hidden state: those of the layers, then the final one.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.layers.iter_mut().flat_map(|layer| layer.residual.norms_mut()).chain([&mut self.final_norm])
    }

    /// Learned parameters, tied weights counted once.
    pub fn num_parameters(&self) -> u64 {
        let hidden_size = self.hidden_size;
        let table = |rows: usize| rows as u64 * hidden_size as u64;
        let head = match &self.lm_head {
            LmHead::Own(linear) => linear.num_parameters(),
            LmHead::Tied => 0,
        };
        let positions = self.embedding.positions.as_ref().map_or(0, |positions| table(positions.rows));
        let embedding_norm = self.embedding.norm.as_ref().map_or(0, |norm| norm.num_parameters(hidden_size));
        let layers: u64 = self.layers.iter().map(|layer| layer.num_parameters(hidden_size)).sum();
        let final_norm = self.final_norm.num_parameters(hidden_size);
        let layer_inputs = self.layer_inputs.as_ref().map_or(0, |inputs| inputs.num_parameters(self.layers.len()));
        let streams = self.streams.as_ref().map_or(0, Streams::num_parameters);
        table(self.vocab_size) + positions + embedding_norm + layer_inputs + streams + layers + final_norm + head
    }
}

impl LearnedPositions {
    /// The name of the table tensor.
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
