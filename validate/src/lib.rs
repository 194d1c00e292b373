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
//! # Where is what
//!
//! | a package runs | |
//! | --- | --- |
//! | `config`, `search_options` | `genai_config.json`, typed and strict |
//! | [`runtime`], `model` | ONNX Runtime; a graph wired by its names; caches of every kind |
//! | `sequence`, `generator`, [`sampling`] | logits of one text; tokens of batches and beams |
//! | `tokenizer`, `guidance` | text and chat templates; grammars |
//! | [`engine`], [`completion`] | many texts on one model; prompts, chats, states |
//!
//! | a package is judged | |
//! | --- | --- |
//! | [`graph`] | ONNX files as data, their matrices as f32 |
//! | [`structure`], [`anatomy`] | without running: against itself, against its checkpoint |
//! | [`interpreter`], `reference`, [`metrics`], `verdict` | what should come out, how far it is off, what that means |
//! | [`judge`], [`report`] | the stages in order; pages of what they found |
//! | [`diff`], `integrity` | two packages; the bytes that were written |
//!
//! # What onnxruntime-genai's Python API calls it
//!
//! | `onnxruntime_genai` | here | remark |
//! | --- | --- | --- |
//! | `Model(path)`, `Model(config)` | [`Config::open`], then [`Model::load`] | ONNX Runtime is found by [`runtime::find`]; a model is shared in an `Arc` |
//! | `Model(folder, device)` (first form) | [`LoadOptions::provider`] | |
//! | `model.type` | [`Config::model_type`] | nothing is chosen by it: graphs are known by their inputs |
//! | `model.device_type` | [`Model::placement`] | of each node, as it ran |
//! | `Model.Generator(params)` (first form) | [`Generator::new`] | |
//! | `Model.generate`, `generate_sequence` (first form) | [`generate()`], [`completion::Llm::generate`] | |
//! | `create_multimodal_processor()`, `MultiModalProcessor`, `Images`, `Audios` | nothing | packages of text alone; others are refused by name |
//! | `Config(path)` | [`Config::open`], [`Config::parse`] | |
//! | `append_provider`, `clear_providers`, `set_provider_option` | [`Config::append_provider`], [`Config::clear_providers`], [`Config::set_provider_option`] | applied by [`LoadOptions::from_config`] |
//! | `set_…`, `clear_decoder_provider_options_hardware_…` | [`Config::set_device_filter`] | read and kept; devices are not chosen by it |
//! | `overlay(json)` | [`Config::overlay`], [`Config::overlay_as_peer`] | the argument is JSON, not a file |
//! | `add_model_data`, `remove_model_data` | nothing | a graph is read from its folder, whose paths are checked |
//! | `GeneratorParams(model)`, `set_search_options` | [`GeneratorParams`], [`SearchOptions`], by name [`SearchOptions::set`] | every option of 0.18; wrong values are errors |
//! | `set_guidance(type, data)` | [`Guidance::parse`], compiled by [`GrammarCompiler`], given as [`GeneratorParams::constraints`] | `prefix` is no type in 0.18 either |
//! | `try_graph_capture_with_max_batch_size` | nothing | gone in 0.18: an option of the provider |
//! | `Generator(model, params)` | [`Generator::new`] | |
//! | `is_done()` | [`Generator::is_done`] | |
//! | `append_tokens(tokens)` | [`Generator::append`], [`Generator::append_tokens`] | rows may differ in length |
//! | `compute_logits()` (first form), `get_logits()` | [`Generator::logits`] | all rows of a prompt: [`Sequence::append`] |
//! | `set_logits(logits)` | [`Generator::set_logits`] | |
//! | `generate_next_token()` | [`Generator::generate_next_token`] | |
//! | `generate_next_token_top_p`, `…_top_k`, `…_top_k_top_p` (first form) | [`SearchOptions::top_p`], [`SearchOptions::top_k`] | |
//! | `get_next_tokens()`, `generate_next_tokens()` (first form) | [`Generator::next_tokens`] | |
//! | `get_sequence(index)` | [`Generator::sequence`], [`Generator::prompt_length`] | without pads |
//! | `rewind_to(length)` | [`Generator::rewind_to`] | the token behind it does not come back by itself |
//! | `get_input(name)`, `get_output(name)` | [`Generator::input`], [`Generator::output`] | |
//! | `set_model_input(name, value)` | [`Generator::set_model_input`] | a name that the graph lacks is an error |
//! | `set_inputs(named_tensors)`, `NamedTensors` | [`Generator::append`] and [`Generator::set_model_input`] | of multimodal models only; a `BTreeMap` of [`Tensor`]s holds as much |
//! | `Tensor(array)`, `shape()`, `type()`, `data()`, `as_numpy()` | [`Tensor`]: `shape` and [`TensorValues`] | row-major always |
//! | `set_active_adapter(adapters, name)` | [`Generator::set_active_adapter`] | |
//! | `Adapters(model)`, `load`, `unload` | [`Adapters`], [`Adapters::load`], [`Adapters::unload`] | |
//! | `set_runtime_option` | [`Generator::set_runtime_option`], [`Generator::cancellation`] | |
//! | `Tokenizer(model)`, `create_tokenizer` | [`Tokenizer::load`] | of `tokenizer.json`, whatever its class is called |
//! | `bos_token_id`, `eos_token_ids`, `pad_token_id` | [`Config::bos_token_id`], [`Config::eos_token_ids`], [`Config::pad_token_id`] | |
//! | `update_options(…)` | [`SpecialTokens`], [`Decoding`] | with each call |
//! | `encode`, `encode_batch` | [`Tokenizer::encode`], [`Tokenizer::encode_batch`] | a rectangle: [`Padded`] |
//! | `decode`, `decode_batch` | [`Tokenizer::decode`], [`Tokenizer::decode_batch`] | an unknown id is an error, unless [`Decoding`] says otherwise |
//! | `to_token_id(text)` | [`Tokenizer::token_id`] | |
//! | `apply_chat_template(…)` | [`ChatTemplates`], [`ChatTemplate::render`] | |
//! | `create_stream()`, `TokenizerStream.decode(token)` | [`Tokenizer::stream`], [`TextStream::push`] | |
//! | `Request`, `Engine` | [`engine`], with a table of three generations | |
//! | `set_log_options`, `set_log_callback` | events of the crate `tracing` | whoever subscribes chooses and formats |
//! | `is_cuda_available()` and the others | [`Model::load`] with [`LoadOptions::provider`] | tells what the library lacks, by trying |
//! | `set_current_gpu_device_id`, `get_current_gpu_device_id` | nothing | the first device, or `CUDA_VISIBLE_DEVICES` |
//! | `register_`, `unregister_execution_provider_library` | nothing | native code of a stranger |
//!
//! llama-cpp-python's names are in [`completion`].
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
pub mod judge;
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
