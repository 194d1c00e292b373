//! Packages damaged in one place: each is caught by the stage that should, at the place of the damage, in words that name
//! it. An ambiguous verdict is not enough, and neither is a finding somewhere else.
//!
//! A package is built once for all damages that are done to copies of it, and passes before.

mod exports;
mod interface;
mod running;
mod spelled;
mod weights;
mod wiring;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use genai_checkpoint::Checkpoint;
use genai_onnx::{NodeProto, TensorProto};
use genai_validate::report::{Finding, Severity, Stage, StageReport};
use genai_validate::{Verdict, anatomy, structure};

use crate::parts::Parts;
use crate::support::{Outcome, build, contents, fixture, for_each, spec};

/// A checkpoint, and how it is built.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    checkpoint: &'static str,
    precision: &'static str,
    provider: &'static str,
    options: &'static [&'static str],
}

const fn fp32(checkpoint: &'static str) -> Made {
    Made { checkpoint, precision: "fp32", provider: "cpu", options: &[] }
}

const fn int4(checkpoint: &'static str) -> Made {
    Made { precision: "int4", ..fp32(checkpoint) }
}

/// Quantized with zero points.
const ASYMMETRIC: Made = Made { options: &["is_symmetric=false"], ..int4("llama-default") };
/// Of standard operators: positions are an input and caches are joined.
const STANDARD: Made = Made { provider: "onnx", ..fp32("llama-default") };

/// One damage, and what must be said about it.
struct Damage {
    what: &'static str,
    to: Made,
    by: By,
    stage: Stage,
    check: &'static str,
    at: &'static str,
    says: &'static [&'static str],
}

enum By {
    /// To the graph, its data or the configuration.
    Parts(fn(&mut Parts)),
    /// To files.
    Files(fn(&Path)),
}

/// A damage of the graph that the anatomy tells.
const fn of_graph(
    what: &'static str,
    to: Made,
    by: fn(&mut Parts),
    check: &'static str,
    at: &'static str,
    says: &'static [&'static str],
) -> Damage {
    Damage { what, to, by: By::Parts(by), stage: Stage::Anatomy, check, at, says }
}

fn all() -> Vec<&'static Damage> {
    [weights::ALL, wiring::ALL, spelled::ALL, interface::ALL].into_iter().flatten().collect()
}

#[test]
fn every_damage_is_caught_where_it_is() {
    let all = all();
    assert!(all.len() >= 35, "{}", all.len());
    for_each(&all, |damage| damage.what.to_owned(), |damage| caught(damage));
}

/// Whole packages of every scheme: what anatomy calls rounding is that, in a checkpoint of noise and in a trained one.
#[test]
fn packages_of_every_scheme_pass() {
    const SCHEMES: [(&str, &[&str]); 9] = [
        ("fp32", &[]),
        ("int8", &[]),
        ("int8", &["is_symmetric=false"]),
        ("int4", &["is_symmetric=false"]),
        ("int4", &["algo_config=rtn"]),
        ("int4", &["algo_config=k_quant"]),
        ("int4", &["algo_config=k_quant_mixed"]),
        ("int4", &["block_size=16"]),
        ("int4", &["block_size=128"]),
    ];
    let made = SCHEMES.into_iter().flat_map(|(precision, options)| {
        ["llama-default", "tales-llama"].map(|name| Made { precision, options, ..fp32(name) })
    });
    let providers = [("fp16", "cuda"), ("int4", "webgpu"), ("int4", "dml"), ("fp32", "onnx")];
    let spelled = providers.map(|(precision, provider)| Made { precision, provider, ..fp32("qwen3-default") });
    let all: Vec<Made> = made.chain(spelled).collect();
    for_each(
        &all,
        |made| format!("{} {} {} {:?}", made.checkpoint, made.precision, made.provider, made.options),
        // Judged where it is built.
        |made| whole(*made).map(drop),
    );
}

