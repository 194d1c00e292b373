//! Precision as asked for, and the storage of weights that follows from it.

use genai_quantize::IntScheme;

use crate::{Error, Result};

/// The `-p` of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Fp32,
    Fp16,
    Bf16,
    Int8,
    Int4,
}

impl Precision {
    pub const ALL: [Self; 5] = [Self::Fp32, Self::Fp16, Self::Bf16, Self::Int8, Self::Int4];

    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bits of a quantized weight; `None` for the float precisions.
    pub fn bits(self) -> Option<usize> {
        match self {
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
            Self::Fp32 | Self::Fp16 | Self::Bf16 => None,
        }
    }
}

/// What part a linear plays, for rules about its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Query, key and value side by side; one node reads them, so one scheme holds for all three.
    QkvProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
    /// Between the hidden state and inputs of the layers' own.
    LayerInput,
    /// The table of these inputs.
    LayerInputTable,
    /// Between hidden states: from one stream to another, or a residual of low rank.
    Stream,
    /// To a handful of values that steer others.
    Router,
    LmHead,
}

/// How linears are stored: the scheme of each role.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    scheme: Option<IntScheme>,
}

impl Recipe {
    /// Every linear alike: quantized where the precision is an integer one, else kept in the activation dtype.
    pub fn uniform(precision: Precision, block_size: usize, symmetric: bool) -> Result<Self> {
        let scheme = precision.bits().map(|bits| IntScheme::new(bits, block_size, symmetric)).transpose();
        let scheme = scheme.map_err(|error| Error::Unsupported {
            what: format!("block_size {block_size} is not supported"),
            hint: error.to_string(),
        })?;
        Ok(Self { scheme })
    }

    /// The scheme of a linear, or `None` where it stays float.
    pub fn scheme(&self, role: Role) -> Option<IntScheme> {
        match role {
            Role::QkvProj
            | Role::OProj
            | Role::GateProj
            | Role::UpProj
            | Role::DownProj
            | Role::LayerInput
            | Role::LayerInputTable
            | Role::Stream
            | Role::LmHead => self.scheme,
            Role::Router => None,
        }
    }
}
