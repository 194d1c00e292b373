//! A session on the provider, and where its nodes run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::precision;
use super::words::Words;
use crate::report::{Finding, Placed, Severity};
use crate::{
    CacheMode, Config, Error, LoadOptions, Model, Placement, Precision, Provider, Result, Runtime, Sequence,
    SequenceOptions,
};

/// A package that runs.
pub(super) struct Loaded<'a> {
    pub(super) model: Arc<Model>,
    pub(super) package: Config,
    pub(super) words: Words,
    pub(super) runtime: &'a Runtime,
    pub(super) options: LoadOptions,
    /// Of the coarser of weights and cache.
    pub(super) precision: Precision,
    pub(super) seconds: f64,
}

impl<'a> Loaded<'a> {
    /// With what a person should know, and where the nodes of a short run ran.
    pub(super) fn load(
        folder: &Path,
        runtime: &'a Runtime,
        options: LoadOptions,
        precision: Option<Precision>,
    ) -> Result<(Self, Vec<Finding>, Vec<Placed>)> {
        let package = Config::open(folder)?;
        let words = Words::open(&package.tokenizer_folder, package.vocab_size)?;
        let weights = match precision {
            Some(precision) => precision,
            None => precision::of_graph(&package)?,
        };
        let scratch = Scratch::new()?;
        let profiled = LoadOptions { profile: Some(scratch.folder.join("profile")), ..options.clone() };
        let started = Instant::now();
        let model = Arc::new(Model::load(&package, runtime, profiled)?);
        let seconds = started.elapsed().as_secs_f64();
        short_run(&model)?;
        let placement = model.placement()?;
        let mut findings = Vec::new();
        let about = format!("{seconds:.2} s");
        findings.push(Finding::new(Severity::Info, "load-time", relative(&package), about));
        findings.extend(elsewhere(&placement, options.provider));
        let precision = precision::coarser(weights, model.cache_precision());
        let loaded = Self { model, package, words, runtime, options, precision, seconds };
        Ok((loaded, findings, counted(&placement)))
    }

    /// An empty sequence for so many tokens.
    pub(super) fn sequence(&self, max_length: usize) -> Result<Sequence> {
        let options = SequenceOptions { max_length, cache: CacheMode::plainest(&self.model), adapter: None };
        Sequence::new(&self.model, options)
    }
}

fn relative(package: &Config) -> String {
    let model = &package.decoder.model;
    model.strip_prefix(&package.folder).unwrap_or(model).display().to_string()
}

/// A prompt of two tokens and one more, so that nodes for both are seen.
fn short_run(model: &Arc<Model>) -> Result<()> {
    let options =
        SequenceOptions { max_length: model.context_length().min(3), cache: CacheMode::plainest(model), adapter: None };
    let mut sequence = Sequence::new(model, options)?;
    let last = u32::try_from(model.vocab_size().saturating_sub(1)).unwrap_or(0);
    sequence.append(&[0, last.min(1)])?;
    if model.context_length() > 2 {
        sequence.append(&[last.min(2)])?;
    }
    Ok(())
}

/// What a provider left to another is slow, and nothing says so.
fn elsewhere(placement: &Placement, provider: Provider) -> Option<Finding> {
    let nodes = placement.nodes();
    let others = counted_where(placement, |name| name != provider.name());
    let count: usize = others.iter().map(|placed| placed.nodes).sum();
    let kinds = others.iter().map(|placed| format!("{} {}", placed.nodes, placed.op_type));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    (count > 0).then(|| {
        let message = format!("{count} of {} nodes ran elsewhere: {kinds}", nodes.len());
        Finding::new(Severity::Warning, "placement", provider.name(), message)
            .with_hint("each change of device costs a copy; build the package for this provider")
    })
}

fn counted(placement: &Placement) -> Vec<Placed> {
    counted_where(placement, |_| true)
}

fn counted_where(placement: &Placement, wanted: impl Fn(&str) -> bool) -> Vec<Placed> {
    let mut counts = std::collections::BTreeMap::new();
    for node in placement.nodes().iter().filter(|node| wanted(&node.provider)) {
        *counts.entry((node.provider.clone(), node.op_type.clone())).or_insert(0) += 1;
    }
    let placed = |((provider, op_type), nodes)| Placed { provider, op_type, nodes };
    counts.into_iter().map(placed).collect()
}

/// A folder of our own under the system's for temporary files, gone at the end.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // A leftover of a process that was killed may have the name; what is there already is never used.
        for _ in 0..1000 {
            let name = format!("genai-validate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let folder = std::env::temp_dir().join(name);
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self { folder }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(&folder)(error)),
            }
        }
        Err(Error::io(&std::env::temp_dir())(std::io::ErrorKind::AlreadyExists.into()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about what cannot be removed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
