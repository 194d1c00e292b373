//! Options that change what the graph takes, gives and computes together: the graph is as documented, and the numbers
//! are those of the whole model.

use std::path::Path;

use genai_validate::CacheMode;

use crate::parts::Parts;
use crate::reference::{WAYS, Way, expect_logits, recorded_logits};
use crate::support::{Outcome, build, build_arguments, fixture, for_each, genai_build, load, recorded};

/// What passes in the table of tolerances for fp32.
const FP32_LIMIT: f64 = 1e-4;

const AT_ONCE: Way = Way::AtOnce(CacheMode::Shared);

/// Models that differ in what an option meets: plain, norms of heads, one stored tensor for q, k and v, soft caps and
/// windows, learned positions and biases.
const FAMILIES: [&str; 5] = ["llama-default", "qwen3-default", "phi3-window", "gemma2-default", "gpt2-default"];

fn package(name: &str, options: &[&str]) -> Outcome<(tempfile::TempDir, Parts)> {
    let package = build(&fixture(name), "fp32", "cpu", options)?;
    let parts = Parts::read(package.path())?;
    Ok((package, parts))
}

fn expect_recorded_logits(name: &str, package: &Path, ways: &[Way]) -> Outcome {
    let (mut model, reference) = (load(package)?, recorded_logits(&fixture(name))?);
    ways.iter().try_for_each(|way| expect_logits(&mut model, &reference, *way, FP32_LIMIT))
}

#[test]
fn q_k_and_v_apart_meet_the_recorded_logits() {
    for_each(&recorded(), String::clone, |name| {
        let (package, parts) = package(name, &["fuse_qkv=false"])?;
        for (node, there) in [("q_proj/MatMul", true), ("qkv_proj/MatMul", false), ("qkv_proj/Split", false)] {
            let node = format!("/model/layers.0/attn/{node}");
            assert!(parts.nodes().any(|name| name == node) == there, "{node}");
        }
        let ways = if FAMILIES.contains(&name.as_str()) { &WAYS[..] } else { &[AT_ONCE] };
        expect_recorded_logits(name, package.path(), ways)
    });
}

#[test]
fn two_wishes_that_contradict_each_other_are_refused() {
    let output = tempfile::tempdir().unwrap();
    let mut arguments = build_arguments(&fixture("llama-default"), "fp32", "cpu", output.path());
    arguments.extend(["--extra_options", "fuse_qkv=true", "disable_qkv_fusion=true"].map(str::to_owned));
    genai_build(arguments).failed(2, &["fuse_qkv is true", "its opposite disable_qkv_fusion"]).unwrap();
}

#[test]
fn fuse_qkv_has_a_former_name_the_other_way_round() {
    for_each(&FAMILIES, ToString::to_string, |name| {
        let (former, now) = (package(name, &["disable_qkv_fusion=true"])?.1, package(name, &["fuse_qkv=false"])?.1);
        assert!(former == now, "the former name makes another package");
        assert!(package(name, &["fuse_qkv=true"])?.1 == package(name, &[])?.1);
        assert!(package(name, &["fuse_qkv=true"])?.1 != now);
        Ok(())
    });
}
