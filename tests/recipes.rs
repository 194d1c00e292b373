//! Options that say how matrices become integers: what they change in graph, bytes and logits, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use genai_builder::Target;
use genai_quantize::{IntScheme, Method, ScaleDtype, Simd};
use genai_validate::{CacheMode, metrics};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::parts::Parts;
use crate::reference::{
    HEAD_APART, Tables, Way, expect_logits, logits, logits_by_scheme, recorded_logits, rounded_logits,
};
use crate::support::{
    Altered, Outcome, Stored, build, build_arguments, contents, fixture, for_each, genai_build, genai_build_with, load,
    recorded, tell, without_record,
};

/// How far a logit may be off, in units of the spread of the logits: what passes in the table of tolerances for fp32.
const LIMIT: f64 = 1e-4;

/// The same for activations in fp16, as for other packages.
const F16_LIMIT: f64 = 0.1;

fn scheme(bits: usize, block_size: usize, symmetric: bool, method: Method) -> IntScheme {
    IntScheme::new(bits, block_size, symmetric).unwrap().with_method(method)
}

/// Every fourth fixture by some method, some plain ones by all.
#[test]
fn packages_of_every_method_compute_with_the_rounded_weights() {
    let methods = [
        ("int4", "rtn", 32, true),
        ("int4", "k_quant", 32, false),
        ("int8", "rtn", 16, false),
        ("int8", "k_quant", 64, false),
        ("int4", "rtn", 128, false),
        ("int4", "k_quant", 256, false),
    ];
    let mut cases = Vec::new();
    for (index, name) in recorded().into_iter().enumerate() {
        let all = ["llama-default", "llama-tied", "gemma2-default"].contains(&name.as_str());
        let chosen = |method: &usize| all || index % 4 == 0 && index / 4 % methods.len() == *method;
        cases.extend((0..methods.len()).filter(chosen).map(|method| (name.clone(), methods[method])));
    }
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(name, (precision, method, block_size, symmetric))| {
            let mut options = vec![format!("algo_config={method}"), format!("block_size={block_size}")];
            options.push("accuracy_level=0".to_owned());
            if *method != "k_quant" {
                options.push(format!("is_symmetric={symmetric}"));
            }
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let package = build(&fixture(name), precision, "cpu", &options)?;
            let bits = if *precision == "int8" { 8 } else { 4 };
            let method = if *method == "rtn" { Method::Rtn } else { Method::KQuant };
            let reference = rounded_logits(
                &fixture(name),
                scheme(bits, *block_size, *symmetric, method),
                ScaleDtype::F32,
                Tables::Rounded,
            )?;
            expect_logits(&load(package.path())?, &reference, Way::AtOnce(CacheMode::Growing), LIMIT)
        },
    );
}

/// The same in f16, whose kernels the CPU has too: scales are rounded when they are stored.
#[test]
fn packages_in_f16_compute_with_the_rounded_weights() {
    let cases: Vec<_> = ["llama-default", "llama-tied", "qwen2-tied"]
        .into_iter()
        .flat_map(|name| {
            [(name, "int4", "rtn", true), (name, "int8", "rtn", false)]
                .into_iter()
                .chain(["int4", "int8"].map(|precision| (name, precision, "k_quant", false)))
        })
        .collect();
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(name, precision, method, symmetric)| {
            let options = [format!("algo_config={method}"), format!("is_symmetric={symmetric}")];
            let package = build(&fixture(name), precision, "cuda", &options.each_ref().map(String::as_str))?;
            let bits = if *precision == "int8" { 8 } else { 4 };
            let method = if *method == "rtn" { Method::Rtn } else { Method::KQuant };
            let reference =
                rounded_logits(&fixture(name), scheme(bits, 32, *symmetric, method), ScaleDtype::F16, Tables::Rounded)?;
            expect_logits(&load(package.path())?, &reference, Way::AtOnce(CacheMode::Shared), F16_LIMIT)
        },
    );
}

