use genai_validate::runtime::{cache_folder, find, install};

use crate::console::{note, print};
use crate::{args::RuntimeCommand, failure::Failure};

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
