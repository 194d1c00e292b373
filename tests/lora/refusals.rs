//! Adapters that have no faithful package.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{adapter, baked_in};
use crate::support::{Altered, Outcome, build_arguments, fixture, genai_build, read_tensors, safetensors_bytes};

#[test]
fn numbers_that_cannot_be_stored_are_named() -> Outcome {
    // Times this, B is past the largest number of fp16.
    let huge = Altered::copy_of("adapters/llama-attention")
        .json("adapter_config.json", |config| drop(config.insert("lora_alpha".to_owned(), json!(1u64 << 30))));
    let nan = Altered::copy_of("adapters/llama-attention");
    let file = nan.path().join("adapter_model.safetensors");
    let mut tensors = read_tensors(&file);
    let name = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight";
    tensors.get_mut(name).unwrap().data[4 * 4 * 5..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, safetensors_bytes(tensors.iter()))?;
    for swappable in [false, true] {
        let run = |folder: &Path| {
            let output = tempfile::tempdir().unwrap();
            let mut arguments = build_arguments(&fixture("llama-default"), "fp16", "cpu", output.path());
            arguments.extend(match swappable {
                true => ["--adapter".to_owned(), format!("adapter={}", folder.display())],
                false => ["--extra_options".to_owned(), baked_in(folder)],
            });
            genai_build(arguments)
        };
        run(huge.path())
            .failed(5, &["adapter/base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "overflows"])?;
        run(nan.path()).failed(5, &[&format!("adapter/{name}"), "row 5", "column 0 is NaN"])?;
    }
    Ok(())
}

#[test]
fn adapters_that_do_not_fit_are_refused() -> Outcome {
    let run = |base: &str, options: &[&str]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(base), "fp32", "cpu", &output.path().join("package"));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let run = genai_build(arguments);
        assert!(!output.path().join("package").exists());
        run
    };
    let attention = baked_in(&adapter("llama-attention"));
    // Layer 2 is one that the base lacks, and all of them have other names.
    run("phi3-window", &["--extra_options", &attention])
        .failed(5, &["\"model.layers.2.self_attn.v_proj\", which is no linear of this model", "adapter \"adapter\""])?;
    run("qwen3-tied", &["--extra_options", &attention]).failed(5, &["model.layers.2", "no linear of this model"])?;
    // The same names in another size.
    run("llama-mha", &["--extra_options", &baked_in(&adapter("llama-patterns"))])
        .failed(5, &["no linear of this model"])?;
    run("smollm3-window", &["--extra_options", &attention]).failed(5, &["lora_B.weight", "has shape", "expected"])?;
    run("llama-tied", &["--extra_options", &baked_in(&adapter("llama-patterns"))])
        .failed(5, &["\"lm_head\", which is the embedding table of this model"])?;

    let twice = format!("a={}", adapter("llama-attention").display());
    run("llama-default", &["--adapter", &twice, "--extra_options", &attention]).failed(2, &["both given"])?;
    run("llama-default", &["--adapter", "a=does-not-exist"]).failed(5, &["no such folder", "hf download"])?;
    run("llama-default", &["--adapter", "nameless"]).failed(2, &["expected NAME=DIR"])?;
    run("llama-default", &["--extra_options", "adapter_path="]).failed(2, &["extra option adapter_path is"])?;

    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture("llama-default"), "fp16", "cuda", output.path());
    arguments.extend(["--adapter", &twice, "--extra_options", "enable_cuda_graph=true"].map(str::to_owned));
    genai_build(arguments).failed(3, &["enable_cuda_graph", "a recorded step keeps its adapter"])
}
