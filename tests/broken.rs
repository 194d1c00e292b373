//! Parity has teeth: packages damaged on purpose do not pass.
//!
//! Each case is built, taken apart and put together again, which must pass, and then damaged in one place, which must
//! fail. Ambiguous is not enough.

use std::path::Path;

use genai_quantize::{IntScheme, ScaleDtype};
use genai_validate::{CacheMode, ParityReport, Precision, Reference, Verdict, compare_prompts};
use serde_json::{Value, json};

use crate::parts::Parts;
use crate::reference::{Tables, recorded_logits, rounded_logits};
use crate::support::{
    Altered, Outcome, build, build_arguments, contents, fixture, for_each, genai_build, load, runtime_arguments, spec,
};

/// What is built before it is broken.
#[derive(Clone, Copy)]
enum Built {
    Fp32,
    Int4,
    /// With zero points.
    Int4Asymmetric,
}

use Built::{Fp32, Int4, Int4Asymmetric};

type Damage = fn(&mut Parts);

/// Wrong numbers: what, in which fixture, in which form, and how.
const DAMAGES: &[(&str, &str, Built, Damage)] = &[
    ("attention scale of one layer 2 % up", "llama-default", Fp32, |p| *p.float(&gqa(1), "scale") *= 1.02),
    ("window one longer", "mistral-window", Fp32, |p| *p.int(&gqa(0), "local_window_size") += 1),
    ("window one shorter", "mistral-window", Fp32, |p| *p.int(&gqa(2), "local_window_size") -= 1),
    ("window on a layer without", "qwen3-window", Fp32, |p| *p.int(&gqa(1), "local_window_size") = 16),
    ("softcap on the scores", "llama-default", Fp32, |p| *p.float(&gqa(0), "softcap") = 20.0),
    ("pairs of neighbours rotated", "llama-default", Fp32, |p| *p.int(&gqa(0), "rotary_interleaved") = 1),
    ("cosines and sines change places", "llama-default", Fp32, |p| p.node(&gqa(2)).input.swap(7, 8)),
    ("no rotation", "llama-default", Fp32, |p| *p.int(&gqa(0), "do_rotary") = 0),
    ("rotation table zero from position 64 on", "llama-default", Fp32, |p| {
        let table = p.data("cos_cache");
        let row = table.len() / 256;
        table[64 * row..].fill(0);
    }),
    ("epsilon doubled", "llama-default", Fp32, |p| {
        *p.float("/model/layers.1/input_layernorm/SkipLayerNorm", "epsilon") *= 2.0;
    }),
    ("epsilon of the head norms a hundred times", "qwen3-default", Fp32, |p| {
        *p.float("/model/layers.0/attn/q_norm/SimplifiedLayerNormalization", "epsilon") *= 100.0;
    }),
    ("q and k norm weights change places", "qwen3-default", Fp32, |p| {
        let [q, k] = ["q", "k"].map(|part| format!("model.layers.1.attn.{part}_norm.layernorm.weight"));
        p.exchange(&q, &k);
    }),
    ("norm weights of two layers change places", "llama-default", Fp32, |p| {
        p.exchange("model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight");
    }),
    ("gate and up change places", "llama-default", Fp32, |p| {
        p.exchange("model.layers.0.mlp.gate_proj.MatMul.weight", "model.layers.0.mlp.up_proj.MatMul.weight");
    }),
    ("SiLU without its linear part", "llama-default", Fp32, |p| {
        let activation = p.node("/model/layers.2/mlp/act_fn/Mul");
        "Identity".clone_into(activation.op_type.as_mut().unwrap());
        activation.input.remove(0);
    }),
    ("residual taken after the norm", "llama-default", Fp32, |p| {
        let normed = p.node("/model/layers.1/input_layernorm/SkipLayerNorm").output[0].clone();
        p.node("/model/layers.1/post_attention_layernorm/SkipLayerNorm").input[0] = normed;
    }),
    ("residual left out", "qwen2-default", Fp32, |p| {
        let skip = p.node("/model/layers.1/post_attention_layernorm/SkipLayerNorm");
        skip.input[0] = skip.input[1].clone();
    }),
    ("bias of q, k and v left out", "qwen2-default", Fp32, |p| p.remove_add("/model/layers.0/attn/qkv_proj/Add")),
    ("bias of o left out", "qwen3-bias", Fp32, |p| p.remove_add("/model/layers.1/attn/o_proj/Add")),
    ("bias of down left out", "llama-bias", Fp32, |p| p.remove_add("/model/layers.2/mlp/down_proj/Add")),
    ("past keys and values change places", "llama-default", Fp32, |p| p.node(&gqa(0)).input.swap(3, 4)),
    ("the cache of another layer", "llama-default", Fp32, |p| {
        let past = p.node(&gqa(1)).input[3].clone();
        p.node(&gqa(0)).input[3] = past;
    }),
    ("last row of the head zero", "llama-default", Fp32, |p| {
        // Stored [k, n]: the last column.
        for row in p.data("lm_head.MatMul.weight").chunks_exact_mut(331 * 4) {
            row[330 * 4..].fill(0);
        }
    }),
    ("embeddings one token late", "llama-default", Fp32, |p| {
        p.data("model.embed_tokens.weight").rotate_right(72 * 4);
    }),
    ("dynamic rope that never grows", "llama-dynamic", Fp32, |p| {
        let least = p.node("/model/rotary_emb/Max").input[1].clone();
        p.node("/model/rotary_emb/stretch/Mul").input[0] = least;
    }),
    ("scale of one block doubled", "llama-default", Int4, |p| {
        let scales = p.data("model.layers.0.mlp.down_proj.MatMul.weight_scales");
        let scale = f32::from_le_bytes(scales[..4].try_into().unwrap());
        scales[..4].copy_from_slice(&(2.0 * scale).to_le_bytes());
    }),
    ("high bit of one code", "llama-default", Int4, |p| {
        p.data("model.layers.1.attn.o_proj.MatMul.weight_Q4")[0] ^= 0x80;
    }),
    ("low and high codes change places", "qwen3-tied", Int4, |p| {
        let codes = p.data("model.layers.0.mlp.gate_proj.MatMul.weight_Q4");
        codes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
    }),
    ("last quantized row zero", "llama-tied", Int4, |p| {
        let scales = p.data("lm_head.MatMul.weight_scales");
        let row = scales.len() / 331;
        scales[330 * row..].fill(0);
    }),
    ("zero points left out", "llama-default", Int4Asymmetric, |p| {
        p.node("/model/layers.0/mlp/up_proj/MatMul_Q4").input.truncate(3);
    }),
    ("zero point of one block off by one", "llama-default", Int4Asymmetric, |p| {
        p.data("model.layers.0.attn.qkv_proj.MatMul.weight_zero_points")[0] ^= 0x01;
    }),
    ("output of another layer as a cache", "llama-default", Fp32, |p| {
        let present = p.node(&gqa(0)).output[1].clone();
        let other = std::mem::replace(&mut p.node(&gqa(1)).output[1], "lost".to_owned());
        p.rename(&present, &other);
    }),
];

