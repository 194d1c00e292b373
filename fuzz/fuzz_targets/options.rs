//! Any `--extra_options`, one a line: refused as usage, unsupported or policy, or understood without a way out of the
//! output folder.

#![no_main]
#![allow(dead_code)]

#[path = "../../src/extra_options.rs"]
mod extra_options;
#[path = "../../src/failure.rs"]
mod failure;
#[path = "../../src/token.rs"]
mod token;

use extra_options::ExtraOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let options: Vec<String> = input.lines().map(str::to_owned).collect();
    match ExtraOptions::parse(&options) {
        Ok(parsed) => {
            if let Some(name) = parsed.filename {
                assert!(!name.contains(['/', '\\', ':', '\0']) && name.ends_with(".onnx") && name.len() <= 255, "{name:?}");
            }
        }
        Err(failure) => assert!([2, 3, 12].contains(&failure.code), "{failure}"),
    }
});
