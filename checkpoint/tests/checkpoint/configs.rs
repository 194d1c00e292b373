//! `config.json`, `generation_config.json`, and files beside the weights.

use genai_checkpoint::ErrorKind::{Malformed, Refused};
use std::fs::File;

use crate::support::{Model, assert_fails, f32_tensors};

fn model() -> Model {
    Model::of(f32_tensors(&[("a", 1)]))
}

#[test]
fn both_configs_are_parsed() {
    let model = model().with("config.json", r#"{"model_type":"llama"}"#);
    assert!(model.open_ok().generation_config().is_none());
    model.write("generation_config.json", r#"{"eos_token_id":[1,2]}"#);
    let checkpoint = model.open_ok();
    assert_eq!(checkpoint.config()["model_type"], "llama");
    assert_eq!(checkpoint.generation_config().unwrap()["eos_token_id"][1], 2);
}

#[test]
fn c01_broken_json_names_the_place() {
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    let cases: &[(&str, &[&str])] = &[
        ("{\n  \"a\": 1,\n", &["line 3 column 0"]),
        ("{\n  \"a\" 1}", &["line 2 column 7"]),
        (&deep, &["recursion limit"]),
        ("[1]", &["holds an array", "expected a JSON object"]),
        ("null", &["holds null"]),
        ("", &["is empty"]),
        ("{} {}", &["trailing characters"]),
    ];
    for name in ["config.json", "generation_config.json"] {
        for (text, says) in cases {
            model().with(name, text).fails(Malformed, &[says, &[name][..]].concat());
        }
    }
}

#[test]
fn python_literals_are_explained() {
    for literal in ["NaN", "Infinity", "-Infinity"] {
        for text in [
            format!("{{\"a\": 1,\n \"eps\": {literal}}}"),
            format!("{{\n\"b\":[0,{literal},1]}}"),
            format!("{{\n\"n\":{literal}\n}}"),
        ] {
            model()
                .with("config.json", text)
                .fails(Malformed, &["line 2 column", literal.trim_start_matches('-'), "Python"]);
        }
    }
    let error = model().with("config.json", "{\"NaN\": 1,\n\"a\": x}").open().unwrap_err();
    assert_eq!(error.hint(), None, "a name that says NaN elsewhere is not the cause");
}

#[test]
fn c18_sizes_are_capped() {
    let model = model().with("tokenizer.json", "");
    for (name, len) in [("config.json", (16 << 20) + 1), ("tokenizer.json", (256 << 20) + 1)] {
        File::create(model.path(name)).unwrap().set_len(len).unwrap();
        let text = format!("has {len} bytes, more than the limit of {}", len - 1);
        if name == "config.json" {
            model.fails(Malformed, &[name, &text]);
            model.write(name, "{}");
        } else {
            assert_fails(model.open_ok().file(name), Malformed, &[name, &text]);
        }
    }
}

#[test]
fn files_beside_the_weights() {
    let model = model().with("tokenizer.json", "{ }");
    let checkpoint = model.open_ok();
    assert_eq!(checkpoint.file("tokenizer.json").unwrap().unwrap(), b"{ }");
    assert_eq!(checkpoint.file("absent.json").unwrap(), None);
    assert_eq!(checkpoint.file_path("tokenizer.json").unwrap(), model.path("tokenizer.json"));
    assert_eq!(checkpoint.file_path("absent.json"), None);
    for name in ["../x", "/etc/passwd", "a/b", "..", "a\0", "C:x", ""] {
        assert_fails(checkpoint.file(name), Refused, &["not a plain file name"]);
        assert_eq!(checkpoint.file_path(name), None);
    }
}
