//! Several packages in one build: `--target PRECISION:EP[=DIR]`, repeated.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use genai_builder::output::{Action, Fault};
use genai_builder::{
    Disk, Error, Interrupt, Output, Precision, Request, RuntimeConfig, Settings, Target, materialize::Limits,
};
use genai_checkpoint::Checkpoint;
use genai_quantize::Simd;
use serde_json::{Value, json};

use crate::support::{Altered, Outcome, build, contents, fixture, for_each, genai_build, recorded, runtime_arguments};

const USAGE: i32 = 2;

/// Pairs that store weights in different ways: rows as they are, as columns, as codes with scales of two kinds, as codes
/// without gaps; q, k and v together and apart. And options for all of them.
const BUILDS: [(&[(&str, &str)], &str); 2] = [
    (&[("int4", "cpu"), ("fp16", "dml"), ("fp32", "cpu"), ("int8", "cuda")], ""),
    (&[("int4", "openvino"), ("fp16", "webgpu"), ("int4", "dml")], "is_symmetric=false block_size=16"),
];

fn words(typed: &str, checkpoint: &Path, place: &Path) -> Vec<String> {
    let filled =
        |word: &str| word.replace("{}", checkpoint.to_str().unwrap()).replace("{out}", place.to_str().unwrap());
    typed.split_whitespace().map(filled).collect()
}

#[test]
fn packages_are_those_of_single_builds() {
    // One tile of everything, and tiles of a few rows in an order that no one knows.
    const LIMITS: [&str; 2] = ["-j 1", "-j 4 --max-memory 256K"];
    for_each(&recorded(), String::clone, |name| {
        let checkpoint = fixture(name);
        for (pairs, options) in BUILDS {
            // What a single build would be refused is left out of it, as several leave it out.
            let of_integers = |precision: &str| if precision.starts_with("int") { options } else { "" };
            let mut expected = BTreeMap::new();
            for (precision, provider) in pairs {
                let options: Vec<_> = of_integers(precision).split_whitespace().collect();
                let package = build(&checkpoint, precision, provider, &options)?;
                expected.insert(format!("{precision}-{provider}"), contents(package.path()));
            }
            for limits in LIMITS {
                let place = tempfile::tempdir()?;
                let mut typed = format!("-i {{}} {limits} -o {{out}}/made");
                for (precision, provider) in pairs {
                    typed.push_str(&format!(" --target {precision}:{provider}"));
                }
                if !options.is_empty() {
                    typed.push_str(&format!(" --extra_options {options}"));
                }
                genai_build(words(&typed, &checkpoint, place.path())).success()?;
                for (folder, expected) in &expected {
                    let found = contents(&place.path().join("made").join(folder));
                    assert!(found == *expected, "{folder} {limits} {options}");
                }
                assert_eq!(fs::read_dir(place.path().join("made"))?.count(), pairs.len());
                assert_eq!(fs::read_dir(place.path())?.count(), 1);
            }
        }
        Ok(())
    });
}

#[test]
fn each_target_has_the_folder_that_it_names() -> Outcome {
    let place = tempfile::tempdir()?;
    let typed = "-i {} -o {out}/all --target int4:cpu --target int8:cpu={out}/all/../own --target=fp32:cpu";
    let text = genai_build(words(typed, &fixture("llama-default"), place.path())).success()?;
    for (precision, folder) in [("int4", "all/int4-cpu"), ("int8", "own"), ("fp32", "all/fp32-cpu")] {
        let expected = build(&fixture("llama-default"), precision, "cpu", &[])?;
        assert!(contents(&place.path().join(folder)) == contents(expected.path()), "{folder}");
        assert!(text.contains(&format!("{precision} of LlamaForCausalLM")), "{text}");
    }
    assert!(text.contains("\n3 packages in "), "{text}");
    // Without -o where every target names a folder; over what is there.
    let typed = "-i {} --target fp32:cpu={out}/own --target int4:cpu={out}/other";
    genai_build(words(typed, &fixture("llama-default"), place.path())).success()?;
    assert!(contents(&place.path().join("own")) == contents(&place.path().join("all/fp32-cpu")));
    assert!(contents(&place.path().join("other")) == contents(&place.path().join("all/int4-cpu")));
    Ok(())
}

