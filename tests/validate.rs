//! `validate` as a command: levels, references, exit codes and certificates.

use std::fs;
use std::path::Path;
use std::time::Duration;

use genai_validate::LoadOptions;
use genai_validate::judge::{BenchOptions, measure_package};
use serde_json::Value;

use crate::support::{Outcome, Run, build, fixture, genai_build, runtime, runtime_arguments};

const USAGE: i32 = 2;
const FAILED: i32 = 10;
const COULD_NOT: i32 = 13;

fn validate(package: &Path, flags: &[&str]) -> Run {
    let arguments = ["validate", package.to_str().unwrap()];
    let arguments = arguments.iter().chain(flags).map(|argument| (*argument).to_owned());
    genai_build(arguments.chain(runtime_arguments()))
}

fn report(package: &Path, flags: &[&str]) -> Value {
    let run = validate(package, &[flags, &["--json"]].concat());
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// Stages and what became of them, such as `load pass` and `layers not_run`.
fn stages(report: &Value) -> Vec<String> {
    let outcome = |stage: &Value| stage["outcome"]["verdict"].as_str().unwrap_or("not_run").to_owned();
    let all = report["stages"].as_array().unwrap().iter();
    all.map(|stage| format!("{} {}", stage["stage"].as_str().unwrap(), outcome(stage))).collect()
}

#[test]
fn each_level_runs_its_stages_and_those_before() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let checkpoint = fixture("llama-default");
    let checkpoint = checkpoint.to_str().unwrap();
    let run = |flags: &[&str]| stages(&report(package.path(), flags));
    assert_eq!(run(&["--level", "structure"]), ["structure pass"]);
    assert_eq!(run(&[]), ["structure pass", "load pass", "consistency pass"]);
    let all = run(&["--reference", checkpoint]);
    assert_eq!(all.len(), 8, "{all:?}");
    assert!(all.iter().all(|stage| stage.ends_with(" pass")), "{all:?}");
    validate(package.path(), &["--level", "logits"]).failed(USAGE, &["--reference"])?;
    let generated = run(&["--level", "generation", "--reference", "none"]);
    assert_eq!(generated.last().unwrap(), "generation pass");
    Ok(())
}

#[test]
fn what_did_not_run_is_no_pass() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    // Recorded logits know nothing of the layers.
    let recorded = fixture("llama-default").join("reference.npz");
    let flags = ["--reference", recorded.to_str().unwrap(), "--level", "layers"];
    let run = validate(package.path(), &flags);
    assert!(
        run.code == COULD_NOT && run.stderr.contains("layers: the reference knows nothing of the layers"),
        "{run:?}"
    );
    assert_eq!(validate(package.path(), &[&flags[..2], &["--level", "logits"]].concat()).code, 0);
    Ok(())
}

#[test]
fn what_a_person_accepts_is_a_warning() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let other = fixture("tales-llama").join("tokenizer.json");
    fs::copy(other, package.path().join("tokenizer.json"))?;
    let refused = report(package.path(), &[]);
    assert_eq!(refused["error"]["exit_code"], FAILED);
    assert_eq!(stages(&refused), ["structure fail", "load pass", "consistency pass"], "bytes stand for tokens");
    let accepted = validate(package.path(), &["--allow", "vocabulary", "--allow", "nothing"]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    assert!(accepted.stdout.contains("accepted, else error: "), "{accepted:?}");
    assert!(accepted.stderr.contains("--allow nothing: no check of that name"), "{accepted:?}");
    Ok(())
}

