//! LoRA adapters, baked in and swappable.
//!
//! | package | compared with |
//! | --- | --- |
//! | baked in, fp32 and fp16 | logits recorded from transformers with the adapter added to the weights |
//! | baked in, int4 and int8 | the f32 interpreter with rounded weights and the adapter's as they are |
//! | baked in, of every fixture, for each linear | the f32 interpreter |
//! | swappable, without an adapter and with each | the recorded logits of each |

mod package;
mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use genai_architectures::{DecoderSpec, Linear, LmHead, Mixer, Mlp};
use genai_builder::{Precision, Target, graph::Dtype as Activations, target::AttentionForm};
use genai_checkpoint::Checkpoint;
use genai_quantize::{IntScheme, ScaleDtype};
use genai_validate::{Adapter, CacheMode, Continued, Model, Reference};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parity::{expect_in_every_way, spellings};
use crate::reference::{Tables, Way, expect_logits, expect_logits_with, recorded_logits, rounded_logits_of};
use crate::support::{
    Altered, Outcome, Stored, build, build_arguments, fixture, for_each, genai_build, load, recorded,
    runtime_arguments, safetensors_bytes, spec,
};

/// Adapters with recorded logits, and their bases.
const RECORDED: [(&str, &str); 4] = [
    ("llama-attention", "llama-default"),
    ("llama-patterns", "llama-default"),
    ("phi3-fused", "phi3-window"),
    ("gpt2-columns", "gpt2-default"),
];

/// As in `parity`: for activations in fp32, and in fp16.
const FP32_LIMIT: f64 = 1e-4;
const FP16_LIMIT: f64 = 0.1;

pub(crate) fn adapter(name: &str) -> PathBuf {
    fixture("adapters").join(name)
}

fn baked_in(folder: &Path) -> String {
    format!("adapter_path={}", folder.display())
}

pub(crate) fn swappable(base: &str, precision: &str, adapters: &[(&str, &Path)]) -> Outcome<TempDir> {
    swappable_for(base, precision, "cpu", adapters)
}

pub(crate) fn swappable_for(
    base: &str,
    precision: &str,
    provider: &str,
    adapters: &[(&str, &Path)],
) -> Outcome<TempDir> {
    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture(base), precision, provider, output.path());
    for (name, folder) in adapters {
        arguments.extend(["--adapter".to_owned(), format!("{name}={}", folder.display())]);
    }
    if precision.starts_with("int") && Target::find(provider)?.accuracy_level != 0 {
        arguments.extend(["--extra_options", "accuracy_level=0"].map(str::to_owned));
    }
    genai_build(arguments).success()?;
    Ok(output)
}

/// Adapters come with runs whose cache grows.
fn expect_with_adapter(model: &Arc<Model>, file: &Path, reference: &Reference, limit: f64) -> Outcome {
    let file = Adapter::load(file)?;
    let ways = [Way::AtOnce(CacheMode::Growing), Way::InSteps(CacheMode::Growing), Way::InABatch];
    ways.into_iter().try_for_each(|way| expect_logits_with(model, Some(&file), reference, way, limit))
}

#[test]
fn baked_in_float_packages_meet_the_recorded_logits() {
    for_each(
        &RECORDED,
        |(name, _)| (*name).to_owned(),
        |(name, base)| {
            let (reference, spec) = (recorded_logits(&adapter(name))?, spec(&fixture(base))?);
            for (precision, limit) in [(Precision::Fp32, FP32_LIMIT), (Precision::Fp16, FP16_LIMIT)] {
                for provider in spellings(precision) {
                    let package = build(&fixture(base), precision.name(), provider, &[&baked_in(&adapter(name))])?;
                    let outcome = expect_in_every_way(&load(package.path())?, &spec, &reference, limit);
                    outcome.map_err(|error| format!("{} {provider}: {error}", precision.name()))?;
                }
            }
            // The limits tell an adapter from none.
            let package = build(&fixture(base), "fp32", "cpu", &[])?;
            let plain = expect_in_every_way(&load(package.path())?, &spec, &reference, FP16_LIMIT);
            assert!(plain.is_err());
            Ok(())
        },
    );
}

