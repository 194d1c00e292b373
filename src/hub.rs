//! Models by name: a folder, or the Hub with a progress bar.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use genai_architectures::{Config, describe};
use genai_checkpoint::{Checkpoint, HubOptions, Progress, resolve_model};
use serde_json::Value;

use crate::{
    args::HubArgs,
    console::{self, note},
    failure::Failure,
    report::bytes,
    token::TokenChoice,
};

/// Opens a model, fetching it if need be. `accept` sees its config before the weights are fetched.
pub(crate) fn open(
    model: &str,
    hub: &HubArgs,
    offline: bool,
    token: &TokenChoice,
    accept: impl FnOnce(&Value) -> Result<(), Failure>,
) -> Result<Checkpoint, Failure> {
    let model = match &hub.revision {
        None => model.to_owned(),
        Some(_) if Path::new(model).exists() => {
            return Err(Failure::usage(format!("--revision belongs to a model on the Hub, and {model:?} is a folder")));
        }
        Some(revision) if model.contains('@') => {
            return Err(Failure::usage(format!("the revision is given twice: {model:?} and --revision {revision:?}")));
        }
        Some(revision) => format!("{model}@{revision}"),
    };
    let mut options = HubOptions::from_process();
    options.cache_dir.clone_from(&hub.cache_dir);
    options.offline = offline;
    options.token = match token {
        TokenChoice::Environment => None,
        TokenChoice::None => Some(None),
        TokenChoice::Given(token) => {
            note("warning: hf_token on the command line can be read by other users of this machine; HF_TOKEN cannot");
            Some(Some(token.clone()))
        }
    };
    let folder = resolve_model(&model, &options, &Fetching::default(), accept)?;
    Ok(Checkpoint::open(&folder)?)
}

/// Fails for a model that cannot be built, before it is fetched.
pub(crate) fn describable(config: &Value) -> Result<(), Failure> {
    describe(&Config::from_json(config.clone())?)?;
    Ok(())
}

/// All files of a download as one; where there is no terminal, a line for each tenth of a long one.
#[derive(Default)]
struct Fetching {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// From the first file on.
    shown: Option<console::Progress>,
    /// What is here of each file, and its size.
    files: BTreeMap<String, (u64, u64)>,
    /// The last tenth that was told of.
    tenth: u64,
}

/// Downloads shorter than this are over before a line about them is read.
const LONG: u64 = 64 << 20;

impl Fetching {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Fetching {
    fn file(&self, name: &str, done: u64, size: u64) {
        let State { shown, files, tenth } = &mut *self.state();
        let shown = shown.get_or_insert_with(|| console::Progress::start("fetch"));
        files.insert(name.to_owned(), (done, size));
        let add = |sum: (u64, u64), file: &(u64, u64)| (sum.0.saturating_add(file.0), sum.1.saturating_add(file.1));
        let (done, size) = files.values().fold((0, 0), add);
        let whole = files.values().filter(|(done, size)| done == size).count();
        shown.describe(&format!("fetching, {whole} of {} files", files.len()));
        shown.at(done, size);
        let now = done / (size / 10).max(1);
        if shown.lacks_a_terminal() && size >= LONG && now > *tenth {
            *tenth = now;
            note(&format!("fetching: {} of {}, {whole} of {} files", bytes(done), bytes(size), files.len()));
        }
    }

    fn note(&self, line: &str) {
        match &self.state().shown {
            Some(shown) => shown.note(line),
            None => note(line),
        }
    }
}
