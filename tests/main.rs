//! End to end: the real command line on the checkpoints of `fixtures/`, and the rules of the workspace.
//!
//! What needs ONNX Runtime takes it from where the tool finds it, and fetches it once where there is none.

mod bf16;
mod broken;
mod cache;
mod command_line;
mod completion;
mod continuation;
mod crash_matrix;
mod diff;
mod engine;
mod faults;
mod fixed_sizes;
mod genai_config;
mod generator;
mod golden;
mod guidance;
mod hub;
mod lora;
// The tests of checkpoint/ use all of it.
mod machine_readable;
#[allow(dead_code)]
#[path = "../checkpoint/tests/checkpoint/mock_hub.rs"]
mod mock_hub;
mod mutations;
mod options_graph;
mod options_session;
mod paged;
mod parity;
mod parts;
mod placement;
mod raw;
mod readme;
mod recipes;
mod reference;
mod refusals;
mod reliability;
mod run_and_chat;
mod same_bytes;
mod several;
mod structure;
mod structured;
mod support;
mod tidy;
mod validate;
mod verify;
