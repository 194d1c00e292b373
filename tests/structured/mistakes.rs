//! What is wrong in a structured option is named, and nothing is written.

use std::fs;

use super::{UNSUPPORTED, USAGE, run};
use crate::support::for_each;

/// A flag with its value, on top of `-p int4 -e cpu`.
const MISTAKES: &[(&str, &str, i32, &[&str])] = &[
    ("--target_options", "{\"a\": 1", USAGE, &["--target_options: ", "EOF"]),
    ("--target_options", r#"{"quant_config": null}"#, USAGE, &["--target_options: ", "null"]),
    ("--target_options", r#"{"quant_confg": {}}"#, USAGE, &["\"quant_confg\"", "did you mean quant_config?"]),
    ("--target_options", r#"{"quant_config": {"weight": {}}}"#, USAGE, &["quant_config has", "did you mean weights?"]),
    ("--target_options", r#"{"quant_config": 4}"#, USAGE, &["quant_config is 4, expected an object"]),
    ("--target_options", r#"{"vision": {}}"#, UNSUPPORTED, &["vision is not supported", "hint: "]),
    ("--target_options", r#"{"quant_config": {"moe": {}}}"#, UNSUPPORTED, &["moe is not supported", "experts"]),
    ("--target_options", r#"{"quant_config": {"checkpoint_policy": "preserve"}}"#, UNSUPPORTED, &["checkpoint_policy"]),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"type": "int2"}}}"#,
        USAGE,
        &["\"int2\"", "none, int4, uint4"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"type": "int8"}}}"#,
        USAGE,
        &["is \"int8\"", "precision is int4"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"type": "uint4", "symmetric": true}}}"#,
        USAGE,
        &["\"uint4\"", "a symmetric type is signed"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"block_size": 48}}}"#,
        USAGE,
        &["weights.block_size: extra option block_size is \"48\"", "128 or 256"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"accuracy_level": 5}}}"#,
        USAGE,
        &["accuracy_level is 5", "0 to 4"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"method": "gptq"}}}"#,
        USAGE,
        &["weights.method: ", "gptq", "k_quant"],
    ),
    ("--target_options", r#"{"quant_config": {"io_dtype": "bf16"}}"#, UNSUPPORTED, &["io_dtype is \"bf16\"", "cpu"]),
    (
        "--target_options",
        r#"{"quant_config": {"format": {"matmulnbits_weights_prepacked": 1}}}"#,
        USAGE,
        &["expected an integer 0"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"overrides": [{"match": {"name": "/lm_head"}, "type": "int8"}]}}}"#,
        UNSUPPORTED,
        &["names \"/lm_head\"", "closest name is /lm_head/MatMul"],
    ),
    (
        "--target_options",
        r#"{"quant_config": {"weights": {"overrides": [{"match": {"layers": "0"}, "type": "int8"}]}}}"#,
        USAGE,
        &["overrides[0].match has the unknown key \"layers\"", "preset, name"],
    ),
    ("--target_options", r#"{"attention": {"implementation": "eager"}}"#, USAGE, &["\"eager\"", "auto, paged"]),
    (
        "--target_options",
        r#"{"attention": {"paged": {"block_size": 256}}}"#,
        USAGE,
        &["attention.paged", "not \"paged\""],
    ),
    ("--speculative_options", r#"{"state_update_capacity": 4}"#, USAGE, &["state_update_capacity is 4", "0"]),
    (
        "--drafter_options",
        r#"{"drafter_type": "mtp", "path": "x"}"#,
        UNSUPPORTED,
        &["\"mtp\" is not supported", "hint: "],
    ),
    ("--drafter_options", r#"{"drafter_type": "none", "path": "x"}"#, USAGE, &["unknown key \"path\""]),
    ("--drafter_options", "{}", UNSUPPORTED, &["no package gets a drafter"]),
    ("--builder_config_version", "3", USAGE, &["is 3, expected 1 or 2"]),
    ("--runtime_config", r#"{"serch": {}}"#, USAGE, &["\"serch\"", "did you mean search?"]),
    (
        "--runtime_config",
        r#"{"search": {"top_q": 1}}"#,
        USAGE,
        &["search has the unknown key \"top_q\"", "did you mean top_"],
    ),
    ("--search", r#"{"temprature": 1}"#, USAGE, &["did you mean temperature?"]),
    ("--search", r#"{"top_p": 1.5}"#, USAGE, &["--search.top_p is 1.5", "from 0 to 1"]),
    ("--search", r#"{"do_sample": 1}"#, USAGE, &["do_sample is 1, expected true or false"]),
    ("--search", r#"{"temperature": -1}"#, USAGE, &["temperature is -1"]),
    ("--search", r#"{"repetition_penalty": 0}"#, USAGE, &["above 0"]),
    ("--search", r#"{"max_length": 100000}"#, UNSUPPORTED, &["search.max_length is 100000", "model.context_length"]),
    ("--search", r#"{"min_length": 200, "max_length": 100}"#, UNSUPPORTED, &["search.min_length is 200"]),
    ("--search", r#"{"num_return_sequences": 2}"#, UNSUPPORTED, &["search.num_beams, which is 1"]),
    ("--search", r#"{"num_beams": 4, "do_sample": true}"#, UNSUPPORTED, &["do_sample", "beam"]),
    (
        "--runtime_config",
        r#"{"engine": {"dynamic_batching": {"max_batch_size": 4}}}"#,
        UNSUPPORTED,
        &["no dynamic batching"],
    ),
    ("--runtime_config", r#"{"engine": {"static_batching": {}}}"#, USAGE, &["static_batching", "dynamic_batching"]),
    ("--runtime_config", r#"{"speculative": {"max_draft_tokens": 17}}"#, USAGE, &["is 17", "from 1 to 16"]),
    ("--runtime_config", r#"{"speculative": {"ngram_size": 1}}"#, USAGE, &["ngram_size is 1", "0 or 2 to 16"]),
    ("--runtime_config", r#"{"model": {"vision": {}}}"#, USAGE, &["unknown key \"vision\"", "known: decoder"]),
    ("--runtime_config", r#"{"model": {"decoder": {"head_size": 3}}}"#, USAGE, &["unknown key \"head_size\""]),
    (
        "--runtime_config",
        r#"{"model": {"decoder": {"session_options": {"intra_op_num_thread": 2}}}}"#,
        USAGE,
        &["did you mean intra_op_num_threads?"],
    ),
    (
        "--runtime_config",
        r#"{"model": {"decoder": {"session_options": {"custom_ops_library": "x.so"}}}}"#,
        UNSUPPORTED,
        &["custom_ops_library is not supported"],
    ),
    (
        "--runtime_config",
        r#"{"model": {"decoder": {"session_options": {"session.set_denormal_as_zero": 1}}}}"#,
        USAGE,
        &["session.set_denormal_as_zero is 1, expected a text"],
    ),
    (
        "--runtime_config",
        r#"{"model": {"decoder": {"session_options": {"ep.cuda.fpa_intb_gemm": "1"}}}}"#,
        UNSUPPORTED,
        &["ep.cuda.fpa_intb_gemm", "the package is for cpu"],
    ),
    (
        "--runtime_config",
        r#"{"model": {"decoder": {"session_options": {"provider_options": [{"cuda": {}}]}}}}"#,
        UNSUPPORTED,
        &["names other providers", "the package has none"],
    ),
    (
        "--runtime_config",
        r#"{"runtime_profiles": [{"id": "a", "eligibility": {"minimum_total_device_memory_bytes": 0},
            "overlay": {"search": {"chunk_size": 64}}}]}"#,
        UNSUPPORTED,
        &["runtime_profiles", "does not load for cpu"],
    ),
];

#[test]
fn mistakes_are_named() {
    for_each(
        MISTAKES,
        |(flag, value, ..)| format!("{flag} {value}"),
        |(flag, value, code, says)| {
            let place = tempfile::tempdir()?;
            run(&["-p", "int4", "-e", "cpu", flag, value], &place.path().join("package")).failed(*code, says)?;
            assert_eq!(fs::read_dir(place.path())?.count(), 0, "something was written");
            Ok(())
        },
    );
}
