//! Tokens from tokens: batches, beams, sampling, constraints, rewinding, and going on after an end.
//!
//! ```text
//!  append ──► rows ──► run what is new ──► logits ──► constraint ─► lengths ─► repetition ─► n-grams ─► processors
//!              ▲                                                                                          │
//!              └──────────────────── next token of each row ◄── likeliest, drawn, or beams ◄──────────────┘
//! ```
//!
//! Tokens are those of onnxruntime-genai 0.18 on the CPU, where that is right. Not so here: what it does with a batch of
//! one prompt that ends in the pad token, with text that follows a token which was never run, with a rewind that nothing
//! is appended to, and with pads counted as if they had been written (`tests/generator.rs` lists them).

mod beams;
mod cancel;
mod hooks;
mod params;
mod processors;
mod row;
mod steps;

use std::sync::Arc;

pub use cancel::Cancellation;
pub use hooks::{Constraint, LogitsProcessor};
pub use params::GeneratorParams;
pub(crate) use processors::{forbid, forbid_repeated_ngrams, penalise_repetition};

use beams::{Beams, Hypothesis};
use cancel::Runs;
use row::RowText;

use crate::model::{Lanes, Model, Tensor};
use crate::search_options::SearchOptions;
use crate::{Adapters, CacheMode, Error, Result, Sampler, SamplingOptions, log};

/// Continues one sequence, a batch of them, or beams.
///
/// Lengths count columns: those of the longest row, in a batch whose prompts differ.
pub struct Generator {
    model: Arc<Model>,
    search: SearchOptions,
    constraints: Vec<Box<dyn Constraint>>,
    processors: Vec<Box<dyn LogitsProcessor>>,
    forced_tokens: bool,
    rope_switch: Option<usize>,
    /// None takes the likeliest token.
    sampler: Option<Sampler>,
    beams: Option<Beams>,
    runs: Runs,
    lanes: Lanes,
    mode: CacheMode,
    /// The cache is of other tokens than the rows are, and has to be computed anew.
    stale: bool,
    /// One for each sequence that runs: prompts times beams.
    rows: Vec<RowText>,
    /// The tokens chosen last, of all rows, which the next run takes; pads behind an end.
    next: Vec<u32>,
    /// Columns of the rows, run or not.
    length: usize,
    /// `[rows, vocab_size]`
    scores: Vec<f32>,
    /// Whether `scores` are those behind the last tokens.
    ready: bool,
}

