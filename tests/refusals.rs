//! Checkpoints that have no faithful package: each is refused with its own exit code and words, and what was at the
//! output stays, byte for byte.

use std::fs;

use half::bf16;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::support::{
    Altered, Outcome, Stored, Tensors, build_arguments, contents, fixture, for_each, genai_build, runtime_arguments,
    without_record,
};

/// What is wrong, the altered checkpoint, the exit code, and what the message says.
type Refusal = (&'static str, fn() -> Altered, i32, &'static [&'static str]);

const INCONSISTENT: i32 = 5;
const UNSUPPORTED: i32 = 3;
const MALFORMED: i32 = 4;
const REFUSED: i32 = 12;

const REFUSALS: &[Refusal] = &[
    (
        "an unknown architecture",
        || default().config("architectures", json!(["LlamaForSequenceClassification"])),
        UNSUPPORTED,
        &["`LlamaForSequenceClassification` is not supported", "hint: closest supported: LlamaForCausalLM"],
    ),
    (
        "no architecture",
        || default().config("architectures", Value::Null),
        INCONSISTENT,
        &["`architectures` is missing"],
    ),
    (
        "maths that nobody reads",
        || default().config("attn_logit_softcapping", json!(50.0)).config("residual_multiplier", json!(0.5)),
        UNSUPPORTED,
        &["`attn_logit_softcapping` = 50.0", "`residual_multiplier` = 0.5", "hint: "],
    ),
    (
        "positions that see those behind them",
        || default().config("is_causal", json!(false)),
        UNSUPPORTED,
        &["`is_causal` is \"false\"", "supported: true"],
    ),
    ("an unknown activation", || default().config("hidden_act", json!("relu6")), UNSUPPORTED, &["relu6", "silu"]),
    (
        "an unknown kind of rope",
        || default().config("rope_parameters.rope_type", json!("longrope2")),
        UNSUPPORTED,
        &["longrope2", "yarn"],
    ),
    (
        "kv heads that do not divide the heads",
        || default().config("num_key_value_heads", json!(3)),
        INCONSISTENT,
        &["`num_key_value_heads` is 3", "a divisor of num_attention_heads (4)"],
    ),
    ("a size of zero", || default().config("hidden_size", json!(0)), INCONSISTENT, &["`hidden_size` is 0"]),
    ("a size beyond reason", || default().config("vocab_size", json!(1u64 << 40)), INCONSISTENT, &["`vocab_size`"]),
    (
        "missing tensors, all told",
        || without(&["model.norm.weight", "model.layers.2.mlp.up_proj.weight"]),
        INCONSISTENT,
        &["\"model.norm.weight\" is missing, expected shape [72]", "\"model.layers.2.mlp.up_proj.weight\" is missing"],
    ),
    (
        "a layer too many",
        || default().tensors(|t| copy(t, "model.layers.2.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight")),
        INCONSISTENT,
        &["\"model.layers.3.mlp.up_proj.weight\" is used by no part of the model"],
    ),
    (
        "a layer less than there are tensors for",
        || default().config("num_hidden_layers", json!(2)),
        INCONSISTENT,
        &["\"model.layers.2.", "used by no part", "1 more"],
    ),
    (
        "biases that the config denies",
        || Altered::copy_of("llama-bias").config("mlp_bias", json!(false)),
        5,
        &["proj.bias"],
    ),
    (
        "a wrong shape",
        || default().tensors(|t| tensor(t, "model.norm.weight").shape = vec![8, 9]),
        INCONSISTENT,
        &["\"model.norm.weight\" has shape [8, 9], expected [72]"],
    ),
    (
        "a transposed matrix",
        || default().tensors(|t| tensor(t, "model.layers.0.mlp.down_proj.weight").shape.reverse()),
        INCONSISTENT,
        &["has shape [104, 72], expected [72, 104]"],
    ),
    (
        "integers for weights",
        || default().tensors(|t| tensor(t, "model.norm.weight").dtype = Dtype::I16),
        INCONSISTENT,
        &["\"model.norm.weight\" is I16, expected BF16, F16 or F32"],
    ),
    (
        "a weight that is no number",
        || default().tensors(|t| poison(t, "model.layers.1.mlp.gate_proj.weight", 5 * 72 + 7, 0x7fc0)),
        INCONSISTENT,
        &["\"model.layers.1.mlp.gate_proj.weight\", row 5", "column 7 is NaN", "hint: "],
    ),
    (
        "an infinite bias",
        || Altered::copy_of("llama-bias").tensors(|t| poison(t, "model.layers.0.mlp.down_proj.bias", 3, 0xff80)),
        INCONSISTENT,
        &["\"model.layers.0.mlp.down_proj.bias\"", "-inf"],
    ),
    (
        "a tied head of its own",
        || default().config("tie_word_embeddings", json!(true)),
        INCONSISTENT,
        &["\"lm_head.weight\" differs from \"model.embed_tokens.weight\""],
    ),
    (
        "a constant of another value",
        || Altered::copy_of("apertus-default").tensors(|t| poison(t, "model.layers.1.mlp.act_fn.beta", 0, 0x3f80)),
        INCONSISTENT,
        &["\"model.layers.1.mlp.act_fn.beta\" is 1, expected 0.5"],
    ),
    (
        "no head at all",
        || without(&["lm_head.weight"]),
        INCONSISTENT,
        &["\"lm_head.weight\" is missing, expected shape [331, 72]"],
    ),
    (
        "weights that are quantized already",
        || default().config("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        UNSUPPORTED,
        &["quantized already", "\"gptq\"", "hint: "],
    ),
    (
        "no tokenizer",
        || default().without("tokenizer.json"),
        INCONSISTENT,
        &["tokenizer.json", "hint: save the tokenizer"],
    ),
    ("a tokenizer that is no JSON", || default().with("tokenizer.json", "{"), MALFORMED, &["tokenizer.json"]),
    (
        "no end token anywhere",
        || {
            let no_end = |object: &mut serde_json::Map<String, Value>| drop(object.remove("eos_token_id"));
            let checkpoint = default().json("config.json", no_end).json("generation_config.json", no_end);
            checkpoint.json("tokenizer_config.json", |config| drop(config.remove("eos_token")))
        },
        INCONSISTENT,
        &["no end-of-sequence token", "hint: "],
    ),
    (
        "an end token outside the vocabulary",
        || {
            default()
                .json("generation_config.json", |config| drop(config.insert("eos_token_id".into(), json!([2, 331]))))
        },
        INCONSISTENT,
        &["generation_config.json", "331", "from 0 to 330", "hint: "],
    ),
    (
        "a temperature that is a text",
        || default().json("generation_config.json", |config| drop(config.insert("temperature".into(), json!("hot")))),
        INCONSISTENT,
        &["generation_config.json", "`temperature`"],
    ),
    ("a config that is no JSON", || default().with("config.json", "{\"a\": }"), MALFORMED, &["config.json"]),
    ("a config that is a list", || default().with("config.json", "[]"), MALFORMED, &["config.json"]),
    ("no config", || default().without("config.json"), INCONSISTENT, &["config.json", "hint: "]),
    ("no weights", || default().without("model.safetensors"), INCONSISTENT, &["safetensors"]),
    (
        "pickled weights only",
        || default().without("model.safetensors").with("pytorch_model.bin", "PK"),
        REFUSED,
        &["pytorch_model.bin"],
    ),
    ("a missing shard", || sharded().without(SHARD), INCONSISTENT, &[SHARD]),
    ("a truncated shard", || truncated(sharded(), SHARD, 60_000), MALFORMED, &[SHARD]),
    ("a shard without its header", || truncated(sharded(), SHARD, 6), MALFORMED, &[SHARD]),
    (
        "a shard that is a web page",
        || sharded().with(SHARD, "<!doctype html><title>Sign in</title>"),
        MALFORMED,
        &[SHARD],
    ),
];

const SHARD: &str = "model-00002-of-00003.safetensors";

fn default() -> Altered {
    Altered::copy_of("llama-default")
}

fn sharded() -> Altered {
    Altered::copy_of("llama-mha")
}

fn without(tensors: &[&str]) -> Altered {
    default().tensors(|stored| stored.retain(|name, _| !tensors.contains(&name.as_str())))
}

fn truncated(checkpoint: Altered, file: &str, length: u64) -> Altered {
    let file = fs::OpenOptions::new().write(true).open(checkpoint.path().join(file)).unwrap();
    file.set_len(length).unwrap();
    checkpoint
}

fn tensor<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut Stored {
    tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name}"))
}

fn copy(tensors: &mut Tensors, from: &str, to: &str) {
    let Stored { dtype, shape, data } = tensor(tensors, from);
    let copy = Stored { dtype: *dtype, shape: shape.clone(), data: data.clone() };
    tensors.insert(to.to_owned(), copy);
}

/// Sets one element of a bf16 tensor.
fn poison(tensors: &mut Tensors, name: &str, element: usize, bits: u16) {
    let tensor = tensor(tensors, name);
    assert_eq!(tensor.dtype, Dtype::BF16);
    tensor.data[2 * element..][..2].copy_from_slice(&bits.to_le_bytes());
}

#[test]
fn faulty_checkpoints_are_refused_and_the_output_stays() {
    for_each(
        REFUSALS,
        |(what, ..)| (*what).to_owned(),
        |(_, checkpoint, code, says)| {
            let checkpoint = checkpoint();
            let place = tempfile::tempdir()?;
            fs::create_dir(place.path().join("package"))?;
            fs::write(place.path().join("package/genai_config.json"), "of an earlier build")?;
            let before = contents(place.path());
            for (precision, output) in [("fp32", "package"), ("int4", "package"), ("int4", "new/package")] {
                let output = place.path().join(output);
                genai_build(build_arguments(checkpoint.path(), precision, "cpu", &output)).failed(*code, says)?;
            }
            fs::remove_dir_all(place.path().join("new")).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            assert_eq!(contents(place.path()), before);
            Ok(())
        },
    );
}

#[test]
fn values_that_fp16_cannot_hold_are_refused_where_fp16_is_asked_for() {
    let names =
        ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"];
    for_each(
        &names,
        |name| (*name).to_owned(),
        |name| {
            let row = if *name == "model.norm.weight" { 0 } else { 100 };
            let tall =
                Altered::copy_of("llama-default").tensors(|tensors| make_tall(tensor(tensors, name), row * 72 + 11));
            let place = tempfile::tempdir()?;
            // Small tiles, so that row 100 is not a row of the first one.
            let run = |precision: &str, provider: &str, memory: &str| {
                let mut arguments = build_arguments(tall.path(), precision, provider, &place.path().join("package"));
                arguments.extend(["--max-memory", memory].map(str::to_owned));
                genai_build(arguments)
            };
            // A vector is a matrix of one column.
            let (row, column) = if *name == "model.norm.weight" { (11, 0) } else { (row, 11) };
            let at = format!("{name:?}, row {row}: column {column} is 70000, which overflows f16");
            for memory in ["8K", "512M"] {
                run("fp16", "cuda", memory).failed(INCONSISTENT, &[&at, "65504", "hint: "])?;
                assert!(contents(place.path()).is_empty());
            }
            run("fp32", "cpu", "8K").success()?;
            run("bf16", "cuda", "8K").success()?;
            Ok(())
        },
    );
}

/// Makes a bf16 tensor f32, with one element that is too large for f16.
fn make_tall(tensor: &mut Stored, element: usize) {
    assert_eq!(tensor.dtype, Dtype::BF16);
    let mut values: Vec<f32> =
        tensor.data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect();
    values[element] = 70000.0;
    tensor.data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.dtype = Dtype::F32;
}

#[test]
fn a_scale_that_fp16_cannot_hold_is_refused() {
    let infinite_scale = 0x5000; // 8.6e9 in bf16
    let name = "model.layers.1.mlp.up_proj.weight";
    let tall = Altered::copy_of("llama-default").tensors(|t| poison(t, name, 60 * 72 + 40, infinite_scale));
    let place = tempfile::tempdir().unwrap();
    let mut arguments = build_arguments(tall.path(), "int4", "cuda", &place.path().join("package"));
    arguments.extend(["--max-memory", "8K"].map(str::to_owned));
    let at = format!("{name:?}, row 60: the block at column 32 needs the scale");
    genai_build(arguments).failed(INCONSISTENT, &[&at, "overflows f16"]).unwrap();
    assert!(contents(place.path()).is_empty());
}

#[test]
fn a_tied_head_that_is_stored_too_is_taken_where_it_is_the_same() {
    let tied = Altered::copy_of("llama-tied");
    let stored = Altered::copy_of("llama-tied").tensors(|t| copy(t, "model.embed_tokens.weight", "lm_head.weight"));
    let [tied, stored] = [tied, stored].map(|checkpoint| {
        let package = tempfile::tempdir().unwrap();
        genai_build(build_arguments(checkpoint.path(), "int4", "cpu", package.path())).success().unwrap();
        without_record(contents(package.path()))
    });
    assert!(tied == stored);
}

#[test]
fn a_package_that_fails_validation_is_not_put_in_place() {
    let strange = Altered::copy_of("llama-default")
        .with("reference.npz", fs::read(fixture("llama-bias").join("reference.npz")).unwrap());
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("package")).unwrap();
    fs::write(place.path().join("package/genai_config.json"), "of an earlier build").unwrap();
    let before = contents(place.path());
    for output in ["package", "new"] {
        let mut arguments = build_arguments(strange.path(), "fp32", "cpu", &place.path().join(output));
        arguments.push("--validate".to_owned());
        arguments.extend(runtime_arguments());
        genai_build(arguments).failed(10, &["nothing was written", "greedy search parts", "hint: "]).unwrap();
        assert_eq!(contents(place.path()), before);
    }
}

#[test]
fn what_cannot_be_validated_is_not_called_valid() -> Outcome {
    let place = tempfile::tempdir()?;
    let validated = |precision: &str, provider: &str, extra: &[String]| {
        let mut arguments =
            build_arguments(&fixture("llama-default"), precision, provider, &place.path().join("package"));
        arguments.push("--validate".to_owned());
        arguments.extend_from_slice(extra);
        genai_build(arguments)
    };
    // The CPU provider has no bf16 kernels, so there is nothing to compare with.
    validated("bf16", "cuda", &runtime_arguments()).failed(13, &["bfloat16"])?;
    let no_library = ["--ort-lib".to_owned(), "/nowhere/libonnxruntime.so".to_owned(), "--offline".to_owned()];
    validated("fp32", "cpu", &no_library).failed(13, &["/nowhere/libonnxruntime.so"])?;
    let damaged = Altered::copy_of("llama-default").with("reference.npz", "PK");
    let mut arguments = build_arguments(damaged.path(), "fp32", "cpu", &place.path().join("package"));
    arguments.push("--validate".to_owned());
    arguments.extend(runtime_arguments());
    genai_build(arguments).failed(MALFORMED, &["reference.npz"])?;
    assert!(contents(place.path()).is_empty());
    Ok(())
}
