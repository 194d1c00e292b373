//! The command line as users type it: spellings, defaults, exit codes, and what each verb prints.

use std::fs;
use std::path::Path;

use genai_checkpoint::Checkpoint;
use serde_json::{Value, json};

use crate::support::{
    Altered, Outcome, build, build_arguments, contents, fixture, for_each, genai_build, genai_build_with, recorded,
    runtime, runtime_arguments, without_record,
};

const USAGE: i32 = 2;

/// What is typed after the name of a fixture's build (or, where it does not begin with a dash, instead), the exit code,
/// and what is said. `{}` stands for the fixture, `{out}` for the output.
const MISTAKES: &[(&str, i32, &[&str])] = &[
    ("", USAGE, &["no precision given", "hint: "]),
    ("-i {} -p int4 -e cpu", USAGE, &["no output given", "hint: "]),
    ("-o {out}", USAGE, &["no precision given", "hint: "]),
    ("-i {} -o {out} -p int4", USAGE, &["no execution provider given", "hint: "]),
    ("-o {out} -p int4 -e cpu", USAGE, &["no model given", "hint: "]),
    ("-i {} -o {out} -p int3 -e cpu", USAGE, &["int3", "int4"]),
    ("-i {} -o {out} -p int4 -e tpu", 3, &["\"tpu\" is not supported", "cpu, cuda"]),
    ("-i {} -o {out} -p fp32 -e NvTensorRtRtx", 3, &["NvTensorRtRtx has no fp32 kernels", "fp32 runs on cpu"]),
    ("-i {} -o {out} -p bf16 -e cpu", 3, &["cpu has no bf16 kernels", "bf16 runs on cuda"]),
    (
        "-i {} -o {out} -p int4 -e cpu --extra_options blok_size=64",
        USAGE,
        &["\"blok_size\"", "did you mean block_size?"],
    ),
    ("-i {} -o {out} -p int4 -e cpu --extra_options block_size", USAGE, &["KEY=VALUE"]),
    ("-i {} -o {out} -p int4 -e cpu --extra_options block_size=48", USAGE, &["block_size is \"48\"", "128 or 256"]),
    ("-i {} -o {out} -p fp32 -e cpu --extra_options block_size=32", USAGE, &["no meaning for fp32"]),
    ("-i {} -o {out} -p int4 -e cpu --extra_options hf_remote=true", 12, &["hf_remote=true", "never"]),
    ("-i {} -o {out} -p int4 -e cpu --extra_options algo_config=hqq", USAGE, &["\"hqq\"", "rtn or k_quant"]),
    ("-i {} -o {out} -p int4 -e cpu --extra_options filename=../../model.onnx", USAGE, &["filename"]),
    ("-i {} -o {out} -p int4 -e cpu --max-memory 0", USAGE, &["--max-memory", "512M"]),
    ("-i {} -o {out} -p int4 -e cpu --max-memory 256", 8, &["one row of", "hint: raise --max-memory"]),
    ("-i {} -o {out} -p int4 -e cpu -j 0", USAGE, &["--threads is 0"]),
    ("-i {} -o {out} -p int4 -e cpu --fast", USAGE, &["--fast"]),
    ("-i {}/gone -o {out} -p int4 -e cpu", 5, &["gone"]),
    ("-m nobody/nothing -c {out} -o {out} -p int4 -e cpu", 6, &["nobody/nothing", "not in the Hub cache", "hint: "]),
    ("-m nobody/nothing --revision v1 -c {out} -o {out} -p int4 -e cpu", 6, &["nobody/nothing@v1", "--revision v1"]),
    ("-m nobody/nothing@v1 --revision v2 -o {out} -p int4 -e cpu", USAGE, &["the revision is given twice"]),
    (
        "-m {} --revision v2 -o {out} -p int4 -e cpu",
        USAGE,
        &["--revision belongs to a model on the Hub", "is a folder"],
    ),
    ("-i {} --revision v2 -o {out} -p int4 -e cpu", USAGE, &["--revision belongs to a model on the Hub", "hint: "]),
    ("-i {} -o {out} -p int4 -e cpu --extra_options hf_aSecret", USAGE, &["\"hf_***\"", "KEY=VALUE"]),
    ("-m a/b/c -o {out} -p int4 -e cpu", 5, &["a/b/c", "more than one slash"]),
    ("-i {} -o {} -p int4 -e cpu", 9, &["is the checkpoint itself", "hint: "]),
    ("-i {} -o {}/config.json -p int4 -e cpu", 9, &["config.json exists and is not a folder", "hint: "]),
    ("-i {} -o {}/config.json/package -p int4 -e cpu", 9, &["config.json", "cannot be written"]),
    ("run {} --prompt hello", 8, &["genai_config.json"]),
    ("run {}", USAGE, &["--prompt"]),
    ("inspect {}/gone", 5, &["gone"]),
    ("validate {} --checkpoint {} -p fp32", 8, &["genai_config.json"]),
    ("bake -i {}", USAGE, &["bake"]),
];

