//! What a caller may put between the logits and the choice of a token.

use crate::Result;

/// Says which tokens of one row may come next, such as a grammar.
///
/// A step is [`Self::mask`], then the choice, then [`Self::commit`] of what was chosen, then [`Self::forced`].
pub trait Constraint: Send {
    /// Puts [`f32::MIN`] at every token that must not come next. `scores` has one number per token of the vocabulary;
    /// at least one has to stay. Where the text has to end, the end tokens are what stays.
    ///
    /// # Errors
    /// Where no token can go on, or the constraint cannot be computed.
    fn mask(&mut self, scores: &mut [f32]) -> Result<()>;

    /// Goes on behind a token, which was chosen or is replayed. An end token is committed too.
    fn commit(&mut self, id: u32) -> Result<()>;

    /// Tokens that can only follow what was committed; they count as committed, and the generator appends them without
    /// a choice. Asked for only where [`crate::GeneratorParams`] allows it.
    fn forced(&mut self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// Starts from the beginning.
    fn reset(&mut self) -> Result<()>;
}

/// Changes scores behind the built-in processors, before the choice.
pub trait LogitsProcessor: Send {
    /// `ids` is the row so far, prompt included; `scores` has one number per token of the vocabulary.
    fn process(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<()>;
}

impl<F: FnMut(&[u32], &mut [f32]) -> Result<()> + Send> LogitsProcessor for F {
    fn process(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<()> {
        self(ids, scores)
    }
}
