//! From a decoder's description to an ONNX package that onnxruntime-genai and ONNX Runtime load.
//!
//! ```text
//! DecoderSpec ─► lower ─► Plan ─► account ─► materialize ─► genai_config, sidecars ─► commit
//!                pure     graph,  against    the only step                            rename
//!                         layout, the        that touches
//!                         jobs    headers    weight bytes
//! ```
//!
//! Invariants:
//! - No weight byte is read before [`materialize`](mod@materialize), or held after the tile that needed it.
//! - ONNX Runtime is never linked and never loaded here.
//! - Only [`target`] knows what a provider can do; lowering asks its row.
//! - Bytes do not depend on thread count, memory budget, shard order or machine.
//! - The output path holds a complete package, or what it held before.
//!
//! Left out: running packages (`genai-validate`), reading sources (`genai-checkpoint`), rounding rules
//! (`genai-quantize`).
#![deny(unsafe_code)]

mod accounting;
pub mod adapter_file;
mod build;
mod cache;
mod digest;
mod error;
mod genai_config;
pub mod graph;
mod interface;
mod lower;
mod manifest;
pub mod materialize;
pub mod output;
pub mod plan;
mod precision;
mod recipe;
mod runtime_config;
mod settings;
mod sidecar;
pub mod target;

pub use build::{Built, Report, Request, build, commit, plan};
pub use cache::{Cache, CacheCode, CacheQuantization, CacheScales, CacheScheme, Paged, Pool, ScaleSpan};
pub use error::{Error, ErrorKind, Result};
pub use interface::{Interface, Logits};
pub use lower::{lower, lower_with_adapters};
pub use output::{Disk, Interrupt, Output};
pub use plan::Plan;
pub use precision::{Precision, Role};
pub use recipe::{Matrices, Operators, Recipe, Selector};
pub use runtime_config::RuntimeConfig;
pub use settings::{Adaptation, DEFAULT_BLOCK_SIZE, DEFAULT_FIXED_CONTEXT, Fusion, Session, Settings};
pub use target::{TARGETS, Target};