#[test]
fn mistakes_are_named_and_touch_nothing() {
    for_each(
        MISTAKES,
        |(typed, ..)| (*typed).to_owned(),
        |(typed, code, says)| {
            let (checkpoint, place) = (Altered::copy_of("llama-default"), tempfile::tempdir()?);
            let before = contents(checkpoint.path());
            let output = place.path().join("package");
            let filled = |word: &str| {
                word.replace("{}", checkpoint.path().to_str().unwrap()).replace("{out}", output.to_str().unwrap())
            };
            genai_build(typed.split_whitespace().map(filled)).failed(*code, says)?;
            assert!(contents(checkpoint.path()) == before, "the checkpoint was changed");
            assert!(fs::read_dir(place.path())?.next().is_none(), "something was written");
            Ok(())
        },
    );
}

/// `{}` is the fixture.
const SPELLINGS: [&str; 8] = [
    "-i {} -p int4 -e cpu --extra_options block_size=16 is_symmetric=false",
    "--input {} --precision int4 --execution_provider cpu --extra_options block_size=16 is_symmetric=False",
    "--input={} --precision=int4 --execution-provider=cpu --extra-options is_symmetric=0 block_size=16",
    "--ep cpu --extra_options block_size=16 is_symmetric=false -p int4 -i {}",
    "-m {} -p int4 -e cpu --extra_options block_size=16 --extra_options is_symmetric=false",
    "--model_name {} -p int4 -e cpu --extra_options block_size=16 is_symmetric=false algo_config=default hf_token=x",
    "--model-name {} -p int4 -e cpu --extra_options block_size=64 is_symmetric=false block_size=16",
    "-m nobody/nothing -i {} -p int4 -e cpu --extra_options is_symmetric=false block_size=16 hf_remote=false",
];

#[test]
fn the_peers_flags_are_read_in_every_spelling() -> Outcome {
    let expected = build(&fixture("llama-default"), "int4", "cpu", &["block_size=16", "is_symmetric=false"])?;
    let expected = contents(expected.path());
    for (index, typed) in SPELLINGS.iter().enumerate() {
        let output = tempfile::tempdir()?;
        let words = typed.split_whitespace().map(|word| word.replace("{}", fixture("llama-default").to_str().unwrap()));
        // A build is what happens with and without its name.
        let verb = (index % 2 == 1).then(|| "build".to_owned());
        let place = ["-o".to_owned(), output.path().to_str().unwrap().to_owned()];
        genai_build(verb.into_iter().chain(words).chain(place))
            .success()
            .map_err(|error| format!("{typed}: {error}"))?;
        assert!(contents(output.path()) == expected, "{typed}");
    }
    Ok(())
}

#[test]
fn a_model_is_found_in_the_hub_cache() -> Outcome {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let home = tempfile::tempdir()?;
    let cache = home.path().join("hub");
    let repository = cache.join("models--tiny--llama");
    let snapshot = repository.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot)?;
    fs::create_dir_all(repository.join("refs"))?;
    fs::write(repository.join("refs/main"), COMMIT)?;
    for (file, bytes) in contents(&fixture("llama-default")) {
        fs::write(snapshot.join(file), bytes)?;
    }
    let expected = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    let by_flag: [(&str, &Path); 0] = [];
    let cases = [
        ("tiny/llama", vec!["-c", cache.to_str().unwrap()], by_flag.to_vec()),
        ("tiny/llama", vec!["--cache_dir", home.path().to_str().unwrap()], by_flag.to_vec()),
        ("tiny/llama@main", vec![], vec![("HF_HOME", home.path())]),
        ("tiny/llama@0123456", vec!["--cache-dir", cache.to_str().unwrap()], vec![("HF_HOME", Path::new("/nowhere"))]),
        ("tiny/llama", vec![], vec![("HF_HUB_CACHE", cache.as_path()), ("HF_HOME", Path::new("/nowhere"))]),
    ];
    for (model, flags, variables) in cases {
        let output = tempfile::tempdir()?;
        let build = ["-m", model, "-p", "int4", "-e", "cpu", "-o", output.path().to_str().unwrap()];
        genai_build_with(&variables, build.into_iter().chain(flags)).success()?;
        let record: Value = serde_json::from_slice(&fs::read(output.path().join("genai-build.json"))?)?;
        assert_eq!(
            (&record["source"]["repository"], &record["source"]["commit"]),
            (&json!("tiny/llama"), &json!(COMMIT))
        );
        let [found, expected] = [output.path(), expected.path()].map(|folder| without_record(contents(folder)));
        assert!(found == expected, "{model}");
    }
    let other = ["plan", "-m", "tiny/llama@v2", "-p", "int4", "-e", "cpu"];
    genai_build_with(&[("HF_HOME", home.path())], other).failed(6, &["tiny/llama@v2", "not this revision", "hint: "])
}