#[test]
fn baked_in_quantized_packages_compute_with_rounded_weights_and_the_adapter() {
    for_each(
        &RECORDED,
        |(name, _)| (*name).to_owned(),
        |(name, base)| {
            let folder = adapter(name);
            let checkpoint = Checkpoint::open(&fixture(base))?.with_adapter("a", &folder)?;
            let spec = spec(&fixture(base))?;
            for (precision, bits) in [(Precision::Int4, 4), (Precision::Int8, 8)] {
                for provider in spellings(precision) {
                    let target = Target::find(provider)?;
                    let (scale_dtype, limit) = match target.cell(precision).map(|cell| cell.activations) {
                        Some(Activations::F32) => (ScaleDtype::F32, FP32_LIMIT),
                        _ => (ScaleDtype::F16, FP16_LIMIT),
                    };
                    let (scheme, tables) = (IntScheme::new(bits, 32, true)?, Tables::of(target.form));
                    let reference = recorded_logits(&folder)?;
                    let reference = rounded_logits_of(&checkpoint, reference, scheme, scale_dtype, tables)?;
                    let baked_in = baked_in(&folder);
                    let level: &[&str] = if target.accuracy_level == 0 { &[] } else { &["accuracy_level=0"] };
                    let options = [&[baked_in.as_str()], level].concat();
                    let package = build(&fixture(base), precision.name(), provider, &options)?;
                    let outcome = expect_in_every_way(&load(package.path())?, &spec, &reference, limit);
                    outcome.map_err(|error| format!("{} {provider}: {error}", precision.name()))?;
                }
            }
            Ok(())
        },
    );
}

/// An adapter of random updates of every linear of a model, fused ones as they are stored.
fn everywhere(spec: &DecoderSpec) -> TempDir {
    let mut shapes: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for linear in linears(spec) {
        shapes.insert(&linear.path, [linear.bias_length(), linear.in_features]);
    }
    let mut state = 1u32;
    let mut random = |size: f32| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
    };
    const RANK: usize = 3;
    let mut tensors = BTreeMap::new();
    for (path, [outputs, inputs]) in shapes {
        for (part, shape, size) in
            [("A", vec![RANK, inputs], 1.7), ("B", vec![outputs, RANK], 0.5 / (inputs as f32).sqrt())]
        {
            let data = (0..shape.iter().product()).flat_map(|_| random(size).to_le_bytes()).collect();
            let name = format!("base_model.model.{path}.lora_{part}.weight");
            tensors.insert(name, Stored { dtype: Dtype::F32, shape, data });
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 2.5});
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), safetensors_bytes(tensors.iter())).unwrap();
    folder
}

fn linears(spec: &DecoderSpec) -> Vec<&Linear> {
    let mut linears = Vec::new();
    for layer in &spec.layers {
        let Mixer::Attention(attention) = &layer.mixer;
        linears.extend([&attention.q, &attention.o]);
        linears.extend(attention.key_value.linears());
        match &layer.mlp {
            Mlp::Gated { gate, up, down, .. } => linears.extend([gate, up, down]),
            Mlp::Plain { up, down, .. } => linears.extend([up, down]),
            Mlp::ClampedGate { gate_up, down, .. } => linears.extend([gate_up, down]),
        }
    }
    if let LmHead::Own(head) = &spec.lm_head {
        linears.push(head);
    }
    linears
}