/// In standard operators, in which a tied head is stored apart from its table.
#[test]
fn packages_in_standard_operators_compute_with_the_rounded_weights() {
    let cases: &[(&str, &str, &[&str], Schemes)] = &[
        ("llama-tied", "onnx", &["algo_config=k_quant"], |_| Some(scheme(4, 32, false, Method::KQuant))),
        ("llama-tied", "onnx", &["algo_config=rtn_last"], |name| {
            Some(scheme(if name.starts_with(HEAD_APART) { 8 } else { 4 }, 32, true, Method::Rtn))
        }),
        ("llama-default", "openvino", &["nodes_to_exclude=/lm_head/MatMul"], |name| {
            int4(name).filter(|_| name != "lm_head.weight")
        }),
    ];
    for_each(
        cases,
        |(name, provider, options, _)| format!("{name} {provider} {options:?}"),
        |(name, provider, options, schemes)| {
            let target = Target::find(provider)?;
            let cell = target.cell(genai_builder::Precision::Int4).ok_or("no int4")?;
            let (dtype, limit) = match cell.activations {
                genai_builder::graph::Dtype::F32 => (ScaleDtype::F32, LIMIT),
                _ => (ScaleDtype::F16, F16_LIMIT),
            };
            let package = build(&fixture(name), "int4", provider, options)?;
            let of_linears = |name: &str| schemes(name).filter(|_| name != "model.embed_tokens.weight");
            let reference = logits_by_scheme(&fixture(name), dtype, Tables::Float, &of_linears)?;
            expect_logits(&load(package.path())?, &reference, Way::AtOnce(CacheMode::Growing), limit)
        },
    );
}

/// Schemes by the name of a tensor of a plain Llama.
type Schemes = fn(&str) -> Option<IntScheme>;

fn int4(_: &str) -> Option<IntScheme> {
    Some(scheme(4, 32, true, Method::Default))
}

fn of_a_linear(name: &str) -> Option<IntScheme> {
    int4(name).filter(|_| name != "model.embed_tokens.weight")
}

fn in_8_bits(name: &str, method: Method, upgraded: &[&str]) -> Option<IntScheme> {
    let bits = if upgraded.iter().any(|part| name.contains(part)) { 8 } else { 4 };
    Some(scheme(bits, 32, true, method))
}

/// Of 6 layers these are the first and the fourth.
const OF_TALES: [&str; 8] = [
    "layers.0.self_attn.q",
    "layers.0.self_attn.k",
    "layers.0.self_attn.v",
    "layers.0.mlp.down",
    "layers.3.self_attn.q",
    "layers.3.self_attn.k",
    "layers.3.self_attn.v",
    "layers.3.mlp.down",
];

#[test]
fn packages_of_every_recipe_compute_with_the_rounded_weights() {
    let cases: &[(&str, &[&str], Schemes)] = &[
        ("tales-llama", &["matmul_mixed_precision=last_matmul:int8"], |name| {
            in_8_bits(name, Method::Default, &["embed_tokens"])
        }),
        ("tales-llama", &["matmul_mixed_precision=mixed_layers:int8"], |name| {
            in_8_bits(name, Method::Default, &OF_TALES)
        }),
        ("tales-llama", &["algo_config=k_quant_mixed"], |name| {
            in_8_bits(name, Method::KQuant, &[OF_TALES.as_slice(), &["embed_tokens"]].concat())
        }),
        ("tales-llama", &["algo_config=rtn_last", "is_symmetric=false"], |name| {
            let bits = if name == "model.embed_tokens.weight" { 8 } else { 4 };
            Some(scheme(bits, 32, false, Method::Rtn))
        }),
        ("tales-llama", &["nodes_to_exclude=/model/layers.1/mlp/down_proj/MatMul,/lm_head/MatMul"], |name| {
            of_a_linear(name).filter(|_| name != "model.layers.1.mlp.down_proj.weight")
        }),
        ("llama-default", &["nodes_to_exclude=/lm_head/MatMul"], |name| {
            of_a_linear(name).filter(|_| name != "lm_head.weight")
        }),
        // A tied head apart from its table.
        ("llama-tied", &["shared_embeddings=false", "algo_config=k_quant_last"], |name| {
            let bits = if name.starts_with(HEAD_APART) { 8 } else { 4 };
            Some(scheme(bits, 32, false, Method::KQuant)).filter(|_| name != "model.embed_tokens.weight")
        }),
        ("llama-default", &["op_types_to_quantize=MatMul/Gather"], int4),
        ("llama-default", &["op_types_to_quantize=Gather"], |name| {
            int4(name).filter(|_| name == "model.embed_tokens.weight")
        }),
        ("llama-default", &["op_types_to_quantize=MatMul/Gather", "algo_config=k_quant_last"], |name| {
            in_8_bits(name, Method::KQuant, &["lm_head"])
        }),
    ];
    for_each(
        cases,
        |(name, options, _)| format!("{name} {options:?}"),
        |(name, options, schemes)| {
            let options = [options, ["accuracy_level=0"].as_slice()].concat();
            let package = build(&fixture(name), "int4", "cpu", &options)?;
            let tables = if options.contains(&"shared_embeddings=false") { Tables::Float } else { Tables::Rounded };
            let reference = logits_by_scheme(&fixture(name), ScaleDtype::F32, tables, schemes)?;
            let model = load(package.path())?;
            expect_logits(&model, &reference, Way::AtOnce(CacheMode::Growing), LIMIT)?;
            // What the recipe says is felt at all.
            let plain =
                rounded_logits(&fixture(name), scheme(4, 32, true, Method::Default), ScaleDtype::F32, Tables::Rounded)?;
            match expect_logits(&model, &plain, Way::AtOnce(CacheMode::Growing), LIMIT) {
                Ok(()) => Err("the logits are those without the options".into()),
                Err(_) => Ok(()),
            }
        },
    );
}

