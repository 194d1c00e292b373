//! Files beside the graph.

use serde_json::json;

use super::{assert_found, set};
use crate::graph::sample::floats;
use crate::report::Severity::{Error, Info, Warning};

#[test]
fn damage_to_files() {
    assert_found(&[
        ("a file cut off", |s| s.data.truncate(17_000), Error, "external-data", "embed: ends past its file"),
        (
            "a name that leads out",
            |s| s.tensor("embed").external_data[0].value = Some("../x".into()),
            Error,
            "external-data",
            "leads out of the folder",
        ),
        (
            "a file of another name",
            |s| s.tensor("embed").external_data[0].value = Some("model.data".into()),
            Error,
            "external-data",
            "there is no model.data",
        ),
        (
            "another size",
            |s| s.tensor("embed").dims = vec![140, 33],
            Error,
            "external-data",
            "has 17920 bytes, expected 18480",
        ),
        (
            "a tensor cut off",
            |s| s.tensor("norm.weight").dims = vec![33],
            Error,
            "model-file",
            "has 128 bytes, expected 132",
        ),
        (
            "no model",
            |s| set(s, "/model/decoder/filename", json!("decoder.onnx")),
            Error,
            "model-file",
            "there is no decoder.onnx",
        ),
        (
            "a model elsewhere",
            |s| set(s, "/model/decoder/filename", json!("/etc/passwd")),
            Error,
            "paths",
            "absolute path",
        ),
        (
            "a tokenizer elsewhere",
            |s| s.config["model"]["tokenizer_dir"] = json!("../.."),
            Error,
            "paths",
            "tokenizer_dir",
        ),
        ("no licence", |s| drop(s.files.remove("LICENSE")), Info, "licence", "not in the folder: a licence"),
        (
            "a tensor for nothing",
            |s| s.graph().initializer.push(floats("left", &[2], &[1.0, 2.0])),
            Info,
            "unused",
            "1 tensors that no node reads, 8 B: `left`",
        ),
        (
            "the same twice",
            |s| {
                let numbers = vec![0.5; 20_000];
                for name in ["one", "other"] {
                    s.graph().initializer.push(floats(name, &[20_000], &numbers));
                }
            },
            Info,
            "duplicates",
            "other: holds the same 78.12 KiB as `one`",
        ),
        ("an unknown key", |s| s.config["model"]["decoder"]["windows"] = json!({}), Error, "config", "windows"),
        ("a wrong type", |s| set(s, "/model/vocab_size", json!("140")), Error, "config", "vocab_size"),
        ("too long", |s| set(s, "/search/max_length", json!(65)), Error, "config", "max_length: is 65"),
    ]);
}

#[test]
fn damage_to_text() {
    assert_found(&[
        (
            "no tokenizer",
            |s| s.tokenizer = serde_json::Value::Null,
            Warning,
            "tokenizer",
            "tokenizer.json: is not in the package",
        ),
        (
            "a broken tokenizer",
            |s| s.tokenizer["model"]["type"] = json!("Nothing"),
            Error,
            "tokenizer",
            "tokenizer.json",
        ),
        (
            "a larger tokenizer",
            |s| s.tokenizer["model"]["vocab"]["extra"] = json!(140),
            Error,
            "vocabulary",
            "token \"extra\" has the id 140, the model has 140 tokens",
        ),
        (
            "a smaller tokenizer",
            |s| drop(s.tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("w139")),
            Info,
            "vocabulary",
            "1 of 140 rows",
        ),
        (
            "an id past the vocabulary",
            |s| set(s, "/model/eos_token_id", json!([2, 140])),
            Error,
            "special-ids",
            "is 140, the vocabulary has 140 tokens",
        ),
        (
            "another end",
            |s| set(s, "/model/eos_token_id", json!(5)),
            Warning,
            "special-ids",
            "is [5], tokenizer_config.json has eos_token \"<|im_end|>\" with the id 2",
        ),
        (
            "an end forgotten",
            |s| {
                s.files.insert("generation_config.json".into(), r#"{"eos_token_id": [2, 7]}"#.into());
            },
            Warning,
            "special-ids",
            "generation_config.json ends at 7 too",
        ),
        (
            "another begin",
            |s| set(s, "/model/bos_token_id", json!(9)),
            Warning,
            "special-ids",
            "bos_token \"<bos>\" with the id 1",
        ),
        (
            "a turn without an end",
            |s| set(s, "/model/eos_token_id", json!(5)),
            Warning,
            "chat-template",
            "ends answers with \"<|im_end|>\" (id 2), which is not in eos_token_id [5]",
        ),
        (
            "an empty template",
            |s| drop(s.files.insert("chat_template.jinja".into(), " \n".into())),
            Error,
            "chat-template",
            "leaves out what was said",
        ),
        (
            "a broken template",
            |s| drop(s.files.insert("chat_template.jinja".into(), "{% for m in messages %}".into())),
            Error,
            "chat-template",
            "chat_template.jinja",
        ),
        ("no template", |s| drop(s.files.remove("chat_template.jinja")), Info, "chat-template", "no chat template"),
        (
            "padding that ends",
            |s| set(s, "/model/pad_token_id", json!(2)),
            Warning,
            "pad",
            "is 2, which is also an end-of-text id",
        ),
        ("padding that begins", |s| set(s, "/model/pad_token_id", json!(1)), Warning, "pad", "also begins each text"),
    ]);
}
