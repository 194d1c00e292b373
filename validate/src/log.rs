//! What this crate tells through `tracing`: the targets of its events.
//!
//! A program that wants them installs a subscriber; without one they cost next to nothing. The switches of
//! onnxruntime-genai's `set_log_options` are filters of targets here, in the syntax of `tracing-subscriber`'s `EnvFilter`:
//!
//! | `set_log_options` | here |
//! | --- | --- |
//! | `enabled` | a subscriber is installed; `genai-build --log FILTER` |
//! | `warning` | `warn`: [`CONFIG`], what a configuration says and nothing does |
//! | `generate_next_token` | `genai::generate_next_token=debug`: [`NEXT_TOKEN`] |
//! | `append_next_tokens` | `genai::append_tokens=debug`: [`APPEND_TOKENS`] |
//! | `hit_eos` | `genai::hit_eos=debug`: [`HIT_EOS`] |
//! | `hit_max_length` | `genai::hit_max_length=debug`: [`HIT_MAX_LENGTH`] |
//! | `model_input_values` | `genai::model_input=trace`: [`MODEL_INPUT`], shapes, and values of integers |
//! | `model_output_shapes` | `genai::model_output=trace`: [`MODEL_OUTPUT`] |
//! | `model_output_values`, `value_stats`, `model_logits` | `genai::model_logits=trace`: [`MODEL_LOGITS`], range and the likeliest token; other outputs are read with [`crate::Sequence::cached`] |
//! | `ort_lib` | `genai::model=debug`: [`MODEL`], which library is used and what was loaded |
//! | `ansi_tags`, `filename`, `set_log_callback` | the subscriber's own |

/// What a configuration says that works otherwise than it reads.
pub const CONFIG: &str = "genai::config";
/// A model was loaded.
pub const MODEL: &str = "genai::model";
/// Tokens are going into a sequence.
pub const APPEND_TOKENS: &str = "genai::append_tokens";
/// A token was chosen.
pub const NEXT_TOKEN: &str = "genai::generate_next_token";
/// A sequence ended by an end token.
pub const HIT_EOS: &str = "genai::hit_eos";
/// A sequence is as long as it may be.
pub const HIT_MAX_LENGTH: &str = "genai::hit_max_length";
/// What a run of the graph is given.
pub const MODEL_INPUT: &str = "genai::model_input";
/// What a run of the graph returned.
pub const MODEL_OUTPUT: &str = "genai::model_output";
/// The range of the logits, and the likeliest token.
pub const MODEL_LOGITS: &str = "genai::model_logits";
