//! The structured options of onnxruntime-genai's model builder: `--target_options`, `--runtime_config` and the like.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Outcome, Run, build, contents, fixture, for_each, genai_build, set};

const USAGE: i32 = 2;
const UNSUPPORTED: i32 = 3;

/// Builds the fixture with these arguments.
fn run(arguments: &[&str], output: &Path) -> Run {
    let input = fixture("llama-default");
    let place = ["-i", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    genai_build(place.iter().chain(arguments))
}

/// Structured options with the precision and the extra options of the same meaning.
const SAME: &[(&[&str], &str, &str, &[&str])] = &[
    (&["-e", "cpu", "--target_options", r#"{"quant_config": {"weights": {"type": "int4"}}}"#], "int4", "cpu", &[]),
    (
        &[
            "-e",
            "cpu",
            "--target_options",
            r#"{"quant_config": {"weights": {"type": "uint8", "block_size": 64, "method": "default", "accuracy_level": 1},
                "format": {"matmulnbits_weights_prepacked": 0}}, "attention": {"implementation": "auto"}}"#,
            "--builder_config_version",
            "2",
        ],
        "int8",
        "cpu",
        &["block_size=64", "is_symmetric=false", "accuracy_level=1"],
    ),
    (
        &["-p", "int4", "-e", "cpu", "--target-options", r#"{"quant_config": {"weights": {"symmetric": false}}}"#],
        "int4",
        "cpu",
        &["is_symmetric=false"],
    ),
    (
        &["-p", "int4", "-e", "cuda", "--target_options", r#"{"quant_config": {"io_dtype": "bf16"}}"#],
        "int4",
        "cuda",
        &["use_cuda_bf16=true"],
    ),
    (
        &["-e", "cuda", "--target_options", r#"{"quant_config": {"io_dtype": "bf16", "weights": {"type": "none"}}}"#],
        "bf16",
        "cuda",
        &[],
    ),
    (
        &["-e", "cuda", "-p", "fp16", "--target_options", r#"{"quant_config": {"weights": {"type": "none"}}}"#],
        "fp16",
        "cuda",
        &[],
    ),
    (&["-p", "int4", "-e", "cpu", "--drafter_options", r#"{"drafter_type": "none"}"#], "int4", "cpu", &[]),
    (&["-p", "int4", "-e", "cpu", "--builder_config_version", "1"], "int4", "cpu", &[]),
    (&["-p", "int4", "-e", "cpu", "--speculative_options", r#"{"state_update_capacity": 0}"#], "int4", "cpu", &[]),
];

#[test]
fn target_options_say_the_same_as_extra_options() {
    for_each(
        SAME,
        |(arguments, ..)| arguments.join(" "),
        |(arguments, precision, provider, options)| {
            let expected = build(&fixture("llama-default"), precision, provider, options)?;
            let output = tempfile::tempdir()?;
            run(arguments, output.path()).success()?;
            assert!(contents(output.path()) == contents(expected.path()));
            Ok(())
        },
    );
}

#[test]
fn options_hold_for_the_targets_that_know_them() -> Outcome {
    let place = tempfile::tempdir()?;
    let options = r#"{"quant_config": {"weights": {"block_size": 128}}}"#;
    let targets = ["--target", "int4:cpu", "--target", "fp16:cuda", "--target_options", options];
    run(&targets, place.path()).success()?;
    for (precision, provider, options) in [("int4", "cpu", &["block_size=128"][..]), ("fp16", "cuda", &[])] {
        let expected = build(&fixture("llama-default"), precision, provider, options)?;
        let found = contents(&place.path().join(format!("{precision}-{provider}")));
        assert!(found == contents(expected.path()), "{precision} {provider}");
    }
    Ok(())
}

#[test]
fn objects_are_read_from_files() -> Outcome {
    let (place, output) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let file = place.path().join("options.json");
    fs::write(&file, " {\"quant_config\": {\"weights\": {\"type\": \"int4\", \"block_size\": 64}}}\n")?;
    let file = file.to_str().unwrap();
    run(&["-e", "cpu", "--target_options", file], output.path()).success()?;
    let expected = build(&fixture("llama-default"), "int4", "cpu", &["block_size=64"])?;
    assert!(contents(output.path()) == contents(expected.path()));
    let gone = format!("{file}.gone");
    run(&["-e", "cpu", "--target_options", &gone], output.path()).failed(USAGE, &["options.json.gone", "hint: "])?;
    fs::write(file, "{\"quant_config\": {}, \"quant_config\": {}}")?;
    run(&["-e", "cpu", "--target_options", file], output.path())
        .failed(USAGE, &["options.json", "\"quant_config\" appears twice"])
}

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
    ("--target_options", r#"{"quant_config": {"weights": {"method": "gptq"}}}"#, USAGE, &["weights.method: ", "gptq"]),
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

#[test]
fn what_is_given_twice_is_refused() {
    let cases: [(&[&str], &[&str]); 5] = [
        (
            &[
                "--target_options",
                r#"{"quant_config": {"weights": {"block_size": 64}}}"#,
                "--extra_options",
                "int4_block_size=64",
            ],
            &["extra option block_size", "weights.block_size are both given"],
        ),
        (
            &["--search", r#"{"top_k": 1}"#, "--runtime_config", r#"{"search": {"top_k": 1}}"#],
            &["top_k is given in --search and in --runtime_config"],
        ),
        (
            &[
                "--extra_options",
                "max_draft_tokens=4",
                "--runtime_config",
                r#"{"speculative": {"max_draft_tokens": 4}}"#,
            ],
            &["max_draft_tokens", "both given"],
        ),
        (&["--target_options", r#"{"quant_config": {"format": {}, "runtime": {}}}"#], &["format and runtime"]),
        (&["--builder_config_version", "1", "--runtime_config", "{}"], &["version is 1", "no --runtime_config"]),
    ];
    for_each(
        &cases,
        |(arguments, _)| arguments.join(" "),
        |(arguments, says)| {
            let place = tempfile::tempdir()?;
            let arguments: Vec<_> = ["-p", "int4", "-e", "cpu"].iter().chain(*arguments).copied().collect();
            run(&arguments, &place.path().join("package")).failed(USAGE, says)
        },
    );
}

fn genai_config(package: &Path) -> Value {
    serde_json::from_slice(&fs::read(package.join("genai_config.json")).unwrap()).unwrap()
}

/// What is added to a package for cuda, and where it then stands.
#[test]
fn a_runtime_config_is_merged_last() -> Outcome {
    let plain = build(&fixture("llama-default"), "int4", "cuda", &[])?;
    let profile = |id: &str, from: u64, to: u64| {
        json!({
            "id": id,
            "eligibility": {"minimum_total_device_memory_bytes": from, "maximum_total_device_memory_bytes": to},
            "overlay": {"search": {"chunk_size": 512}},
        })
    };
    let profiles = json!([profile("small", 0, 7), profile("large", 8, 9)]);
    let runtime = json!({
        "model": {"decoder": {
            "session_options": {
                "log_id": "mine",
                "intra_op_num_threads": 2,
                "graph_optimization_level": "ORT_ENABLE_BASIC",
                "session.set_denormal_as_zero": "1",
                "ep.cuda.fpa_intb_gemm": "1",
                "provider_options": [{"CUDA": {"device_id": "1", "enable_cuda_graph": "0"}}],
            },
            "run_options": {"memory.enable_memory_arena_shrinkage": "gpu:0"},
        }},
        "search": {"do_sample": true, "temperature": 0.7},
        "speculative": {"ngram_size": 3},
        "runtime_profiles": profiles,
    });
    let output = tempfile::tempdir()?;
    let (text, search) = (runtime.to_string(), r#"{"top_k": 40, "random_seed": 7}"#);
    run(&["-p", "int4", "-e", "cuda", "--runtime_config", &text, "--search", search], output.path()).success()?;
    let mut expected = genai_config(plain.path());
    assert_eq!(
        expected["model"]["decoder"]["session_options"]["provider_options"],
        json!([{"cuda": {"enable_cuda_graph": "0"}}])
    );
    let object = expected.as_object_mut().unwrap();
    let session = "model.decoder.session_options";
    set(object, &format!("{session}.log_id"), json!("mine"));
    set(
        object,
        &format!("{session}.provider_options"),
        json!([{"cuda": {"enable_cuda_graph": "0", "device_id": "1"}}]),
    );
    let options = object["model"]["decoder"]["session_options"].as_object_mut().unwrap();
    options.insert("intra_op_num_threads".to_owned(), json!(2));
    options.insert("graph_optimization_level".to_owned(), json!("ORT_ENABLE_BASIC"));
    options.insert("session.set_denormal_as_zero".to_owned(), json!("1"));
    options.insert("ep.cuda.fpa_intb_gemm".to_owned(), json!("1"));
    set(object, "model.decoder.run_options", json!({"memory.enable_memory_arena_shrinkage": "gpu:0"}));
    for (key, value) in
        [("do_sample", json!(true)), ("temperature", json!(0.7)), ("top_k", json!(40)), ("random_seed", json!(7))]
    {
        set(object, &format!("search.{key}"), value);
    }
    set(object, "speculative", json!({"ngram_size": 3}));
    set(object, "runtime_profiles", profiles);
    assert_eq!(genai_config(output.path()), expected);

    // Nothing else of the package is different, and the record tells.
    let [mut found, mut before] = [output.path(), plain.path()].map(contents);
    for file in ["genai_config.json", "genai-build.json", "SHA256SUMS"] {
        found.remove(file);
        before.remove(file);
    }
    assert!(found == before);
    let record: Value = serde_json::from_slice(&fs::read(output.path().join("genai-build.json"))?)?;
    assert_eq!(record["options"]["runtime_config"]["search"]["top_k"], 40);
    assert_eq!(record["options"]["runtime_config"]["speculative"], json!({"ngram_size": 3}));
    Ok(())
}

/// The graph is made for recording or not, and so is a profile for some devices.
#[test]
fn what_the_package_decides_is_not_overwritten() {
    let providers = |options: Value| json!({"model": {"decoder": {"session_options": {"provider_options": options}}}});
    let profiles = |second: Value| {
        let first = json!({
            "id": "a",
            "eligibility": {"minimum_total_device_memory_bytes": 8, "maximum_total_device_memory_bytes": 16},
            "overlay": {"search": {"chunk_size": 64}},
        });
        json!({"runtime_profiles": [first, second]})
    };
    let overlay = json!({"search": {"chunk_size": 64}});
    let cases = [
        (providers(json!([{"cuda": {"enable_cuda_graph": "1"}}])), UNSUPPORTED, "cuda.enable_cuda_graph is \"1\""),
        (providers(json!([{"cuda": {}}, {"dml": {}}])), UNSUPPORTED, "names other providers"),
        (providers(json!([])), UNSUPPORTED, "names other providers"),
        (providers(json!([{"cuda": {"device_id": 1}}])), USAGE, "device_id is 1, expected a text"),
        (providers(json!({"cuda": {}})), USAGE, "expected an array of objects of one provider each"),
        (
            profiles(json!({"id": "a", "eligibility": {"minimum_total_device_memory_bytes": 17}, "overlay": overlay})),
            USAGE,
            "the id \"a\"",
        ),
        (
            profiles(json!({"id": "b", "eligibility": {"minimum_total_device_memory_bytes": 16}, "overlay": overlay})),
            USAGE,
            "\"a\" is for too",
        ),
        (
            profiles(json!({"id": "b", "eligibility": {}, "overlay": overlay})),
            USAGE,
            "minimum_total_device_memory_bytes",
        ),
        (
            profiles(json!({"id": "b", "eligibility": {"minimum_total_device_memory_bytes": 17}, "overlay": {}})),
            USAGE,
            "changes nothing",
        ),
        (
            profiles(json!({
                "id": "b",
                "eligibility": {"minimum_total_device_memory_bytes": 17, "minimum_free_device_memory_bytes": 9, "maximum_free_device_memory_bytes": 8},
                "overlay": overlay,
            })),
            USAGE,
            "no device is in",
        ),
    ];
    for_each(
        &cases,
        |(config, ..)| config.to_string(),
        |(config, code, says)| {
            let place = tempfile::tempdir()?;
            let text = config.to_string();
            run(&["-p", "int4", "-e", "cuda", "--runtime_config", &text], &place.path().join("package"))
                .failed(*code, &[says])
        },
    );
}

#[test]
fn draft_tokens_stand_in_the_config() -> Outcome {
    let package = build(&fixture("llama-default"), "int4", "cpu", &["max_draft_tokens=7"])?;
    let mut config = genai_config(package.path());
    assert_eq!(config.as_object_mut().unwrap().remove("speculative"), Some(json!({"max_draft_tokens": 7})));
    assert_eq!(config, genai_config(build(&fixture("llama-default"), "int4", "cpu", &[])?.path()));
    for bad in ["0", "17", "4.5", "many"] {
        let option = format!("max_draft_tokens={bad}");
        let place = tempfile::tempdir()?;
        run(&["-p", "int4", "-e", "cpu", "--extra_options", &option], &place.path().join("package"))
            .failed(USAGE, &["max_draft_tokens is", bad, "from 1 to 16"])?;
    }
    Ok(())
}

#[test]
fn unknown_options_may_be_let_pass() -> Outcome {
    let output = tempfile::tempdir()?;
    let arguments =
        ["-p", "int4", "-e", "cpu", "--lenient-options", "--extra_options", "blok_size=64", "zzz=1", "block_size=16"];
    let run_ = run(&arguments, output.path());
    assert_eq!(run_.code, 0, "{run_:?}");
    assert!(
        run_.stderr.contains("warning: unknown extra option \"blok_size\" is left out; did you mean block_size?"),
        "{run_:?}"
    );
    assert!(run_.stderr.contains("warning: unknown extra option \"zzz\" is left out\n"), "{run_:?}");
    let expected = build(&fixture("llama-default"), "int4", "cpu", &["block_size=16"])?;
    assert!(contents(output.path()) == contents(expected.path()));
    // A known option is as strict as ever.
    let place = tempfile::tempdir()?;
    run(
        &["-p", "int4", "-e", "cpu", "--lenient-options", "--extra_options", "block_size=17"],
        &place.path().join("package"),
    )
    .failed(USAGE, &["block_size is \"17\""])
}
