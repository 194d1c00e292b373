//! Prints the ids that a package generates, one line per cache mode, to compare with another client's.
//!
//! `greedy PACKAGE ID,ID,… NEW_TOKENS [TEMPERATURE TOP_K TOP_P SEED]`; without the last four it is greedy.
//! ONNX Runtime is found as by `genai-build` (for example through `GENAI_BUILD_ORT_LIB`).

#![allow(clippy::print_stdout, reason = "an example is a command line")]

use std::error::Error;
use std::path::Path;

use genai_validate::{
    CacheMode, GenerateOptions, LoadOptions, Model, Network, Package, SamplingOptions, Tokenizer, generate, runtime,
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
    let package = Package::open(Path::new(package))?;
    let tokenizer = Tokenizer::load(&package.tokenizer_folder)?;
    let runtime = runtime::find_or_install(None, Network::Offline, &mut |_| ())?;
    let mut model = Model::load(&package, &runtime, LoadOptions::default())?;
    for cache in [CacheMode::Shared, CacheMode::Growing] {
        let options = GenerateOptions {
            max_length: prompt.len() + steps.parse::<usize>()?,
            eos_token_ids: &package.eos_token_ids,
            cache,
            sampling,
        };
        let generation = generate(&mut model, &tokenizer, &prompt, options, &mut |_| ())?;
        println!("{cache:?} {:?} {:?}", generation.finish, generation.ids);
    }
    Ok(())
}
