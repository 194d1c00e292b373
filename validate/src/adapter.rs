//! LoRA weights beside a package, as an `.onnx_adapter` file.

use std::path::Path;

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
            options.add_adapter(&adapter.inner).map_err(Error::execution("giving an adapter to a run"))?;
        }
        Ok(options)
    }
}
