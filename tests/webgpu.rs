//! Packages on the WebGPU provider of ONNX Runtime, where there is one. No GPU is needed: a Vulkan that computes on the
//! CPU will do.
//!
//! `GENAI_BUILD_WEBGPU_ORT_LIB` names an ONNX Runtime with the provider, `VK_ICD_FILENAMES` the Vulkan driver that it is
//! to use, if not the machine's. `tests/webgpu_setup.sh FOLDER` fetches both and prints the variables. Without the first
//! one these tests say so and check nothing.
//!
//! A binary of its own, because a process can load only one ONNX Runtime.

#[allow(dead_code, reason = "shared with the other tests")]
mod reference;
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use genai_quantize::{IntScheme, ScaleDtype};
use genai_validate::{
    CacheMode, Config, LoadOptions, Matrix, Model, PromptReference, Provider, Reference, Runtime, continue_greedily,
    metrics, runtime,
};

use reference::{Tables, Way, logits, recorded_logits, rounded_logits};
use support::{Outcome, build, fixture, tell};

const LIBRARY: &str = "GENAI_BUILD_WEBGPU_ORT_LIB";

/// How far a logit may be off, in units of the spread of the logits: as on the CPU in fp32.
const LIMIT: f64 = 1e-4;

/// The most tokens at once. From 32 on ONNX Runtime takes a shader that is wrong where less than 8 invocations make a
/// subgroup (flash_attention.wgsl.template computes 8 products for each), and a Vulkan on the CPU has 4.
const AT_ONCE: usize = 24;

/// What only counts and looks up, integers of a whole step, which ONNX Runtime leaves to the CPU by choice: lengths, and
/// the places of tokens where attention is spelled out.
const BOOKKEEPING: [&str; 8] = ["Cast", "CumSum", "Gather", "Greater", "ReduceSum", "Shape", "Sub", "Unsqueeze"];

#[test]
fn packages_compute_on_webgpu_what_they_should() -> Outcome {
    let Some(device) = device()? else { return Ok(()) };
    // Windows are of 16 tokens; Qwen 3 and Gemma mix kinds of layers, and Gemma 2 caps scores.
    for (checkpoint, precisions) in [
        ("llama-default", &["fp32", "int4", "int8"][..]),
        ("qwen3-window", &["int4"]),
        ("gemma2-default", &["int4"]),
        ("gemma3-listed", &["int4"]),
        ("phi3-window", &["fp32"]),
        ("llama-tied", &["fp32"]),
        ("tales-llama", &["int4"]),
    ] {
        for precision in precisions {
            let began = Instant::now();
            let worst = expect_right(&device.runtime, checkpoint, precision)
                .map_err(|problem| format!("{checkpoint} {precision}: {problem}"))?;
            let seconds = began.elapsed().as_secs_f32();
            tell(&format!("webgpu {checkpoint} {precision}: off by {worst:.1e} of the spread, {seconds:.1} s"));
        }
    }
    Ok(())
}

/// The library, for as long as no other test uses the device: two sessions being made at once crash the process.
struct Device {
    runtime: Runtime,
    _alone: MutexGuard<'static, ()>,
}

fn device() -> Outcome<Option<Device>> {
    static DEVICE: Mutex<()> = Mutex::new(());
    match env::var_os(LIBRARY) {
        Some(path) => {
            let runtime = runtime::find(Some(Path::new(&path)))?;
            Ok(Some(Device { runtime, _alone: DEVICE.lock().unwrap_or_else(PoisonError::into_inner) }))
        }
        None => {
            tell(&format!("skipped: {LIBRARY} names no ONNX Runtime with WebGPU; see tests/webgpu_setup.sh"));
            Ok(None)
        }
    }
}

