//! Caches that are not of the dtype of activations: what they are on disk, what they compute, and what is refused.

use std::fs;
use std::path::Path;

use genai_architectures::{Mixer, Rope, RopeScaling};
use genai_builder::CacheScheme;
use genai_onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto,
};
use genai_validate::{CacheMode, CachedTensor};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reference::{WAYS, Way, expect_logits, logits, recorded_logits, sequence};
use crate::support::{
    Outcome, build, build_arguments, contents, fixture, for_each, genai_build, load, recorded, runtime_arguments, spec,
};

/// Scales of a checkpoint's caches for `int8`: the largest magnitudes over the recorded prompts by 128, of a plain
/// package. `[layer][key, value][head, dimension]`.
pub(crate) fn channel_scales(name: &str) -> Outcome<Vec<[Vec<f32>; 2]>> {
    let plain = build(&fixture(name), "fp32", "cpu", &[])?;
    let model = load(plain.path())?;
    let spec = spec(&fixture(name))?;
    let mut scales: Vec<[Vec<f32>; 2]> = Vec::new();
    for prompt in &recorded_logits(&fixture(name))?.prompts {
        let mut sequence = sequence(&model, prompt.input_ids.len(), CacheMode::Growing)?;
        sequence.append(&prompt.input_ids)?;
        for (tensor, CachedTensor { shape, values, .. }) in sequence.cached()?.into_iter().enumerate() {
            let (layer, part) = (tensor / 2, tensor % 2);
            let &[1, heads, tokens, width] = shape.as_slice() else { return Err(format!("{shape:?}").into()) };
            let Mixer::Attention(attention) = &spec.layers[layer].mixer;
            // Scales are for the heads of the model, without zeros behind them.
            let head_dim = attention.head_dim;
            if scales.len() <= layer {
                scales.push([vec![1e-6; heads * head_dim], vec![1e-6; heads * head_dim]]);
            }
            for (index, value) in values.iter().enumerate() {
                let (head, dimension) = (index / (tokens * width), index % width);
                if dimension < head_dim {
                    let scale = &mut scales[layer][part][head * head_dim + dimension];
                    *scale = scale.max(value.abs() / 128.0);
                }
            }
        }
    }
    Ok(scales)
}

/// The text of a scale file.
pub(crate) fn scale_file(scales: &[[Vec<f32>; 2]], per_channel: bool) -> String {
    let part = |part: usize| -> Vec<Value> {
        let entry = |layer: &[Vec<f32>; 2]| match per_channel {
            true => json!(layer[part]),
            false => json!([layer[part].iter().copied().fold(0.0, f32::max)]),
        };
        scales.iter().map(entry).collect()
    };
    json!({"scales": {"k_scales": part(0), "v_scales": part(1)}, "qmax": 128}).to_string()
}

/// Builds with a scheme and the text of a scale file.
fn quantized(name: &str, precision: &str, provider: &str, scheme: &str, text: &str) -> Outcome<TempDir> {
    quantized_with(name, precision, provider, scheme, text, &[])
}

pub(crate) fn quantized_with(
    name: &str,
    precision: &str,
    provider: &str,
    scheme: &str,
    text: &str,
    more: &[&str],
) -> Outcome<TempDir> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("scales.json");
    fs::write(&file, text)?;
    let (scheme, file) = (format!("kv_cache_quant_scheme={scheme}"), format!("kv_cache_scale_file={}", file.display()));
    build(&fixture(name), precision, provider, &[&[scheme.as_str(), &file], more].concat())
}

