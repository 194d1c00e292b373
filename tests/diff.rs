//! `diff` on packages that this tool builds.

use std::fs;

use serde_json::Value;

use crate::support::{Altered, Outcome, Run, build, contents, fixture, for_each, genai_build};

const DIFFERENT: i32 = 14;

fn diff(a: &tempfile::TempDir, b: &tempfile::TempDir, flags: &[&str]) -> Run {
    genai_build(["diff", a.path().to_str().unwrap(), b.path().to_str().unwrap()].iter().chain(flags))
}

fn json(run: &Run) -> Outcome<Value> {
    Ok(serde_json::from_str(&run.stdout)?)
}

/// What was found stands on stdout, and in a word on stderr.
fn differs(run: &Run, word: &str) {
    assert!(run.code == DIFFERENT && run.stderr.contains(word), "{run:?}");
}

#[test]
fn the_same_package_under_other_names() -> Outcome {
    let package = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    let run = diff(&package, &package, &["--json"]);
    let found = json(&run)?;
    assert_eq!((run.code, found["sameness"].as_str(), found["ok"].as_bool()), (0, Some("identical"), Some(true)));

    let other = tempfile::tempdir()?;
    for (name, bytes) in contents(package.path()) {
        let name = if name == "model.onnx" { "other.onnx".to_owned() } else { name };
        fs::write(other.path().join(name), bytes)?;
    }
    let text = diff(&package, &other, &[]).success()?;
    assert!(text.contains("the packages are the same in other spelling"), "{text}");
    assert!(text.contains("graph of model.onnx and other.onnx: the same"), "{text}");
    Ok(())
}

/// fp32 on the one side, another storage on the other. The errors are those of rounding such weights: some are
/// exact in f16; a step of codes is a 127th or an 8th of the greatest of 32 numbers near a normal distribution, which is
/// about twice their RMS, and rounding errs by 0.29 steps.
#[test]
fn storage_explains_the_errors_of_each_precision() -> Outcome {
    let cases = [("fp16", 0.0..1e-3), ("int8", 2e-3..2e-2), ("int4", 4e-2..0.2)];
    let names = ["llama-tied", "gemma2-default", "phi3-partial"];
    let cases: Vec<_> = names.iter().flat_map(|name| cases.iter().map(move |case| (*name, case))).collect();
    for_each(
        &cases,
        |(name, (precision, _))| format!("{name} {precision}"),
        |(name, (precision, errors))| {
            let (a, b) = (build(&fixture(name), "fp32", "cpu", &[])?, build(&fixture(name), precision, "cpu", &[])?);
            let run = diff(&a, &b, &["--json"]);
            differs(&run, "");
            let found = json(&run)?;
            assert_eq!(found["sameness"], "other_quantization", "{:#}", found["reasons"]);
            let weights = &found["models"][0]["weights"];
            assert_eq!(weights["only"], Value::Object(serde_json::Map::new()));
            let different = weights["different"].as_array().unwrap();
            let matrices = different.iter().filter(|weight| weight["name"].as_str().unwrap().contains("proj"));
            let found: Vec<f64> = matrices.map(|weight| weight["error"]["relative_rms"].as_f64().unwrap()).collect();
            assert!(found.len() >= 8 && found.iter().all(|error| errors.contains(error)), "{found:?}");
            Ok(())
        },
    );
    Ok(())
}

#[test]
fn what_is_another_model_is_named() -> Outcome {
    let name = "gemma2-default";
    let package = build(&fixture(name), "fp32", "cpu", &[])?;
    let softcap = Altered::copy_of(name).config("attn_logit_softcapping", 20.0.into());
    let weight = Altered::copy_of(name).tensors(|tensors| {
        let tensor = tensors.get_mut("model.layers.2.mlp.up_proj.weight").unwrap();
        tensor.data[..2].copy_from_slice(&0x4000_u16.to_le_bytes());
    });
    for (altered, named) in [
        (softcap, "GroupQueryAttention /model/layers.*/attn/GroupQueryAttention: softcap is"),
        (weight, "weight model.layers.2.mlp.up_proj.MatMul.weight is"),
    ] {
        let other = build(altered.path(), "fp32", "cpu", &[])?;
        let run = diff(&package, &other, &[]);
        differs(&run, "the packages are different");
        let line = run.stdout.lines().find(|line| line.starts_with("  - ")).unwrap_or_default();
        assert!(line.contains(named), "{}", run.stdout);
    }
    Ok(())
}

#[test]
fn folders_that_are_no_packages_are_errors() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let damaged = tempfile::tempdir()?;
    fs::write(damaged.path().join("model.onnx"), b"\x08\x0a\x3a\xff")?;
    diff(&package, &damaged, &[]).failed(4, &["model.onnx"])?;
    genai_build(["diff", package.path().to_str().unwrap(), "/nowhere"]).failed(8, &["/nowhere"])?;
    Ok(())
}
