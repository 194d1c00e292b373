//! Times a package: `decode_speed PACKAGE PROMPT_TOKENS NEW_TOKENS THREADS` prints seconds to the first token, and tokens per
//! second behind it; 0 threads is the default. `fixtures/record/decode_speed.py` lets it take turns with onnxruntime-genai.
//!
//! ONNX Runtime is found as by `genai-build` (for example through `GENAI_BUILD_ORT_LIB`).

#![allow(clippy::print_stdout, reason = "an example is a command line")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use genai_validate::{Config, Generator, LoadOptions, Model, Network, SearchOptions, runtime};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [package, prompt, new, threads] = arguments.as_slice() else {
        return Err("usage: decode_speed PACKAGE PROMPT_TOKENS NEW_TOKENS THREADS".into());
    };
    let (prompt, new, threads): (u32, usize, usize) = (prompt.parse()?, new.parse()?, threads.parse()?);
    let package = Config::open(Path::new(package))?;
    let runtime = runtime::find_or_install(None, Network::Offline, &mut |_| ())?;
    let options = LoadOptions { threads: Some(threads).filter(|&count| count > 0), ..LoadOptions::default() };
    let model = Arc::new(Model::load(&package, &runtime, options)?);
    let prompt: Vec<u32> = (0..prompt).map(|index| 3 + index * 7 % 1000).collect();
    // A first round warms caches and arenas.
    for round in [8, new] {
        let search = SearchOptions {
            do_sample: false,
            max_length: prompt.len() + new,
            min_length: prompt.len() + new,
            ..SearchOptions::of(&package)
        };
        let started = Instant::now();
        let mut generator = Generator::new(&model, search)?;
        generator.append(&prompt)?;
        generator.generate_next_token()?;
        let first = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for _ in 1..round {
            generator.generate_next_token()?;
        }
        let decode = (round - 1) as f64 / started.elapsed().as_secs_f64();
        if round == new {
            println!("{first:.6} {decode:.3}");
        }
    }
    Ok(())
}