/// The mean difference of logits in units of their spread, at worst over the prompts and the ways to ask for them.
fn off(name: &str, package: &Path) -> Outcome<f64> {
    let spec = spec(&fixture(name))?;
    // What a cache holds for such ropes depends on when it was written.
    let by_length = |rope: &Rope| matches!(rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. });
    let by_length = spec.ropes.iter().any(by_length);
    let reference = recorded_logits(&fixture(name))?;
    let model = load(package)?;
    let mut worst = 0.0_f64;
    for way in WAYS.into_iter().filter(|way| !by_length || matches!(way, Way::AtOnce(_))) {
        for (prompt, logits) in reference.prompts.iter().zip(logits(&model, &reference, way)?) {
            let metrics = genai_validate::metrics::compare(&prompt.logits, &logits)?;
            if metrics.first_non_finite.is_some() {
                return Err(format!("{} {way:?}: not finite", prompt.name).into());
            }
            worst = worst.max(metrics.mean_abs / metrics.reference_std);
        }
    }
    Ok(worst)
}

/// A code of 8 bits is off by up to 0.4 % of the largest value that has its scale, one of 4 bits by 16 times that. What
/// comes of it in the logits of the fixtures is 0.2 to 3 %, 4.6 % for Gemma 3; and 4 to 47 %.
const INT8_LIMIT: f64 = 0.06;

#[test]
fn caches_of_codes_compute_what_they_should() {
    for_each(&recorded(), String::clone, |name| {
        let scales = channel_scales(name)?;
        for scheme in ["int8_per_tensor", "int8_per_channel", "int4_per_tensor", "int4_per_channel"] {
            let text = scale_file(&scales, scheme.ends_with("channel"));
            let off = off(name, quantized(name, "fp32", "cpu", scheme, &text)?.path())?;
            let limit = if scheme.starts_with("int8") { INT8_LIMIT } else { 10.0 * INT8_LIMIT };
            if off > limit {
                return Err(format!("{scheme}: off by {off:.4}, limit {limit}").into());
            }
        }
        Ok(())
    });
}

/// Random weights lose too much at four bits to be compared; a trained model does not.
#[test]
fn a_trained_model_keeps_its_mind_with_any_cache() {
    let scales = channel_scales("tales-llama").unwrap();
    let cases: Vec<(&str, &str, &str, f64)> = vec![
        ("int8_per_tensor", "fp32", "cpu", 0.01),
        ("int8_per_channel", "fp32", "cpu", 0.01),
        ("int4_per_tensor", "fp32", "cpu", 0.1),
        ("int4_per_channel", "fp32", "cpu", 0.1),
        ("int8_per_channel", "fp16", "cpu", 0.01),
        // The same operators as on the CPU, in fp16.
        ("int8_per_channel", "fp16", "cuda", 0.01),
        ("int4_per_channel", "fp16", "cuda", 0.1),
        ("int8_per_tensor", "int8", "cuda", 0.05),
    ];
    for_each(
        &cases,
        |(scheme, precision, provider, _)| format!("{scheme} {precision} {provider}"),
        |(scheme, precision, provider, limit)| {
            let text = scale_file(&scales, scheme.ends_with("channel"));
            let off = off("tales-llama", quantized("tales-llama", precision, provider, scheme, &text)?.path())?;
            if off < *limit { Ok(()) } else { Err(format!("off by {off:.4}, limit {limit}").into()) }
        },
    );
}

/// The check above can fail: it sees scales that are not those of their cache.
#[test]
fn scales_of_other_caches_are_noticed() {
    type Change = fn(&mut Vec<[Vec<f32>; 2]>);
    let changes: [(&str, Change); 4] = [
        ("keys have the scales of values", |scales| scales.iter_mut().for_each(|layer| layer.swap(0, 1))),
        ("layers change places", |scales| scales.reverse()),
        ("heads change places", |scales| scales.iter_mut().for_each(|layer| layer[0].rotate_left(20))),
        ("half of the range", |scales| {
            scales.iter_mut().flatten().flatten().for_each(|scale| *scale /= 2.0);
        }),
    ];
    for_each(
        &changes,
        |(what, _)| (*what).to_owned(),
        |(_, change)| {
            let mut scales = channel_scales("llama-default")?;
            let right = off_of(&scales)?;
            change(&mut scales);
            let wrong = off_of(&scales)?;
            assert!(right < INT8_LIMIT && wrong > 2.0 * right, "right {right:.4}, wrong {wrong:.4}");
            Ok(())
        },
    );
}

