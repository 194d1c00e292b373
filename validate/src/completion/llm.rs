//! One model, one context: the surface of llama-cpp-python's `Llama`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::state::PrefixCache;
use super::turn::{FinishReason, Token, Turn, TurnOptions};
use crate::engine::common;
use crate::sampling::{Sampler, SamplingOptions};
use crate::{
    Adapter, CacheMode, Config, Constraint, Error, GrammarCompiler, Guidance, LoadOptions, Matrix, Model, Result,
    Runtime, Sequence, SequenceOptions, SpecialTokens, Tokenizer,
};

/// Prompt tokens of a run, as llama.cpp's `n_batch`: the logits of that many are in memory at once.
pub(super) const BATCH: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct LlmOptions {
    /// Tokens of the context; none takes 4096, or the context length of the model if that is less.
    pub n_ctx: Option<usize>,
    /// Where and how fast it runs; none takes what the package asks for.
    pub load: Option<LoadOptions>,
    /// None takes the mode in which the peer would run the package, growing with an adapter.
    pub cache: Option<CacheMode>,
    /// An `.onnx_adapter` file.
    pub adapter: Option<PathBuf>,
}

/// A model with one context. What a prompt has in common with the context is not computed again.
pub struct Llm {
    pub(super) config: Config,
    pub(super) model: Arc<Model>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) sequence: Sequence,
    /// In the cache.
    pub(super) tokens: Vec<u32>,
    /// Behind the last of them; empty where they are not known.
    pub(super) logits: Vec<f32>,
    pub(super) sampler: Sampler,
    pub(super) prefixes: Option<PrefixCache>,
    pub(super) adapter: Option<PathBuf>,
    /// Of the package, once it was asked for.
    pub(super) fingerprint: OnceLock<String>,
    /// Once a grammar was asked for.
    compiler: OnceLock<GrammarCompiler>,
    n_ctx: usize,
    name: String,
}

impl Llm {
    /// Loads a package and its tokenizer.
    ///
    /// # Errors
    /// Those of [`Config::open`], [`Model::load`], [`Tokenizer::load`], [`Adapter::load`] and [`Sequence::new`].
    pub fn from_dir(folder: &Path, runtime: &Runtime, options: LlmOptions) -> Result<Self> {
        let config = Config::open(folder)?;
        let load = options.load.clone().map_or_else(|| LoadOptions::from_config(&config), Ok)?;
        let model = Arc::new(Model::load(&config, runtime, load)?);
        let tokenizer = Arc::new(Tokenizer::load(&config.tokenizer_folder)?);
        Self::new(config, model, tokenizer, options)
    }

    /// The same of a model that is loaded already; [`LlmOptions::load`] is not looked at.
    ///
    /// # Errors
    /// Those of [`Adapter::load`] and [`Sequence::new`].
    pub fn new(config: Config, model: Arc<Model>, tokenizer: Arc<Tokenizer>, options: LlmOptions) -> Result<Self> {
        let n_ctx = options.n_ctx.unwrap_or_else(|| model.context_length().min(4096));
        let adapter = options.adapter.as_deref().map(Adapter::load).transpose()?;
        let plain = if adapter.is_some() { CacheMode::Growing } else { CacheMode::of(&model) };
        let cache = options.cache.unwrap_or(plain);
        let sequence = Sequence::new(&model, SequenceOptions { max_length: n_ctx, cache, adapter: adapter.as_ref() })?;
        let name = config.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok(Self {
            config,
            model,
            tokenizer,
            sequence,
            tokens: Vec::new(),
            logits: Vec::new(),
            sampler: Sampler::new(SamplingOptions::GREEDY)?,
            prefixes: None,
            adapter: options.adapter,
            fingerprint: OnceLock::new(),
            compiler: OnceLock::new(),
            n_ctx,
            name,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// What answers call the model: the name of its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens that the context has room for.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Tokens in the context.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn n_vocab(&self) -> usize {
        self.model.vocab_size()
    }

    pub fn token_bos(&self) -> Option<u32> {
        self.config.bos_token_id
    }

    /// The first of the end tokens; any of [`Config::eos_token_ids`] ends a text.
    pub fn token_eos(&self) -> Option<u32> {
        self.config.eos_token_ids.first().copied()
    }

    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn tokenize(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        self.tokenizer.encode(text, special)
    }

    /// Leaves special tokens out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens)
    }

    /// Forgets the context.
    ///
    /// # Errors
    /// As [`Sequence::rewind`].
    pub fn reset(&mut self) -> Result<()> {
        self.keep(0)
    }

    /// The tokens of the context.
    pub fn context(&self) -> &[u32] {
        &self.tokens
    }

    /// One number per token of the vocabulary: how the context goes on. None of an empty context, and after a rewind.
    pub fn logits(&self) -> Option<&[f32]> {
        (!self.logits.is_empty()).then_some(&self.logits)
    }

    /// Runs tokens behind those of the context.
    ///
    /// # Errors
    /// As [`Sequence::append`]; what ran before the error stays, unless the cache keeps a window.
    pub fn eval(&mut self, tokens: &[u32]) -> Result<()> {
        self.eval_with(tokens, &mut |_| Ok(()))
    }

    /// The same; `on_rows` gets the logits of each token, some rows at a time, in their order. A graph that returns the
    /// last row alone gives fewer.
    pub(super) fn eval_with(&mut self, tokens: &[u32], on_rows: &mut dyn FnMut(&Matrix) -> Result<()>) -> Result<()> {
        for batch in tokens.chunks(BATCH) {
            let ran = self.sequence.append(batch);
            if ran.is_err() {
                // A cache that keeps a window does not survive it.
                self.tokens.truncate(self.sequence.len());
                self.logits.clear();
            }
            let rows = ran?;
            self.tokens.extend_from_slice(batch);
            self.logits.clear();
            self.logits.extend_from_slice(rows.last_row());
            on_rows(&rows)?;
        }
        Ok(())
    }

    /// How [`Self::sample`] draws; begins the seed's sequence of random numbers anew.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn set_sampling(&mut self, options: SamplingOptions) -> Result<()> {
        self.sampler = Sampler::new(options)?;
        Ok(())
    }