const MISTAKES: &[(&str, i32, &[&str])] = &[
    ("-p int4 --target int4:cpu -o {out}", USAGE, &["--target", "--precision"]),
    ("--target int4:cpu -e cpu -o {out}", USAGE, &["--target", "--execution_provider"]),
    ("--target int4 -o {out}", USAGE, &["--target \"int4\"", "colon", "hint: --target PRECISION:EP[=DIR]"]),
    ("--target int3:cpu -o {out}", USAGE, &["\"int3\"", "int4"]),
    ("--target int4:tpu -o {out}", 3, &["\"tpu\" is not supported", "cpu, cuda"]),
    ("--target int4:cpu --target bf16:cpu -o {out}", 3, &["cpu has no bf16 kernels", "bf16 runs on cuda"]),
    ("--target int4:cpu= -o {out}", USAGE, &["names no folder"]),
    ("--target int4:cpu", USAGE, &["no output given for --target int4:cpu", "-o DIR"]),
    ("--target int4:cpu={out}/a --target int8:cpu", USAGE, &["no output given for --target int8:cpu"]),
    ("--target int4:cpu={out}/a -o {out}/b", USAGE, &["names its own folder", "hint: leave out -o"]),
    ("--target int4:cpu --target int4:cpu -o {out}", USAGE, &["are the same folder", "=DIR"]),
    ("--target int4:cpu={out}/a --target int8:cpu={out}/b/../a/.", USAGE, &["are the same folder"]),
    ("--target int4:cpu={out}/link/a --target int8:cpu={out}/real/a", USAGE, &["are the same folder"]),
    ("--target int4:cpu={out}/a --target int8:cpu={out}/a/b", USAGE, &["lie one in the other"]),
    ("--target int4:cpu={out}/a --target int8:cpu={}", 9, &["is the checkpoint itself"]),
    ("--target int4:cpu={out}/new/a --target int8:cpu={out}/file", 9, &["exists and is not a folder"]),
    (
        "--target fp16:cuda --target fp32:cpu -o {out} --extra_options block_size=64",
        USAGE,
        &["block_size has no meaning for fp16"],
    ),
    ("--target int4:cpu --target fp16:cuda -o {out} --max-memory 256", 8, &["one row of", "--max-memory"]),
];

#[test]
fn mistakes_are_named_and_touch_no_output() {
    for_each(
        MISTAKES,
        |(typed, ..)| (*typed).to_owned(),
        |(typed, code, says)| {
            let (checkpoint, place) = (Altered::copy_of("llama-default"), tempfile::tempdir()?);
            fs::create_dir(place.path().join("real"))?;
            fs::write(place.path().join("file"), "mine")?;
            #[cfg(unix)]
            std::os::unix::fs::symlink(place.path().join("real"), place.path().join("link"))?;
            let before = (contents(checkpoint.path()), fs::read_dir(place.path())?.count());
            let typed = format!("-i {{}} {typed}");
            genai_build(words(&typed, checkpoint.path(), place.path())).failed(*code, says)?;
            let after = (contents(checkpoint.path()), fs::read_dir(place.path())?.count());
            assert!(after == before, "something was written");
            Ok(())
        },
    );
}

#[test]
fn an_option_holds_for_the_targets_that_know_it() -> Outcome {
    let place = tempfile::tempdir()?;
    let typed = "-i {} -o {out} --target fp32:cpu --target int4:cpu --target fp16:cuda --extra_options \
                 int4_block_size=64 enable_cuda_graph=true filename=decoder.onnx";
    let run = genai_build(words(typed, &fixture("llama-default"), place.path()));
    assert_eq!(run.code, 0, "{run:?}");
    for note in [
        "note: extra option int4_block_size is called block_size by now",
        "note: extra option block_size has no meaning for fp32:cpu and fp16:cuda, made without it",
        "note: extra option enable_cuda_graph has no meaning for fp32:cpu and int4:cpu, made without it",
    ] {
        assert_eq!(run.stderr.matches(note).count(), 1, "{}", run.stderr);
    }
    for (precision, provider, options) in [
        ("fp32", "cpu", &["filename=decoder.onnx"][..]),
        ("int4", "cpu", &["block_size=64", "filename=decoder.onnx"]),
        ("fp16", "cuda", &["enable_cuda_graph=true", "filename=decoder.onnx"]),
    ] {
        let expected = build(&fixture("llama-default"), precision, provider, options)?;
        let found = contents(&place.path().join(format!("{precision}-{provider}")));
        assert!(found == contents(expected.path()), "{precision} {provider}");
    }
    Ok(())
}

