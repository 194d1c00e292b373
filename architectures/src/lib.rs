//! What a decoder model *is*: the typed reading of a Hugging Face `config.json` and, from it, a [`DecoderSpec`].
//!
//! ```text
//! config.json ──► Config ──► families::describe ──► DecoderSpec
//!                 typed,       one small file          what to compute, per layer,
//!                 records      per family              every default resolved
//!                 what was read
//! ```
//!
//! Invariants:
//! - Pure: no file, network or environment access, and no dependency on the other crates of this workspace.
//! - Knows nothing of ONNX, execution providers or quantization.
//! - A key of the config that changes the maths and that no family read is an error, never ignored: see [`Config`].
//!
//! To add a family: one file in `families/`, one line in its table, fixtures (CONTRIBUTING.md has the list).

mod config;
mod error;
pub mod families;
mod names;
mod rope;
mod spec;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
pub use families::{Family, describe};
pub(crate) use rope::RotaryHead;
pub use rope::{Rope, RopeLayout, RopeScaling};
pub use spec::{
    Activation, Alibi, AlibiRounding, AltUp, Attention, BlockSparsity, DecoderSpec, Embedding, HeadNorm, KeyValue,
    Layer, LayerInput, LayerInputs, LearnedPositions, Linear, LmHead, LowRank, Mixer, Mlp, Norm, NormKind, NormOrder,
    NormSpan, NormWeight, Position, QueryScaling, Residual, RopeId, Streams, TensorPattern, TensorPrefix, View,
    alibi_slopes,
};