#[test]
fn every_linear_of_every_family_can_be_changed() {
    for_each(&recorded(), String::clone, |name| {
        if name.starts_with("tales-") {
            return Ok(());
        }
        let spec = spec(&fixture(name))?;
        let folder = everywhere(&spec);
        let plain = recorded_logits(&fixture(name))?;
        let checkpoint = Checkpoint::open(&fixture(name))?.with_adapter("a", folder.path())?;
        let continued = |prompt: &genai_validate::PromptReference| Continued {
            name: prompt.name.clone(),
            prompt: prompt.input_ids.clone(),
            continuation: Vec::new(),
        };
        let prompts: Vec<_> = plain.prompts.iter().take(2).map(continued).collect();
        let reference = Reference::interpret(&spec, &checkpoint, checkpoint.adapters().first(), &prompts)?;
        let package = build(&fixture(name), "fp32", "cpu", &[&baked_in(folder.path())])?;
        let model = load(package.path())?;
        expect_logits(&model, &reference, Way::AtOnce(CacheMode::Growing), FP32_LIMIT)?;
        // The adapter is heard.
        let plain = Reference { prompts: plain.prompts.into_iter().take(2).collect(), ..reference };
        assert!(expect_logits(&model, &plain, Way::AtOnce(CacheMode::Growing), 0.1).is_err());
        Ok(())
    });
}

#[test]
fn swappable_packages_meet_the_logits_of_each_adapter_and_of_none() -> Outcome {
    let (attention, patterns) = (adapter("llama-attention"), adapter("llama-patterns"));
    let package = swappable("llama-default", "fp32", &[("attention", &attention), ("patterns", &patterns)])?;
    let model = load(package.path())?;
    let (plain, spec) = (recorded_logits(&fixture("llama-default"))?, spec(&fixture("llama-default"))?);
    expect_in_every_way(&model, &spec, &plain, FP32_LIMIT)?;
    // Ranks differ from adapter to adapter and from linear to linear, and one adapter leaves most linears alone.
    for (name, folder) in [("attention", &attention), ("patterns", &patterns), ("attention", &attention)] {
        let file = package.path().join(format!("{name}.onnx_adapter"));
        expect_with_adapter(&model, &file, &recorded_logits(folder)?, FP32_LIMIT)?;
    }
    expect_in_every_way(&model, &spec, &plain, FP32_LIMIT)?;

    for (name, base) in [("phi3-fused", "phi3-window"), ("gpt2-columns", "gpt2-default")] {
        let package = swappable(base, "fp32", &[("one", &adapter(name))])?;
        let model = load(package.path())?;
        let spec = self::spec(&fixture(base))?;
        expect_in_every_way(&model, &spec, &recorded_logits(&fixture(base))?, FP32_LIMIT)?;
        let file = package.path().join("one.onnx_adapter");
        expect_with_adapter(&model, &file, &recorded_logits(&adapter(name))?, FP32_LIMIT)?;
    }
    Ok(())
}

#[test]
fn swappable_packages_of_other_precisions_and_providers_run_their_adapters() {
    let (base, folder) = ("llama-default", adapter("llama-patterns"));
    // Adapters of fixed sizes are refused, see `fixed_sizes.rs`.
    let takes_some = |provider: &&str, precision| {
        let cell = Target::find(provider).unwrap().cell(precision);
        cell.is_some_and(|cell| cell.attention != AttentionForm::Fixed)
    };
    let of = |precision| {
        let providers = spellings(precision).into_iter().filter(move |provider| takes_some(provider, precision));
        providers.map(move |provider| (precision, provider))
    };
    let cases: Vec<_> =
        [Precision::Fp32, Precision::Fp16, Precision::Int4, Precision::Int8].into_iter().flat_map(of).collect();
    for_each(
        &cases,
        |(precision, provider)| format!("{} {provider}", precision.name()),
        |(precision, provider)| {
            let target = Target::find(provider)?;
            let (scale_dtype, limit) = match target.cell(*precision).map(|cell| cell.activations) {
                Some(Activations::F32) => (ScaleDtype::F32, FP32_LIMIT),
                _ => (ScaleDtype::F16, FP16_LIMIT),
            };
            let plain = Checkpoint::open(&fixture(base))?;
            let adapted = plain.clone().with_adapter("a", &folder)?;
            let (mut without, mut with) = (recorded_logits(&fixture(base))?, recorded_logits(&folder)?);
            if let Some(bits) = precision.bits() {
                let (scheme, tables) = (IntScheme::new(bits, 32, true)?, Tables::of(target.form));
                without = rounded_logits_of(&plain, without, scheme, scale_dtype, tables)?;
                with = rounded_logits_of(&adapted, with, scheme, scale_dtype, tables)?;
            }
            let package = swappable_for(base, precision.name(), provider, &[("a", &folder)])?;
            let model = load(package.path())?;
            expect_in_every_way(&model, &spec(&fixture(base))?, &without, limit)?;
            expect_with_adapter(&model, &package.path().join("a.onnx_adapter"), &with, limit)
        },
    );
}

