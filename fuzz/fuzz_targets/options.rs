//! Any `--extra_options`, one a line: refused as usage, unsupported or policy, or understood without a way out of the
//! output folder.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../src/failure.rs"]
mod failure;
#[path = "../../src/options/mod.rs"]
mod options;
#[path = "../../src/token.rs"]
mod token;

use libfuzzer_sys::fuzz_target;
use options::ExtraOptions;

fuzz_target!(|input: &str| {
    let options: Vec<String> = input.lines().map(str::to_owned).collect();
    match ExtraOptions::parse(&options) {
        Ok(parsed) => {
            if let Some(name) = parsed.source.filename {
                assert!(
                    !name.contains(['/', '\\', ':', '\0']) && name.ends_with(".onnx") && name.len() <= 255,
                    "{name:?}"
                );
            }
        }
        Err(failure) => assert!([2, 3, 12].contains(&failure.code), "{failure}"),
    }
});
