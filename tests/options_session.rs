//! Options of the session and of a target's variants: what each changes, and where it has no meaning.

use std::fs;

use genai_onnx::ModelProto;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reference::{Tables, WAYS, expect_logits, recorded_logits, rounded_logits};
use crate::support::{Outcome, build, build_arguments, contents, fixture, genai_build, load};

const MODEL: &str = "llama-default";

fn package(precision: &str, provider: &str, options: &[&str]) -> TempDir {
    build(&fixture(MODEL), precision, provider, options).unwrap()
}

fn session_options(package: &TempDir) -> Value {
    let text = fs::read(package.path().join("genai_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    config["model"]["decoder"]["session_options"].clone()
}

fn refused(precision: &str, provider: &str, option: &str, code: i32) {
    let output = tempfile::tempdir().unwrap();
    let mut arguments = build_arguments(&fixture(MODEL), precision, provider, output.path());
    arguments.extend(["--extra_options".to_owned(), option.to_owned()]);
    let key = option.split('=').next().unwrap();
    genai_build(arguments).failed(code, &[key]).unwrap();
}

fn operators(package: &TempDir) -> Vec<String> {
    let model = ModelProto::decode(&*fs::read(package.path().join("model.onnx")).unwrap()).unwrap();
    model.graph.unwrap().node.into_iter().map(|node| node.op_type().to_owned()).collect()
}

fn weights(package: &TempDir) -> Vec<u8> {
    contents(package.path()).remove("model.onnx.data").unwrap()
}

#[test]
fn recording_of_steps_is_switched_in_the_providers_own_words() {
    for (provider, option, off, on) in [
        ("cuda", "enable_cuda_graph", json!({"enable_cuda_graph": "0"}), json!({"enable_cuda_graph": "1"})),
        ("NvTensorRtRtx", "enable_cuda_graph", json!({"enable_cuda_graph": "0"}), json!({"enable_cuda_graph": "1"})),
        ("dml", "enable_dml_graph", json!({"enable_graph_capture": "0"}), json!({"enable_graph_capture": "1"})),
        (
            "webgpu",
            "enable_webgpu_graph",
            json!({"enableGraphCapture": "0", "validationMode": "basic"}),
            json!({"enableGraphCapture": "1", "validationMode": "disabled"}),
        ),
    ] {
        let listed =
            |options: &[&str]| session_options(&package("fp16", provider, options))["provider_options"].clone();
        assert_eq!(listed(&[&format!("{option}=false")]), json!([{provider: off}]));
        assert_eq!(listed(&[&format!("{option}=true")]), json!([{provider: on}]));
        let default = if ["dml", "NvTensorRtRtx"].contains(&provider) { on } else { off };
        assert_eq!(listed(&[]), json!([{provider: default}]));
    }
    refused("fp16", "cpu", "enable_cuda_graph=true", 2);
    refused("fp16", "cuda", "enable_dml_graph=true", 2);
    refused("fp16", "onnx", "enable_webgpu_graph=false", 2);
    refused("fp16", "cuda", "enable_cuda_graph=perhaps", 2);
}

#[test]
fn no_step_is_recorded_over_a_cache_that_grows() {
    // Its op on dml reads no softcap, so attention is spelled out.
    let package = build(&fixture("gemma2-default"), "fp16", "dml", &[]).unwrap();
    assert_eq!(session_options(&package)["provider_options"], json!([{"dml": {"enable_graph_capture": "0"}}]));
    for (name, precision, provider, option) in
        [("gemma2-default", "fp16", "dml", "enable_dml_graph=true"), (MODEL, "fp32", "cuda", "enable_cuda_graph=true")]
    {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(name), precision, provider, output.path());
        arguments.extend(["--extra_options".to_owned(), option.to_owned()]);
        genai_build(arguments).failed(3, &["a cache that grows", option]).unwrap();
    }
}

#[test]
fn a_recorded_graph_takes_lengths_of_the_mask_alone() {
    let (plain, recorded) = (package("fp32", "webgpu", &[]), package("fp32", "webgpu", &["enable_webgpu_graph=true"]));
    assert!(operators(&plain).contains(&"Shape".to_owned()));
    let operators = operators(&recorded);
    assert!(!operators.contains(&"Shape".to_owned()) && operators.contains(&"ReduceMax".to_owned()));
    assert!(weights(&plain) == weights(&recorded));
    let reference = recorded_logits(&fixture(MODEL)).unwrap();
    let model = load(recorded.path()).unwrap();
    WAYS.into_iter().try_for_each(|way| expect_logits(&model, &reference, way, 1e-4)).unwrap();
    for name in ["bloom-default", "phi3-longrope", "llama-dynamic", "phi3small-default", "gemma2-default"] {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(name), "fp16", "webgpu", output.path());
        arguments.extend(["--extra_options".to_owned(), "enable_webgpu_graph=true".to_owned()]);
        genai_build(arguments).failed(3, &["enable_webgpu_graph"]).unwrap();
    }
}

