//! Options of a generator's runs, and the way to stop one from another thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::session::RunOptions;

use crate::{Adapter, Error, Result};

/// Stops a generator: a run that is under way ends at its next operator, and every call fails with
/// [`Error::Cancelled`] until [`Self::resume`]. What was appended or chosen stays, and is run then.
#[derive(Clone)]
pub struct Cancellation {
    shared: Arc<Shared>,
}

struct Shared {
    /// Replaced as a whole, because ONNX Runtime may be reading the old ones.
    options: Mutex<Arc<RunOptions>>,
    cancelled: AtomicBool,
}

impl Cancellation {
    pub fn cancel(&self) -> Result<()> {
        self.shared.cancelled.store(true, Ordering::SeqCst);
        self.options().terminate().map_err(Error::execution("stopping a run"))
    }

    /// Lets the generator go on.
    pub fn resume(&self) -> Result<()> {
        self.options().unterminate().map_err(Error::execution("resuming"))?;
        self.shared.cancelled.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    fn options(&self) -> MutexGuard<'_, Arc<RunOptions>> {
        self.shared.options.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The options as a generator sees them.
pub(super) struct Runs {
    cancellation: Cancellation,
    entries: BTreeMap<String, String>,
    /// Held so that they count as in use.
    adapters: Vec<Arc<Adapter>>,
}

impl Runs {
    pub(super) fn new() -> Result<Self> {
        let options = Mutex::new(Arc::new(Adapter::run_options(None)?));
        let shared = Arc::new(Shared { options, cancelled: AtomicBool::new(false) });
        Ok(Self { cancellation: Cancellation { shared }, entries: BTreeMap::new(), adapters: Vec::new() })
    }

    pub(super) fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// Of a run that begins now.
    ///
    /// # Errors
    /// [`Error::Cancelled`]
    pub(super) fn begin(&self) -> Result<Arc<RunOptions>> {
        let options = self.cancellation.options().clone();
        if self.cancellation.is_cancelled() { Err(Error::Cancelled) } else { Ok(options) }
    }

    /// Why a run failed: ONNX Runtime reports one that was stopped as any other failure.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error {
            Error::Execution { .. } if self.cancellation.is_cancelled() => Error::Cancelled,
            other => other,
        }
    }

    /// An entry of ONNX Runtime's run configuration.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let before = self.entries.insert(key.to_owned(), value.to_owned());
        self.renew().inspect_err(|_| {
            match before {
                Some(before) => self.entries.insert(key.to_owned(), before),
                None => self.entries.remove(key),
            };
        })
    }

    pub(super) fn add_adapter(&mut self, adapter: Arc<Adapter>) -> Result<()> {
        self.adapters.push(adapter);
        self.renew()
    }

    fn renew(&self) -> Result<()> {
        let mut renewed = RunOptions::new().map_err(Error::execution("making run options"))?;
        for adapter in &self.adapters {
            adapter.add_to(&mut renewed)?;
        }
        for (key, value) in &self.entries {
            renewed.set(key, value).map_err(Error::execution(format!("setting the run option {key}")))?;
        }
        let mut options = self.cancellation.options();
        if self.cancellation.is_cancelled() {
            renewed.terminate().map_err(Error::execution("stopping a run"))?;
        }
        *options = Arc::new(renewed);
        Ok(())
    }
}