#[test]
fn validation_knows_of_the_adapter() -> Outcome {
    // Without recorded logits, so that the interpreter has to know of the adapter too.
    let base = Altered::copy_of("llama-default").without("reference.npz");
    let folder = Altered::copy_of("adapters/llama-patterns").without("reference.npz");
    let validated = |options: &[String]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(base.path(), "fp32", "cpu", &output.path().join("package"));
        arguments.extend(["--validate".to_owned(), "--json".to_owned()]);
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().cloned());
        let report: Value = serde_json::from_str(&genai_build(arguments).success().unwrap()).unwrap();
        (output, report)
    };
    let (output, report) = validated(&["--extra_options".to_owned(), baked_in(folder.path())]);
    assert_eq!(report["parity"]["verdict"], "pass", "{report:#}");
    let (swappable, report) = validated(&["--adapter".to_owned(), format!("tales={}", folder.path().display())]);
    assert_eq!(report["parity"]["verdict"], "pass", "{report:#}");
    let prompts = report["parity"]["prompts"].as_array().unwrap();
    let of_adapter = prompts.iter().filter(|prompt| prompt["name"].as_str().unwrap().starts_with("tales/")).count();
    assert_eq!((of_adapter, prompts.len()), (3, 6), "{report:#}");

    let check = |package: &TempDir, options: &[&str]| {
        let package = package.path().join("package");
        let mut arguments = vec!["validate".to_owned(), package.display().to_string(), "-p".into(), "fp32".into()];
        arguments.extend(["--checkpoint".to_owned(), base.path().display().to_string()]);
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        genai_build(arguments).code
    };
    let dir = folder.path().display().to_string();
    assert_eq!(check(&output, &["--adapter-path", &dir]), 0);
    assert_eq!(check(&output, &[]), 10, "a package with an adapter is not that of the base");
    assert_eq!(check(&swappable, &[]), 0);
    assert_eq!(check(&swappable, &["--adapter", &format!("tales={dir}")]), 0);
    let other = adapter("llama-attention").display().to_string();
    assert_eq!(check(&swappable, &["--adapter", &format!("tales={other}")]), 10, "another adapter than this");
    Ok(())
}

#[test]
fn an_adapter_can_be_run_and_planned() -> Outcome {
    let folder = adapter("llama-attention");
    let package = swappable("llama-default", "fp32", &[("tales", &folder)])?;
    let run = |options: &[&str]| {
        let mut arguments = vec!["run".to_owned(), package.path().display().to_string()];
        arguments.extend(["--prompt", "Once upon a time", "-n", "12"].map(str::to_owned));
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        genai_build(arguments)
    };
    let baked = build(&fixture("llama-default"), "fp32", "cpu", &[&baked_in(&folder)])?;
    let with = run(&["--adapter", "tales"]).success()?;
    assert_ne!(with, run(&[]).success()?);
    let baked = ["run", baked.path().to_str().unwrap(), "--prompt", "Once upon a time", "-n", "12"].map(str::to_owned);
    assert_eq!(with, genai_build(baked.into_iter().chain(runtime_arguments())).success()?);
    run(&["--adapter", "../tales"]).failed(2, &["the package has no adapter", "--adapter NAME=DIR"])?;

    let input = fixture("llama-default").display().to_string();
    let typed = format!("tales={}", folder.display());
    let plan = ["plan", "-i", &input, "-p", "fp32", "-e", "cpu", "--json", "--adapter", &typed];
    let plan: Value = serde_json::from_str(&genai_build(plan).success()?)?;
    let length = fs::metadata(package.path().join("tales.onnx_adapter"))?.len();
    assert_eq!(plan["adapters"], json!({"tales.onnx_adapter": length}));
    Ok(())
}