#[test]
fn more_bits_and_a_search_bring_a_trained_model_nearer() {
    let checkpoint = fixture("tales-llama");
    let reference = recorded_logits(&checkpoint).unwrap();
    let divergence = |options: &[&str]| -> f64 {
        let options = [options, &["accuracy_level=0"]].concat();
        let package = build(&checkpoint, "int4", "cpu", &options).unwrap();
        let model = load(package.path()).unwrap();
        let found = logits(&model, &reference, Way::AtOnce(CacheMode::Growing)).unwrap();
        let (mut sum, mut worst, mut positions) = (0.0, 0.0_f64, 0);
        for (prompt, found) in reference.prompts.iter().zip(&found) {
            let metrics = metrics::compare(&prompt.logits, found).unwrap();
            sum += metrics.kl_mean * metrics.positions as f64;
            positions += metrics.positions;
            worst = worst.max(metrics.max_abs);
        }
        let mean = sum / positions as f64;
        let bytes = std::fs::metadata(package.path().join("model.onnx.data")).unwrap().len();
        tell(&format!("tales-llama int4 {options:?}: KL mean {mean:.5}, max abs {worst:.3}, {bytes} bytes"));
        mean
    };
    let symmetric = divergence(&[]);
    let asymmetric = divergence(&["is_symmetric=false"]);
    let rtn = divergence(&["algo_config=rtn"]);
    let rtn_asymmetric = divergence(&["algo_config=rtn", "is_symmetric=false"]);
    let k_quant = divergence(&["algo_config=k_quant"]);
    let last = divergence(&["matmul_mixed_precision=last_matmul:int8"]);
    let both = divergence(&["matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"]);
    let k_quant_mixed = divergence(&["algo_config=k_quant_mixed"]);
    assert!(both < last && last < symmetric, "{both} {last} {symmetric}");
    assert!(k_quant_mixed < k_quant && k_quant < symmetric, "{k_quant_mixed} {k_quant} {symmetric}");
    assert!(asymmetric < symmetric && rtn_asymmetric < rtn, "{asymmetric} {symmetric} {rtn_asymmetric} {rtn}");
}

/// Nodes with quantized weights by name, with their bits; and `Gather` of the embedding table and `MatMul` of the head,
/// without.
fn stored(package: &Path) -> Outcome<BTreeMap<String, Option<i64>>> {
    let parts = Parts::read(package)?;
    let nodes = parts.whole_nodes().iter().filter_map(|node| {
        let bits = || node.attribute.iter().find(|attribute| attribute.name() == "bits").map(|bits| bits.i());
        match node.op_type() {
            "MatMulNBits" | "GatherBlockQuantized" => Some((node.name().to_owned(), bits())),
            "MatMul" | "FusedMatMul" => Some((node.name().to_owned(), None)),
            "Gather" if node.name().starts_with("/model/embed_tokens/") => Some((node.name().to_owned(), None)),
            _ => None,
        }
    });
    Ok(nodes.collect())
}