#[test]
fn every_package_is_validated_and_reported() -> Outcome {
    let place = tempfile::tempdir()?;
    let typed = "-i {} -o {out} --target fp32:cpu --target int4:cpu --validate --json --progress json";
    let mut arguments = words(typed, &fixture("tales-llama"), place.path());
    arguments.extend(runtime_arguments());
    let run = genai_build(&arguments);
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout)?;
    assert_eq!(report["architecture"], "LlamaForCausalLM", "{report:#}");
    assert!(report["seconds"].is_f64() && report.get("output").is_none(), "{report:#}");
    let packages = report["packages"].as_array().unwrap();
    for (package, precision) in packages.iter().zip(["fp32", "int4"]) {
        let folder = place.path().join(format!("{precision}-cpu"));
        assert_eq!(package["precision"], precision);
        assert_eq!(package["output"], folder.to_str().unwrap());
        let sizes: usize = contents(&folder).values().map(Vec::len).sum();
        assert_eq!(package["bytes"], sizes);
        assert_ne!(package["parity"]["verdict"], "fail", "{package:#}");
        let record: Value = serde_json::from_slice(&fs::read(folder.join("genai-build.json"))?)?;
        assert_eq!(record["parity"]["verdict"], package["parity"]["verdict"]);
        assert_eq!(record["parity"]["precision"], package["parity"]["precision"]);
        genai_build(["verify", folder.to_str().unwrap()]).success()?;
    }
    assert_eq!(packages.len(), 2);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outputs = ["fp32-cpu", "int4-cpu"].map(|name| place.path().join(name));
    assert_eq!(events[0]["outputs"], json!(outputs), "{:#}", events[0]);
    let sizes: usize = outputs.iter().flat_map(|folder| contents(folder).into_values()).map(|file| file.len()).sum();
    assert_eq!(events.last().unwrap()["bytes"], sizes);
    Ok(())
}

#[test]
fn one_package_that_fails_keeps_all_from_their_places() -> Outcome {
    let other = fs::read(fixture("llama-bias").join("reference.npz"))?;
    let wrong = Altered::copy_of("llama-default").with("reference.npz", other);
    let overflows = Altered::copy_of("llama-default").tensors(|tensors| {
        let tensor = tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
        // 2^100 in bf16, which fp16 has no room for.
        tensor.data[..2].copy_from_slice(&0x7180u16.to_le_bytes());
    });
    let place = tempfile::tempdir()?;
    fs::create_dir(place.path().join("there"))?;
    let mut arguments = words(
        "-i {} --target fp32:cpu={out}/new/a --target int8:cpu={out}/there --validate",
        wrong.path(),
        place.path(),
    );
    arguments.extend(runtime_arguments());
    genai_build(arguments).failed(10, &["validation failed, nothing was written", "new/a for fp32:cpu"])?;
    let typed = "-i {} --target fp32:cpu={out}/new/a --target fp16:cpu={out}/there";
    genai_build(words(typed, overflows.path(), place.path())).failed(5, &["up_proj", "overflows f16"])?;
    // What is in the way of the second is seen before the first is put in place.
    fs::create_dir(place.path().join("there/model.onnx"))?;
    genai_build(words(typed, &fixture("llama-default"), place.path())).failed(9, &["a folder named model.onnx"])?;
    assert_eq!(fs::read_dir(place.path())?.count(), 1, "something is left");
    assert_eq!(fs::read_dir(place.path().join("there"))?.count(), 1);
    Ok(())
}

#[test]
fn a_plan_tells_the_sizes_of_each_package() -> Outcome {
    let place = tempfile::tempdir()?;
    let (checkpoint, targets) = (fixture("tales-llama"), "--target int4:cpu --target fp16:cuda");
    genai_build(words(&format!("-i {{}} -o {{out}} {targets}"), &checkpoint, place.path())).success()?;
    let flags = "--max-memory 512K -j 2";
    let typed = format!("plan -i {{}} {targets} {flags}");
    let text = genai_build(words(&typed, &checkpoint, place.path())).success()?;
    let plan: Value =
        serde_json::from_str(&genai_build(words(&format!("{typed} --json"), &checkpoint, place.path())).success()?)?;
    let memory = plan["tile_memory"].as_u64().unwrap();
    assert!(memory > 0 && memory <= 512 << 10, "{plan:#}");
    for (package, name) in plan["packages"].as_array().unwrap().iter().zip(["int4-cpu", "fp16-cuda"]) {
        let files = contents(&place.path().join(name));
        assert_eq!(package["graph_bytes"], files["model.onnx"].len());
        assert_eq!(package["data_bytes"], files["model.onnx.data"].len());
        assert!(text.contains(&name.replace('-', " for ")), "{text}");
    }
    Ok(())
}

/// Builds two packages, one tile at a time.
fn build_two(outputs: &[PathBuf; 2], disk: &Disk) -> Result<(), Error> {
    let request = |precision| Request {
        settings: Settings::of(Target::find("cpu").unwrap(), precision).unwrap(),
        config_only: false,
        filename: "model.onnx".to_owned(),
        allow_unused: Vec::new(),
        hash_inputs: false,
        runtime_config: RuntimeConfig::default(),
    };
    let requests = [request(Precision::Int4), request(Precision::Fp32)];
    let places = outputs.iter().map(|output| Output::claim(output, disk.clone())).collect::<Result<Vec<_>, _>>()?;
    let checkpoint = Checkpoint::open(&fixture("llama-default"))?;
    let limits = Limits { max_memory: 1 << 20, threads: 1, simd: Simd::detect() };
    let wanted = requests.iter().zip(places).collect();
    let (_, built) = genai_builder::build(&checkpoint, wanted, &limits, &|_, _| ())?;
    genai_builder::commit(built.into_iter().map(|built| (built, None)).collect()).1
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Fail,
    Interrupt,
}