#[test]
fn activations_may_have_another_dtype() -> Outcome {
    let scales = |package: &TempDir| {
        let model = ModelProto::decode(&*fs::read(package.path().join("model.onnx")).unwrap()).unwrap();
        let graph = model.graph.unwrap();
        let scales = graph.initializer.iter().find(|tensor| tensor.name().ends_with("_scales")).unwrap();
        scales.data_type.unwrap()
    };
    // Numbers of onnx.TensorProto.DataType.
    const F32: i32 = 1;
    const F16: i32 = 10;
    const BF16: i32 = 16;
    for (precision, provider, option, asked) in [
        ("int4", "webgpu", "use_webgpu_fp32", F32),
        ("int8", "webgpu", "use_webgpu_fp32", F32),
        ("int4", "cuda", "use_cuda_bf16", BF16),
        ("int8", "cuda", "use_cuda_bf16", BF16),
        ("int4", "NvTensorRtRtx", "use_cuda_bf16", BF16),
    ] {
        assert_eq!(scales(&package(precision, provider, &[])), F16);
        assert_eq!(scales(&package(precision, provider, &[&format!("{option}=false")])), F16);
        assert_eq!(scales(&package(precision, provider, &[&format!("{option}=true")])), asked);
    }
    refused("fp16", "webgpu", "use_webgpu_fp32=true", 2);
    refused("int4", "cpu", "use_cuda_bf16=true", 2);
    refused("int4", "cuda", "use_webgpu_fp32=true", 2);

    let wide = package("int4", "webgpu", &["use_webgpu_fp32=true", "accuracy_level=0"]);
    let scheme = genai_quantize::IntScheme::new(4, 32, true)?;
    let reference = rounded_logits(&fixture(MODEL), scheme, genai_quantize::ScaleDtype::F32, Tables::Rounded)?;
    let model = load(wide.path())?;
    WAYS.into_iter().try_for_each(|way| expect_logits(&model, &reference, way, 1e-4))
}

#[test]
fn integers_may_be_dequantized_before_a_plain_product() -> Outcome {
    let plain = package("int4", "cpu", &[]);
    let dequantized = package("int4", "cpu", &["use_qdq=true"]);
    let has = |package: &TempDir, operator: &str| operators(package).iter().any(|found| found == operator);
    assert!(has(&plain, "MatMulNBits") && !has(&plain, "DequantizeLinear"));
    assert!(!has(&dequantized, "MatMulNBits") && has(&dequantized, "DequantizeLinear"));
    assert!(weights(&package("int4", "cpu", &["use_qdq=false"])) == weights(&plain));
    let scheme = genai_quantize::IntScheme::new(4, 32, true)?;
    let reference = rounded_logits(&fixture(MODEL), scheme, genai_quantize::ScaleDtype::F32, Tables::Float)?;
    let model = load(dequantized.path())?;
    WAYS.into_iter().try_for_each(|way| expect_logits(&model, &reference, way, 1e-4))?;
    refused("fp16", "cuda", "use_qdq=true", 2);
    refused("int4", "onnx", "use_qdq=false", 3);
    refused("int4", "onnx", "accuracy_level=4", 2);
    Ok(())
}

#[test]
fn entries_of_the_session_are_written() {
    for (precision, provider, option, entry) in [
        ("fp32", "cpu", "use_device_allocator_for_initializers", "session.use_device_allocator_for_initializers"),
        ("int4", "cuda", "enable_cuda_fpa_intb_gemm", "ep.cuda.fpa_intb_gemm"),
    ] {
        assert!(session_options(&package(precision, provider, &[])).get(entry).is_none());
        for (value, expected) in [("true", "1"), ("false", "0")] {
            let options = session_options(&package(precision, provider, &[&format!("{option}={value}")]));
            assert_eq!(options[entry], expected);
        }
    }
    refused("int4", "cpu", "enable_cuda_fpa_intb_gemm=true", 2);
    refused("fp16", "cuda", "enable_cuda_fpa_intb_gemm=true", 2);
}
