use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

fn valid() -> Value {
    json!({
        "model": {
            "type": "llama", "vocab_size": 2048, "context_length": 1024,
            "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0,
            "decoder": {
                "filename": "model.onnx", "head_size": 32, "num_hidden_layers": 6, "num_key_value_heads": 2,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "inputs": {"input_ids": "ids"},
                "outputs": {"present_key_names": "new.%d.k"}
            }
        },
        "search": {"max_length": 512, "past_present_share_buffer": true, "top_k": 7, "temperature": 0.5}
    })
}

fn parse(config: &Value) -> Result<Config> {
    Config::parse(config.to_string().as_bytes(), Path::new("folder"))
}

/// The valid configuration with the value at `pointer` set, or removed.
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut config = valid();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key.to_owned(), value)),
        None => assert!(parent.shift_remove(key).is_some(), "{pointer} is not there to remove"),
    }
    config
}

/// The JSON path and the problem of the error.
fn refused(config: &Value) -> (String, String) {
    match parse(config) {
        Err(Error::Config { key, problem, .. }) => (key, problem),
        other => panic!("{config}: {other:?}"),
    }
}

#[test]
fn reads_values_and_fills_defaults() {
    let package = parse(&valid()).unwrap();
    assert_eq!((package.vocab_size, package.context_length), (2048, 1024));
    assert_eq!(package.eos_token_ids, [2, 5]);
    assert_eq!(package.decoder.model, Path::new("folder/model.onnx"));
    assert_eq!(package.decoder.inputs.input_ids, "ids");
    assert_eq!(package.decoder.inputs.past_key.name(3), "past_key_values.3.key");
    assert_eq!(package.decoder.outputs.present_key.name(3), "new.3.k");
    assert_eq!(package.decoder.outputs.present_value.name(3), "present.3.value");
    assert_eq!(package.decoder.beyond_plain, [""; 0]);
    assert_eq!((package.search.max_length, package.search.top_k), (512, 7));
    assert_eq!((package.search.temperature, package.search.top_p), (0.5, 0.0));
    assert!(package.search.past_present_share_buffer && !package.search.do_sample);
    assert_eq!(package.tokenizer_folder, Path::new("folder"));
}

#[test]
fn a_missing_required_field_is_named_by_its_path() {
    for pointer in [
        "/model",
        "/model/type",
        "/model/vocab_size",
        "/model/context_length",
        "/model/decoder",
        "/model/decoder/filename",
        "/model/decoder/head_size",
        "/model/decoder/num_hidden_layers",
        "/model/decoder/num_key_value_heads",
    ] {
        let (key, problem) = refused(&with(pointer, None));
        assert_eq!((key, problem.as_str()), (pointer.trim_start_matches('/').replace('/', "."), "is missing"));
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    for (pointer, value, expected) in [
        ("/model/vocab_size", json!(0), "is 0, expected a whole number of at least 1"),
        ("/model/vocab_size", json!(-5), "expected a whole number"),
        ("/model/vocab_size", json!(98.5), "is 98.5"),
        ("/model/vocab_size", json!(u64::MAX), "expected a whole number"),
        ("/model/context_length", json!("1024"), "expected a whole number"),
        ("/model/decoder", json!([]), "is a list, expected an object"),
        ("/model/pad_token_id", json!(null), "is null, expected a token id"),
        ("/model/eos_token_id", json!([]), "is an empty list"),
        ("/model/eos_token_id", json!([1, -1]), "is -1, expected a token id"),
        ("/model/decoder/filename", json!(""), "is empty"),
        ("/search/max_length", json!(1025), "is 1025, expected at most model.context_length 1024"),
        ("/search/temperature", json!(1e300), "expected a finite number"),
        ("/search/do_sample", json!(1), "is 1, expected true or false"),
        ("/model/decoder/inputs/input_ids", json!(7), "is 7, expected a text"),
    ] {
        let (key, problem) = refused(&with(pointer, Some(value)));
        assert_eq!(key, pointer.trim_start_matches('/').replace('/', "."));
        assert!(problem.contains(expected), "{pointer}: {problem}");
    }
}

#[test]
fn hostile_templates_are_refused_with_their_path() {
    for text in ["past.%s", "past", "past.%d.%d", "%n", "past.%02d"] {
        let (key, problem) = refused(&with("/model/decoder/inputs/past_value_names", Some(json!(text))));
        assert_eq!(key, "model.decoder.inputs.past_value_names");
        assert!(problem.contains("exactly one %d"), "{problem}");
    }
}

#[test]
fn paths_stay_inside_the_package() {
    for path in ["/etc/passwd", "../model.onnx", "a/../../b", "..\\b", "C:model.onnx", "\\\\host\\x", "a\0b"] {
        for pointer in ["/model/decoder/filename", "/model/tokenizer_dir"] {
            let (_, problem) = refused(&with(pointer, Some(json!(path))));
            assert!(problem.contains("inside the package"), "{path}: {problem}");
        }
    }
    let package = parse(&with("/model/decoder/filename", Some(json!("./cpu/model.onnx")))).unwrap();
    assert_eq!(package.decoder.model, Path::new("folder/cpu/model.onnx"));
}

#[test]
fn the_end_token_falls_back_to_the_pad_token_as_in_the_peer() {
    let without = with("/model/eos_token_id", None);
    assert_eq!(parse(&without).unwrap().eos_token_ids, [0]);
    let mut neither = without;
    neither["model"].as_object_mut().unwrap().shift_remove("pad_token_id");
    assert_eq!(refused(&neither).0, "model.eos_token_id");
    assert_eq!(parse(&with("/model/pad_token_id", Some(json!(-1)))).unwrap().pad_token_id, None);
}

#[test]
fn what_is_more_than_a_plain_decoder_is_listed() {
    for (pointer, value, expected) in [
        ("/model/vision", json!({}), "model.vision"),
        ("/model/decoder/pipeline", json!([{}]), "model.decoder.pipeline"),
        (
            "/model/decoder/sliding_window",
            json!({"window_size": 8, "slide_inputs": false}),
            "model.decoder.sliding_window.slide_key_value_cache",
        ),
        (
            "/model/decoder/session_options/custom_ops_library",
            json!("evil.so"),
            "model.decoder.session_options.custom_ops_library",
        ),
    ] {
        assert_eq!(parse(&with(pointer, Some(value))).unwrap().decoder.beyond_plain, [expected]);
    }
    let harmless = json!({"window_size": 8, "slide_inputs": false, "slide_key_value_cache": false});
    assert!(parse(&with("/model/decoder/sliding_window", Some(harmless))).unwrap().decoder.beyond_plain.is_empty());
}

#[test]
fn bytes_that_are_no_configuration_are_errors() {
    let nested = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    for bytes in [&b""[..], b"{", b"[]", b"null", b"{} trailing", b"\xff\xfe", &nested] {
        let error = Config::parse(bytes, Path::new("folder")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Package, "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Config::open(folder.path()).unwrap_err().kind(), ErrorKind::Io);
}
