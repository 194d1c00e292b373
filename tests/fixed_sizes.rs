//! Packages without open sizes: their graphs, what they refuse, and what may lie in their caches.

use genai_architectures::{DecoderSpec, RopeScaling};
use genai_builder::{Precision, Settings, TARGETS, Target, graph::Dim, lower, target::AttentionForm};
use genai_validate::{CacheMode, Reference};
use serde_json::Value;
use tempfile::TempDir;

use crate::parity::is_by_length;
use crate::reference::{Way, expect_logits, recorded_logits, sequence};
use crate::support::{Outcome, build, build_arguments, fixture, for_each, genai_build, load, recorded, spec};

/// What fp16 may be off, as in `parity`.
const FP16_LIMIT: f64 = 0.1;

const WAYS: [Way; 3] =
    [Way::AtOnce(CacheMode::Growing), Way::AtOnce(CacheMode::Shared), Way::InSteps(CacheMode::Shared)];

fn targets() -> Vec<(&'static Target, Precision)> {
    let cells = TARGETS.iter().flat_map(|target| target.cells.iter().map(move |cell| (target, cell)));
    let fixed = cells.filter(|(_, cell)| cell.attention == AttentionForm::Fixed);
    let targets: Vec<_> = fixed.map(|(target, cell)| (target, cell.precision)).collect();
    assert!(!targets.is_empty());
    targets
}

fn provider() -> &'static str {
    targets()[0].0.provider
}

fn package(name: &str, options: &[&str]) -> Outcome<TempDir> {
    build(&fixture(name), "fp16", provider(), options)
}

fn config(package: &TempDir) -> Outcome<Value> {
    Ok(serde_json::from_slice(&std::fs::read(package.path().join("genai_config.json"))?)?)
}

/// Where the rope of a model becomes another one.
fn change_of_rope(spec: &DecoderSpec) -> Option<usize> {
    let changes = spec.ropes.iter().filter_map(|rope| match rope.scaling {
        RopeScaling::Dynamic { original_context, .. } | RopeScaling::LongRope { original_context, .. } => {
            Some(original_context)
        }
        _ => None,
    });
    changes.min()
}

#[test]
fn no_size_is_open_and_no_length_is_computed() {
    let of_lengths = ["Shape", "Range", "CumSum", "ReduceSum", "ReduceMax", "NonZero", "Expand"];
    for_each(&recorded(), String::clone, |name| {
        let spec = spec(&fixture(name))?;
        for (target, precision) in targets() {
            let mut settings = Settings::of(target, precision)?;
            settings.fixed_context = change_of_rope(&spec).map(|change| change.min(spec.context_length));
            let graph = lower(&spec, &settings, "model.onnx.data")?.graph;
            for value in graph.inputs.iter().chain(graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten())) {
                let fact = graph.fact(*value);
                let known = fact.shape.iter().all(|dim| matches!(dim, Dim::Known(_)));
                assert!(known, "{} is {fact}", graph.name(*value));
            }
            for node in &graph.nodes {
                assert!(node.domain.is_empty(), "{} is of {}", node.name, node.domain);
                assert!(!of_lengths.contains(&node.op_type), "{} is a {}", node.name, node.op_type);
            }
            let inputs: Vec<_> = graph.inputs.iter().map(|input| graph.name(*input)).take(2).collect();
            assert_eq!(inputs, ["input_ids", "position_ids"]);
        }
        Ok(())
    });
}

#[test]
fn a_cache_ends_before_the_rope_changes() {
    let by_length: Vec<_> =
        recorded().into_iter().filter(|name| is_by_length(&spec(&fixture(name)).unwrap())).collect();
    assert!(by_length.len() > 3, "{by_length:?}");
    for_each(&by_length, String::clone, |name| {
        let spec = spec(&fixture(name))?;
        let change = change_of_rope(&spec).ok_or("no change")?;
        assert!(change < spec.context_length);
        let option = format!("static_context_length={change}");
        let output = tempfile::tempdir()?;
        let arguments = build_arguments(&fixture(name), "fp16", provider(), output.path());
        genai_build(arguments).failed(3, &[&format!("more than {change} tokens"), &option])?;

        let package = package(name, &[&option])?;
        let model = load(package.path())?;
        assert_eq!(model.context_length(), change);
        let mut reference = recorded_logits(&fixture(name))?;
        reference.prompts.retain(|prompt| prompt.input_ids.len() <= change);
        assert!(!reference.prompts.is_empty());
        WAYS.iter().try_for_each(|way| expect_logits(&model, &reference, *way, FP16_LIMIT))
    });
}