/// At each operation of a build of two packages in folders that have parents in common.
#[test]
fn a_build_that_fails_leaves_both_outputs_as_they_were_up_to_the_commits() -> Outcome {
    let places = |folder: &Path| [folder.join("made/for/int4"), folder.join("made/fp32")];
    let whole = tempfile::tempdir()?;
    let operations = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&operations);
    let disk = Disk::default().with_hook(move |operation| {
        log.lock().unwrap().push((operation.action, operation.path.to_owned()));
        None
    });
    build_two(&places(whole.path()), &disk)?;
    let complete = places(whole.path()).map(|output| contents(&output));
    let operations = operations.lock().unwrap().clone();
    let is_commit =
        |(action, path): &(Action, PathBuf)| *action == Action::Rename && places(whole.path()).contains(path);
    let commits: Vec<usize> = (0..operations.len()).filter(|at| is_commit(&operations[*at])).collect();
    assert_eq!(commits.len(), 2, "{operations:?}");

    let cases: Vec<_> =
        (0..operations.len()).flat_map(|at| [Event::Fail, Event::Interrupt].map(|event| (event, at))).collect();
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(event, at)| {
            let folder = tempfile::tempdir()?;
            let outputs = places(folder.path());
            let (interrupt, number) = (Interrupt::default(), Arc::new(Mutex::new(0)));
            let stop = interrupt.clone();
            let (event, at) = (*event, *at);
            let disk = Disk::new(interrupt).with_hook(move |_| {
                let mut number = number.lock().unwrap();
                *number += 1;
                match event {
                    _ if *number != at + 1 => None,
                    Event::Fail => Some(Fault::Fails(io::Error::from_raw_os_error(5))),
                    Event::Interrupt => {
                        stop.request();
                        None
                    }
                }
            });
            let result = build_two(&outputs, &disk);
            let now = outputs.each_ref().map(|output| if output.exists() { contents(output) } else { BTreeMap::new() });
            let done: Vec<bool> = now.iter().zip(&complete).map(|(now, complete)| now == complete).collect();
            assert!(now.iter().zip(&done).all(|(now, done)| *done || now.is_empty()), "a part of a package");
            match (result, event) {
                (Ok(()), _) => assert_eq!(done, [true, true]),
                (Err(error), Event::Interrupt) => {
                    assert!(matches!(error, Error::Interrupted), "{error}");
                    assert_eq!(done, [false, false], "an interruption comes before the commits or after them");
                    assert_eq!(fs::read_dir(folder.path())?.count(), 0, "something is left");
                }
                (Err(_), Event::Fail) if at < commits[0] => {
                    assert_eq!(done, [false, false]);
                    // What could not be removed is all that may be left.
                    if operations[at].0 != Action::RemoveFile {
                        assert_eq!(fs::read_dir(folder.path())?.count(), 0, "something is left");
                    }
                }
                (Err(_), Event::Fail) => assert!(!done[1], "the last commit fails and is done"),
            }
            Ok(())
        },
    );
    Ok(())
}

/// What a process that is told to end at once removes in the build's stead.
#[test]
fn all_places_are_cleaned_when_the_process_ends() -> Outcome {
    let folder = tempfile::tempdir()?;
    let interrupt = Interrupt::default();
    let disk = Disk::new(interrupt.clone());
    let claim = |place: &str| Output::claim(&folder.path().join(place), disk.clone());
    let outputs = [claim("made/for/int4")?, claim("made/fp32")?, claim("other/int8")?];
    assert_eq!(fs::read_dir(folder.path().join("made"))?.count(), 2, "a folder and a lock");
    interrupt.clean();
    assert_eq!(fs::read_dir(folder.path())?.count(), 0, "something is left");
    drop(outputs);
    assert_eq!(fs::read_dir(folder.path())?.count(), 0);
    // Nor does anything stay of claims that are given up one by one, the one that made the folder first.
    let [first, second] = [claim("made/for/int4")?, claim("made/fp32")?];
    drop(first);
    assert!(folder.path().join("made").exists(), "the other has its lock there");
    drop(second);
    assert_eq!(fs::read_dir(folder.path())?.count(), 0, "something is left");
    Ok(())
}
