//! Writes `onnx/src/proto.rs` from `onnx/generate/onnx.proto`.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = std::env::temp_dir().join(format!("generate-onnx-proto-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let descriptors = protox::compile([here.join("onnx.proto")], [here])?;
    let mut config = prost_build::Config::new();
    // Comments of the file are its makers' text; the types are all that is wanted here.
    config.disable_comments(["."]);
    config.out_dir(&scratch).compile_fds(descriptors)?;
    let generated = fs::read_to_string(scratch.join("onnx.rs"))?;
    fs::write(here.join("../src/proto.rs"), generated)?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}
