//! A package's decoder, loaded into ONNX Runtime.

mod feed;
mod lanes;
mod load_options;
mod port;
mod slot;
mod tensors;
mod told;
mod value;
mod wiring;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use genai_architectures::families::rope_switch;
use ort::ErrorCode;
use ort::session::Session;

pub(crate) use feed::{Past, Row};
pub(crate) use lanes::{Lanes, Wanted};
pub use load_options::LoadOptions;
pub(crate) use load_options::default_threads;
use port::Port;
pub(crate) use slot::CacheSlot;
pub use slot::CachedTensor;
pub use value::{Tensor, TensorValues};
pub(crate) use wiring::Wiring;

use crate::config::Config;
use crate::runtime::{Provider, Runtime};
use crate::{Adapter, CacheMode, Error, Matrix, Placement, Precision, Result, log};

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
    /// What stands in batches where a row has no token, and behind its end.
    pub(crate) pad: u32,
    eos_token_ids: Vec<u32>,
    rope_switch: Option<usize>,
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
        Self::open(package, runtime, options, None)
    }

    /// The same of `graph`, an altered copy of the package's ONNX file, whose external data are the package's.
    pub(crate) fn load_altered(
        package: &Config,
        runtime: &Runtime,
        mut options: LoadOptions,
        graph: &[u8],
    ) -> Result<Self> {
        let folder = package.decoder.model.parent().unwrap_or(&package.folder);
        let folder = folder.to_str().ok_or_else(|| Error::package(folder, "is a path that is not Unicode"))?;
        // onnxruntime_session_options_config_keys.h: where the external data of a model in memory lie.
        options.entries.push(("session.model_external_initializers_file_folder_path".to_owned(), folder.to_owned()));
        Self::open(package, runtime, options, Some(graph))
    }

    fn open(package: &Config, runtime: &Runtime, options: LoadOptions, graph: Option<&[u8]>) -> Result<Self> {
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
        let session = match graph {
            Some(graph) => builder.commit_from_memory(graph),
            None => builder.commit_from_file(&decoder.model),
        };
        let session = session.map_err(|error| match error.code() {
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
        if !options.extra_inputs {
            wiring.needs_tokens_alone(&decoder.inputs)?;
        }
        let context_length = package.context_length.min(wiring.room().unwrap_or(usize::MAX));
        let pad = package.pad_token_id.filter(|&pad| (pad as usize) < package.vocab_size).unwrap_or(0);
        for warning in &package.warnings {
            tracing::warn!(target: log::CONFIG, key = warning.key, "{}", warning.problem);
        }
        let file = decoder.model.display();
        let (library, provider) = (runtime.library.display(), options.provider.name());
        tracing::debug!(target: log::MODEL, %file, %library, provider, caches = wiring.slots.len(), context_length);
        Ok(Self {
            session: Mutex::new(session),
            wiring,
            provider: options.provider,
            file: decoder.model.clone(),
            vocab_size: package.vocab_size,
            context_length,
            pad,
            eos_token_ids: package.eos_token_ids.clone(),
            rope_switch: rope_switch(&package.model_type),
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

    /// Does the graph have an output of that name, beside logits and caches?
    pub fn gives(&self, output: &str) -> bool {
        self.wiring.extra_outputs.iter().any(|name| name == output)
    }

    /// In tokens, prompt included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Any of these ends a text.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The length at which the cache has to be computed anew, because the graph's rope has other factors from there on.
    pub fn rope_switch(&self) -> Option<usize> {
        self.rope_switch
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
        let mut lanes = Lanes::new(self, prompts.len(), longest, CacheMode::Growing)?;
        let options = Adapter::run_options(adapter)?;
        let mut logits = vec![Vec::new(); prompts.len()];
        lanes.feed(self, prompts, &options, Wanted::All(&mut logits))?;
        logits.into_iter().map(|row| Matrix::new(row.len() / self.vocab_size, self.vocab_size, row)).collect()
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
}