#[test]
fn static_context_length_is_the_length_of_the_cache() {
    let name = "llama-default";
    let mut of_model = spec(&fixture(name)).unwrap();
    let longest = of_model.context_length;
    let (target, precision) = targets()[0];
    let settings = Settings::of(target, precision).unwrap();
    assert_eq!(settings.context_length(&of_model), longest);
    of_model.context_length = 131_072;
    assert_eq!(settings.context_length(&of_model), 4096);

    let whole = config(&package(name, &[]).unwrap()).unwrap();
    assert_eq!(whole["model"]["context_length"], longest);
    let short = package(name, &["static_context_length=48"]).unwrap();
    let written = config(&short).unwrap();
    assert_eq!(written["model"]["context_length"], 48);
    assert_eq!(written["search"]["max_length"], 48);
    // What the runtime has to know to feed such a graph.
    assert_eq!(written["search"]["chunk_size"], 1);
    assert_eq!(written["model"]["decoder"]["inputs"]["attention_mask"], Value::Null);

    let model = load(short.path()).unwrap();
    assert_eq!(model.context_length(), 48);
    assert!(sequence(&model, 49, CacheMode::Shared).is_err());
    assert!(model.batch_logits(&[&[1, 2], &[3, 4]], None).unwrap_err().to_string().contains("fixed sizes"));
    let mut reference = recorded_logits(&fixture(name)).unwrap();
    reference.prompts.retain(|prompt| prompt.input_ids.len() <= 48);
    assert!(!reference.prompts.is_empty());
    WAYS.iter().try_for_each(|way| expect_logits(&model, &reference, *way, FP16_LIMIT)).unwrap();

    let refused = |provider: &str, option: &str, code: i32, says: &[&str]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(name), "fp16", provider, output.path());
        arguments.extend(["--extra_options".to_owned(), option.to_owned()]);
        genai_build(arguments).failed(code, says).unwrap();
    };
    let past = format!("static_context_length={}", longest + 1);
    refused(provider(), &past, 3, &[&longest.to_string(), "positions"]);
    refused("cpu", "static_context_length=48", 2, &["static_context_length has no meaning for cpu"]);
}

#[test]
fn what_is_behind_a_sequence_in_the_cache_is_not_seen() {
    for_each(&["llama-default", "gemma2-default", "mpt-default"], ToString::to_string, |name| {
        let package = package(name, &[])?;
        let model = load(package.path())?;
        let Reference { prompts, .. } = recorded_logits(&fixture(name))?;
        let longest = prompts.iter().max_by_key(|prompt| prompt.input_ids.len()).ok_or("no prompts")?;
        let shortest = prompts.iter().min_by_key(|prompt| prompt.input_ids.len()).ok_or("no prompts")?;
        assert!(longest.input_ids.len() > shortest.input_ids.len());
        for cache in [CacheMode::Shared, CacheMode::Growing] {
            let mut sequence = sequence(&model, longest.input_ids.len(), cache)?;
            let fresh = sequence.append(&shortest.input_ids)?;
            sequence.reset()?;
            sequence.append(&longest.input_ids)?;
            sequence.reset()?;
            let again = sequence.append(&shortest.input_ids)?;
            assert!(fresh == again, "{cache:?}");
        }
        Ok(())
    });
}

#[test]
fn what_the_runtime_must_know_stays() {
    let output = tempfile::tempdir().unwrap();
    for (search, says) in [(r#"{"chunk_size": 16}"#, "chunk_size"), (r#"{"num_beams": 2}"#, "num_beams")] {
        let mut arguments = build_arguments(&fixture("llama-default"), "int4", provider(), output.path());
        arguments.extend(["--runtime_config".to_owned(), format!(r#"{{"search": {search}}}"#)]);
        genai_build(arguments).failed(3, &[says, "one token of one sequence"]).unwrap();
    }
}

#[test]
fn adapters_that_can_be_swapped_are_refused() {
    let output = tempfile::tempdir().unwrap();
    let mut arguments = build_arguments(&fixture("llama-default"), "int4", provider(), output.path());
    let adapter = fixture("adapters/llama-patterns");
    arguments.extend(["--adapter".to_owned(), format!("a={}", adapter.display())]);
    genai_build(arguments).failed(3, &["open sizes", "adapter_path"]).unwrap();
}

#[test]
fn parts_of_open_sizes_are_refused() {
    let output = tempfile::tempdir().unwrap();
    for option in ["exclude_embeds", "prune_lm_head"] {
        let mut arguments = build_arguments(&fixture("llama-default"), "int4", provider(), output.path());
        arguments.extend(["--extra_options".to_owned(), format!("{option}=true")]);
        genai_build(arguments).failed(3, &[option, "one token"]).unwrap();
    }
}

#[test]
fn precisions_that_the_accelerator_has_not_are_refused() {
    let output = tempfile::tempdir().unwrap();
    for precision in ["fp32", "bf16"] {
        let arguments = build_arguments(&fixture("llama-default"), precision, provider(), output.path());
        genai_build(arguments).failed(3, &[&format!("no {precision} kernels"), "runs fp16, int8, int4"]).unwrap();
    }
}
