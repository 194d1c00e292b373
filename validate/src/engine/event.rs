//! What is told of a turn.

use crate::Error;
use crate::completion::{FinishReason, Token};

/// What happens to a turn, in order: any number of tokens, then the end.
#[derive(Debug)]
pub enum Event {
    Token(Token),
    Finished {
        reason: FinishReason,
        /// Text that was held back until now.
        text: String,
        usage: Usage,
        /// Where the reason is [`FinishReason::Failed`].
        error: Option<Error>,
    },
}

/// In tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of the context that was continued, earlier turns included.
    pub prompt_tokens: usize,
    /// Those of them that a cache held already.
    pub cached_prompt_tokens: usize,
    /// Those told. The end token is none of them.
    pub generated_tokens: usize,
}
