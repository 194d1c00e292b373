//! Answers in the shape of OpenAI's API, which clients of llama-cpp-python and of servers know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::turn::FinishReason;

/// A text, or a piece of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub id: String,
    /// `text_completion`
    pub object: String,
    /// In seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<CompletionChoice>,
    /// Of a whole text, and of the last piece of one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub usage: Option<CompletionUsage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    pub text: String,
    pub index: usize,
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while more pieces come.
    pub finish_reason: Option<String>,
}

/// One entry per token in each list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    /// Null for the first token of an echoed prompt, which nothing precedes.
    pub token_logprobs: Vec<Option<f64>>,
    pub top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
    /// In bytes, from the start of the text.
    pub text_offset: Vec<usize>,
}

/// In tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionUsage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Those that the cache held already.
    pub cached_tokens: usize,
}

impl CompletionUsage {
    pub(super) fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

/// An answer in a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    pub id: String,
    /// `chat.completion`
    pub object: String,
    /// In seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChoice>,
    pub usage: CompletionUsage,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    pub index: usize,
    pub message: ChatMessage,
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`
    pub finish_reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `assistant`
    pub role: String,
    /// Null beside tool calls.
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tool_calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    /// `function`
    pub r#type: String,
    pub function: FunctionCall,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    /// JSON as text.
    pub arguments: String,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    pub id: String,
    /// `chat.completion.chunk`
    pub object: String,
    /// In seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChunkChoice>,
    /// Of the last piece.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub usage: Option<CompletionUsage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    pub index: usize,
    pub delta: ChatDelta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<String>,
}

/// What a piece adds: the role first, then text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatDelta {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    pub content: Vec<ChatTokenLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatTokenLogprob {
    #[serde(flatten)]
    pub token: LikelyToken,
    pub top_logprobs: Vec<LikelyToken>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LikelyToken {
    /// Bytes that are no text come out as U+FFFD.
    pub token: String,
    pub logprob: f64,
    pub bytes: Vec<u8>,
}

/// What an answer and its pieces share.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Heading {
    /// `prefix` is `cmpl` or `chatcmpl`. Ids are told apart within a process, and by its second across them.
    pub(super) fn new(prefix: &str, model: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { id: format!("{prefix}-{created:x}-{count:x}"), created, model: model.to_owned() }
    }

    pub(super) fn completion(&self, choice: CompletionChoice, usage: Option<CompletionUsage>) -> Completion {
        let Self { id, created, model } = self.clone();
        Completion { id, object: "text_completion".to_owned(), created, model, choices: vec![choice], usage }
    }

    pub(super) fn chat(&self, choice: ChatChoice, usage: CompletionUsage) -> ChatCompletion {
        let Self { id, created, model } = self.clone();
        ChatCompletion { id, object: "chat.completion".to_owned(), created, model, choices: vec![choice], usage }
    }

    pub(super) fn chunk(&self, choice: ChatChunkChoice, usage: Option<CompletionUsage>) -> ChatChunk {
        let Self { id, created, model } = self.clone();
        ChatChunk { id, object: "chat.completion.chunk".to_owned(), created, model, choices: vec![choice], usage }
    }
}

/// In OpenAI's words.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::MaxTokens | FinishReason::MaxLength => "length",
        FinishReason::Eos | FinishReason::Stop(_) | FinishReason::Criterion => "stop",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Failed => "error",
    }
}