fn caught(damage: &Damage) -> Outcome {
    let folder = damaged(damage, &whole(damage.to)?)?;
    let reports = judged(folder.path(), damage.to.checkpoint)?;
    let Damage { stage, check, at, says, .. } = damage;
    let named = |finding: &&Finding| {
        finding.severity == Severity::Error
            && finding.check == *check
            && finding.at.contains(at)
            && says.iter().all(|words| finding.message.contains(words))
    };
    let report = reports.iter().find(|report| report.stage == *stage).ok_or("the stage did not run")?;
    if report.verdict() == Some(Verdict::Fail) && report.findings.iter().any(|finding| named(&finding)) {
        return Ok(());
    }
    Err(format!("{stage} does not say {check} at {at:?}: {says:?}\n{}", told(&reports)).into())
}

/// A copy of a whole package, with the damage.
fn damaged(damage: &Damage, whole: &BTreeMap<String, Vec<u8>>) -> Outcome<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, bytes) in whole {
        fs::write(folder.path().join(name), bytes)?;
    }
    match damage.by {
        By::Parts(change) => {
            let mut parts = Parts::read(folder.path())?;
            let before = parts.clone();
            change(&mut parts);
            assert!(parts != before, "no damage was done");
            parts.write(folder.path())?;
        }
        By::Files(change) => change(folder.path()),
    }
    Ok(folder)
}

/// What the stages that need no ONNX Runtime say.
fn judged(package: &Path, checkpoint: &str) -> Outcome<[StageReport; 2]> {
    let checkpoint = fixture(checkpoint);
    let spec = spec(&checkpoint)?;
    let checkpoint = Checkpoint::open(&checkpoint)?.renamed(|stored| spec.name_of(stored))?;
    Ok([structure::check(package), anatomy::check(package, &spec, &checkpoint).0])
}

fn told(reports: &[StageReport]) -> String {
    let findings = reports.iter().flat_map(|report| report.findings.iter().map(move |finding| (report.stage, finding)));
    let grave = findings.filter(|(_, finding)| finding.severity > Severity::Warning);
    let lines =
        grave.map(|(stage, f)| format!("  {stage} {} {} at {}: {}", f.severity.name(), f.check, f.at, f.message));
    lines.collect::<Vec<_>>().join("\n")
}

/// The files of a package, which passes.
fn whole(made: Made) -> Outcome<BTreeMap<String, Vec<u8>>> {
    type Files = OnceLock<BTreeMap<String, Vec<u8>>>;
    static PACKAGES: Mutex<BTreeMap<Made, &'static Files>> = Mutex::new(BTreeMap::new());
    let cell: &'static Files = PACKAGES.lock().unwrap().entry(made).or_insert_with(|| Box::leak(Box::default()));
    let files = cell.get_or_init(|| {
        let package = build(&fixture(made.checkpoint), made.precision, made.provider, made.options).unwrap();
        let reports = judged(package.path(), made.checkpoint).unwrap();
        let passes = reports.iter().all(|report| report.verdict() == Some(Verdict::Pass));
        assert!(passes, "{} before the damage:\n{}", made.checkpoint, told(&reports));
        contents(package.path())
    });
    Ok(files.clone())
}

fn gqa(layer: usize) -> String {
    format!("/model/layers.{layer}/attn/GroupQueryAttention")
}

/// Changes a tensor of f32.
fn floats(parts: &mut Parts, tensor: &str, change: impl FnOnce(&mut [f32])) {
    let bytes = parts.data(tensor);
    let mut values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    change(&mut values);
    for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

/// The same for a matrix of which `columns` lie one after another.
fn cells(parts: &mut Parts, tensor: &str, columns: usize, cell: impl Fn(&[f32], usize, usize) -> f32) {
    floats(parts, tensor, |values| {
        let before = values.to_vec();
        for (index, value) in values.iter_mut().enumerate() {
            *value = cell(&before, index / columns, index % columns);
        }
    });
}

/// An operator of ONNX's own.
fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        name: Some(format!("/damage/{output}")),
        op_type: Some(op_type.to_owned()),
        input: owned(inputs),
        output: owned(&[output]),
        ..NodeProto::default()
    }
}

/// An int64 constant of the graph.
fn constant(name: &str, value: i64) -> TensorProto {
    use genai_onnx::tensor_proto::DataType;
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Int64.into()),
        raw_data: Some(value.to_le_bytes().to_vec()),
        ..TensorProto::default()
    }
}
