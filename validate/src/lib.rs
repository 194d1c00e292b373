//! Is a package right? Loads a folder made for onnxruntime-genai, runs it on ONNX Runtime, and compares it with
//! references that share no code with the builder.
//!
//! ```text
//!  runtime::find ──► Runtime ──┐
//!                              ├──► Model ─┬► Generator (batches, beams, sampling) ──► ids ──► Tokenizer ──► text
//!  Config::open ──► Config ────┘           └► Sequence ──► Logits
//!                                                              └──► metrics ──► ParityReport: pass, ambiguous, fail
//!  reference.npz ─────────────────────────┬──► Reference ──────────────┘
//!  DecoderSpec, Checkpoint ► interpreter ─┘
//! ```
//!
//! Invariants:
//! - Nothing here imports `genai-builder`: parity must not share the code that it checks.
//! - ONNX Runtime is loaded at run time and only by path, so that a missing library is an error and never a panic.
//! - Lengths are kept explicitly. The peer infers the last position from the pad id and so reads the wrong row of a
//!   prompt which ends in it; this crate does not.
//! - A package is input from a stranger: every path in it stays inside its folder and every name template is parsed.
//!
//! Left out: execution providers other than CPU, CUDA and WebGPU, multimodal and encoder-decoder packages.

#![deny(unsafe_code)]

mod adapter;
pub mod anatomy;
pub mod completion;
mod config;
pub mod diff;
pub mod engine;
mod error;
mod generate;
mod generator;
pub mod graph;
mod guidance;
mod integrity;
pub mod interpreter;
pub mod log;
mod matrix;
pub mod metrics;
mod model;
mod npz;
mod parity;
mod placement;
mod reference;
pub mod report;
pub mod runtime;
pub mod sampling;
mod search_options;
mod sequence;
pub mod structure;
mod tokenizer;
mod verdict;

pub use adapter::{Adapter, Adapters};
pub use config::{
    CacheWindow, Config, ConfigWarning, Decoder, DeviceFilter, Engine, Inputs, OptimizationLevel, Outputs,
    ProviderOptions, SessionOptions, Speculative, Template, resolve_inside,
};
pub use error::{Error, ErrorKind, Result};
pub use generate::{Finish, GenerateOptions, Generation, generate};
pub use generator::{Cancellation, Constraint, Generator, GeneratorParams, LogitsProcessor};
pub use guidance::{Allowed, Grammar, GrammarCompiler, Guidance, Spacing};
pub use integrity::{Integrity, verify};
pub use matrix::{Matrix, argmax};
pub use model::{CachedTensor, LoadOptions, Model, Tensor, TensorValues};
pub use parity::{compare_prompts, continue_greedily};
pub use placement::{PlacedNode, Placement};
pub use reference::{Continued, PromptReference, Reference};
pub use runtime::{Network, Provider, Runtime};
pub use sampling::{Sampler, SamplingOptions};
pub use search_options::SearchOptions;
pub use sequence::{CacheMode, Sequence, SequenceOptions};
pub use tokenizer::{
    Chat, ChatEnding, ChatTemplate, ChatTemplates, Clock, Decoding, Disagreement, Markers, Padded, Passed,
    SpecialTokens, StopStrings, TextStream, Tokenizer,
};
pub use verdict::{ParityReport, Precision, PromptParity, Verdict};
