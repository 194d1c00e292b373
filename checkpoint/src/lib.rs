//! Reads model sources: a folder in Hugging Face layout becomes named, lazy tensor views.
//!
//! ```text
//!  org/name[@rev] ── resolve_model ──► folder ──► Checkpoint::open
//!                                                    │
//!            config.json, generation_config.json ────┤ parsed
//!            model.safetensors.index.json ───────────┤ which shards
//!            *.safetensors ──────────────────────────┤ headers only
//!            adapter_config.json, its weights ───────┘ with_adapter: updates of its linears
//!                                                    │
//!                        tensors() / tensor(name) ◄──┴──► read, read_f32 (positioned, on demand)
//! ```
//!
//! Invariants:
//! * Opening reads headers, never tensor data. A [`Checkpoint`] is `Send + Sync`; reads need no lock.
//! * What we accept, the reference `safetensors` crate accepts with the same meaning; we refuse more (duplicate keys,
//!   a header that does not begin with `{`).
//! * No allocation follows a declared size before that size is checked against the file's true length and a cap.
//! * Files are read with positioned reads, never mapped: a file that shrinks is an error, not a SIGBUS.
//! * Names from a file are never used as paths unless they are plain file names, a symlink must stay in the folder
//!   (or in a `blobs/` of the Hub cache that holds it), and every name is escaped and capped before it is printed.
//! * Nothing from a model repository is executed; pickles are refused.
//! * Nothing is written but the Hub cache, under names that were checked. A file is in it whole or not at all.
//!
//! Left out: what a model *is* (`genai-architectures`), number formats of quantized checkpoints (`genai-quantize`),
//! the Hub's Xet protocol (it gives the same files over HTTP, up to 50 GB each), GGUF. Values are not inspected: NaN and
//! infinity pass through as they are.

#![deny(unsafe_code)]
// Everything here reads files written by others: nothing in them may cause a panic or wrap a number.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::as_conversions,
        clippy::arithmetic_side_effects
    )
)]

mod adapter;
mod checkpoint;
mod dtype;
mod error;
mod folder;
mod header;
mod hub;
mod index;
mod json_file;
mod lookalike;
mod provenance;
mod source_file;
mod strict_json;
mod tensor;
mod weights;

pub use adapter::{Adapter, LowRankUpdate};
pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::{Error, ErrorKind, Result};
pub use folder::Revision;
pub use hub::{Environment, HubOptions, Patience, Progress, Token, resolve_model};
pub use provenance::Input;
pub use tensor::Tensor;
