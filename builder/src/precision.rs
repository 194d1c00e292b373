//! Precision as asked for, and the parts that matrices play.

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
    /// Queries, or keys, by themselves.
    QkProj,
    /// Values by themselves, which may be the keys too.
    VProj,
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
    /// The table of token ids, where it is not the head's too.
    EmbeddingTable,
}
