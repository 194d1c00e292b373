//! Any `genai_config.json`: refused, or read without leaving the package's folder.

#![no_main]

mod folder;

use genai_validate::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let folder = folder::with(&[("model.onnx", b""), ("genai_config.json", input)]);
    if let Err(error) = Config::open(&folder) {
        let said = error.to_string();
        assert!(said.len() < 1 << 16, "a message of {} bytes", said.len());
    }
});
