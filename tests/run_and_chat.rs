//! `run` and `chat`: options, stop strings, conversations, what they tell.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Outcome, Run, build, fixture, genai_build, runtime_arguments};

const USAGE: i32 = 2;
const UNSUPPORTED: i32 = 3;
const MALFORMED: i32 = 4;

fn package(fixture_name: &str) -> TempDir {
    build(&fixture(fixture_name), "fp32", "cpu", &[]).unwrap()
}

fn arguments(verb: &str, package: &TempDir, flags: &[&str]) -> Vec<String> {
    let path = package.path().to_str().unwrap();
    let typed = [verb, path].into_iter().chain(flags.iter().copied()).map(str::to_owned);
    typed.chain(runtime_arguments()).collect()
}

fn run(package: &TempDir, flags: &[&str]) -> Run {
    genai_build(arguments("run", package, flags))
}

fn json(package: &TempDir, flags: &[&str]) -> Value {
    let flags = [&["--prompt", "Once upon a time", "--json"], flags].concat();
    serde_json::from_str(&run(package, &flags).success().unwrap()).unwrap()
}

/// Starts the binary with pipes to all of its streams.
fn start(arguments: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_genai-build"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Its output when `input` is all that it reads.
fn given(arguments: &[String], input: &str) -> Run {
    let mut child = start(arguments);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn run_tells_what_it_did_as_json() -> Outcome {
    let package = package("tales-llama");
    let plain = json(&package, &["-n", "24"]);
    let sequence = &plain["sequences"][0];
    assert_eq!((&plain["ok"], &plain["command"]), (&Value::Bool(true), &"run".into()), "{plain:#}");
    assert_eq!(sequence["ids"].as_array().unwrap().len(), 24);
    assert_eq!((&sequence["finish_reason"], &plain["usage"]["completion_tokens"]), (&"length".into(), &24.into()));
    let prompt_tokens = plain["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt_tokens > 1 && plain["timings"]["prefill_seconds"].as_f64().unwrap() > 0.0, "{plain:#}");
    let text = sequence["text"].as_str().unwrap();
    let streamed = run(&package, &["--prompt", "Once upon a time", "-n", "24"]).success()?;
    assert_eq!(streamed, format!("Once upon a time{text}\n"));

    // A stop string ends the text where it would begin, wherever it lies in tokens.
    let stop = &text[text.len() / 2..text.len() / 2 + 4];
    let stopped = json(&package, &["-n", "24", "--stop", "no such text", "--stop", stop]);
    let sequence = &stopped["sequences"][0];
    assert_eq!(sequence["text"].as_str().unwrap(), &text[..text.find(stop).unwrap()]);
    assert_eq!(sequence["finish_reason"], "stop");

    // The prompt may come in other ways.
    let typed = run(&package, &["--prompt", "Once upon a time", "-n", "8"]).success()?;
    let file = package.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time")?;
    assert_eq!(run(&package, &["--prompt-file", file.to_str().unwrap(), "-n", "8"]).success()?, typed);
    assert_eq!(given(&arguments("run", &package, &["--prompt", "-", "-n", "8"]), "Once upon a time").success()?, typed);
    Ok(())
}

#[test]
fn run_takes_every_search_option() -> Outcome {
    let package = package("tales-llama");
    let ids = |flags: &[&str]| json(&package, flags)["sequences"][0]["ids"].clone();
    let greedy = ids(&["-n", "24"]);
    let penalised = ids(&["-n", "24", "--repetition-penalty", "1.5"]);
    assert_ne!(penalised, greedy);
    assert_eq!(ids(&["-n", "24", "--search", "repetition_penalty=1.5"]), penalised);
    assert_eq!(ids(&["-n", "24", "--overlay", r#"{"search": {"repetition_penalty": 1.5}}"#]), penalised);
    // Of its own settings that the package has, those typed are the last word.
    let overlaid = ["-n", "24", "--overlay", r#"{"search": {"repetition_penalty": 1.5}}"#, "--repetition-penalty", "1"];
    assert_eq!(ids(&overlaid), greedy);
    let once_each = ids(&["-n", "24", "--search", "no_repeat_ngram_size=1"]);
    let mut seen: Vec<u64> = once_each.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 24);
    let sampled = ids(&["-n", "24", "--seed", "7", "--temperature", "1.5"]);
    assert_ne!(sampled, greedy);
    assert_eq!(
        ids(&["-n", "24", "--search", "do_sample=true", "--search", "random_seed=7", "--search", "temperature=1.5"]),
        sampled
    );
    let long = json(&package, &["--search", "max_length=12"]);
    let usage = &long["usage"];
    assert_eq!(usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap(), 12);
    assert_eq!(ids(&["-n", "24", "--search", "chunk_size=2", "--package-session", "--threads", "1"]), greedy);

    let beams = json(&package, &["-n", "12", "--num-beams", "3", "--search", "num_return_sequences=3"]);
    let scores: Vec<f64> =
        beams["sequences"].as_array().unwrap().iter().map(|sequence| sequence["score"].as_f64().unwrap()).collect();
    assert!(scores.len() == 3 && scores.is_sorted_by(|a, b| a >= b), "{beams:#}");

    let refused = |flags: &[&str], code: i32, says: &[&str]| {
        run(&package, &[&["--prompt", "a"], flags].concat()).failed(code, says).unwrap();
    };
    refused(&["--search", "top_kk=3"], USAGE, &["\"top_kk\"", "no_repeat_ngram_size"]);
    refused(&["--search", "top_k"], USAGE, &["NAME=VALUE"]);
    refused(&["--search", "top_k=1.5"], USAGE, &["top_k is 1.5, expected a whole number"]);
    refused(&["--search", "do_sample=1"], USAGE, &["do_sample is 1, expected true or false"]);
    refused(&["--repetition-penalty", "-1"], USAGE, &["repetition_penalty is -1"]);
    refused(&["--num-beams", "33"], USAGE, &["num_beams is 33"]);
    refused(&["--num-beams", "2", "--seed", "1"], USAGE, &["num_beams is 2", "do_sample"]);
    refused(&["--search", "batch_size=2"], UNSUPPORTED, &["batch_size 2", "one prompt"]);
    refused(&["--stop", ""], USAGE, &["stop string"]);
    refused(&["--overlay", r#"{"search": {"top_kk": 3}}"#], MALFORMED, &["search.top_kk", "did you mean `top_k`?"]);
    refused(&["--overlay", "{"], USAGE, &["--overlay"]);
    refused(&["--threads", "0"], USAGE, &["threads is 0"]);
    Ok(())
}

#[test]
fn run_writes_what_the_guidance_allows() -> Outcome {
    let package = package("tales-llama");
    let text = |flags: &[&str]| {
        let told = json(&package, &[&["-n", "48"], flags].concat());
        (told["sequences"][0]["text"].as_str().unwrap().to_owned(), told["sequences"][0]["finish_reason"].clone())
    };
    let schema = r#"{"type": "object", "properties": {"sea": {"type": "boolean"}, "day": {"enum": ["one", "two"]}},
                     "required": ["sea", "day"], "additionalProperties": false}"#;
    let (written, ending) = text(&["--json-schema", schema]);
    let value: Value = serde_json::from_str(&written)?;
    assert!(value["sea"].is_boolean() && ["one", "two"].contains(&value["day"].as_str().unwrap()), "{written}");
    assert_eq!(ending, "eos");
    let (digits, _) = text(&["--regex", "[0-9]{3}"]);
    assert!(digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()), "{digits}");
    let grammar = package.path().join("grammar.lark");
    std::fs::write(&grammar, "start: \"whale\" | \"boat\"")?;
    let (word, _) = text(&["--grammar", grammar.to_str().unwrap()]);
    assert!(["whale", "boat"].contains(&word.as_str()), "{word}");
    run(&package, &["--prompt", "a", "--regex", "("]).failed(USAGE, &["regex"])?;
    run(&package, &["--prompt", "a", "--regex", "a", "--json-schema", "{}"]).failed(USAGE, &["--json-schema"])
}

#[test]
fn events_are_told_where_they_are_asked_for() -> Outcome {
    let package = package("llama-default");
    let quiet = run(&package, &["--prompt", "a", "-n", "3"]);
    assert!(!quiet.stderr.contains("genai::"), "{}", quiet.stderr);
    let told = run(&package, &["--prompt", "a", "-n", "3", "--log", "genai=trace"]);
    for target in [
        "genai::model:",
        "genai::append_tokens:",
        "genai::generate_next_token:",
        "genai::hit_max_length:",
        "genai::model_input: name=\"input_ids\"",
        "genai::model_output: name=\"logits\"",
        "genai::model_logits:",
    ] {
        assert!(told.stderr.contains(target), "{target}: {}", told.stderr);
    }
    assert_eq!(told.stdout, quiet.stdout);
    let some = run(&package, &["--prompt", "a", "-n", "3", "--log", "genai::hit_max_length=debug"]);
    assert_eq!(some.stderr.matches("genai::").count(), 1, "{}", some.stderr);
    run(&package, &["--prompt", "a", "--log", "genai=="]).failed(USAGE, &["--log", "genai::hit_eos=debug"])
}

/// What the second turn computes on the cache of the first is what the whole conversation gives from the start.
#[test]
fn a_chat_goes_on_from_its_cache() -> Outcome {
    let package = package("qwen3-default");
    // The package itself asks for sampling.
    let greedy = ["-n", "12", "--search", "do_sample=false"];
    let chat = |flags: &[&str], input: &str| given(&arguments("chat", &package, &[&greedy[..], flags].concat()), input);
    let first = chat(&["--once", "Hello there."], "").success()?;
    let first = first.strip_suffix('\n').unwrap();
    let both = chat(&["--log", "genai::append_tokens=debug"], "Hello there.\nAnd then?\n");
    let events: Vec<&str> = both.stderr.lines().filter(|line| line.contains("genai::append_tokens")).collect();
    let [begun, gone_on] = events[..] else { panic!("{events:?}") };
    assert!(begun.contains("behind=0") && !gone_on.contains("behind=0"), "{events:?}");
    let both = both.success()?;
    let second = both.strip_prefix(first).unwrap().strip_prefix('\n').unwrap().strip_suffix('\n').unwrap();

    let whole = format!("<|user|>Hello there.<|end|><|assistant|>{first}<|end|><|user|>And then?<|end|><|assistant|>");
    let fresh: Value =
        serde_json::from_str(&run(&package, &[&greedy[..], &["--prompt", &whole, "--json"]].concat()).success()?)?;
    assert_eq!(fresh["sequences"][0]["text"], second);

    let told = chat(&["--once", "Hello there.", "--system", "Be brief."], "").success()?;
    let whole = "<|system|>Be brief.<|end|><|user|>Hello there.<|end|><|assistant|>";
    let fresh: Value =
        serde_json::from_str(&run(&package, &[&greedy[..], &["--prompt", whole, "--json"]].concat()).success()?)?;
    assert_eq!(told, format!("{}\n", fresh["sequences"][0]["text"].as_str().unwrap()));

    chat(&["--num-beams", "2"], "").failed(UNSUPPORTED, &["2 beams"])?;
    chat(&["--template-variables", "[]"], "").failed(USAGE, &["--template-variables"])?;
    chat(&["--once", &"word ".repeat(3000)], "").failed(USAGE, &["the conversation has", "there is room for"])?;
    let long = r#"{"model": {"context_length": 1000000000}, "search": {"max_length": 1000000000}}"#;
    let words = "word ".repeat(9000);
    chat(&["--once", &words, "--overlay", long], "")
        .failed(USAGE, &["there is room for 4096", "--search max_length"])?;
    let without = build(&fixture("llama-mha"), "fp32", "cpu", &[])?;
    given(&arguments("chat", &without, &[]), "").failed(UNSUPPORTED, &["no chat template", "genai-build run"])
}

/// A whole answer, which no end token cuts, takes more than a second; it is stopped when it has begun.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_not_the_chat() -> Outcome {
    let package = package("tales-llama");
    let template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}";
    std::fs::write(package.path().join("chat_template.jinja"), template)?;
    let flags = ["--search", "min_length=1000", "--threads", "1"];
    let mut child = start(&arguments("chat", &package, &flags));
    let heard = interrupt(&mut child);
    let status = child.wait()?;
    let (answer, told) = heard?;
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(told.contains("interrupted") && answer.ends_with('\n'), "{told}");
    Ok(())
}

/// Interrupts the first answer of a chat and ends the input; what it wrote to stdout and stderr.
#[cfg(unix)]
fn interrupt(child: &mut std::process::Child) -> Outcome<(String, String)> {
    let mut input = child.stdin.take().ok_or("no stdin")?;
    let mut output = child.stdout.take().ok_or("no stdout")?;
    input.write_all(b"Hello there.\n")?;
    output.read_exact(&mut [0; 4])?;
    // SAFETY: kill takes numbers alone; the child has not been waited for, so that its id is its own.
    assert_eq!(unsafe { libc::kill(child.id().try_into()?, libc::SIGINT) }, 0);
    // The end of the input ends a chat that goes on.
    drop(input);
    let (mut answer, mut told) = (String::new(), String::new());
    output.read_to_string(&mut answer)?;
    child.stderr.take().ok_or("no stderr")?.read_to_string(&mut told)?;
    Ok((answer, told))
}