/// Contradictions, which are refused with these words: what, how, and why it does not load.
const CONTRADICTIONS: &[(&str, Damage, &str)] = &[
    ("two kv heads read as one", |p| *p.int(&gqa(0), "kv_num_heads") = 1, "GroupQueryAttention"),
    ("query heads read as kv heads", |p| *p.int(&gqa(0), "num_heads") = 2, "GroupQueryAttention"),
    ("another vocabulary", |p| p.configure("model.vocab_size", 325), "`logits` has 331 columns"),
    ("no context", |p| p.configure("model.context_length", 0), "model.context_length"),
    ("a search past the context", |p| p.configure("search.max_length", 257), "at most model.context_length 256"),
    ("no end token", |p| p.configure("model.eos_token_id", json!([])), "model.eos_token_id"),
    ("a negative end token", |p| p.configure("model.eos_token_id", -1), "model.eos_token_id"),
    ("other names of the cache", |p| p.configure("model.decoder.inputs.past_key_names", "past.%d.key"), "past.0.key"),
    ("another graph", |p| p.configure("model.decoder.filename", "decoder.onnx"), "decoder.onnx"),
    ("a graph outside the folder", |p| p.configure("model.decoder.filename", "../model.onnx"), "filename"),
    ("a data file cut short", |p| p.data.truncate(p.data.len() - 64), "out of bounds"),
    ("a missing input", |p| p.node(&gqa(0)).input[3].push_str(".gone"), "gone"),
];

#[test]
fn damaged_packages_fail_parity() {
    for_each(
        DAMAGES,
        |(what, ..)| (*what).to_owned(),
        |(_, name, built, damage)| {
            let checkpoint = fixture(name);
            let (reference, package) = match built {
                Fp32 => (recorded_logits(&checkpoint)?, build(&checkpoint, "fp32", "cpu", &[])?),
                Int4 => int4(&checkpoint, true)?,
                Int4Asymmetric => int4(&checkpoint, false)?,
            };
            let parameters = spec(&checkpoint)?.num_parameters();
            let mut parts = Parts::read(package.path())?;
            let folder = tempfile::tempdir()?;
            parts.write(folder.path())?;
            let whole = judge(folder.path(), &reference, parameters)?;
            assert_eq!(whole.verdict, Verdict::Pass, "before the damage: {whole}");

            let before = parts.clone();
            damage(&mut parts);
            assert!(parts != before, "no damage was done");
            parts.write(folder.path())?;
            let report = judge(folder.path(), &reference, parameters)?;
            if report.verdict == Verdict::Fail { Ok(()) } else { Err(report.to_string().into()) }
        },
    );
}

