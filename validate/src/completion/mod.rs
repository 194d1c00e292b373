//! Texts from prompts: the surface of llama-cpp-python on packages for onnxruntime-genai.
//!
//! ```text
//!  prompt ─► Llm: what the context has of it stays, the rest runs ─► logits ─► turn ─► tokens ─► Completion, ChatCompletion
//! ```
//!
//! [`Llm`] has one context and one caller. For several texts at once there is [`crate::engine`], which takes the same
//! [`TurnOptions`]. What is done to logits, and in which order, stands in the docs of that type.
//!
//! # What llama-cpp-python calls it
//!
//! | `llama_cpp` | here | remark |
//! | --- | --- | --- |
//! | `Llama.__init__` | [`Llm::from_dir`], [`Llm::new`] with [`LlmOptions`] | options of GGUF files and of llama.cpp's kernels have nothing to set here |
//! | `from_pretrained` | [`Llm::from_dir`] | `genai-build -m MODEL` makes a package of a model on the Hub |
//! | `tokenize`, `detokenize` | [`Llm::tokenize`], [`Llm::detokenize`] | `add_bos` is [`crate::SpecialTokens`] |
//! | `reset` | [`Llm::reset`] | |
//! | `eval` | [`Llm::eval`] | logits of the last token: [`Llm::logits`] |
//! | `sample` | [`Llm::set_sampling`], [`Llm::sample`] | with a seed as onnxruntime-genai, not as llama.cpp |
//! | `generate` | [`Llm::generate`] | `send` of more tokens: [`Llm::eval`] and another `generate` |
//! | `create_completion`, `__call__` | [`Llm::create_completion`] | `stream`: [`Llm::stream_completion`] |
//! | `max_tokens`, `stop`, `seed`, `temperature`, `top_k`, `top_p` | [`TurnOptions`] | temperature 0 takes the likeliest |
//! | `min_p`, `typical_p`, `frequency_penalty`, `presence_penalty`, `logit_bias` | [`TurnOptions`] | [`MinP`], [`TypicalP`], [`FrequencyPenalty`], [`LogitBias`] |
//! | `repeat_penalty` | [`TurnOptions::repetition_penalty`] | over prompt and text, as onnxruntime-genai; llama.cpp looks at 64 tokens |
//! | `logprobs`, `top_logprobs` | [`TurnOptions::logprobs`] | of the model's own distribution, before all of the above |
//! | `echo`, `suffix` | [`CompletionOptions`] | a suffix where the vocabulary has tokens for it |
//! | `tfs_z`, `mirostat` | nothing | the first is gone from llama.cpp too; write a [`crate::LogitsProcessor`] |
//! | `create_chat_completion` | [`Llm::create_chat_completion`] | `stream`: [`Llm::stream_chat_completion`] |
//! | `create_chat_completion_openai_v1` | the same | answers are types that serde reads and writes |
//! | `tools`, `functions` | [`crate::Chat::tools`] | the template tells the model |
//! | `tool_choice`, `function_call` | [`ToolChoice`] | a named function is constrained to its schema; calls that a model writes by itself come as text |
//! | `response_format` | [`ResponseFormat`] | |
//! | `chat_format`, `chat_handler` | the package's template, or one of its others by name | |
//! | `create_embedding`, `embed` | [`Llm::create_embedding`], [`Llm::embed`] | of packages with `include_hidden_states` |
//! | `LlamaGrammar.from_string` | [`Llm::constraint`] of [`crate::Guidance::Lark`] | GBNF is not read: Lark, regular expressions and JSON schemas are |
//! | `LlamaGrammar.from_json_schema` | [`Llm::constraint`] of [`crate::Guidance::json_schema`] | |
//! | `set_cache`, `LlamaCache`, `LlamaRAMCache` | [`Llm::set_cache`] | |
//! | `LlamaDiskCache` | [`LlmState::to_bytes`] into a file | |
//! | `save_state`, `load_state`, `LlamaState` | [`Llm::save_state`], [`Llm::load_state`], [`LlmState`] | refused by another package |
//! | `LogitsProcessor`, `LogitsProcessorList` | [`crate::LogitsProcessor`], [`TurnOptions::processors`] | |
//! | `StoppingCriteria`, `StoppingCriteriaList` | [`StoppingCriterion`], [`TurnOptions::stopping`] | |
//! | `MinTokensLogitsProcessor` | [`TurnOptions::min_tokens`] | |
//! | `token_bos`, `token_eos`, `n_ctx` | [`Llm::token_bos`], [`Llm::token_eos`], [`Llm::n_ctx`] | |
//! | `llama_cpp.llama_types` | the types of this module | OpenAI's shapes |
//! | `llama_cpp.llama_cpp` (ctypes) | nothing | the level below is [`crate::Generator`] and [`crate::Sequence`] |

mod chat;
mod create;
mod embedding;
mod llm;
mod llm_state;
mod logprobs;
mod processors;
mod response;
mod state;
mod text;
pub(crate) mod turn;

pub use chat::{ChatOptions, ChatStream, ResponseFormat, ToolChoice};
pub use create::{CompletionOptions, CompletionStream, Prompt};
pub use embedding::{Embedding, EmbeddingOptions, EmbeddingUsage, Embeddings, Pooling};
pub use llm::{Generate, Llm, LlmOptions};
pub use logprobs::TokenLogprobs;
pub use processors::{FrequencyPenalty, LogitBias, MinP, RepetitionPenalty, StoppingCriterion, TypicalP};
pub use response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatTokenLogprob,
    Completion, CompletionChoice, CompletionLogprobs, CompletionUsage, FunctionCall, LikelyToken, PromptTokensDetails,
    ToolCall,
};
pub use state::LlmState;
pub use turn::{FinishReason, Token, TurnOptions};