/// The logits in every way, the same tokens as on the CPU with either cache, and every node that computes on the device.
/// Returns how far a logit is off at most.
fn expect_right(runtime: &Runtime, checkpoint: &str, precision: &str) -> Outcome<f64> {
    // Activations in int8 would be off by percents, and a Vulkan on the CPU has none in fp16.
    let quantized = &["accuracy_level=0", "use_webgpu_fp32=true"][..];
    let (matrix, bits, options) = match precision {
        "fp32" => ("MatMul", None, &[][..]),
        "int4" => ("MatMulNBits", Some(4), quantized),
        _ => ("MatMulNBits", Some(8), quantized),
    };
    let folder = build(&fixture(checkpoint), precision, "webgpu", options)?;
    let package = Config::open(folder.path())?;
    let mut whole = match bits {
        None => recorded_logits(&fixture(checkpoint))?,
        Some(bits) => {
            let scheme = IntScheme::new(bits, 32, true)?;
            rounded_logits(&fixture(checkpoint), scheme, ScaleDtype::F32, Tables::Rounded)?
        }
    };
    // In steps the first half of a prompt goes in at once.
    whole.prompts.retain(|prompt| prompt.input_ids.len() < 2 * AT_ONCE);
    whole.prompts.truncate(2);
    let parts = beginnings(&whole)?;

    let profiles = tempfile::tempdir()?;
    let options = LoadOptions {
        provider: Provider::WebGpu,
        profile: Some(profiles.path().join("profile")),
        ..LoadOptions::default()
    };
    let model = Arc::new(Model::load(&package, runtime, options)?);
    let mut worst: f64 = 0.0;
    let shared = model.shares_buffer();
    for (reference, way) in [
        (&parts, Way::AtOnce(CacheMode::Growing)),
        (&parts, Way::AtOnce(CacheMode::Shared)),
        (&parts, Way::InABatch),
        (&whole, Way::InSteps(CacheMode::Growing)),
        (&whole, Way::InSteps(CacheMode::Shared)),
    ] {
        if way.shares_buffer() && !shared {
            continue;
        }
        let logits = logits(&model, reference, way)?;
        assert!(logits.len() == 2, "{} prompts", logits.len());
        for (prompt, logits) in reference.prompts.iter().zip(&logits) {
            let metrics = metrics::compare(&prompt.logits, logits)?;
            let share = metrics.max_abs / metrics.reference_std.max(1.0);
            if metrics.first_non_finite.is_some() || share > LIMIT {
                return Err(format!("{} {way:?}: {metrics:?}", prompt.name).into());
            }
            worst = worst.max(share);
        }
    }
    let on_cpu = Arc::new(Model::load(&package, runtime, LoadOptions::default())?);
    let prompt = parts.prompts.first().ok_or("no prompt was recorded")?;
    for cache in [CacheMode::Growing].into_iter().chain(shared.then_some(CacheMode::Shared)) {
        let there = continue_greedily(&model, &prompt.input_ids, 8, cache, None)?;
        let here = continue_greedily(&on_cpu, &prompt.input_ids, 8, cache, None)?;
        if there != here {
            return Err(format!("{cache:?} cache: {there:?}, on the CPU {here:?}").into());
        }
    }

    let placement = model.placement()?;
    // Where it has the op's cache it has the op.
    placement.expect(if shared { "GroupQueryAttention" } else { "Softmax" }, Provider::WebGpu)?;
    placement.expect(matrix, Provider::WebGpu)?;
    let elsewhere = placement.nodes().iter().filter(|placed| placed.provider != Provider::WebGpu.name());
    let left: Vec<_> = elsewhere.filter(|placed| !BOOKKEEPING.contains(&placed.op_type.as_str())).collect();
    if left.is_empty() { Ok(worst) } else { Err(format!("not on the device: {left:?}").into()) }
}

/// The prompts cut to what may go in at once, with their logits: what follows has no part in these.
fn beginnings(reference: &Reference) -> Outcome<Reference> {
    let cut = |prompt: &PromptReference| -> Outcome<_> {
        let (length, cols) = (prompt.input_ids.len().min(AT_ONCE), prompt.logits.cols());
        let logits = prompt.logits.data().iter().take(length * cols).copied().collect();
        Ok(PromptReference {
            name: prompt.name.clone(),
            input_ids: prompt.input_ids.iter().take(length).copied().collect(),
            logits: Matrix::new(length, cols, logits)?,
            greedy: Vec::new(),
        })
    };
    let prompts = reference.prompts.iter().map(cut).collect::<Outcome<_>>()?;
    Ok(Reference { name: reference.name.clone(), prompts })
}

/// fp16 needs a device with 16-bit shaders. One that lacks them has to say so.
#[test]
fn fp16_runs_or_is_refused_by_the_device() -> Outcome {
    let Some(device) = device()? else { return Ok(()) };
    let folder = build(&fixture("llama-default"), "fp16", "webgpu", &[])?;
    let options = LoadOptions { provider: Provider::WebGpu, ..LoadOptions::default() };
    let model = Arc::new(Model::load(&Config::open(folder.path())?, &device.runtime, options)?);
    let reference = beginnings(&recorded_logits(&fixture("llama-default"))?)?;
    match logits(&model, &reference, Way::AtOnce(CacheMode::Growing)) {
        Err(error) if error.to_string().contains("requires f16 but the device does not support it") => {
            tell(&format!("skipped: fp16 on WebGPU: {error}"));
        }
        Err(error) => return Err(error),
        Ok(logits) => {
            for (prompt, logits) in reference.prompts.iter().zip(&logits) {
                let metrics = metrics::compare(&prompt.logits, logits)?;
                assert!(metrics.max_abs < 0.1 * metrics.reference_std.max(1.0), "{}: {metrics:?}", prompt.name);
            }
        }
    }
    Ok(())
}
