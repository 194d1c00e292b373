//! LoRA weights beside a package, as an `.onnx_adapter` file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::session::RunOptions;

use crate::{Error, Result};

/// What an `.onnx_adapter` file holds: values of graph inputs that have a default in the graph.
pub struct Adapter {
    inner: ort::session::Adapter,
}

impl Adapter {
    /// # Errors
    /// [`Error::Execution`] with ONNX Runtime's own message if it cannot read the file. Whether a graph takes what is in
    /// it shows in the first run.
    pub fn load(file: &Path) -> Result<Self> {
        let inner = ort::session::Adapter::from_file(file, None)
            .map_err(Error::execution(format!("loading {}", file.display())))?;
        Ok(Self { inner })
    }

    /// Options of runs with that adapter, or with none.
    pub(crate) fn run_options(adapter: Option<&Self>) -> Result<RunOptions> {
        let mut options = RunOptions::new().map_err(Error::execution("making run options"))?;
        if let Some(adapter) = adapter {
            adapter.add_to(&mut options)?;
        }
        Ok(options)
    }

    pub(crate) fn add_to(&self, options: &mut RunOptions) -> Result<()> {
        options.add_adapter(&self.inner).map_err(Error::execution("giving an adapter to a run"))
    }
}

/// Adapters by name, for generators to activate.
#[derive(Default)]
pub struct Adapters {
    loaded: Mutex<BTreeMap<String, Arc<Adapter>>>,
}

impl Adapters {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Errors
    /// [`Error::Argument`] for a name that is taken; as [`Adapter::load`].
    pub fn load(&self, file: &Path, name: &str) -> Result<()> {
        let mut loaded = self.loaded();
        if loaded.contains_key(name) {
            return Err(Error::argument("the name of an adapter", format!("`{name}`"), "one that no adapter has"));
        }
        loaded.insert(name.to_owned(), Arc::new(Adapter::load(file)?));
        Ok(())
    }

    /// # Errors
    /// [`Error::Argument`] if there is none of that name, or a generator uses it.
    pub fn unload(&self, name: &str) -> Result<()> {
        let mut loaded = self.loaded();
        let adapter = Self::find(&loaded, name)?;
        // One count is the table's, one is this function's.
        if Arc::strong_count(&adapter) > 2 {
            return Err(Error::argument("the adapter", format!("`{name}`"), "one that no generator uses"));
        }
        loaded.remove(name);
        Ok(())
    }

    /// # Errors
    /// [`Error::Argument`] if there is none of that name.
    pub fn get(&self, name: &str) -> Result<Arc<Adapter>> {
        Self::find(&self.loaded(), name)
    }

    fn find(loaded: &BTreeMap<String, Arc<Adapter>>, name: &str) -> Result<Arc<Adapter>> {
        loaded.get(name).cloned().ok_or_else(|| {
            let names = loaded.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::argument("the adapter", format!("`{name}`"), format!("one of those loaded: {names}"))
        })
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Adapter>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
