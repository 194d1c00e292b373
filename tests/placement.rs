//! Which provider runs which node, as the profile of ONNX Runtime tells it: no operator of a package is without a
//! kernel where the table of targets says that it runs.

use std::fs;
use std::sync::Arc;

use genai_onnx::ModelProto;
use genai_validate::{CacheMode, Config, Error, LoadOptions, Model, Placement, Provider, continue_greedily};
use prost::Message;
use serde_json::Value;

use crate::support::{Outcome, build, fixture, for_each, runtime, tell};

/// Builds a package for the CPU, has it generate two tokens on the provider, and says where its nodes ran.
fn placement(checkpoint: &str, precision: &str, provider: Provider) -> Outcome<Placement> {
    let package = build(&fixture(checkpoint), precision, "cpu", &[])?;
    let profiles = tempfile::tempdir()?;
    let profile = Some(profiles.path().join("profile"));
    let options = LoadOptions { provider, profile, threads: Some(1), ..LoadOptions::default() };
    let model = Arc::new(Model::load(&Config::open(package.path())?, runtime(), options)?);
    continue_greedily(&model, &[1, 2, 3], 2, CacheMode::Growing, None)?;
    Ok(model.placement()?)
}

#[test]
fn every_operator_of_a_package_for_the_cpu_has_a_kernel_there() {
    // Llama with three layers; Gemma 2 alters attention and norms, Qwen 3 has norms of heads, GPT-2 layer norms.
    let checkpoints = ["llama-default", "gemma2-default", "qwen3-default", "gpt2-default"];
    let cases: Vec<_> = checkpoints
        .into_iter()
        .flat_map(|checkpoint| [(checkpoint, "int4", "MatMulNBits"), (checkpoint, "fp16", "MatMul")])
        .collect();
    for_each(
        &cases,
        |(checkpoint, precision, _)| format!("{checkpoint} {precision}"),
        |(checkpoint, precision, matrix)| {
            let placement = placement(checkpoint, precision, Provider::Cpu)?;
            let layers = placement.expect("GroupQueryAttention", Provider::Cpu)?;
            // Queries, keys and values in one, what comes out, and two or three of the MLP.
            let matrices = placement.expect(matrix, Provider::Cpu)?;
            assert!(layers >= 2 && matrices >= 4 * layers, "{layers} layers, {matrices} of {matrix}");
            let elsewhere = placement.nodes().iter().find(|placed| placed.provider != Provider::Cpu.name());
            assert!(elsewhere.is_none(), "{elsewhere:?}");
            Ok(())
        },
    );
}

#[test]
fn a_node_that_ran_elsewhere_or_not_at_all_is_told() -> Outcome {
    let placement = placement("llama-default", "int4", Provider::Cpu)?;
    let told = |op_type, provider| placement.expect(op_type, provider).unwrap_err().to_string();
    let elsewhere = told("MatMulNBits", Provider::Cuda);
    assert!(elsewhere.starts_with("MatMulNBits did not run on CUDAExecutionProvider alone: "), "{elsewhere}");
    assert!(elsewhere.contains("/model/layers.0/mlp/down_proj/MatMul_Q4` on CPUExecutionProvider"), "{elsewhere}");
    assert!(told("Conv", Provider::Cpu).contains("no such node ran"));

    let package = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    let package = Config::open(package.path())?;
    let unprofiled = Model::load(&package, runtime(), LoadOptions::default())?.placement();
    assert!(matches!(unprofiled, Err(Error::Argument { .. })), "{unprofiled:?}");
    Ok(())
}

#[test]
fn a_provider_that_the_library_lacks_is_an_error_and_not_the_cpu() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let package = Config::open(package.path())?;
    for provider in [Provider::Cuda, Provider::WebGpu] {
        let options = LoadOptions { provider, ..LoadOptions::default() };
        match Model::load(&package, runtime(), options) {
            Err(error @ Error::ProviderMissing { .. }) => {
                assert!(error.to_string().contains(provider.name()) && error.hint().is_some(), "{error}");
            }
            // A library that has the provider, on a machine that lacks the device.
            Err(Error::Execution { doing, source }) => assert!(doing.contains(provider.name()), "{doing}: {source}"),
            Err(error) => return Err(error.into()),
            Ok(_) => tell(&format!("the ONNX Runtime of these tests has {} and a device for it", provider.name())),
        }
    }
    Ok(())
}

/// The rows say what the op of a provider passes over in silence; a model that needs it gets standard operators.
#[test]
fn attention_is_spelled_out_where_the_op_would_pass_over_something() -> Outcome {
    for (checkpoint, provider, fused) in [
        ("llama-default", "dml", true),
        // A window, biases that stand for positions, blocks, a cap.
        ("mistral-window", "dml", false),
        ("bloom-default", "dml", false),
        ("phi3small-default", "dml", false),
        ("gemma2-default", "dml", false),
        ("gemma2-default", "webgpu", false),
        ("gemma2-listed", "webgpu", true),
        ("mistral-window", "webgpu", true),
        ("bloom-default", "webgpu", true),
        ("gemma2-default", "cuda", true),
        ("bloom-default", "cuda", true),
    ] {
        let folder = build(&fixture(checkpoint), "fp16", provider, &[])?;
        let case = format!("{checkpoint} for {provider}");
        let graph = ModelProto::decode(fs::read(folder.path().join("model.onnx"))?.as_slice())?.graph.ok_or("graph")?;
        let found = graph.node.iter().filter(|node| node.op_type() == "GroupQueryAttention").count();
        assert_eq!(found > 0, fused, "{case}: {found} of GroupQueryAttention");
        let config: Value = serde_json::from_slice(&fs::read(folder.path().join("genai_config.json"))?)?;
        assert_eq!(config["search"]["past_present_share_buffer"], fused, "{case}");
    }
    Ok(())
}
