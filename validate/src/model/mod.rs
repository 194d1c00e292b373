//! A package's decoder, loaded into ONNX Runtime.

mod load_options;
mod tensors;
mod wiring;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::ErrorCode;
use ort::session::{RunOptions, Session, SessionInputValue, SessionOutputs};
use ort::value::DynTensor;

pub use load_options::LoadOptions;
pub(crate) use wiring::CacheSlot;
pub use wiring::CachedTensor;
use wiring::{Port, PositionIds, Wiring};

use crate::config::Config;
use crate::runtime::{Provider, Runtime};
use crate::{Adapter, Error, Matrix, Placement, Precision, Result};

/// A decoder ready to run, to be shared by threads in an `Arc`. It is stateless: sequences live in
/// [`crate::Sequence`], and take turns in running it.
///
/// Session options of the package (providers, optimisation level, threads) are applied where the caller takes them over:
/// [`LoadOptions::from_config`]. They choose where and how fast it runs, not what it computes.
pub struct Model {
    session: Mutex<Session>,
    pub(crate) wiring: Wiring,
    pub(crate) provider: Provider,
    file: PathBuf,
    vocab_size: usize,
    context_length: usize,
    pad: u32,
    shares_buffer: bool,
    profile: Option<PathBuf>,
}

impl Model {
    /// # Errors
    /// [`Error::Unsupported`] for a package that is more than a plain decoder, for graph inputs that nothing here
    /// feeds (named), and for element types that neither the provider nor the CPU can run; [`Error::Package`] where
    /// graph and configuration do not fit; [`Error::ProviderMissing`] if the library lacks the provider;
    /// [`Error::Execution`] with ONNX Runtime's own message if it refuses the file, or the provider finds no device.
    pub fn load(package: &Config, runtime: &Runtime, options: LoadOptions) -> Result<Self> {
        let decoder = &package.decoder;
        if !decoder.beyond_plain.is_empty() {
            let what = decoder.beyond_plain.join(", ");
            return Err(Error::unsupported(what, "packages with one decoder graph and a full-length cache per layer"));
        }
        let environment = runtime.initialise()?;
        let doing = || format!("loading {}", decoder.model.display());
        let mut builder = Session::builder(&environment).map_err(Error::execution(doing()))?;
        builder = options.apply(builder)?;
        builder = options.provider.register(builder, &runtime.library)?;
        let session = builder.commit_from_file(&decoder.model).map_err(|error| match error.code() {
            ErrorCode::NotImplemented => {
                let provider = options.provider.name();
                let what = format!("{} on {provider} ({})", decoder.model.display(), error.message());
                Error::unsupported(
                    what,
                    "operators with a kernel there or on the CPU, mostly float32 and float16 (not bfloat16)",
                )
            }
            _ => Error::execution(doing())(error),
        })?;

        let ports = |outlets: &[ort::value::Outlet]| outlets.iter().map(Port::of).collect::<Vec<_>>();
        let wiring = Wiring::read(&ports(session.inputs()), &ports(session.outputs()), package)?;
        let context_length = package.context_length.min(wiring.room().unwrap_or(usize::MAX));
        let pad = package.pad_token_id.filter(|&pad| (pad as usize) < package.vocab_size).unwrap_or(0);
        Ok(Self {
            session: Mutex::new(session),
            wiring,
            provider: options.provider,
            file: decoder.model.clone(),
            vocab_size: package.vocab_size,
            context_length,
            pad,
            shares_buffer: package.search.past_present_share_buffer,
            profile: options.profile,
        })
    }

    /// Ends the profile, and says where the nodes that were run so far were run.
    ///
    /// # Errors
    /// [`Error::Argument`] if it was loaded without [`LoadOptions::profile`]; as [`Placement::read`].
    pub fn placement(&self) -> Result<Placement> {
        let Some(beginning) = &self.profile else {
            return Err(Error::argument("the profile of a model", "not asked for", "one that was, when it was loaded"));
        };
        let profile = self
            .session()
            .end_profiling()
            .map_err(Error::execution(format!("ending the profile {}", beginning.display())))?;
        Placement::read(Path::new(&profile))
    }

    /// The session, when no other sequence runs it. A run that panicked leaves nothing half done in it.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// In tokens, prompt included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Does a cache keep a window of tokens alone?
    pub fn keeps_windows(&self) -> bool {
        self.wiring.slots.iter().any(CacheSlot::keeps_window)
    }

    /// Does the graph take several sequences at once? One of fixed sizes takes one.
    pub fn takes_batches(&self) -> bool {
        self.wiring.room().is_none()
    }

    /// How coarse the codes of the cache are: int8 or int4; `None` for one of floats.
    pub fn cache_precision(&self) -> Option<Precision> {
        self.wiring.slots.iter().find_map(CacheSlot::precision)
    }

    /// Does the package ask for one cache buffer for past and present (`search.past_present_share_buffer`)?
    pub fn shares_buffer(&self) -> bool {
        self.shares_buffer
    }