fn off_of(scales: &[[Vec<f32>; 2]]) -> Outcome<f64> {
    let text = scale_file(scales, true);
    off("llama-default", quantized("llama-default", "fp32", "cpu", "int8_per_channel", &text)?.path())
}

fn graph(package: &Path) -> Outcome<GraphProto> {
    let model = ModelProto::decode(fs::read(package.join("model.onnx"))?.as_slice())?;
    Ok(model.graph.ok_or("no graph")?)
}

fn config(package: &Path) -> Outcome<Value> {
    Ok(serde_json::from_slice(&fs::read(package.join("genai_config.json"))?)?)
}

/// The element type and the dimensions of a value; -1 where a dimension has a name, and the names.
fn fact(value: &ValueInfoProto) -> (i32, Vec<i64>, Vec<String>) {
    use genai_onnx::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &value.r#type else {
        panic!("no tensor")
    };
    let (mut dims, mut names) = (Vec::new(), Vec::new());
    for dim in &tensor.shape.as_ref().unwrap().dim {
        match dim.value.as_ref().unwrap() {
            DimValue(size) => dims.push(*size),
            DimParam(name) => {
                dims.push(-1);
                names.push(name.clone());
            }
        }
    }
    (tensor.elem_type.unwrap(), dims, names)
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}

fn attention_nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    graph.node.iter().filter(|node| node.op_type() == "GroupQueryAttention").collect()
}

