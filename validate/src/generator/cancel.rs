//! Options of a generator's runs, and the way to stop one from another thread.

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
    /// A run that is under way has a count of its own.
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
    /// Held so that they count as in use.
    adapters: Vec<Arc<Vec<u8>>>,
}

impl Runs {
    pub(super) fn new() -> Result<Self> {
        let options = Mutex::new(Arc::new(Adapter::run_options(None)?));
        let shared = Arc::new(Shared { options, cancelled: AtomicBool::new(false) });
        Ok(Self { cancellation: Cancellation { shared }, adapters: Vec::new() })
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
        self.change(|options| {
            options.set(key, value).map_err(Error::execution(format!("setting the run option {key}")))
        })
    }

    pub(super) fn add_adapter(&mut self, name: &str, bytes: Arc<Vec<u8>>) -> Result<()> {
        let adapter = Adapter::of(&bytes, name)?;
        self.change(|options| adapter.add_to(options))?;
        self.adapters.push(bytes);
        Ok(())
    }

    fn change(&mut self, change: impl FnOnce(&mut RunOptions) -> Result<()>) -> Result<()> {
        let mut options = self.cancellation.options();
        // Runs begin with the generator in hand, as this does, so that none is under way.
        let exclusive = Arc::get_mut(&mut options);
        exclusive.map_or_else(|| Err(Error::execution("changing run options")("they are in use")), change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_go_from_thread_to_thread() {
        fn goes<T: Send>() {}
        fn is_shared<T: Send + Sync>() {}
        goes::<crate::Generator>();
        is_shared::<Cancellation>();
        is_shared::<crate::Adapters>();
        is_shared::<crate::Model>();
    }
}
