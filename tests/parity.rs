//! Every fixture, built for every target, computes what it should.
//!
//! Of the targets whose graphs are alike one stands for all.
//!
//! | package | compared with | how far it may be |
//! | --- | --- | --- |
//! | fp32, fp16 | logits recorded from transformers | as the table of tolerances says of its precision |
//! | int4, int8 | rounded weights in f32 | as far as its activations in fp32 or fp16 may make it |
//! | int4, int8 as built by default for the CPU | the same | as int8 activations make it |
//! | int4 of a trained model | logits recorded from transformers | as the table says of int4 |

use std::sync::Arc;

use genai_architectures::{DecoderSpec, Rope, RopeScaling};
use genai_builder::{TARGETS, Target, graph::Dtype, target::AttentionForm};
use genai_quantize::{IntScheme, ScaleDtype};
use genai_validate::{CacheMode, Model, Precision, Reference, Verdict, metrics};
use serde_json::Value;

use crate::reference::{Tables, WAYS, Way, expect_logits, expect_verdict, logits, recorded_logits, rounded_logits};
use crate::support::{
    Outcome, build, build_arguments, contents, fixture, for_each, genai_build, load, recorded, runtime_arguments, spec,
};

/// How far a logit may be off, in units of the spread of the logits: what passes in the table of tolerances.
const FP32_LIMIT: f64 = 1e-4;

/// The same for activations in fp16. Right packages of the fixtures come to 0.067 (Gemma 3, with four norms in a layer),
/// and no fixture is about less than 1 in some logit, which is more than 0.2 of the spread of each.
const FP16_LIMIT: f64 = 0.1;

#[test]
fn fp32_packages_meet_the_recorded_logits() {
    for_each(&with_providers(genai_builder::Precision::Fp32), show, |(name, provider)| {
        let (model, spec) = open(name, "fp32", provider, &[])?;
        let reference = recorded_logits(&fixture(name))?;
        expect_verdict(&model, &reference, spec.num_parameters(), Precision::Fp32, Verdict::Pass)?;
        expect_in_every_way(&model, &spec, &reference, FP32_LIMIT)
    });
}

#[test]
fn fp16_packages_meet_the_recorded_logits() {
    for_each(&with_providers(genai_builder::Precision::Fp16), show, |(name, provider)| {
        let (model, spec) = open(name, "fp16", provider, &[])?;
        let reference = recorded_logits(&fixture(name))?;
        expect_verdict(&model, &reference, spec.num_parameters(), Precision::Fp16, Verdict::Ambiguous)?;
        expect_in_every_way(&model, &spec, &reference, FP16_LIMIT)
    });
}

#[test]
fn quantized_packages_compute_with_the_rounded_weights() {
    let providers = spellings(genai_builder::Precision::Int4).len();
    let cases: Vec<_> = with_providers(genai_builder::Precision::Int4).into_iter().enumerate().collect();
    for_each(
        &cases,
        |(_, case)| show(case),
        |(index, (name, provider))| {
            let target = Target::find(provider)?;
            for (bits, block_size, symmetric) in schemes_of(index / providers, target) {
                let precision = format!("int{bits}");
                let of_bits = if bits == 4 { genai_builder::Precision::Int4 } else { genai_builder::Precision::Int8 };
                let Some(cell) = target.cell(of_bits) else { continue };
                let (scale_dtype, limit) = match cell.activations {
                    Dtype::F32 => (ScaleDtype::F32, FP32_LIMIT),
                    _ => (ScaleDtype::F16, FP16_LIMIT),
                };
                let tables = Tables::of(target.form);
                let mut options = vec![format!("block_size={block_size}"), format!("is_symmetric={symmetric}")];
                if target.accuracy_level != 0 {
                    options.push("accuracy_level=0".to_owned());
                }
                let (model, spec) =
                    open(name, &precision, provider, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
                let scheme = IntScheme::new(bits, block_size, symmetric)?;
                let reference = rounded_logits(&fixture(name), scheme, scale_dtype, tables)?;
                let outcome = expect_in_every_way(&model, &spec, &reference, limit);
                outcome.map_err(|error| format!("{precision} {}: {error}", options.join(" ")))?;
            }
            Ok(())
        },
    );
}

/// For the providers that packages are mostly made for the plain scheme of both widths, and one of the others in turn;
/// for those that spell the same weights in other ways one scheme in turn, so that each has all of them.
fn schemes_of(fixture: usize, target: &Target) -> Vec<(usize, usize, bool)> {
    let turn = |bits: usize, index: usize| (bits, [16, 32, 64, 128, 256][index % 5], (index / 5).is_multiple_of(2));
    if ["cpu", "cuda"].contains(&target.provider) {
        return vec![(4, 32, true), (8, 32, true), turn(if fixture.is_multiple_of(2) { 4 } else { 8 }, fixture / 2)];
    }
    let eight = fixture.is_multiple_of(3) && target.cell(genai_builder::Precision::Int8).is_some();
    vec![turn(if eight { 8 } else { 4 }, fixture)]
}

/// The kernels round activations to int8, in blocks: each product is then off by some 0.5 % of its size, and what a
/// dozen of them in a row come to on the fixtures is 1 to 2.5 %, and 4.7 % for Gemma 3, whose four norms in a layer
/// bring small values up again. A wrong weight would show as far more.
#[test]
fn activations_in_int8_cost_a_few_percent() {
    let cases: Vec<_> = recorded().into_iter().flat_map(|name| [(name.clone(), 4), (name, 8)]).collect();
    for_each(
        &cases,
        |(name, bits)| format!("{name} int{bits}"),
        |(name, bits)| {
            let precision = format!("int{bits}");
            let (model, _) = open(name, &precision, "cpu", &[])?;
            let reference =
                rounded_logits(&fixture(name), IntScheme::new(*bits, 32, true)?, ScaleDtype::F32, Tables::Rounded)?;
            let logits = logits(&model, &reference, Way::AtOnce(CacheMode::Growing))?;
            for (prompt, logits) in reference.prompts.iter().zip(logits) {
                let metrics = metrics::compare(&prompt.logits, &logits)?;
                let share = metrics.mean_abs / metrics.reference_std;
                assert!(share < 0.06 && metrics.first_non_finite.is_none(), "{}: {metrics:?}", prompt.name);
                // Level 4 is in force at all.
                assert!(share > 1e-4, "{}: {metrics:?}", prompt.name);
            }
            let weights = |options: &[&str]| -> Outcome<_> {
                let package = build(&fixture(name), &precision, "cpu", options)?;
                Ok(contents(package.path()).remove("model.onnx.data").expect("a data file"))
            };
            assert!(weights(&[])? == weights(&["accuracy_level=0"])?, "the level changes the weights");
            Ok(())
        },
    );
}

#[test]
fn int4_packages_of_trained_models_are_within_the_table() {
    let trained: Vec<String> = recorded().into_iter().filter(|name| name.starts_with("tales-")).collect();
    assert!(!trained.is_empty());
    for_each(&trained, String::clone, |name| {
        for provider in ["cpu", "cuda"] {
            let output = tempfile::tempdir()?;
            let mut arguments = build_arguments(&fixture(name), "int4", provider, output.path());
            arguments.extend(["--validate".to_owned(), "--json".to_owned()]);
            arguments.extend(runtime_arguments());
            let report: Value = serde_json::from_str(&genai_build(arguments).success()?)?;
            let verdict = &report["parity"]["verdict"];
            assert!(verdict == "pass" || verdict == "ambiguous", "{provider}: {report:#}");
            assert!(report["continuation"]["text"].as_str().is_some_and(|text| text.len() > 20), "{report:#}");
        }
        Ok(())
    });
}

/// Recorded logits are those of a pass without a cache. Where the rope depends on the length, a cache keeps keys that
/// were turned at an earlier length, and a batch turns all rows by the longest, so there only a whole prompt has the
/// same logits.
pub(crate) fn expect_in_every_way(
    model: &Arc<Model>,
    spec: &DecoderSpec,
    reference: &Reference,
    limit: f64,
) -> Outcome {
    let by_length = is_by_length(spec);
    let (shared, batches) = (model.shares_buffer(), model.takes_batches());
    let ways = WAYS.iter().filter(|way| !by_length || matches!(way, Way::AtOnce(_)));
    let ways = ways.filter(|way| (shared || !way.shares_buffer()) && (batches || **way != Way::InABatch));
    ways.copied().try_for_each(|way| expect_logits(model, reference, way, limit))
}

/// Whether a rope is another one for longer sequences.
pub(crate) fn is_by_length(spec: &DecoderSpec) -> bool {
    let by_length = |rope: &Rope| matches!(rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. });
    spec.ropes.iter().any(by_length)
}

