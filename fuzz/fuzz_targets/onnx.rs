//! Any ONNX model: refused, or read into a value that is written and read again as the same.

#![no_main]

use genai_onnx::ModelProto;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|input: &[u8]| {
    if let Ok(model) = ModelProto::decode(input) {
        let written = model.encode_to_vec();
        let again = ModelProto::decode(&*written).expect("what we write, we read");
        // Bytes, since a NaN is not equal to itself.
        assert!(again.encode_to_vec() == written);
    }
});