#[test]
fn another_package_is_a_reference_and_can_be_kept() -> Outcome {
    let exact = build(&fixture("tales-llama"), "fp32", "cpu", &[])?;
    let package = build(&fixture("tales-llama"), "int4", "cpu", &[])?;
    let place = tempfile::tempdir()?;
    let kept = place.path().join("kept.safetensors");
    let kept = kept.to_str().unwrap();
    let first = report(package.path(), &["--reference", exact.path().to_str().unwrap(), "--save-reference", kept]);
    assert_eq!(first["verdict"], "pass", "{first:#}");
    let second = report(package.path(), &["--reference", kept]);
    assert_eq!(first["measured"]["layers"], second["measured"]["layers"]);
    assert!(first["measured"]["layers"].as_array().unwrap().len() >= 18, "keys, values and the stream of 6 layers");
    let kl = |report: &Value| report["parity"]["prompts"][0]["logits"]["kl_mean"].as_f64().unwrap();
    assert!(kl(&first) > 0.0 && kl(&first) == kl(&second));

    let found = &first["measured"]["predictions"];
    assert_eq!(found, &second["measured"]["predictions"]);
    let prompts = first["parity"]["prompts"].as_array().unwrap().iter();
    let positions: Vec<u64> = prompts.map(|prompt| prompt["logits"]["positions"].as_u64().unwrap()).collect();
    assert_eq!(found["kl"]["positions"], positions.iter().sum::<u64>());
    let next = &found["next_token"];
    let number = |key: &str| next[key].as_f64().unwrap();
    assert_eq!(next["tokens"], positions.iter().map(|count| count - 1).sum::<u64>());
    let ratio = (number("perplexity") / number("reference_perplexity")).ln();
    assert!(ratio != 0.0 && (ratio - number("ln_ratio")).abs() < 1e-9, "{next:#}");
    Ok(())
}

#[test]
fn speed_is_measured_with_its_spread() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let report = report(package.path(), &["--level", "bench", "--reference", "none"]);
    let bench = &report["measured"]["bench"];
    assert_eq!(bench["runs"], 10);
    let number = |value: &Value| value.as_f64().unwrap();
    let first = &bench["prefill"][0];
    for (median, spread) in [
        (&first["tokens_per_second"], &first["spread"]),
        (&bench["first_token_seconds"], &bench["first_token_spread"]),
        (&bench["decode_tokens_per_second"], &bench["decode_spread"]),
    ] {
        let (median, least, greatest) = (number(median), number(&spread[0]), number(&spread[1]));
        assert!(0.0 < least && least <= median && median <= greatest, "{bench:#}");
    }
    let between = [0, 1, 2].map(|index| number(&bench["between_tokens_ms"][index]));
    assert!(0.0 < between[0] && between.is_sorted() && number(&bench["sampling_us"]) > 0.0, "{bench:#}");
    assert!(number(&bench["peak_memory"]) > 0.0);
    Ok(())
}

#[test]
fn a_slow_model_is_measured_less_often() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let bench = BenchOptions { patience: Duration::ZERO, ..BenchOptions::default() };
    assert_eq!(measure_package(package.path(), runtime(), LoadOptions::default(), &bench)?.runs, 3);
    Ok(())
}

#[test]
fn the_first_wrong_layer_is_named() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let other = fixture("llama-bias");
    let report = report(package.path(), &["--reference", other.to_str().unwrap()]);
    assert_eq!(report["error"]["exit_code"], FAILED);
    let layers = report["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "layers").unwrap();
    assert_eq!(layers["findings"][0]["check"], "first-bad-layer", "{layers:#}");
    assert_eq!(layers["findings"][0]["at"], "layer 0, residual", "both have embeddings of their own");
    Ok(())
}

#[test]
fn a_certificate_keeps_the_package_whole() -> Outcome {
    let package = build(&fixture("llama-default"), "fp32", "cpu", &[])?;
    let manifest = package.path().join("genai-build.json");
    let before: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
    assert_eq!(validate(package.path(), &["--certify"]).code, 0);
    let first = fs::read(&manifest)?;
    let again = report(package.path(), &["--certify"]);
    assert_eq!(fs::read(&manifest)?, first, "the same result, the same bytes");
    let files = again["package"]["files"].as_object().unwrap().iter();
    let lines: String = files.map(|(name, hash)| format!("{}  {name}\n", hash.as_str().unwrap())).collect();
    assert_eq!(lines, fs::read_to_string(package.path().join("SHA256SUMS"))?);
    let mut certified: Value = serde_json::from_slice(&first)?;
    assert_eq!(certified["validation"]["verdict"], "pass");
    certified.as_object_mut().unwrap().remove("validation");
    assert_eq!(certified, before);
    genai_build(["verify", package.path().to_str().unwrap()]).success()?;

    fs::write(package.path().join("tokenizer.json"), "{}")?;
    let refused = validate(package.path(), &["--certify", "--level", "structure"]);
    assert!(refused.stderr.contains("tokenizer.json") || refused.code == FAILED, "{refused:?}");
    assert_eq!(fs::read(&manifest)?, first);
    Ok(())
}