#[test]
fn contradictory_packages_do_not_load() {
    let whole = build(&fixture("llama-default"), "fp32", "cpu", &[]).unwrap();
    for_each(
        CONTRADICTIONS,
        |(what, ..)| (*what).to_owned(),
        |(_, damage, why)| {
            let mut parts = Parts::read(whole.path())?;
            damage(&mut parts);
            let folder = tempfile::tempdir()?;
            parts.write(folder.path())?;
            match load(folder.path()) {
                Ok(_) => Err("it loads".into()),
                Err(error) if error.to_string().contains(why) => Ok(()),
                Err(error) => Err(format!("{error}, which does not say {why:?}").into()),
            }
        },
    );
}

fn int4(checkpoint: &Path, symmetric: bool) -> Outcome<(Reference, tempfile::TempDir)> {
    let reference = rounded_logits(checkpoint, IntScheme::new(4, 32, symmetric)?, ScaleDtype::F32, Tables::Rounded)?;
    let options = ["accuracy_level=0", &format!("is_symmetric={symmetric}")];
    Ok((reference, build(checkpoint, "int4", "cpu", &options)?))
}

fn judge(package: &Path, reference: &Reference, parameters: u64) -> Outcome<ParityReport> {
    let prompts = compare_prompts(&load(package)?, reference, CacheMode::Growing, None)?;
    Ok(ParityReport::new(Precision::Fp32, parameters, reference.name.clone(), prompts)?)
}

/// The fixture, the key of its config, and the value that is read there.
type Misreading = (&'static str, &'static str, fn() -> Value);

/// Checkpoints whose config says something else than they were made with: what a wrong `describe` would build.
const MISREAD: &[Misreading] = &[
    ("llama-default", "rms_norm_eps", || json!(0.006)),
    ("llama-default", "hidden_act", || json!("gelu_pytorch_tanh")),
    ("llama-default", "rope_parameters.rope_theta", || json!(550.0)),
    ("llama-linear", "rope_scaling.factor", || json!(4.1)),
    ("llama-dynamic", "rope_scaling.factor", || json!(3.1)),
    ("llama-dynamic", "max_position_embeddings", || json!(33)),
    ("llama-llama3", "rope_scaling.factor", || json!(7.5)),
    ("llama-llama3", "rope_scaling.low_freq_factor", || json!(1.1)),
    ("llama-llama3", "rope_scaling.high_freq_factor", || json!(4.4)),
    ("llama-llama3", "rope_scaling.original_max_position_embeddings", || json!(128)),
    ("llama-yarn", "rope_parameters.factor", || json!(4.2)),
    ("llama-yarn", "rope_parameters.beta_fast", || json!(8.0)),
    ("llama-yarn", "rope_parameters.beta_slow", || json!(0.5)),
    ("llama-yarn", "rope_parameters.original_max_position_embeddings", || json!(128)),
    ("llama-yarn-attention", "rope_parameters.attention_factor", || json!(1.3)),
    ("llama-yarn-mscale", "rope_parameters.mscale", || json!(0.9)),
    ("llama-yarn-mscale", "rope_parameters.mscale_all_dim", || json!(0.5)),
    ("llama-yarn-mscale", "rope_parameters.truncate", || json!(true)),
    ("mistral-window", "sliding_window", || json!(15)),
    ("mistral-window", "sliding_window", || json!(17)),
    ("qwen2-default", "use_sliding_window", || json!(true)),
    ("qwen2-window", "max_window_layers", || json!(0)),
    ("qwen2-window", "max_window_layers", || json!(2)),
    ("qwen3-window", "layer_types", || json!(["full_attention", "sliding_attention", "sliding_attention"])),
];

#[test]
fn a_misread_config_fails_validation_and_leaves_no_package() {
    for_each(
        MISREAD,
        |(name, key, value)| format!("{name} {key} = {}", value()),
        |(name, key, value)| {
            let altered = Altered::copy_of(name).config(key, value());
            assert_ne!(contents(altered.path()), contents(&fixture(name)), "nothing was altered");
            let place = tempfile::tempdir()?;
            let mut arguments = build_arguments(altered.path(), "fp32", "cpu", &place.path().join("package"));
            arguments.push("--validate".to_owned());
            arguments.extend(runtime_arguments());
            genai_build(arguments).failed(10, &["validation failed, nothing was written", "reference.npz"])?;
            assert_eq!(contents(place.path()).len(), 0);
            Ok(())
        },
    );
}

fn gqa(layer: usize) -> String {
    format!("/model/layers.{layer}/attn/GroupQueryAttention")
}