    /// Draws the next token, which [`Self::eval`] may then put into the context.
    ///
    /// # Errors
    /// [`Error::Argument`] where the context is empty; as [`Sampler::pick`].
    pub fn sample(&mut self) -> Result<u32> {
        if self.logits.is_empty() {
            return Err(Error::argument("the context to sample behind", "without logits", "one behind an eval"));
        }
        self.sampler.pick(&self.logits)
    }

    /// What a text may be, for [`TurnOptions::constraint`].
    ///
    /// # Errors
    /// Those of [`GrammarCompiler::new`] and [`GrammarCompiler::compile`].
    pub fn constraint(&self, guidance: &Guidance) -> Result<Box<dyn Constraint>> {
        let compiler = match self.compiler.get() {
            Some(compiler) => compiler,
            None => {
                let made = GrammarCompiler::new(&self.tokenizer, self.n_vocab(), &self.config.eos_token_ids)?;
                self.compiler.get_or_init(|| made)
            }
        };
        Ok(Box::new(compiler.compile(guidance)?))
    }

    /// The tokens that follow a prompt, up to an end token, a stop string or a length. What the prompt has in common with
    /// the context is not computed again.
    ///
    /// # Errors
    /// [`Error::Argument`] for a prompt that is empty or too long, and for options out of their range.
    pub fn generate(&mut self, prompt: &[u32], options: TurnOptions) -> Result<Generate<'_>> {
        let mut turn = self.turn(prompt, options)?;
        let reused = self.feed(prompt)?;
        let finish = turn.is_full();
        turn.note_cached(reused);
        Ok(Generate { llm: self, turn, finish })
    }

    pub(super) fn turn(&self, prompt: &[u32], options: TurnOptions) -> Result<Turn> {
        self.model.check_ids(prompt)?;
        let mut turn = Turn::new(&self.tokenizer, &self.config.eos_token_ids, self.n_vocab(), options)?;
        turn.begin(prompt.to_vec(), self.n_ctx)?;
        Ok(turn)
    }

    /// Makes the context that of a prompt. Returns how many tokens it had already.
    pub(super) fn feed(&mut self, prompt: &[u32]) -> Result<usize> {
        self.take_prefix(prompt)?;
        // The last token has to run, unless its logits are at hand.
        let known = common(&self.tokens, prompt);
        let whole = known == prompt.len() && known == self.tokens.len() && !self.logits.is_empty();
        let kept = if whole { known } else { known.min(prompt.len().saturating_sub(1)) };
        let kept = match self.keep(kept) {
            Ok(()) => kept,
            // A window has forgotten what it would take.
            Err(Error::Unsupported { .. }) => self.reset().map(|()| 0)?,
            Err(error) => return Err(error),
        };
        self.eval(prompt.get(kept..).unwrap_or_default())?;
        Ok(kept)
    }

    /// Forgets all but the first tokens of the context.
    pub(super) fn keep(&mut self, length: usize) -> Result<()> {
        if length < self.tokens.len() {
            self.sequence.rewind(length)?;
            self.tokens.truncate(length);
            self.logits.clear();
        }
        Ok(())
    }
}

/// Tokens as they come; see [`Llm::generate`]. Those that are out are in the context, the last one when the next is asked
/// for.
pub struct Generate<'l> {
    llm: &'l mut Llm,
    turn: Turn,
    finish: Option<FinishReason>,
}

impl Generate<'_> {
    /// Why there are no more tokens, once there are none.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Text that was held back until the end. It comes once.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn rest(&mut self) -> Result<String> {
        self.turn.rest()
    }

    /// Prompt tokens, those of them that the context had already, and new tokens.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.turn.prompt_length(), self.turn.cached(), self.turn.generated())
    }

    pub(super) fn llm(&self) -> &Llm {
        self.llm
    }

    fn step(&mut self) -> Result<Option<Token>> {
        let context = self.turn.context();
        let pending = context.get(self.llm.tokens.len()..).unwrap_or_default();
        if !pending.is_empty() {
            self.llm.eval(pending)?;
        }
        let chosen = self.turn.choose(&self.llm.logits)?;
        self.finish = chosen.finish;
        if self.finish.is_some() {
            self.llm.keep_prefix()?;
        }
        Ok(chosen.token)
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.finish = Some(FinishReason::Failed);
        }
        step.transpose()
    }
}