impl Generator {
    /// # Errors
    /// [`Error::Argument`] names an option that is out of its range; [`Error::Unsupported`] for what the graph cannot do,
    /// such as batches on fixed sizes.
    pub fn new(model: &Arc<Model>, params: impl Into<GeneratorParams>) -> Result<Self> {
        let GeneratorParams { mut search, constraints, forced_tokens, processors, rope_switch } = params.into();
        if search.max_length == 0 {
            search.max_length = model.context_length();
        }
        search.check(model.vocab_size(), model.context_length())?;
        if let Some(eos) = model.eos_token_ids().iter().find(|&&id| id as usize >= model.vocab_size()) {
            return Err(Error::argument("eos_token_id", eos, format!("below vocab_size {}", model.vocab_size())));
        }
        let rows = search.batch_size * search.num_beams;
        if !constraints.is_empty() && (constraints.len() != search.batch_size || search.num_beams > 1) {
            let value = format!("{} for {} rows", constraints.len(), rows);
            return Err(Error::argument("the number of constraints", value, "one for each row, and no beams"));
        }
        let sampler = search.do_sample.then(|| {
            Sampler::new(SamplingOptions {
                temperature: search.temperature,
                top_k: search.top_k,
                top_p: search.top_p,
                seed: search.random_seed,
            })
        });
        let shared = search.past_present_share_buffer && search.num_beams == 1;
        let fixed = model.wiring.room().is_some() || (model.keeps_windows() && search.num_beams == 1);
        let mode = if shared || fixed { CacheMode::Shared } else { CacheMode::Growing };
        Ok(Self {
            model: model.clone(),
            beams: (search.num_beams > 1).then(|| Beams::new(&search)),
            sampler: sampler.transpose()?,
            runs: Runs::new()?,
            lanes: Lanes::new(model, rows, search.max_length, mode)?,
            mode,
            stale: false,
            rows: vec![RowText::default(); rows],
            next: vec![model.pad; rows],
            length: 0,
            scores: Vec::new(),
            ready: false,
            search,
            constraints,
            processors,
            forced_tokens,
            rope_switch: rope_switch.or(model.rope_switch()),
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// As they are in force: `max_length` is never 0.
    pub fn search(&self) -> &SearchOptions {
        &self.search
    }

    /// Appends to each row of the batch, and runs the model: at first the prompts, later what follows a generation. Rows
    /// may differ in length. A cancelled append stays, and is run when the generator goes on; one that fails otherwise is
    /// taken back.
    ///
    /// A batch of several rows that has a past is computed anew, because what lies between its rows' texts cannot be told
    /// to every graph.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a text for every row, none of them empty, all ids below the vocabulary's size,
    /// and no row longer than `max_length` then; [`Error::Unsupported`] for beams that have begun; as
    /// [`crate::Sequence::append`].
    pub fn append_tokens(&mut self, rows: &[&[u32]]) -> Result<()> {
        self.runs.begin()?;
        if rows.len() != self.search.batch_size {
            let expected = format!("batch_size {}", self.search.batch_size);
            return Err(Error::argument("the number of rows", rows.len(), expected));
        }
        for ids in rows {
            self.model.check_ids(ids)?;
        }
        if self.beams.is_some() && self.length > 0 {
            return Err(Error::unsupported("appending to beams", "a rewind to 0 before it"));
        }
        let width = self.search.num_beams;
        let repeated = || rows.iter().flat_map(|ids| std::iter::repeat_n(*ids, width));
        let longest = self.rows.iter().zip(repeated()).map(|(row, ids)| row.ids.len() + ids.len()).max().unwrap_or(0);
        if longest > self.search.max_length {
            let expected = format!("at most max_length {}", self.search.max_length);
            return Err(Error::argument("the sequence length", longest, expected));
        }
        let counts: Vec<usize> = rows.iter().map(|ids| ids.len()).collect();
        tracing::debug!(target: log::APPEND_TOKENS, tokens = ?counts, behind = self.length);
        let before = (self.rows.clone(), self.length, self.ready);
        if self.rows.len() > 1 && self.length > 0 {
            self.stale = true;
        }
        for (row, ids) in self.rows.iter_mut().zip(repeated()) {
            row.ids.extend_from_slice(ids);
            row.prompt = row.ids.len();
            row.finished = false;
        }
        self.length = longest;
        self.ready = false;
        for constraint in &mut self.constraints {
            constraint.reset()?;
        }
        match self.compute() {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                (self.rows, self.length, self.ready) = before;
                self.stale = true;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// [`Self::append_tokens`] of a batch of one.
    pub fn append(&mut self, ids: &[u32]) -> Result<()> {
        self.append_tokens(&[ids])
    }

    /// Whether every row has ended or `max_length` is reached.
    pub fn is_done(&self) -> bool {
        let ended = match &self.beams {
            Some(beams) => beams.is_done(),
            None => self.rows.iter().all(|row| row.finished),
        };
        ended || self.length >= self.search.max_length
    }

    /// Columns of the rows: the tokens of a sequence, or of the longest one in a batch.
    pub fn token_count(&self) -> usize {
        self.length
    }

    /// The tokens that were chosen last, of all rows, beams included: the end token of a row that ended just now, and the
    /// pad token of one that ended before.
    pub fn next_tokens(&self) -> &[u32] {
        &self.next
    }

    /// The prompt and what follows it, without pads and without the token that ended it. Of beams, there are
    /// `num_return_sequences` of each prompt, the best first, as if the search ended here.
    ///
    /// # Errors
    /// [`Error::Argument`] for an index beyond them.
    pub fn sequence(&self, index: usize) -> Result<Vec<u32>> {
        let missing = || {
            let expected = format!("below {}", self.search.batch_size * self.search.num_return_sequences);
            Error::argument("the index of a sequence", index, expected)
        };
        match self.beams {
            None => self.rows.get(index).map(|row| row.ids.clone()).ok_or_else(missing),
            Some(_) => self.hypotheses().into_iter().nth(index).map(|best| best.ids).ok_or_else(missing),
        }
    }

    /// How many tokens of a [`Self::sequence`] were appended, the last of them included, and not generated behind those.
    pub fn prompt_length(&self, index: usize) -> Result<usize> {
        let row = index / self.search.num_return_sequences * self.search.num_beams;
        let row = self.rows.get(row).map(|row| row.prompt);
        row.ok_or_else(|| Error::argument("the index of a sequence", index, "one of those returned"))
    }

    /// The sum of the log probabilities of a beam's sequence by its length to the power of `length_penalty`; none without
    /// beams.
    pub fn beam_score(&self, index: usize) -> Option<f32> {
        self.hypotheses().get(index).map(|best| best.score)
    }

    /// Whether the graph's rope has other factors for the one length than for the other.
    fn switches_rope(&self, shorter: usize, longer: usize) -> bool {
        self.rope_switch.is_some_and(|at| (shorter..longer).contains(&(at.saturating_sub(1))))
    }

    fn hypotheses(&self) -> Vec<Hypothesis> {
        let ids: Vec<&[u32]> = self.rows.iter().map(|row| row.ids.as_slice()).collect();
        let count = self.search.num_return_sequences;
        self.beams.as_ref().map(|beams| beams.hypotheses(&ids, count)).unwrap_or_default()
    }

    /// Behind the last tokens: `[rows, vocab_size]`, a row for each sequence or beam. What was not run yet is run.
    pub fn logits(&mut self) -> Result<&[f32]> {
        self.compute()?;
        Ok(&self.scores)
    }

    /// Chooses the next token from these, in place of the model's; without a prompt too.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are `rows * vocab_size`.
    pub fn set_logits(&mut self, logits: &[f32]) -> Result<()> {
        self.runs.begin()?;
        let expected = self.rows.len() * self.model.vocab_size();
        if logits.len() != expected {
            return Err(Error::argument("the number of logits", logits.len(), expected.to_string()));
        }
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.ready = true;
        Ok(())
    }

    /// Forgets all but the first `length` tokens of each row. Where the cache cannot be cut (windows that have moved on,
    /// states, batches) it is computed anew by the next run. A constraint goes back as far as what was generated since the
    /// last append. The random numbers go on.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length beyond the current one; [`Error::Unsupported`] for beams, unless to 0.
    pub fn rewind_to(&mut self, length: usize) -> Result<()> {
        if length > self.length {
            return Err(Error::argument("the length to rewind to", length, format!("at most {}", self.length)));
        }
        if length == self.length {
            return Ok(());
        }
        if self.beams.is_some() {
            if length > 0 {
                return Err(Error::unsupported("rewinding beams", "rewinding them to 0"));
            }
            self.beams = Some(Beams::new(&self.search));
        }
        for row in &mut self.rows {
            row.ids.truncate(length);
            row.prompt = row.prompt.min(length);
            row.finished = false;
        }
        for (constraint, row) in self.constraints.iter_mut().zip(&self.rows) {
            constraint.reset()?;
            for &id in row.generated() {
                constraint.commit(id)?;
            }
        }
        self.length = self.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        self.ready = false;
        let cut = self.rows.len() == 1
            && !self.stale
            && !self.switches_rope(self.length, self.lanes.columns())
            && self.lanes.forgetful(&self.model, length).is_none();
        match cut || length == 0 {
            true => self.lanes.cut(&self.model, length).inspect(|()| self.stale = false),
            false => {
                self.stale = true;
                Ok(())
            }
        }
    }

    /// An input of the last run, by its name in the graph.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.lanes.input(&self.model, name)
    }

    /// An output of the last run, by its name in the graph: the logits of all tokens that it took, caches, and whatever
    /// else the graph gives.
    pub fn output(&self, name: &str) -> Result<Tensor> {
        self.lanes.output(&self.model, name)
    }

    /// Gives the graph an input beyond tokens and caches, for all runs from now on; see
    /// [`crate::LoadOptions::extra_inputs`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a name or element type that is not the graph's.
    pub fn set_model_input(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.lanes.set_extra(&self.model, name, tensor)
    }

    /// Stops this generator from another thread, and lets it go on.
    pub fn cancellation(&self) -> Cancellation {
        self.runs.cancellation().clone()
    }

    /// `terminate_session` is "1" or "0", as [`Cancellation`]; anything else is an entry of ONNX Runtime's run options.
    ///
    /// # Errors
    /// [`Error::Argument`] for another value of `terminate_session`.
    pub fn set_runtime_option(&mut self, key: &str, value: &str) -> Result<()> {
        match (key, value) {
            ("terminate_session", "1") => self.runs.cancellation().cancel(),
            ("terminate_session", "0") => self.runs.cancellation().resume(),
            ("terminate_session", _) => Err(Error::argument("terminate_session", value, "0 or 1")),
            ("enable_profiling", _) => {
                Err(Error::unsupported("profiling single runs", "LoadOptions::profile, of all runs of a model"))
            }
            _ => self.runs.set(key, value),
        }
    }

    /// Computes with an adapter from now on, beside those activated before. It cannot be unloaded while this generator
    /// lives. The cache is a growing one then: ONNX Runtime gives adapters to runs whose inputs are not bound.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not loaded; [`Error::Unsupported`] if tokens were run already.
    pub fn set_active_adapter(&mut self, adapters: &Adapters, name: &str) -> Result<()> {
        let adapter = adapters.bytes(name)?;
        if self.length > 0 {
            return Err(Error::unsupported("an adapter for a text that has begun", "one before the first token"));
        }
        if self.mode == CacheMode::Shared {
            self.mode = CacheMode::Growing;
            self.lanes = Lanes::new(&self.model, self.rows.len(), self.search.max_length, self.mode)?;
        }
        self.runs.add_adapter(name, adapter)
    }
}
