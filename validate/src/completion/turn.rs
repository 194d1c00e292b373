//! From logits to tokens and text: one continuation of one context, whoever runs the model.
//!
//! ```text
//!  logits ─► constraint (a grammar) ─► no end before min_tokens ─► repetition penalty ─► n-grams
//!         ─► logit_bias ─► frequency and presence penalty ─► processors of the caller
//!         ─► typical_p ─► min_p ─► Sampler: top_k ─► temperature ─► top_p ─► draw
//!         ─► end token? ─► text ─► stop strings ─► stopping criteria ─► lengths
//! ```
//!
//! The first line and the sampler are the peer's, number for number. What is between them it lacks, and does nothing as
//! long as nobody asks for it. Cuts judge the distribution before temperature, as in llama.cpp.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::logprobs::TokenLogprobs;
use super::processors::{FrequencyPenalty, LogitBias, MinP, RepetitionPenalty, StoppingCriterion, TypicalP};
use super::text::GrowingText;
use crate::generator::{forbid, forbid_repeated_ngrams};
use crate::sampling::{Sampler, SamplingOptions};
use crate::{Constraint, Error, LogitsProcessor, Result, StopStrings, Tokenizer};

/// How a text is continued. The default takes the likeliest token until an end token.
pub struct TurnOptions {
    /// New tokens at most; none goes on up to the length of the sequence.
    pub max_tokens: Option<usize>,
    /// New tokens before which no end token comes, unless the constraint leaves nothing else.
    pub min_tokens: usize,
    /// Strings that end the text. They may begin and end within tokens, and are not part of the text.
    pub stop: Vec<String>,
    pub sampling: SamplingOptions,
    /// Leaves tokens at least that many times as likely as the likeliest; 0 leaves all. See [`MinP`].
    pub min_p: f32,
    /// Share that the most typical tokens reach; 1 leaves all. See [`TypicalP`].
    pub typical_p: f32,
    /// See [`RepetitionPenalty`]; 1 changes nothing.
    pub repetition_penalty: f32,
    /// No tokens of that number come twice in the same order, in prompt and text; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// See [`FrequencyPenalty`]; 0 changes nothing.
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    /// See [`LogitBias`].
    pub logit_bias: BTreeMap<u32, f32>,
    /// How many of the likeliest tokens are told with each token; none tells no logprobs.
    pub logprobs: Option<usize>,
    /// Says which tokens may come, such as a grammar.
    pub constraint: Option<Box<dyn Constraint>>,
    /// In their order.
    pub processors: Vec<Box<dyn LogitsProcessor>>,
    /// Any of them ends the text.
    pub stopping: Vec<Box<dyn StoppingCriterion>>,
}

impl Default for TurnOptions {
    fn default() -> Self {
        Self {
            max_tokens: None,
            min_tokens: 0,
            stop: Vec::new(),
            sampling: SamplingOptions::GREEDY,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            logprobs: None,
            constraint: None,
            processors: Vec::new(),
            stopping: Vec::new(),
        }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// With an end token, which is neither told nor kept.
    Eos,
    /// Before the stop string of that index.
    Stop(usize),
    /// By a stopping criterion.
    Criterion,
    /// After `max_tokens` new tokens.
    MaxTokens,
    /// At the length of the sequence.
    MaxLength,
    Cancelled,
    Failed,
}

/// A new token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Text that no stop string can reach into any more: less or more than the token's own, in whole characters.
    pub text: String,
    pub logprobs: Option<TokenLogprobs>,
}

/// What follows from one row of logits.
pub(crate) struct Chosen {
    pub(crate) token: Option<Token>,
    /// Why there will be no other; then [`Turn::rest`] is due.
    pub(crate) finish: Option<FinishReason>,
}

pub(crate) struct Turn {
    tokenizer: Arc<Tokenizer>,
    eos_token_ids: Vec<u32>,
    max_tokens: Option<usize>,
    min_tokens: usize,
    constraint: Option<Box<dyn Constraint>>,
    processors: Vec<Box<dyn LogitsProcessor>>,
    bias: LogitBias,
    repetition: RepetitionPenalty,
    no_repeat_ngram_size: usize,
    frequency: FrequencyPenalty,
    typical_p: TypicalP,
    min_p: MinP,
    sampler: Sampler,
    stopping: Vec<Box<dyn StoppingCriterion>>,
    logprobs: Option<usize>,
    stops: StopStrings,
    text: GrowingText,
    scores: Vec<f32>,
    /// All tokens, those of before the turn included.
    context: Vec<u32>,
    prompt_length: usize,
    cached: usize,
    max_length: usize,
}