fn open(name: &str, precision: &str, provider: &str, options: &[&str]) -> Outcome<(Arc<Model>, DecoderSpec)> {
    let package = build(&fixture(name), precision, provider, options)?;
    Ok((load(package.path())?, spec(&fixture(name))?))
}

/// Every fixture with one provider of those whose graphs are alike. A rope that depends on the length is none for a cache
/// of fixed length, see `fixed_sizes.rs`.
fn with_providers(precision: genai_builder::Precision) -> Vec<(String, &'static str)> {
    let providers = spellings(precision);
    let is_fixed = |provider: &str| {
        let cell = Target::find(provider).unwrap().cell(precision);
        cell.is_some_and(|cell| cell.attention == AttentionForm::Fixed)
    };
    let mut pairs = Vec::new();
    for name in recorded() {
        let by_length = is_by_length(&spec(&fixture(&name)).unwrap());
        let fitting = providers.iter().filter(|provider| !by_length || !is_fixed(provider));
        pairs.extend(fitting.map(|provider| (name.clone(), *provider)));
    }
    pairs
}

/// The first provider of each way to spell the graph: of dtype, attention, matrices and other operators. Where these
/// are alike the packages differ in nothing but their options, which another test sees to.
pub(crate) fn spellings(precision: genai_builder::Precision) -> Vec<&'static str> {
    let mut seen = Vec::new();
    let mut providers = Vec::new();
    for target in TARGETS {
        let Some(cell) = target.cell(precision) else { continue };
        let spelling = (cell.activations, cell.attention, target.form);
        if !seen.contains(&spelling) {
            seen.push(spelling);
            providers.push(target.provider);
        }
    }
    providers
}

#[test]
fn targets_of_one_spelling_have_the_same_weights_and_nodes() {
    let name = "qwen3-default";
    for precision in genai_builder::Precision::ALL {
        let mut packages: Vec<(_, &str, _)> = Vec::new();
        for target in TARGETS {
            let Some(cell) = target.cell(precision) else { continue };
            let spelling = (cell.activations, cell.attention, target.form);
            let options: &[&str] =
                if target.accuracy_level != 0 && precision.bits().is_some() { &["accuracy_level=0"] } else { &[] };
            let package = build(&fixture(name), precision.name(), target.provider, options).unwrap();
            let files = contents(package.path());
            let files = ["model.onnx", "model.onnx.data"].map(|name| files[name].clone());
            match packages.iter().find(|(seen, _, _)| *seen == spelling) {
                Some((_, like, expected)) => assert!(files == *expected, "{like} and {}", target.provider),
                None => packages.push((spelling, target.provider, files)),
            }
        }
    }
}

fn show((name, provider): &(String, &str)) -> String {
    format!("{name} for {provider}")
}
