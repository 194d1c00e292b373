//! What the user asked for, every default decided.

use std::collections::BTreeMap;

use genai_architectures::{DecoderSpec, Layer, Mlp};

use crate::{
    Cache, Error, Interface, Precision, Recipe, Result, Target,
    graph::Dtype,
    target::{AttentionForm, Form, MatrixForm},
};

/// Block size of quantized weights unless the user asks for another.
pub const DEFAULT_BLOCK_SIZE: usize = 32;

/// Tokens that a cache of fixed size has room for unless the user asks for another number or the model has fewer: every
/// step computes over all of them.
pub const DEFAULT_FIXED_CONTEXT: usize = 4096;

/// How a package is to be. [`Settings::of`] decides everything; options change one thing or another after it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub target: &'static Target,
    pub precision: Precision,
    /// Of activations, cache, norms, scales and float weights.
    pub dtype: Dtype,
    pub recipe: Recipe,
    /// `MatMulNBits` accuracy level, 0 to 4.
    pub accuracy_level: u8,
    pub attention: AttentionForm,
    pub form: Form,
    pub fusion: Fusion,
    pub interface: Interface,
    pub cache: Cache,
    /// Tokens that a cache of fixed size is to have room for; `None` leaves it to the model and
    /// [`DEFAULT_FIXED_CONTEXT`].
    pub fixed_context: Option<usize>,
    pub session: Session,
    pub adaptation: Adaptation,
}

/// What becomes of the LoRA adapters of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adaptation {
    /// The one adapter is part of the graph.
    BakedIn,
    /// Each is a file beside the graph that a session may be given; the graph takes their weights as optional inputs.
    Swappable,
}

/// What is computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fusion {
    /// One product makes q, k and v.
    pub qkv: bool,
    /// Attention norms the heads of q and k itself.
    pub head_norms: bool,
    /// One product makes the gate of an MLP and what it gates.
    pub gate_up: bool,
}

/// What a session of the runtime is opened with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Whether the provider is asked to record a step and replay it; `None` leaves it to the target.
    pub capture: Option<bool>,
    /// Entries of `session_options`.
    pub entries: BTreeMap<&'static str, &'static str>,
}

impl Adaptation {
    pub fn name(self) -> &'static str {
        match self {
            Self::BakedIn => "baked in",
            Self::Swappable => "swappable",
        }
    }
}

impl Settings {
    /// Whether no size of the graph is open.
    pub fn is_fixed(&self) -> bool {
        self.attention == AttentionForm::Fixed
    }

    /// The tokens of the longest sequence that the package takes, prompt included.
    pub fn context_length(&self, spec: &DecoderSpec) -> usize {
        match self.fixed_context {
            _ if !self.is_fixed() => spec.context_length,
            Some(tokens) => tokens,
            None => spec.context_length.min(DEFAULT_FIXED_CONTEXT),
        }
    }

    /// Whether lengths are those of the mask's ones, and never of a shape.
    pub(crate) fn takes_lengths_of_mask(&self) -> bool {
        self.records() == Some(true) && self.target.capture.as_ref().is_some_and(|capture| capture.lengths_of_mask)
    }

    /// Whether the provider records a step and replays it; `None` where it has no such option. Unless it was asked to, it
    /// records none over a cache that grows, which lies elsewhere at each step.
    pub(crate) fn records(&self) -> Option<bool> {
        let capture = self.target.capture.as_ref()?;
        Some(self.session.capture.unwrap_or(capture.default && self.attention.shares_buffer()))
    }

    /// The package of a target without further wishes.
    ///
    /// # Errors
    /// `Unsupported` where the provider has no kernels for the precision.
    pub fn of(target: &'static Target, precision: Precision) -> Result<Self> {
        let cell = target.expect_cell(precision)?;
        Ok(Self {
            target,
            precision,
            dtype: cell.activations,
            recipe: Recipe::uniform(precision, DEFAULT_BLOCK_SIZE, true)?,
            accuracy_level: match target.form.matrices {
                MatrixForm::NBits { .. } => target.accuracy_level,
                MatrixForm::Qdq => 0,
            },
            attention: cell.attention,
            form: target.form,
            fusion: Fusion::of(cell.attention),
            interface: Interface::default(),
            cache: Cache::default(),
            fixed_context: None,
            session: Session::default(),
            adaptation: Adaptation::BakedIn,
        })
    }

    /// Elements of the cache for a head of a layer.
    pub(crate) fn cache_width(&self, head_dim: usize) -> usize {
        let padded = self.attention.padded_head_dim(head_dim);
        self.cache.quantization.as_ref().map_or(padded, |quantization| quantization.scheme.code.width(padded))
    }
}

impl Fusion {
    /// What is computed together without further wishes.
    pub(crate) fn of(attention: AttentionForm) -> Self {
        Self {
            qkv: match attention {
                AttentionForm::GroupQuery { packed, .. } => packed,
                AttentionForm::Standard | AttentionForm::Fixed => true,
            },
            head_norms: false,
            gate_up: false,
        }
    }

    /// # Errors
    /// `Unsupported` where the model has nothing to be computed together.
    pub(crate) fn check(self, spec: &DecoderSpec) -> Result<()> {
        let gated = |layer: &Layer| matches!(layer.mlp, Mlp::Gated { .. });
        if self.gate_up && !spec.layers.iter().any(gated) {
            return Err(Error::Unsupported {
                what: format!(
                    "fuse_mlp_gate_up is true: {} has no gate beside the other half of its MLP",
                    spec.architecture
                ),
                hint: "leave fuse_mlp_gate_up out".to_owned(),
            });
        }
        Ok(())
    }
}
