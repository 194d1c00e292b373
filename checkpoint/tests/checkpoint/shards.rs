//! The index and its shards: the X rows of the reliability table, and S23.

use std::fs;

use genai_checkpoint::ErrorKind::{Incomplete, Malformed, NotFound, Refused, Unsupported};

use crate::support::{INDEX, Model, SINGLE, f32_tensors, index};

const A: &str = "model-00001-of-00002.safetensors";
const B: &str = "model-00002-of-00002.safetensors";

/// `a` and `b` in the first shard, `c` in the second.
fn sharded() -> Model {
    Model::new()
        .with(A, f32_tensors(&[("b", 2), ("a", 1)]))
        .with(B, f32_tensors(&[("c", 3)]))
        .with(INDEX, index(&[("a", A), ("b", A), ("c", B)]))
}

#[test]
fn shards_are_joined_in_name_order() {
    let checkpoint = sharded().open_ok();
    let tensors: Vec<_> = checkpoint.tensors().map(|t| (t.name.as_str(), t.file_index(), t.elements())).collect();
    assert_eq!(tensors, [("a", 0, 1), ("b", 0, 2), ("c", 1, 3)]);
    let files: Vec<_> = checkpoint.weight_files().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(files, [A, B]);
    assert_eq!(checkpoint.total_bytes(), 24);
    assert!(checkpoint.warnings().is_empty());
    assert!(checkpoint.tensor("d").is_none());
}

#[test]
fn x01_all_missing_shards_are_listed() {
    let model = sharded().with(INDEX, index(&[("a", A), ("c", B), ("d", "three"), ("e", "four")]));
    model.fails(Incomplete, &["2 of 4", "`four`", "`three`", "hf download"]);
}

#[test]
fn x02_x03_shards_outside_are_refused() {
    for path in
        ["../outside.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "\\\\srv\\x", "a\0b", "..", ".", "", "sub/x"]
    {
        let model = sharded().with(INDEX, index(&[("a", A), ("c", path)]));
        let error = model.fails(Refused, &[INDEX, "not a plain file name"]);
        assert_eq!(error.tensor(), Some("c"));
    }
}

#[test]
fn x04_a_tensor_that_its_shard_lacks() {
    sharded()
        .with(INDEX, index(&[("a", A), ("b", B), ("c", B)]))
        .fails(Incomplete, &[INDEX, "`b`", "is not in", B, "but in", A]);
    sharded()
        .with(INDEX, index(&[("a", A), ("x", A), ("y", A), ("c", B)]))
        .fails(Incomplete, &["tensor `x`", "2 tensors", "`y`"]);
}

#[test]
fn x05_unlisted_tensors_are_taken_with_a_warning() {
    let checkpoint = sharded().with(INDEX, index(&[("a", A), ("c", B)])).open_ok();
    assert!(checkpoint.tensor("b").is_some());
    assert_eq!(checkpoint.warnings().len(), 1);
    assert!(checkpoint.warnings()[0].contains("`b`"), "{:?}", checkpoint.warnings());
}

#[test]
fn x06_the_same_tensor_in_two_shards() {
    sharded().with(B, f32_tensors(&[("a", 1), ("c", 3)])).fails(Incomplete, &["tensor `a`: is in two files", A, B]);
}

#[test]
fn x07_malformed_indices() {
    let cases: &[(&str, &[&str])] = &[
        (r#"{"weight_map":{"a":"x","a":"y"}}"#, &["duplicate key `a`", "line 1 column"]),
        (r#"{"weight_map":{"a":"x"},"weight_map":{"b":"x"}}"#, &["duplicate key `weight_map`"]),
        (r#"{"metadata":{"t":1,"t":2},"weight_map":{"a":"x"}}"#, &["duplicate key `t`"]),
        (r#"{"metadata":{}}"#, &["missing field `weight_map`"]),
        (r#"{"weight_map":{"a":1}}"#, &["invalid type: integer"]),
        ("[]", &["invalid type: sequence"]),
        ("", &["is empty"]),
        ("{\"weight_map\":\n{", &["line 2 column 1"]),
    ];
    for (text, says) in cases {
        sharded().with(INDEX, text).fails(Malformed, &[says, &[INDEX][..]].concat());
    }
    sharded().with(INDEX, r#"{"weight_map":{}}"#).fails(Incomplete, &["names no tensor"]);
}

#[test]
fn x08_a_wrong_total_size_is_a_warning() {
    let good = format!(r#"{{"metadata":{{"total_size":24}},"weight_map":{{"a":"{A}","b":"{A}","c":"{B}"}}}}"#);
    assert!(sharded().with(INDEX, &good).open_ok().warnings().is_empty());
    let checkpoint = sharded().with(INDEX, good.replace("24", "25")).open_ok();
    assert_eq!(checkpoint.warnings(), [format!("{INDEX}: declares total_size 25, the shards hold 24 bytes")]);
}

#[test]
fn x09_one_file_and_shards_must_agree() {
    let same = f32_tensors(&[("a", 1), ("b", 2), ("c", 3)]);
    let checkpoint = sharded().with(SINGLE, same).open_ok();
    assert_eq!(checkpoint.weight_files().len(), 2, "the index wins");

    sharded().with(SINGLE, f32_tensors(&[("a", 1), ("b", 2)])).fails(Incomplete, &["`c`", "two models"]);
    let more = f32_tensors(&[("a", 1), ("b", 2), ("c", 3), ("d", 1)]);
    sharded().with(SINGLE, more).fails(Incomplete, &["`d`", "two models"]);
    sharded().with(SINGLE, f32_tensors(&[("a", 1), ("b", 2), ("c", 4)])).fails(Incomplete, &["`c`", "two models"]);

    let indexed = Model::of(f32_tensors(&[("a", 1)])).with(INDEX, index(&[("a", SINGLE)]));
    assert_eq!(indexed.open_ok().weight_files().len(), 1);
}

#[test]
fn x10_folders_without_safetensors() {
    for name in ["pytorch_model.bin", "consolidated.00.pth", "pytorch_model.bin.index.json"] {
        Model::new().with(name, "").fails(Refused, &["pickle is not read", name, "convert"]);
    }
    Model::new().with("model.gguf", "").fails(Unsupported, &["GGUF", "`model.gguf`"]);
    Model::new().with(A, f32_tensors(&[("a", 1)])).fails(Incomplete, &[A, "index"]);
    Model::new().fails(Incomplete, &["holds neither"]);
}

#[test]
fn folders_that_are_no_model() {
    let model = sharded();
    fs::remove_file(model.path("config.json")).unwrap();
    model.fails(Incomplete, &["holds no config.json"]);
    let open = |name| genai_checkpoint::Checkpoint::open(&model.path(name)).unwrap_err();
    assert_eq!(open("absent").kind(), NotFound);
    assert_eq!(open(A).kind(), NotFound);
}

#[cfg(unix)]
#[test]
fn s23_shards_that_are_not_regular_files() {
    use std::process::Command;

    let model = Model::new();
    fs::create_dir(model.path(SINGLE)).unwrap();
    model.fails(Malformed, &[SINGLE, "is a folder"]);

    let model = Model::new();
    assert!(Command::new("mkfifo").arg(model.path(SINGLE)).status().unwrap().success());
    model.fails(Malformed, &[SINGLE, "not a regular file"]);

    let model = Model::new();
    let _socket = std::os::unix::net::UnixListener::bind(model.path(SINGLE)).unwrap();
    model.fails(Malformed, &[SINGLE, "not a regular file"]);
}
