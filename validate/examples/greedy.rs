//! Prints the ids that a package generates, one line per cache mode, to compare with another client's.
//!
//! `greedy PACKAGE ID,ID,… NEW_TOKENS [TEMPERATURE TOP_K TOP_P SEED]`; without the last four it is greedy.
//! ONNX Runtime is found as by `genai-build` (for example through `GENAI_BUILD_ORT_LIB`).

#![allow(clippy::print_stdout, reason = "an example is a command line")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use genai_validate::{
    CacheMode, Config, GenerateOptions, LoadOptions, Model, Network, SamplingOptions, SequenceOptions, Tokenizer,
    generate, runtime,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (sampling, required) = match arguments.as_slice() {
        [required @ .., temperature, top_k, top_p, seed] if arguments.len() == 7 => {
            let (temperature, top_k, top_p) = (temperature.parse()?, top_k.parse()?, top_p.parse()?);
            (SamplingOptions { temperature, top_k, top_p, seed: Some(seed.parse()?) }, required)
        }
        required => (SamplingOptions::GREEDY, required),
    };
    let [package, ids, steps] = required else {
        return Err("usage: greedy PACKAGE ID,ID,… NEW_TOKENS [TEMPERATURE TOP_K TOP_P SEED]".into());
    };
    let prompt: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let package = Config::open(Path::new(package))?;
    let tokenizer = Tokenizer::load(&package.tokenizer_folder)?;
    let runtime = runtime::find_or_install(None, Network::Offline, &mut |_| ())?;
    let model = Arc::new(Model::load(&package, &runtime, LoadOptions::default())?);
    for cache in [CacheMode::Shared, CacheMode::Growing] {
        let options = GenerateOptions {
            eos_token_ids: &package.eos_token_ids,
            sequence: SequenceOptions { max_length: prompt.len() + steps.parse::<usize>()?, cache, adapter: None },
            sampling,
        };
        let generation = generate(&model, &tokenizer, &prompt, options, &mut |_| ())?;
        println!("{cache:?} {:?} {:?}", generation.finish, generation.ids);
    }
    Ok(())
}