impl Turn {
    /// # Errors
    /// [`Error::Argument`] for an option out of its range.
    pub(crate) fn new(
        tokenizer: &Arc<Tokenizer>,
        eos_token_ids: &[u32],
        vocab_size: usize,
        options: TurnOptions,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer: tokenizer.clone(),
            eos_token_ids: eos_token_ids.to_vec(),
            max_tokens: options.max_tokens,
            min_tokens: options.min_tokens,
            constraint: options.constraint,
            processors: options.processors,
            bias: LogitBias::new(options.logit_bias, vocab_size)?,
            repetition: RepetitionPenalty::new(options.repetition_penalty)?,
            no_repeat_ngram_size: options.no_repeat_ngram_size,
            frequency: FrequencyPenalty::new(options.frequency_penalty, options.presence_penalty)?,
            typical_p: TypicalP::new(options.typical_p)?,
            min_p: MinP::new(options.min_p)?,
            sampler: Sampler::new(options.sampling)?,
            stopping: options.stopping,
            logprobs: options.logprobs,
            stops: StopStrings::new(options.stop)?,
            text: GrowingText::default(),
            scores: Vec::new(),
            context: Vec::new(),
            prompt_length: 0,
            cached: 0,
            max_length: 0,
        })
    }

    /// Sets what is continued, and the length at which it ends, both in tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty context, or one that is longer than that.
    pub(crate) fn begin(&mut self, context: Vec<u32>, max_length: usize) -> Result<()> {
        if context.is_empty() || context.len() > max_length {
            let expected = format!("1 to max_length {max_length} tokens");
            return Err(Error::argument("the length of the prompt", context.len(), expected));
        }
        self.prompt_length = context.len();
        self.frequency.begin(context.len());
        self.context = context;
        self.max_length = max_length;
        Ok(())
    }

    pub(crate) fn context(&self) -> &[u32] {
        &self.context
    }

    pub(crate) fn into_context(self) -> Vec<u32> {
        self.context
    }

    pub(crate) fn prompt_length(&self) -> usize {
        self.prompt_length
    }

    /// Tokens of the prompt that a cache held when the turn started to run.
    pub(crate) fn cached(&self) -> usize {
        self.cached
    }

    pub(crate) fn note_cached(&mut self, tokens: usize) {
        self.cached = tokens;
    }

    pub(crate) fn generated(&self) -> usize {
        self.context.len() - self.prompt_length
    }

    /// Whether its lengths allow no further token.
    pub(crate) fn is_full(&self) -> Option<FinishReason> {
        if self.max_tokens.is_some_and(|most| self.generated() >= most) {
            return Some(FinishReason::MaxTokens);
        }
        (self.context.len() >= self.max_length).then_some(FinishReason::MaxLength)
    }

    /// The token that follows the context, by the logits behind its last token.
    ///
    /// # Errors
    /// Those of [`Sampler::pick`] and of the processors.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<Chosen> {
        let id = self.pick(logits)?;
        if self.eos_token_ids.contains(&id) {
            return Ok(Chosen { token: None, finish: Some(FinishReason::Eos) });
        }
        let logprobs = self.logprobs.map(|count| TokenLogprobs::of(logits, id, count));
        self.context.push(id);
        let piece = self.text.push(&self.tokenizer, id)?;
        let passed = self.stops.push(&piece);
        let token = Some(Token { id, text: passed.text, logprobs });
        if let Some(index) = passed.stop {
            return Ok(Chosen { token, finish: Some(FinishReason::Stop(index)) });
        }
        let met = self.stopping.iter_mut().any(|criterion| criterion.is_met(&self.context, logits));
        let finish = if met { Some(FinishReason::Criterion) } else { self.is_full() };
        Ok(Chosen { token, finish })
    }

    fn pick(&mut self, logits: &[f32]) -> Result<u32> {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        let (tokens, scores) = (self.context.as_slice(), self.scores.as_mut_slice());
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(scores)?;
        }
        if tokens.len() - self.prompt_length < self.min_tokens {
            forbid_end(&self.eos_token_ids, scores);
        }
        self.repetition.process(tokens, scores)?;
        forbid_repeated_ngrams(scores, tokens, self.no_repeat_ngram_size);
        self.bias.process(tokens, scores)?;
        self.frequency.process(tokens, scores)?;
        for processor in &mut self.processors {
            processor.process(tokens, scores)?;
        }
        self.typical_p.process(tokens, scores)?;
        self.min_p.process(tokens, scores)?;
        let id = self.sampler.pick(scores)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.commit(id)?;
        }
        Ok(id)
    }

    /// The text that is held back, when no token comes any more.
    pub(crate) fn rest(&mut self) -> Result<String> {
        let rest = self.text.finish(&self.tokenizer)?;
        let passed = self.stops.push(&rest);
        Ok(passed.text + &self.stops.finish())
    }
}

/// Puts the lowest number at every end token, if another token is left.
fn forbid_end(eos_token_ids: &[u32], scores: &mut [f32]) {
    let is_end = |at: usize| u32::try_from(at).is_ok_and(|id| eos_token_ids.contains(&id));
    if !scores.iter().enumerate().any(|(at, score)| *score > f32::MIN && !is_end(at)) {
        return;
    }
    forbid(scores, eos_token_ids);
}
