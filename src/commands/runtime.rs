use std::sync::Arc;

use genai_validate::runtime::{cache_folder, find, find_or_install, install};
use genai_validate::{Config, LoadOptions, Model, Network, Runtime};

use crate::console::{note, print};
use crate::{
    args::{RuntimeArgs, RuntimeCommand},
    failure::Failure,
};

pub(crate) fn run(command: &RuntimeCommand) -> Result<(), Failure> {
    let runtime = match command {
        RuntimeCommand::Show(args) => find(args.ort_lib.as_deref())?,
        RuntimeCommand::Install => {
            let cache = cache_folder()?;
            note(&format!("fetching ONNX Runtime with pip into {}", cache.display()));
            install(&cache)?
        }
    };
    let version = runtime.version.as_deref().unwrap_or("of unknown version");
    print(&format!("ONNX Runtime {version}: {}\n", runtime.library.display()))
}

/// Whichever ONNX Runtime is found, or fetched.
pub(crate) fn wanted(args: &RuntimeArgs) -> Result<Runtime, Failure> {
    let network = if args.offline { Network::Offline } else { Network::Allowed };
    Ok(find_or_install(args.ort_lib.as_deref(), network, &mut note)?)
}

/// Loads a package on whichever ONNX Runtime is found, or fetched.
pub(crate) fn load(package: &Config, args: &RuntimeArgs) -> Result<Arc<Model>, Failure> {
    let runtime = wanted(args)?;
    Ok(Arc::new(Model::load(package, &runtime, LoadOptions::default())?))
}