#[test]
fn graph_and_config_say_what_the_cache_holds() {
    let llama = ("llama-default", spec(&fixture("llama-default")).unwrap());
    let Mixer::Attention(attention) = &llama.1.layers[0].mixer;
    let (heads, head_dim) = (attention.num_kv_heads, attention.head_dim);
    let padded = head_dim.next_multiple_of(8);
    let scales = channel_scales(llama.0).unwrap();
    let on = |providers: [&'static str; 2], named: &'static [(&'static str, CacheScheme)]| {
        providers.into_iter().flat_map(move |provider| named.iter().map(move |(scheme, _)| (provider, *scheme)))
    };
    let named = &CacheScheme::NAMED;
    let cases: Vec<_> =
        on(["cpu", "cuda"], &named[..4]).chain(named[4..].iter().map(|(name, _)| ("cuda", *name))).collect();
    assert_eq!(cases.len(), 10);
    for_each(
        &cases,
        |(provider, scheme)| format!("{scheme} {provider}"),
        |(provider, scheme)| {
            let per_channel = scheme.ends_with("channel");
            let package = quantized(llama.0, "fp16", provider, scheme, &scale_file(&scales, per_channel))?;
            let graph = graph(package.path())?;
            let (element, width, bits) = match &scheme[..3] {
                "int" if scheme.starts_with("int8") => (DataType::Int8, padded, 8),
                "int" => (DataType::Uint8, padded / 2, 4),
                _ => (DataType::Float8e4m3fn, padded, 8),
            };
            let caches = graph.input.iter().filter(|value| value.name().starts_with("past_key_values."));
            let caches: Vec<_> =
                caches.chain(graph.output.iter().filter(|value| value.name().starts_with("present."))).collect();
            assert_eq!(caches.len(), 4 * llama.1.layers.len());
            for cache in caches {
                let (found, dims, _) = fact(cache);
                assert_eq!(
                    (found, dims),
                    (element.into(), vec![-1, heads as i64, -1, width as i64]),
                    "{}",
                    cache.name()
                );
            }
            let size = if per_channel { heads * padded } else { 1 };
            for (index, node) in attention_nodes(&graph).into_iter().enumerate() {
                for (place, part) in [(12, "k_scale"), (13, "v_scale")] {
                    let name = format!("model.layers.{index}.attn.{part}");
                    assert_eq!(node.input[place], name);
                    let stored = graph.initializer.iter().find(|tensor| tensor.name() == name).ok_or("no scales")?;
                    assert_eq!(stored.dims, [size as i64]);
                    assert_eq!(stored.data_type, Some(DataType::Float.into()));
                }
                let quant_type = if per_channel { "PER_CHANNEL" } else { "PER_TENSOR" };
                for name in ["k_quant_type", "v_quant_type"] {
                    assert_eq!(attribute(node, name).ok_or(name)?.s(), quant_type.as_bytes());
                }
                assert_eq!(attribute(node, "kv_cache_bit_width").ok_or("no width")?.i(), bits);
            }
            assert_eq!(config(package.path())?["search"]["past_present_share_buffer"], true);
            let record: Value = serde_json::from_slice(&fs::read(package.path().join("genai-build.json"))?)?;
            assert_eq!(record["options"]["kv_cache"]["quant_scheme"], *scheme);
            assert_eq!(record["options"]["kv_cache"]["scales_sha256"].as_str().map(str::len), Some(64));
            Ok(())
        },
    );
}

#[test]
fn scales_that_do_not_fit_the_model_are_refused() {
    let right = channel_scales("llama-default").unwrap();
    type Change = fn(&mut Value);
    let cases: [(&str, i32, Change, &str); 7] = [
        (
            "int8_per_channel",
            5,
            |file| drop(file["scales"]["k_scales"][1].as_array_mut().unwrap().pop()),
            "`k_scales` of layer 1 has",
        ),
        ("int8_per_tensor", 5, |_| (), "expected 1"),
        (
            "int8_per_channel",
            5,
            |file| file["layer_ids"] = json!([1, 2, 3]),
            "has scales for the layers {1, 2, 3}, the model has caches in {0, 1, 2}",
        ),
        (
            "int8_per_channel",
            4,
            |file| drop(file["scales"]["v_scales"].as_array_mut().unwrap().pop()),
            "`v_scales` has 2",
        ),
        (
            "int8_per_channel",
            4,
            |file| file["scales"]["v_scales"][0][3] = json!(-0.5),
            "`v_scales[0]` has a scale of -0.5",
        ),
        ("int8_per_channel", 4, |file| file["qmax"] = json!("big"), "`qmax` is \"big\""),
        ("int8_per_channel", 4, |file| *file = json!({"model": {"scales": []}}), "no list `scales.k_scales`"),
    ];
    for_each(
        &cases,
        |(.., says)| (*says).to_owned(),
        |(scheme, code, change, says)| {
            let mut file: Value = serde_json::from_str(&scale_file(&right, true))?;
            change(&mut file);
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("scales.json");
            fs::write(&path, file.to_string())?;
            refused(
                &[&format!("kv_cache_quant_scheme={scheme}"), &format!("kv_cache_scale_file={}", path.display())],
                "llama-default",
                "cpu",
                *code,
                &["scales.json", says],
            )
        },
    );
}

/// A build with these options ends with the code, says this, and leaves nothing.
fn refused(options: &[&str], name: &str, provider: &str, code: i32, says: &[&str]) -> Outcome {
    let place = tempfile::tempdir()?;
    let precision = if provider == "cpu" { "fp32" } else { "fp16" };
    let mut arguments = build_arguments(&fixture(name), precision, provider, &place.path().join("package"));
    arguments.push("--extra_options".to_owned());
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    genai_build(arguments).failed(code, says)?;
    assert_eq!(contents(place.path()).len(), 0);
    Ok(())
}

#[test]
fn what_no_kernel_does_with_a_cache_is_refused() {
    let file = "kv_cache_scale_file=nowhere.json";
    let cases: [(&[&str], &str, i32, &[&str]); 9] = [
        (&["kv_cache_quant_scheme=int8"], "cpu", 2, &["\"int8\"", "int8_per_channel"]),
        (&["kv_cache_quant_scheme=int8_per_token"], "cuda", 3, &["int8_per_token", "per tensor and per channel alone"]),
        (&["kv_cache_rotation=hadamard"], "cuda", 3, &["hadamard"]),
        (
            &["kv_cache_quant_scheme=fp8_per_tensor", file],
            "cpu",
            3,
            &["fp8_per_tensor", "cpu takes int8, int4; fp8 works on cuda"],
        ),
        (&["kv_cache_quant_scheme=int8_per_tensor"], "cpu", 2, &["needs kv_cache_scale_file=FILE"]),
        (&[file], "cpu", 2, &["kv_cache_scale_file has no meaning for a cache that is not quantized"]),
        (&["kv_cache_quant_scheme=int8_per_tensor", file], "cpu", 8, &["nowhere.json"]),
        (&["kv_cache_scale_file="], "cpu", 2, &["kv_cache_scale_file"]),
        (&["windowed_kv_cache=maybe"], "cpu", 2, &["windowed_kv_cache"]),
    ];
    for_each(
        &cases,
        |(options, provider, ..)| format!("{options:?} {provider}"),
        |(options, provider, code, says)| refused(options, "llama-default", provider, *code, says),
    );
}

/// Caches that keep a window alone compute the recorded logits at once and in steps, far past the window, or the model is
/// refused for a reason.
#[test]
fn windowed_caches_meet_the_recorded_logits() {
    let built = std::sync::atomic::AtomicUsize::new(0);
    for_each(&recorded(), String::clone, |name| {
        let spec = spec(&fixture(name))?;
        let attention = |layer: &genai_architectures::Layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention.clone()
        };
        let windowed: Vec<_> =
            spec.layers.iter().map(attention).filter(|attention| attention.window.is_some()).collect();
        if windowed.is_empty() {
            return refused(&["windowed_kv_cache=true"], name, "cpu", 3, &["no layer has a window"]);
        }
        if windowed.iter().any(|attention| !attention.key_value.is_own()) {
            return refused(&["windowed_kv_cache=true"], name, "cpu", 3, &["reads the cache of layer"]);
        }
        built.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let package = build(&fixture(name), "fp32", "cpu", &["windowed_kv_cache=true"])?;
        let graph = graph(package.path())?;
        let section = config(package.path())?["model"]["decoder"]["sliding_window"].take();
        let listed: Vec<usize> = serde_json::from_value(section["layers"].clone())?;
        assert_eq!(listed.len(), windowed.len());
        assert_eq!(section["window_size"], json!(windowed[0].window));
        assert_eq!((&section["slide_key_value_cache"], &section["slide_inputs"]), (&json!(false), &json!(false)));
        for (index, node) in attention_nodes(&graph).into_iter().enumerate() {
            let window = attention(&spec.layers[index]).window;
            let marked = attribute(node, "sliding_window_cache").map(|attribute| attribute.i());
            assert_eq!(marked, window.map(|_| 1), "{}", node.name());
            if spec.layers[index..].is_empty() || !attention(&spec.layers[index]).key_value.is_own() {
                continue;
            }
            assert_eq!(listed.contains(&index), window.is_some());
            for (values, start, word) in
                [(&graph.input, "past_key_values", "past"), (&graph.output, "present", "total")]
            {
                let name = format!("{start}.{index}.key");
                let (_, _, names) = fact(values.iter().find(|value| value.name() == name).ok_or("no cache")?);
                let kind = if window.is_some() { "sliding" } else { "sequence" };
                assert_eq!(names[1], format!("{word}_{kind}_length"));
            }
        }
        let reference = recorded_logits(&fixture(name))?;
        let model = load(package.path())?;
        for way in [Way::AtOnce(CacheMode::Shared), Way::InSteps(CacheMode::Shared)] {
            expect_logits(&model, &reference, way, 1e-4)?;
        }
        let longest = reference.prompts.iter().max_by_key(|prompt| prompt.input_ids.len()).ok_or("no prompt")?;
        assert!(longest.input_ids.len() > 2 * windowed[0].window.unwrap());
        // What a window has left cannot be gone back to, and no such cache is ever empty.
        let mut bound = sequence(&model, longest.input_ids.len(), CacheMode::Shared)?;
        bound.append(&longest.input_ids)?;
        assert!(bound.rewind(1).unwrap_err().to_string().contains("rewinding"));
        bound.reset()?;
        let again = bound.append(&longest.input_ids)?;
        assert!(genai_validate::metrics::compare(&longest.logits, &again)?.max_abs < 1e-3);
        let empty = sequence(&model, 64, CacheMode::Growing).err().ok_or("a window that starts empty")?;
        assert!(empty.to_string().contains("which is a window of"), "{empty}");
        Ok(())
    });
    assert!(built.into_inner() >= 25);
}

#[test]
fn a_window_of_codes_keeps_whole_words() {
    let scales = channel_scales("mistral-window").unwrap();
    let package = quantized_with(
        "mistral-window",
        "fp32",
        "cpu",
        "int8_per_channel",
        &scale_file(&scales, true),
        &["windowed_kv_cache=true"],
    )
    .unwrap();
    let (model, reference) = (load(package.path()).unwrap(), recorded_logits(&fixture("mistral-window")).unwrap());
    for way in [Way::AtOnce(CacheMode::Shared), Way::InSteps(CacheMode::Shared)] {
        expect_logits(&model, &reference, way, 0.2).unwrap();
    }
    let refused = quantized_with(
        "mistral-window",
        "fp32",
        "cpu",
        "int4_per_channel",
        &scale_file(&scales, true),
        &["windowed_kv_cache=true"],
    );
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("exit code 3") && refused.contains("a multiple of 32 dimensions"), "{refused}");
}

