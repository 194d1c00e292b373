//! Texts from prompts.

mod logprobs;
mod processors;
mod stops;
mod text;
pub(crate) mod turn;

pub use logprobs::TokenLogprobs;
pub use processors::{
    FrequencyPenalty, LogitBias, LogitsProcessor, MinP, RepetitionPenalty, StoppingCriterion, TypicalP,
};
pub use turn::{FinishReason, Token, TurnOptions};
