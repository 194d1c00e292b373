//! The token of the Hub, as the command line chooses it.

use genai_checkpoint::Token;

/// Which token the Hub gets to see.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum TokenChoice {
    /// That of `HF_TOKEN` or `hf auth login`, if there is one.
    #[default]
    Environment,
    None,
    Given(Token),
}
