//! Texts from prompts.

mod chat;
mod create;
mod embedding;
mod llm;
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