#[test]
fn a_report_is_for_people_or_for_machines() -> Outcome {
    let output = tempfile::tempdir()?;
    let arguments = build_arguments(&fixture("tales-llama"), "int4", "cpu", output.path());
    let text = genai_build(&arguments).success()?;
    let is = contents(output.path());
    let sizes: usize = is.values().map(Vec::len).sum();
    for part in ["int4 of LlamaForCausalLM (2,755,008 parameters) for cpu", "5.00 bits per weight", "model.onnx.data"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: Value =
        serde_json::from_str(&genai_build(arguments.iter().map(String::as_str).chain(["--json"])).success()?)?;
    assert_eq!(json["bytes"], sizes, "{json:#}");
    let files = json["files"].as_array().unwrap().iter();
    let files: Vec<_> = files.map(|file| (file["name"].as_str().unwrap(), file["bytes"].as_u64().unwrap())).collect();
    assert_eq!(files.len(), is.len());
    assert!(files.iter().all(|(name, bytes)| is[*name].len() as u64 == *bytes), "{files:?}");
    assert_eq!(json["parameters"], 2_755_008);
    assert!(json.get("parity").is_none() && json["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{json:#}");
    Ok(())
}

#[test]
fn plan_and_inspect_print_without_reading_a_weight() {
    for_each(&recorded(), String::clone, |name| {
        let folder = fixture(name);
        let text = genai_build(["inspect".as_ref(), folder.as_os_str()]).success()?;
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
        let architecture = config["architectures"][0].as_str().unwrap();
        let checkpoint = Checkpoint::open(&folder)?;
        let tensor = checkpoint.tensors().next().unwrap().name.clone();
        for part in [architecture, "DecoderSpec {", &tensor, " tensors, "] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let plan = |flags: &[&str]| {
            let arguments = ["plan", "-i", folder.to_str().unwrap(), "-p", "int4", "-e", "cuda", "-o", "not-written"];
            genai_build(arguments.iter().chain(flags)).success()
        };
        let text = plan(&[])?;
        assert!(text.contains(architecture), "{text}");
        let json: Value = serde_json::from_str(&plan(&["--json"])?)?;
        let operators = json["operators"].as_object().unwrap();
        assert!(operators.contains_key("MatMulNBits") && operators.contains_key("GroupQueryAttention"), "{json:#}");
        for (operator, count) in operators {
            let line = format!("{:>6}  {operator}\n", count.as_u64().unwrap());
            assert!(text.contains(&line), "{line}: {text}");
        }
        assert!(!Path::new("not-written").exists());
        Ok(())
    });
}

#[test]
fn inspect_shows_the_tensors_of_a_model_that_it_does_not_know() -> Outcome {
    let strange = Altered::copy_of("llama-default").config("architectures", serde_json::json!(["OracleForCausalLM"]));
    let run = genai_build(["inspect".as_ref(), strange.path().as_os_str()]);
    assert_eq!(run.code, 3);
    assert!(run.stdout.contains("model.layers.0.mlp.down_proj.weight"), "{}", run.stdout);
    assert!(run.stderr.contains("`OracleForCausalLM` is not supported"), "{}", run.stderr);
    Ok(())
}

#[test]
fn run_continues_a_prompt() -> Outcome {
    let package = build(&fixture("tales-llama"), "int4", "cpu", &[])?;
    let run = |flags: &[&str]| {
        let arguments = ["run", package.path().to_str().unwrap(), "--prompt", "Once upon a time"];
        let length = if flags.contains(&"-n") { vec![] } else { vec!["-n", "24"] };
        let arguments = arguments.iter().chain(&length).chain(flags).map(|argument| (*argument).to_owned());
        genai_build(arguments.chain(runtime_arguments())).success()
    };
    let greedy = run(&[])?;
    assert!(greedy.starts_with("Once upon a time") && greedy.len() > 40 && greedy.ends_with('\n'), "{greedy:?}");
    assert_eq!(run(&[])?, greedy);
    let sampled = run(&["--seed", "7", "--temperature", "1.2", "--top-k", "40", "--top-p", "0.95"])?;
    assert_eq!(run(&["--seed", "7", "--temperature", "1.2", "--top_k", "40", "--top_p", "0.95"])?, sampled);
    assert_ne!(run(&["--seed", "8", "--temperature", "1.2", "--top-k", "40", "--top-p", "0.95"])?, sampled);
    assert_ne!(sampled, greedy);
    // The likeliest token alone is left to choose from.
    assert_eq!(run(&["--seed", "7", "--top-k", "1"])?, greedy);
    assert!(greedy.starts_with(run(&["-n", "1"])?.trim_end_matches('\n')));
    Ok(())
}

#[test]
fn run_refuses_what_does_not_fit() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let run = |prompt: &str, flags: &[&str]| {
        let arguments = ["run", package.path().to_str().unwrap(), "--prompt", prompt];
        let arguments = arguments.iter().chain(flags).map(|argument| (*argument).to_owned());
        genai_build(arguments.chain(runtime_arguments()))
    };
    run(&"to and fro ".repeat(200), &[]).failed(USAGE, &["the prompt has", "the context of the model is 256"])?;
    run("word", &["--temperature=-1"]).failed(USAGE, &["temperature"])?;
    run("word", &["--top-p", "1.5"]).failed(USAGE, &["top_p"])?;
    run("word", &["-n", "many"]).failed(USAGE, &["many"])?;
    // As much as fits is generated, and no more.
    let long = run(&"to and fro ".repeat(10), &["-n", "100000"]).success()?;
    assert!(long.starts_with("to and fro"), "{long}");
    Ok(())
}

#[test]
fn validate_judges_a_package_by_a_checkpoint() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let validate = |checkpoint: &str, precision: &str, flags: &[&str]| {
        let checkpoint = fixture(checkpoint);
        let arguments = [
            "validate",
            package.path().to_str().unwrap(),
            "--checkpoint",
            checkpoint.to_str().unwrap(),
            "-p",
            precision,
        ];
        let arguments = arguments.iter().chain(flags).map(|argument| (*argument).to_owned());
        genai_build(arguments.chain(runtime_arguments()))
    };
    let text = validate("llama-default", "fp32", &[]).success()?;
    assert!(text.contains("logits of fp32 with recorded logits (reference.npz): pass"), "{text}");
    let json: Value = serde_json::from_str(&validate("llama-default", "fp32", &["--json"]).success()?)?;
    assert_eq!(json["parity"]["verdict"], "pass", "{json:#}");
    let other = validate("llama-bias", "fp32", &[]);
    assert_eq!(other.code, 10, "{other:?}");
    assert!(other.stdout.contains("logits of fp32 with recorded logits (reference.npz): fail"), "{other:?}");
    assert!(other.stderr.contains("error: validation failed"), "{other:?}");
    Ok(())
}

#[test]
fn a_checkpoint_without_recorded_logits_is_compared_with_the_interpreter() -> Outcome {
    let bare = Altered::copy_of("llama-default").without("reference.npz");
    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(bare.path(), "fp32", "cpu", output.path());
    arguments.extend(["--validate".to_owned()]);
    arguments.extend(runtime_arguments());
    let text = genai_build(arguments).success()?;
    assert!(text.contains("parity of fp32 with f32 interpreter: pass"), "{text}");
    Ok(())
}

#[test]
fn the_runtime_that_would_be_used_is_shown() -> Outcome {
    let library = runtime().library.to_str().unwrap();
    let text = genai_build(["runtime", "show", "--ort-lib", library]).success()?;
    assert!(text.starts_with("ONNX Runtime ") && text.trim_end().ends_with(library), "{text}");
    genai_build(["runtime", "show", "--ort-lib", "/nowhere/libonnxruntime.so"])
        .failed(13, &["/nowhere/libonnxruntime.so"])
}
