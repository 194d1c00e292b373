//! `--json` and `--progress json`: what docs/json.md promises to programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Altered, Outcome, build, build_arguments, fixture, for_each, genai_build, runtime_arguments};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[test]
fn every_failure_is_one_object_too() {
    let damaged = Altered::copy_of("llama-default").tensors(|tensors| {
        let tensor = tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        tensor.data[..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    });
    let missing = Altered::copy_of("llama-default").tensors(|tensors| tensors.retain(|name, _| !name.contains("norm")));
    let broken = Altered::copy_of("llama-default").with("model.safetensors", "<html>");
    let good = fixture("llama-default");
    let path = |altered: &Altered| altered.path().to_str().unwrap().to_owned();
    let place = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let build = |input: &str, more: &[&str]| -> Vec<String> {
        number.set(number.get() + 1);
        let output = place.path().join(number.get().to_string()).to_str().unwrap().to_owned();
        let provider = if more.contains(&"-e") { vec![] } else { vec!["-e", "cpu"] };
        let flags = [vec!["-p", "int4", "-o", &output, "--json"], provider].concat();
        ["-i", input].iter().chain(&flags).chain(more).map(|word| (*word).to_owned()).collect()
    };
    let good = good.to_str().unwrap();
    let cases: Vec<(&str, Vec<String>, i32, &str, Value)> = vec![
        (
            "build",
            build(&path(&damaged), &[]),
            5,
            "inconsistent_input",
            json!({"tensor": "model.layers.1.mlp.up_proj.weight"}),
        ),
        (
            "build",
            build(&path(&broken), &[]),
            4,
            "malformed_input",
            json!({"file": format!("{}/model.safetensors", path(&broken))}),
        ),
        ("build", build(&path(&missing), &[]), 5, "inconsistent_input", json!({})),
        ("build", build(good, &["--max-memory", "1"]), 8, "resources", json!({})),
        ("build", build(good, &["--extra_options", "blok_size=1"]), 2, "usage", json!({})),
        ("build", build(good, &["--extra_options", "hf_remote=1"]), 12, "refused", json!({})),
        ("build", build("/nowhere", &[]), 5, "inconsistent_input", json!({})),
        ("build", build(good, &["-e", "tpu"]), 3, "unsupported", json!({})),
        ("genai-build", build(good, &["--no-such-flag"]), 2, "usage", json!({})),
        (
            "plan",
            ["plan", "-i", good, "-p", "bf16", "-e", "cpu", "--json"].map(str::to_owned).to_vec(),
            3,
            "unsupported",
            json!({}),
        ),
        ("verify", ["verify", good, "--json"].map(str::to_owned).to_vec(), 4, "malformed_input", json!({})),
    ];
    for_each(
        &cases,
        |(_, arguments, ..)| arguments.join(" "),
        |(command, arguments, code, kind, details)| {
            let run = genai_build(arguments);
            assert_eq!(run.code, *code, "{run:?}");
            let object = json_of(&run.stdout);
            assert_eq!((&object["ok"], &object["command"]), (&json!(false), &json!(command)), "{object:#}");
            let error = &object["error"];
            assert_eq!((&error["kind"], &error["exit_code"]), (&json!(kind), &json!(code)), "{object:#}");
            for (key, value) in details.as_object().unwrap() {
                assert_eq!(&error[key], value, "{object:#}");
            }
            let message = error["message"].as_str().unwrap();
            assert!(
                !message.is_empty()
                    && run.stderr.contains(message.lines().next().unwrap().trim_start_matches("error: ")),
                "{run:?}"
            );
            let keys: BTreeSet<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["exit_code", "file", "hint", "kind", "message", "problems", "tensor"].into());
            Ok(())
        },
    );
    let problems = json_of(&genai_build(build(&path(&missing), &[])).stdout)["error"]["problems"].clone();
    assert!(problems.as_array().unwrap().len() > 5, "{problems}");
}

