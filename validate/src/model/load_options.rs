//! How a model is opened.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::config::{Config, OptimizationLevel};
use crate::runtime::Provider;
use crate::{Error, Result};

/// Where and how fast a model runs; none of it changes what the model computes but for rounding.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where the nodes run that this provider has a kernel for; the others run on the CPU.
    pub provider: Provider,
    /// Has ONNX Runtime write down what it runs, for [`crate::Model::placement`]: the beginning of a file's path,
    /// which ONNX Runtime ends with the time and `.json`.
    pub profile: Option<PathBuf>,
    /// Threads within an operator. None is one for each core that this process may use, 16 at most.
    pub threads: Option<usize>,
    /// How far ONNX Runtime may rewrite the graph. None is all it can.
    pub optimization: Option<OptimizationLevel>,
    /// Plans the memory of a run by that of the one before. None is yes.
    pub memory_pattern: Option<bool>,
    /// Entries of ONNX Runtime's own, such as `session.intra_op.allow_spinning`.
    pub entries: Vec<(String, String)>,
    /// Takes graphs with inputs beyond tokens, positions and caches, which the caller then gives with
    /// [`crate::Generator::set_model_input`]. Otherwise they are refused.
    pub extra_inputs: bool,
}

impl LoadOptions {
    /// What the package asks for in `model.decoder.session_options`: its first provider, threads within an operator,
    /// optimisation, memory pattern and entries. Left out are log levels and a profile, which are the caller's, the
    /// arena, which ONNX Runtime's own default decides, threads between operators, as these run one after another, and
    /// the options of providers, which record steps or name devices.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a provider that nothing here registers, and for native libraries.
    pub fn from_config(package: &Config) -> Result<Self> {
        let session = &package.decoder.session;
        if let Some(library) = &session.custom_ops_library {
            let what = format!("model.decoder.session_options.custom_ops_library {library:?}");
            return Err(Error::unsupported(what, "operators of ONNX Runtime itself"));
        }
        let provider = match session.providers.first().map(|provider| provider.name.as_str()) {
            None | Some("CPU") => Provider::Cpu,
            Some("cuda") => Provider::Cuda,
            Some("WebGPU") => Provider::WebGpu,
            Some(other) => {
                return Err(Error::unsupported(format!("execution provider {other:?}"), "CPU, cuda, WebGPU"));
            }
        };
        Ok(Self {
            provider,
            profile: None,
            threads: session.intra_op_num_threads.filter(|threads| *threads > 0),
            optimization: session.graph_optimization_level,
            memory_pattern: session.enable_mem_pattern,
            entries: session.entries.clone(),
            extra_inputs: false,
        })
    }

    /// Sets all but the provider.
    pub(super) fn apply(&self, mut builder: SessionBuilder) -> Result<SessionBuilder> {
        let threads = match self.threads {
            Some(0) => return Err(Error::argument("threads", 0, "at least 1")),
            Some(threads) => threads,
            None => default_threads(),
        };
        let refused = |error: ort::Error<SessionBuilder>| Error::execution("setting up a session")(error.to_string());
        builder = builder.with_intra_threads(threads).map_err(refused)?;
        if let Some(level) = self.optimization {
            let level = match level {
                OptimizationLevel::None => GraphOptimizationLevel::Disable,
                OptimizationLevel::Basic => GraphOptimizationLevel::Level1,
                OptimizationLevel::Extended => GraphOptimizationLevel::Level2,
                OptimizationLevel::All => GraphOptimizationLevel::All,
            };
            builder = builder.with_optimization_level(level).map_err(refused)?;
        }
        if let Some(pattern) = self.memory_pattern {
            builder = builder.with_memory_pattern(pattern).map_err(refused)?;
        }
        for (key, value) in &self.entries {
            builder = builder.with_config_entry(key, value).map_err(refused)?;
        }
        if let Some(profile) = &self.profile {
            builder = builder.with_profiling(profile).map_err(refused)?;
        }
        Ok(builder)
    }
}

/// The second thread of a core would find nothing left to compute with. (The peer takes half of the processors, which
/// leaves every second core idle where a core has one thread.)
pub(crate) fn default_threads() -> usize {
    let allowed = thread::available_parallelism().map_or(1, NonZero::get);
    num_cpus::get_physical().min(allowed).clamp(1, 16)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn asked(session: &Value) -> Result<LoadOptions> {
        let config = json!({"model": {
            "type": "decoder", "vocab_size": 8, "context_length": 8, "pad_token_id": 0,
            "decoder": {
                "filename": "model.onnx", "head_size": 4, "num_hidden_layers": 1, "num_key_value_heads": 1,
                "session_options": session,
            },
        }});
        LoadOptions::from_config(&Config::parse(config.to_string().as_bytes(), Path::new(""))?)
    }

    #[test]
    fn a_package_may_say_how_it_is_opened() -> Result<()> {
        let plain = asked(&json!({}))?;
        assert_eq!((plain.provider, plain.threads, plain.optimization), (Provider::Cpu, None, None));
        let all = asked(&json!({
            "provider_options": [{"cuda": {}}], "intra_op_num_threads": 3, "graph_optimization_level": "ORT_DISABLE_ALL",
            "enable_mem_pattern": false, "session.a": "1",
        }))?;
        assert_eq!((all.provider, all.threads), (Provider::Cuda, Some(3)));
        assert_eq!((all.optimization, all.memory_pattern), (Some(OptimizationLevel::None), Some(false)));
        assert_eq!(all.entries, [("session.a".to_owned(), "1".to_owned())]);
        for (session, named) in
            [(json!({"provider_options": [{"QNN": {}}]}), "QNN"), (json!({"custom_ops_library": "x.so"}), "x.so")]
        {
            let error = asked(&session).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(named), "{error}");
        }
        Ok(())
    }
}
