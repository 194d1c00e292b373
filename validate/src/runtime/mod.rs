//! Where ONNX Runtime comes from. A build needs none; whatever runs a package loads the shared library at run time.
//!
//! ```text
//!  find ──► Runtime { library, version } ──► initialise ──► ort
//!   └ nothing found ──► install (pip download, unpack into the cache) ──┘
//! ```
//!
//! A process can load only one ONNX Runtime, so a candidate is judged before it is loaded: by the version in its name,
//! in the wheel's metadata beside it or in its own symbol table. Comparing two versions takes two processes.

mod install;
mod library;
mod provider;
mod search;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;

pub use install::{VERSION, install};
pub use provider::Provider;
use search::Search;

use crate::{Error, Result};

/// A shared library of ONNX Runtime, not necessarily loaded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    pub library: PathBuf,
    /// As far as it can be known without loading, such as `1.31.1`.
    pub version: Option<String>,
}

/// May the network be used?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Allowed,
    Offline,
}

/// Looks for ONNX Runtime 1.24 or newer: `explicit` (a library or a folder holding one), `GENAI_BUILD_ORT_LIB`,
/// `ORT_DYLIB_PATH`, beside the executable, the cache, Python's site-packages, the system.
///
/// # Errors
/// A library which was asked for (the first three) and cannot be used is an error: it is never passed over in silence.
/// Otherwise the error lists every place looked in.
pub fn find(explicit: Option<&Path>) -> Result<Runtime> {
    Search::of_this_process().run(explicit)
}

/// [`find`], and if nothing is found [`install`] into [`cache_folder`]. `announce` gets one line before anything is
/// fetched.
pub fn find_or_install(explicit: Option<&Path>, network: Network, announce: &mut dyn FnMut(&str)) -> Result<Runtime> {
    match find(explicit) {
        Err(Error::RuntimeMissing { .. }) if network == Network::Allowed => {
            let cache = cache_folder()?;
            announce(&format!("fetching ONNX Runtime {VERSION} with pip into {}", cache.display()));
            install(&cache)
        }
        outcome => outcome,
    }
}

/// `genai-build/onnxruntime` in the user's cache folder; each version has a folder of its own in it.
pub fn cache_folder() -> Result<PathBuf> {
    Search::of_this_process().cache.ok_or_else(|| Error::RuntimeInstall {
        reason: "there is no cache folder: none of XDG_CACHE_HOME, HOME and LOCALAPPDATA is set".into(),
    })
}

impl Runtime {
    /// Loads the library, once per process, with telemetry off.
    ///
    /// # Errors
    /// [`Error::RuntimeRefused`] if it cannot be loaded, is older than 1.24, or another one is loaded already.
    pub fn initialise(&self) -> Result<Environment> {
        static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((library, environment)) = &*loaded {
            return if *library == self.library {
                Ok(environment.clone())
            } else {
                Err(self.refused(format!("this process has loaded {} already", library.display())))
            };
        }
        let environment = ort::init_from(&self.library)
            .map_err(|error| self.refused(error.to_string()))?
            .with_name("genai-build")
            .with_telemetry(false)
            .build()
            .map_err(|error| self.refused(error.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Error);
        *loaded = Some((self.library.clone(), environment.clone()));
        Ok(environment)
    }

    fn refused(&self, reason: String) -> Error {
        Error::RuntimeRefused { library: self.library.clone(), reason }
    }
}