    /// Runs prompts of different lengths as one right-padded batch with an attention mask, and returns the logits of
    /// each prompt's own tokens: `[tokens, vocab_size]` per prompt.
    ///
    /// # Errors
    /// As [`crate::Sequence::append`]; also [`Error::Unsupported`] if the lengths differ and the graph has no
    /// attention mask, or returns the last column only, or if it takes no batches.
    pub fn batch_logits(&self, prompts: &[&[u32]], adapter: Option<&Adapter>) -> Result<Vec<Matrix>> {
        if !self.takes_batches() {
            return Err(Error::unsupported(
                format!("{}: a batch on a graph of fixed sizes", self.file.display()),
                "one sequence at a time",
            ));
        }
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        if longest > self.context_length {
            return Err(Error::argument("the prompt length", longest, format!("at most {}", self.context_length)));
        }
        for prompt in prompts {
            self.check_ids(prompt)?;
        }
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let ragged = prompts.iter().any(|prompt| prompt.len() != longest);
        if ragged && self.wiring.attention_mask.is_none() {
            return Err(self.unsupported("a batch of different lengths on a graph without attention mask"));
        }
        let rows: Vec<Row> = prompts.iter().map(|&ids| Row { ids, past: 0 }).collect();
        let mut inputs = self.token_inputs(&rows, longest)?;
        for slot in &self.wiring.slots {
            inputs.push((slot.past.clone(), slot.empty(self.session().allocator(), prompts.len())?));
        }
        let inputs = inputs.into_iter().map(|(name, tensor)| (name, tensor.into())).collect();
        let options = Adapter::run_options(adapter)?;
        let mut session = self.session();
        let outputs = run(&mut session, inputs, &options)?;
        let logits = self.wiring.take_logits(&outputs, (prompts.len(), longest))?;
        drop(outputs);
        drop(session);
        if ragged && logits.iter().any(|rows| rows.rows() != longest) {
            return Err(self.unsupported("a batch of different lengths on a graph that returns the last logits only"));
        }
        let own = logits.into_iter().zip(prompts).map(|(padded, prompt)| {
            let rows = padded.rows().min(prompt.len());
            let values = padded.data().iter().take(rows * padded.cols()).copied().collect();
            Matrix::new(rows, padded.cols(), values)
        });
        own.collect()
    }

    /// # Errors
    /// [`Error::Argument`] for no ids at all, or one that is outside the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::argument("the number of tokens", 0, "at least 1"));
        }
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            Some(at) => {
                let value = format!("{} at position {at}", ids.get(at).copied().unwrap_or_default());
                Err(Error::argument("token id", value, format!("below vocab_size {}", self.vocab_size)))
            }
            None => Ok(()),
        }
    }

    /// All inputs but the cache, for rows padded on the right to `width` new tokens.
    ///
    /// Real tokens count on from their row's past, pads have position 0 and are masked, as the peer feeds them.
    pub(crate) fn token_inputs(&self, rows: &[Row], width: usize) -> Result<Vec<(String, DynTensor)>> {
        let wiring = &self.wiring;
        let shape = [rows.len(), width];
        let pads = |row: &Row| width.saturating_sub(row.ids.len());
        let mut inputs = Vec::with_capacity(3);

        let ids = rows.iter().flat_map(|row| row.ids.iter().copied().chain(std::iter::repeat_n(self.pad, pads(row))));
        let ids = ids.map(i64::from).collect();
        inputs.push((wiring.input_ids.name.clone(), tensors::integers(wiring.input_ids.element, &shape, ids)?));

        if let Some(mask) = &wiring.attention_mask {
            let total = width + rows.iter().map(|row| row.past).max().unwrap_or(0);
            let values = rows.iter().flat_map(|row| {
                let real = row.past + row.ids.len();
                (0..total).map(move |column| i64::from(column < real))
            });
            inputs.push((mask.name.clone(), tensors::integers(mask.element, &[rows.len(), total], values.collect())?));
        }
        if let Some(PositionIds { input, planes }) = &wiring.position_ids {
            let row_positions = |row: &Row| {
                let real = (row.past..row.past + row.ids.len()).map(|position| position as i64);
                real.chain(std::iter::repeat_n(0, pads(row))).collect::<Vec<_>>()
            };
            let plane: Vec<i64> = rows.iter().flat_map(row_positions).collect();
            let (shape, values) = match planes {
                None => (shape.to_vec(), plane),
                Some(planes) => (vec![*planes, rows.len(), width], plane.repeat(*planes)),
            };
            inputs.push((input.name.clone(), tensors::integers(input.element, &shape, values)?));
        }
        Ok(inputs)
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::unsupported(format!("{}: {what}", self.file.display()), "prompts of one length")
    }
}

/// New tokens of one sequence, and how many it has in the cache already.
pub(crate) struct Row<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) past: usize,
}

/// Runs the graph with named inputs; every output is allocated by ONNX Runtime.
pub(crate) fn run<'r, 's: 'r>(
    session: &'s mut Session,
    inputs: Vec<(String, SessionInputValue)>,
    options: &'r RunOptions,
) -> Result<SessionOutputs<'r>> {
    session.run_with_options(inputs, options).map_err(Error::execution("running the model"))
}