#[test]
fn nodes_have_the_bits_that_were_asked_for() {
    let nodes = |fixture_name: &str, precision: &str, options: &[&str]| {
        stored(build(&fixture(fixture_name), precision, "cpu", options).unwrap().path()).unwrap()
    };
    let plain = nodes("tales-llama", "int4", &[]);
    assert!(plain.values().all(|bits| *bits == Some(4)) && plain.len() == 6 * 5 + 2, "{plain:?}");

    let mixed = nodes("tales-llama", "int4", &["algo_config=k_quant_mixed"]);
    let eight: Vec<_> = mixed.iter().filter(|(_, bits)| **bits == Some(8)).map(|(name, _)| name.as_str()).collect();
    let expected = [
        "/lm_head/MatMul_Q8",
        "/model/embed_tokens/Gather_Q8",
        "/model/layers.0/attn/qkv_proj/MatMul_Q8",
        "/model/layers.0/mlp/down_proj/MatMul_Q8",
        "/model/layers.3/attn/qkv_proj/MatMul_Q8",
        "/model/layers.3/mlp/down_proj/MatMul_Q8",
    ];
    assert_eq!(eight, expected);
    assert_eq!(mixed.len(), plain.len());

    // Values alone, where they stand alone.
    let mixed = nodes("tales-llama", "int4", &["matmul_mixed_precision=mixed_layers:int8", "fuse_qkv=false"]);
    let eight: Vec<_> = mixed.iter().filter(|(_, bits)| **bits == Some(8)).map(|(name, _)| name.as_str()).collect();
    let expected = [
        "/model/layers.0/attn/v_proj/MatMul_Q8",
        "/model/layers.0/mlp/down_proj/MatMul_Q8",
        "/model/layers.3/attn/v_proj/MatMul_Q8",
        "/model/layers.3/mlp/down_proj/MatMul_Q8",
    ];
    assert_eq!(eight, expected);

    // One node, which is met before the selector that has it, too.
    let options = ["matmul_mixed_precision=/model/layers.0/mlp/down_proj/MatMul:int4,mixed_layers:int8"];
    let named = nodes("tales-llama", "int4", &options);
    assert_eq!(named["/model/layers.0/mlp/down_proj/MatMul_Q4"], Some(4));
    assert_eq!(named.values().filter(|bits| **bits == Some(8)).count(), 3, "{named:?}");

    // From 8 bits to 4.
    let less = nodes("tales-llama", "int8", &["matmul_mixed_precision=last_matmul:int4"]);
    let four: Vec<_> = less.iter().filter(|(_, bits)| **bits == Some(4)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(four, ["/lm_head/MatMul_Q4", "/model/embed_tokens/Gather_Q4"]);

    // A shared matrix is float for both, or a matrix for each.
    let excluded = nodes("tales-llama", "int4", &["nodes_to_exclude=/lm_head/MatMul"]);
    assert_eq!((excluded["/lm_head/MatMul"], excluded["/model/embed_tokens/Gather"]), (None, None));
    let excluded = nodes("tales-llama", "int4", &["nodes_to_exclude=/model/embed_tokens/Gather"]);
    assert_eq!((excluded["/lm_head/MatMul_Q4"], excluded["/model/embed_tokens/Gather"]), (Some(4), None));
    let tables = nodes("tales-llama", "int4", &["op_types_to_quantize=Gather"]);
    assert_eq!((tables["/lm_head/MatMul"], tables["/model/embed_tokens/Gather_Q4"]), (None, Some(4)));
    assert_eq!(tables.values().flatten().count(), 1, "{tables:?}");
}

/// A tied model whose head and table are stored apart is its twin with two equal tensors.
#[test]
fn embeddings_that_are_not_shared_are_those_of_an_untied_model() {
    let twin = Altered::copy_of("llama-tied").config("tie_word_embeddings", Value::Bool(false)).tensors(|tensors| {
        let table = &tensors["model.embed_tokens.weight"];
        assert_eq!(table.dtype, Dtype::F16);
        let head = Stored { dtype: table.dtype, shape: table.shape.clone(), data: table.data.clone() };
        tensors.insert("lm_head.weight".to_owned(), head);
    });
    let cases: &[(&str, &[&str])] = &[
        ("fp32", &[]),
        ("int4", &[]),
        ("int8", &["is_symmetric=false"]),
        ("int4", &["op_types_to_quantize=MatMul/Gather", "algo_config=k_quant_last"]),
    ];
    for_each(
        cases,
        |(precision, options)| format!("{precision} {options:?}"),
        |(precision, options)| {
            let apart = [options, ["shared_embeddings=false"].as_slice()].concat();
            let apart = build(&fixture("llama-tied"), precision, "cpu", &apart)?;
            let untied = build(twin.path(), precision, "cpu", options)?;
            let shared = build(&fixture("llama-tied"), precision, "cpu", options)?;
            let [apart, untied, shared] = [&apart, &untied, &shared].map(|p| without_record(contents(p.path())));
            assert!(
                apart["model.onnx"] == untied["model.onnx"] && apart["model.onnx.data"] == untied["model.onnx.data"]
            );
            assert!(shared["model.onnx.data"].len() < apart["model.onnx.data"].len());
            // Without a wish it is as the model says.
            let asked =
                build(&fixture("llama-tied"), precision, "cpu", &[options, &["shared_embeddings=true"][..]].concat())?;
            assert!(without_record(contents(asked.path())) == shared);
            Ok(())
        },
    );
}

#[test]
fn recipes_that_cannot_be_are_refused() {
    let cases: &[(&str, &str, &str, i32, &[&str])] = &[
        ("llama-default", "int4", "algo_config=hqq", 2, &["algo_config is \"hqq\"", "default, rtn or k_quant"]),
        ("llama-default", "fp32", "algo_config=rtn", 2, &["algo_config has no meaning for fp32", "int4"]),
        ("llama-default", "fp32", "matmul_mixed_precision=last_matmul:int8", 2, &["has no meaning for fp32"]),
        ("llama-default", "fp16", "nodes_to_exclude=/lm_head/MatMul", 2, &["has no meaning for fp16"]),
        ("llama-default", "fp16", "op_types_to_quantize=MatMul", 2, &["has no meaning for fp16"]),
        ("llama-default", "int4", "algo_config=k_quant is_symmetric=true", 2, &["is_symmetric", "zero points"]),
        ("llama-default", "int4", "matmul_mixed_precision=mixed_layers:int2", 2, &["mixed_layers:int2", "int4, int8"]),
        (
            "llama-default",
            "int4",
            "matmul_mixed_precision=linear_attn:int8",
            3,
            &["linear_attn", "no layers of linear"],
        ),
        ("llama-default", "int4", "algo_config=k_quant_linear", 3, &["linear_attn", "no layers of linear attention"]),
        (
            "llama-default",
            "int4",
            "nodes_to_exclude=/model/layers.9/mlp/down_proj/MatMul",
            3,
            &["/model/layers.9/mlp/down_proj/MatMul", "closest name is /model/layers.0/mlp/down_proj/MatMul"],
        ),
        (
            "llama-default",
            "int4",
            "matmul_mixed_precision=/model/layers.0/mlp/down/MatMul:int8",
            3,
            &["matmul_mixed_precision names", "closest name is /model/layers.0/mlp/down_proj/MatMul"],
        ),
        // The table of an untied model is float anyway.
        ("llama-default", "int4", "nodes_to_exclude=/model/embed_tokens/Gather", 3, &["/model/embed_tokens/Gather"]),
        (
            "llama-default",
            "int4",
            "op_types_to_quantize=Conv",
            2,
            &["op_types_to_quantize is \"Conv\"", "MatMul/Gather"],
        ),
        (
            "llama-default",
            "int4",
            "op_types_to_quantize=Gather nodes_to_exclude=/model/embed_tokens/Gather",
            3,
            &["no matrix is left to be quantized"],
        ),
        ("llama-default", "int4", "shared_embeddings=true", 3, &["shared_embeddings is true", "weights of its own"]),
        ("llama-default", "fp32", "shared_embeddings=true", 3, &["shared_embeddings is true", "weights of its own"]),
        (
            "llama-tied",
            "int4",
            "shared_embeddings=true nodes_to_exclude=/model/embed_tokens/Gather",
            3,
            &["shared_embeddings is true", "exclude both"],
        ),
        ("llama-tied", "int4 onnx", "op_types_to_quantize=MatMul/Gather", 3, &["has Gather", "float rows alone"]),
        ("llama-tied", "int4 onnx", "shared_embeddings=true", 3, &["shared_embeddings is true", "float rows alone"]),
        ("llama-default", "int4", "qmoe_block_size=32", 3, &["qmoe_block_size", "no supported model has experts"]),
        ("llama-default", "int4", "moe_quant_type=int8", 3, &["moe_quant_type", "no supported model has experts"]),
    ];
    for_each(
        cases,
        |(name, precision, options, ..)| format!("{name} {precision} {options}"),
        |(name, precision, options, code, says)| {
            let folder = tempfile::tempdir()?;
            let (precision, provider) = precision.split_once(' ').unwrap_or((precision, "cpu"));
            let mut arguments = build_arguments(&fixture(name), precision, provider, &folder.path().join("package"));
            arguments.push("--extra_options".to_owned());
            arguments.extend(options.split(' ').map(str::to_owned));
            genai_build(arguments).failed(*code, says)?;
            assert!(contents(folder.path()).is_empty());
            Ok(())
        },
    );
}

#[test]
fn the_record_has_the_recipe() {
    let options = [
        "algo_config=k_quant",
        "matmul_mixed_precision=mixed_layers:int8",
        "nodes_to_exclude=/lm_head/MatMul,/model/layers.1/mlp/up_proj/MatMul",
        "op_types_to_quantize=MatMul/Gather",
        "shared_embeddings=false",
    ];
    let package = build(&fixture("tales-llama"), "int4", "cpu", &options).unwrap();
    let record = std::fs::read(package.path().join("genai-build.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    for (key, value) in [
        ("algo_config", json!("k_quant")),
        ("is_symmetric", json!(false)),
        ("matmul_mixed_precision", json!(["mixed_layers:int8"])),
        ("op_types_to_quantize", json!(["MatMul", "Gather"])),
        ("nodes_to_exclude", json!(["/lm_head/MatMul", "/model/layers.1/mlp/up_proj/MatMul"])),
        ("shared_embeddings", json!(false)),
    ] {
        assert_eq!(record["options"][key], value, "{key}");
    }
    assert!(record["tool"]["quantizer"].as_str().unwrap().contains("k_quant"));
    let stored: Vec<_> = record["weights"].as_array().unwrap().iter().map(|weight| weight["stored"].as_str()).collect();
    let of = |text: &str| stored.iter().flatten().filter(|stored| stored.contains(text)).count();
    assert_eq!((of("int4 asymmetric"), of("int8 asymmetric")), (6 * 5 - 5 + 1, 4), "{stored:?}");
}

#[test]
fn threads_memory_and_vector_instructions_do_not_change_a_byte() {
    let package = |level: &str, limits: &[&str]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture("tales-llama"), "int4", "cpu", output.path());
        arguments.extend(limits.iter().map(|limit| (*limit).to_owned()));
        arguments.extend(["--extra_options".to_owned(), "algo_config=k_quant_mixed".to_owned()]);
        genai_build_with(&[("GENAI_BUILD_SIMD", Path::new(level))], arguments).success().unwrap();
        contents(output.path())
    };
    let plain = package("portable", &["-j", "1"]);
    for level in Simd::supported().into_iter().map(Simd::name) {
        for limits in [&["-j", "4"][..], &["-j", "4", "--max-memory", "64K"]] {
            assert!(package(level, limits) == plain, "{level} {limits:?}");
        }
    }
}
