//! Any config: refused, or a spec that lowers for every provider or says why not.

#![no_main]

use genai_architectures::{Config, describe};
use genai_builder::{Precision, Settings, Target, lower};
use libfuzzer_sys::fuzz_target;

/// Lowering takes milliseconds a layer: deep models would only slow the search down.
const MOST_LAYERS: usize = 8;

fuzz_target!(|input: &[u8]| {
    let Ok(value) = serde_json::from_slice(input) else { return };
    let spec = match Config::from_json(value).and_then(|config| describe(&config)) {
        Ok(spec) if spec.layers.len() <= MOST_LAYERS => spec,
        Ok(_) => return,
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "control characters in {said:?}");
            return;
        }
    };
    for (precision, provider) in [(Precision::Int4, "cpu"), (Precision::Fp16, "cuda")] {
        let target = Target::find(provider).expect("a provider of the table");
        let settings = Settings::of(target, precision).expect("a cell of the table");
        match lower(&spec, &settings, "model.onnx.data") {
            Ok(plan) => drop(plan.model_bytes()),
            Err(error) => {
                let internal = error.kind() == genai_builder::ErrorKind::Internal;
                assert!(!internal, "{error}");
            }
        }
    }
});