/// What `--validate` says of such packages: a cache of codes is judged as weights of so many bits are, and one that keeps
/// a window in the only way that it runs.
#[test]
fn packages_with_such_caches_are_validated() {
    let scales = channel_scales("tales-llama").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scales.json");
    fs::write(&file, scale_file(&scales, true)).unwrap();
    let file = format!("kv_cache_scale_file={}", file.display());
    let (int8, int4) = ("kv_cache_quant_scheme=int8_per_channel", "kv_cache_quant_scheme=int4_per_channel");
    let cases: [(&str, &str, &[&str], &str); 4] = [
        ("tales-llama", "fp32", &[int8, &file], "int8"),
        ("tales-llama", "fp32", &[int4, &file], "int4"),
        ("tales-llama", "int4", &[int8, &file], "int4"),
        ("gemma2-default", "fp32", &["windowed_kv_cache=true"], "fp32"),
    ];
    for_each(
        &cases,
        |(name, precision, options, _)| format!("{name} {precision} {options:?}"),
        |(name, precision, options, judged)| {
            let place = tempfile::tempdir()?;
            let mut arguments = build_arguments(&fixture(name), precision, "cpu", &place.path().join("package"));
            arguments.push("--extra_options".to_owned());
            arguments.extend(options.iter().map(|option| (*option).to_owned()));
            arguments.extend(["--validate".to_owned(), "--json".to_owned()]);
            arguments.extend(runtime_arguments());
            let report: Value = serde_json::from_str(&genai_build(arguments).success()?)?;
            assert_eq!(report["parity"]["precision"], *judged, "{report:#}");
            let verdict = report["parity"]["verdict"].as_str().ok_or("no verdict")?;
            assert!(verdict == "pass" || *precision == "int4" && verdict == "ambiguous", "{report:#}");
            Ok(())
        },
    );
}
