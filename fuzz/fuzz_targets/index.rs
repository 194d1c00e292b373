//! Any index over two shards: refused, or every tensor that it names is found, in the shard that it names.

#![no_main]

mod folder;

use genai_checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const A: &[u8] = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}123"#;
const B: &[u8] = br#"{"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}4"#;

fn shard(header_and_data: &[u8], data: usize) -> Vec<u8> {
    let header = (header_and_data.len() - data) as u64;
    [&header.to_le_bytes(), header_and_data].concat()
}

fuzz_target!(|input: &[u8]| {
    let folder = folder::with(&[
        ("config.json", b"{}"),
        ("a.safetensors", &shard(A, 3)),
        ("b.safetensors", &shard(B, 1)),
        ("model.safetensors.index.json", input),
    ]);
    match Checkpoint::open(&folder) {
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "control characters in {said:?}");
        }
        Ok(checkpoint) => {
            let index: Value = serde_json::from_slice(input).expect("what we accept is JSON");
            let map = index["weight_map"].as_object().expect("with a weight_map");
            let files: Vec<_> = checkpoint.weight_files().collect();
            for (name, file) in map {
                let tensor = checkpoint.tensor(name).expect("a tensor that the index names");
                assert_eq!(files[tensor.file_index()].file_name().and_then(|name| name.to_str()), file.as_str());
            }
        }
    }
});
