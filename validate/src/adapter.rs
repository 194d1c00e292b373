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

    /// From the bytes of such a file.
    pub(crate) fn of(bytes: &[u8], name: &str) -> Result<Self> {
        let inner = ort::session::Adapter::from_memory(bytes, None)
            .map_err(Error::execution(format!("loading the adapter {name}")))?;
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

/// Adapters by name, for generators on any thread to activate. It holds the files' bytes: what ONNX Runtime makes of them
/// belongs to the runs of one generator.
#[derive(Default)]
pub struct Adapters {
    loaded: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

impl Adapters {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Errors
    /// [`Error::Argument`] for a name that is taken; [`Error::Io`]; [`Error::Execution`] with ONNX Runtime's own message if
    /// it cannot read the file.
    pub fn load(&self, file: &Path, name: &str) -> Result<()> {
        let mut loaded = self.loaded();
        if loaded.contains_key(name) {
            return Err(Error::argument("the name of an adapter", format!("`{name}`"), "one that no adapter has"));
        }
        let bytes = std::fs::read(file).map_err(Error::io(file))?;
        Adapter::of(&bytes, &file.display().to_string())?;
        loaded.insert(name.to_owned(), Arc::new(bytes));
        Ok(())
    }

    /// # Errors
    /// [`Error::Argument`] if there is none of that name, or a generator uses it.
    pub fn unload(&self, name: &str) -> Result<()> {
        let mut loaded = self.loaded();
        match loaded.get(name).map(Arc::strong_count) {
            None => Err(Self::missing(&loaded, name)),
            Some(1) => {
                loaded.remove(name);
                Ok(())
            }
            Some(_) => Err(Error::argument("the adapter", format!("`{name}`"), "one that no generator uses")),
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> Result<Arc<Vec<u8>>> {
        let loaded = self.loaded();
        loaded.get(name).cloned().ok_or_else(|| Self::missing(&loaded, name))
    }

    fn missing(loaded: &BTreeMap<String, Arc<Vec<u8>>>, name: &str) -> Error {
        let names = loaded.keys().cloned().collect::<Vec<_>>().join(", ");
        Error::argument("the adapter", format!("`{name}`"), format!("one of those loaded: {names}"))
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