#[test]
fn all_tensors_with_weights_that_are_no_numbers_are_told() -> Outcome {
    let names = ["lm_head.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"];
    let poisoned = Altered::copy_of("llama-default").tensors(|tensors| {
        for name in names {
            tensors.get_mut(name).unwrap().data[4..6].copy_from_slice(&0xff80u16.to_le_bytes());
        }
    });
    let place = tempfile::tempdir()?;
    for limits in [["-j", "1"], ["-j", "4"]] {
        let mut arguments = build_arguments(poisoned.path(), "int4", "cpu", &place.path().join("package"));
        arguments.extend(limits.iter().chain(&["--json", "--max-memory", "64K"]).map(|word| (*word).to_owned()));
        let run = genai_build(arguments);
        assert_eq!(run.code, 5, "{run:?}");
        let object = json_of(&run.stdout);
        let problems: Vec<&str> =
            object["error"]["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap()).collect();
        assert_eq!(problems.len(), names.len(), "{problems:?}");
        for name in names {
            let at = if name == "model.norm.weight" { "row 2: column 0" } else { "row 0: column 2" };
            let told = problems.iter().find(|problem| problem.contains(name)).unwrap();
            assert!(told.contains(at) && told.contains("-inf"), "{told}");
        }
    }
    assert_eq!(fs::read_dir(place.path())?.count(), 0);
    Ok(())
}

#[test]
fn events_are_lines_of_json() -> Outcome {
    let place = tempfile::tempdir()?;
    let events = |input: &Path, code: i32| -> Vec<Value> {
        let mut arguments = build_arguments(input, "int4", "cpu", &place.path().join("package"));
        arguments.extend(["--progress", "json"].map(str::to_owned));
        let run = genai_build(arguments);
        assert_eq!(run.code, code, "{run:?}");
        run.stderr.lines().map(json_of).collect()
    };
    let good = events(&fixture("tales-llama"), 0);
    let kinds: Vec<&str> = good.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"start"));
    assert_eq!(kinds.last(), Some(&"done"));
    assert!(kinds.contains(&"progress") && kinds.contains(&"stage"), "{kinds:?}");
    let progress: Vec<&Value> = good.iter().filter(|event| event["event"] == "progress").collect();
    let last = progress.last().unwrap();
    assert_eq!(last["done"], last["total"]);

    let strange = Altered::copy_of("llama-default").with("model.safetensors", "");
    let bad = events(strange.path(), 4);
    let error = bad.last().unwrap();
    assert_eq!((&error["event"], &error["exit_code"]), (&json!("error"), &json!(4)));
    Ok(())
}

#[test]
fn success_is_one_object() -> Outcome {
    let place = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture("llama-default"), "fp32", "cpu", &place.path().join("package"));
    arguments.extend(["--json", "--validate"].map(str::to_owned));
    arguments.extend(runtime_arguments());
    let object = json_of(&genai_build(arguments).success()?);
    assert_eq!((&object["ok"], &object["command"]), (&json!(true), &json!("build")));
    assert_eq!(object["parity"]["verdict"], "pass");
    let manifest = json_of(&fs::read_to_string(place.path().join("package/genai-build.json"))?);
    assert_eq!(manifest["parity"]["verdict"], "pass");
    let names = |files: &Value| {
        files.as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let mut listed = names(&manifest["files"]);
    listed.extend(["genai-build.json", "SHA256SUMS"].map(str::to_owned));
    assert_eq!(names(&object["files"]), listed);

    let verified =
        json_of(&genai_build(["verify", place.path().join("package").to_str().unwrap(), "--json"]).success()?);
    assert_eq!((&verified["ok"], &verified["command"]), (&json!(true), &json!("verify")));

    let other = build(&fixture("llama-bias"), "fp32", "cpu", &[])?;
    let arguments =
        ["validate", other.path().to_str().unwrap(), "-p", "fp32", "--json", "--checkpoint"].map(str::to_owned);
    let checkpoint = fixture("llama-default").to_str().unwrap().to_owned();
    let run = genai_build(arguments.into_iter().chain([checkpoint]).chain(runtime_arguments()));
    let failed = json_of(&run.stdout);
    assert_eq!((run.code, &failed["error"]["kind"]), (10, &json!("validation_failed")));
    assert_eq!(failed["parity"]["verdict"], "fail", "what was measured is told all the same");
    Ok(())
}
