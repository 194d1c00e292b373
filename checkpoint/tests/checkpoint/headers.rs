//! Hostile and broken safetensors headers: the S rows of the reliability table.

use std::fs::File;

use genai_checkpoint::ErrorKind::Malformed;

use crate::support::{Model, SINGLE, f32_tensors, safetensors};

const OK: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

#[test]
fn s01_truncated_data() {
    let whole = f32_tensors(&[("a", 2048)]);
    let model = Model::of(&whole[..whole.len() - 4096]);
    model.fails(Malformed, &[SINGLE, "declares 8192 bytes", "the file has 4096", "truncated"]);
}

#[test]
fn s02_to_s06_lengths() {
    let huge = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let cases: [(Vec<u8>, &[&str]); 6] = [
        (vec![], &["is empty"]),
        (vec![0; 7], &["has 7 bytes"]),
        (huge(1 << 63), &["9223372036854775808", "the limit is 100000000"]),
        (huge(u64::MAX), &["18446744073709551615"]),
        (huge(3), &["declares a header of 3 bytes, but 2 bytes follow"]),
        (huge(0), &["the header is empty"]),
    ];
    for (bytes, says) in cases {
        Model::of(bytes).fails(Malformed, &[says, &[SINGLE]].concat());
    }
}

#[test]
fn s05_a_sparse_file_does_not_lift_the_header_limit() {
    let model = Model::of(100_000_001u64.to_le_bytes());
    File::options().write(true).open(model.path(SINGLE)).unwrap().set_len(200_000_000).unwrap();
    model.fails(Malformed, &[SINGLE, "header of 100000001 bytes", "limit is 100000000"]);
}

#[test]
fn s07_not_utf8_names_the_byte() {
    Model::of(safetensors(b"{\"a\xff\":0}", 0)).fails(Malformed, &[SINGLE, "not UTF-8 at byte 11"]);
}

/// Header, data length, tensor named by the error, what the error says.
type Case<'a> = (&'a str, usize, Option<&'a str>, &'a [&'a str]);

#[test]
fn s08_to_s17_headers() {
    let deep = format!(r#"{{"a":{}"#, "[".repeat(200_000));
    let deep_unknown = format!(r#"{{"a":{{"x":{}"#, "[".repeat(200_000));
    let deep_top = "[".repeat(200_000);
    let entry = |fields: &str| format!(r#"{{"a":{{{fields}}}}}"#);
    let shape = |shape: &str| entry(&format!(r#""dtype":"F32","shape":{shape},"data_offsets":[0,8]"#));
    let offsets = |offsets: &str| entry(&format!(r#""dtype":"F32","shape":[2],"data_offsets":{offsets}"#));
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    let (negative, float, exponent, string) = (shape("[-2]"), shape("[2.0]"), shape("[1e3]"), shape("[\"2\"]"));
    let (overflow, bits_overflow) = (shape("[4294967296,4294967296]"), shape("[1152921504606846976]"));
    let (mismatch, missing_shape) = (shape("[3]"), entry(r#""dtype":"F32","data_offsets":[0,8]"#));
    let unknown_dtype = entry(r#""dtype":"F5","shape":[2],"data_offsets":[0,8]"#);
    let half_byte = entry(r#""dtype":"F4","shape":[3],"data_offsets":[0,2]"#);
    let duplicate_field = entry(r#""dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]"#);
    let (backwards, three, past) = (offsets("[8,0]"), offsets("[0,8,9]"), offsets("[0,18446744073709551615]"));
    let (alias, overlap, hole) = (two("[0,8]", "[0,8]"), two("[0,8]", "[4,12]"), two("[0,8]", "[16,24]"));
    let late_start = offsets("[8,16]");
    let same = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let retyped = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#;
    let escaped = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\u0061":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#;
    let spaced = format!(" {OK}");
    let rest = format!("{OK}{{}}");

    let cases: &[Case] = &[
        ("[]", 0, None, &["begins with `[`"]),
        ("null", 0, None, &["begins with `n`"]),
        ("\"x\"", 0, None, &["begins with `\"`"]),
        ("{", 0, None, &["EOF", "line 1 column 1"]),
        (&spaced, 8, None, &["begins with ` `"]),
        (&rest, 8, None, &["trailing characters"]),
        (&deep_top, 0, None, &["begins with `[`"]),
        (&deep, 0, Some("a"), &["invalid type: sequence"]),
        (&deep_unknown, 0, Some("a"), &["recursion limit"]),
        (same, 8, Some("a"), &["duplicate tensor"]),
        (retyped, 8, Some("a"), &["duplicate tensor"]),
        (escaped, 8, Some("a"), &["duplicate tensor"]),
        (&duplicate_field, 8, Some("a"), &["duplicate key `dtype`"]),
        (&alias, 8, Some("b"), &["[0, 8] overlap those of tensor `a`, [0, 8]"]),
        (&overlap, 12, Some("b"), &["[4, 12] overlap those of tensor `a`, [0, 8]"]),
        (&hole, 24, Some("b"), &["bytes 8 to 16 of the data"]),
        (&late_start, 16, Some("a"), &["bytes 0 to 8 of the data"]),
        (OK, 12, None, &["has 4 bytes after the last tensor"]),
        ("{}", 1, None, &["has 1 bytes after the last tensor"]),
        (&overflow, 8, Some("a"), &["[4294967296, 4294967296] overflows"]),
        (&bits_overflow, 8, Some("a"), &["overflows"]),
        (&mismatch, 8, Some("a"), &["F32 and shape [3] need 12 bytes", "hold 8"]),
        (&negative, 8, Some("a"), &["invalid value: integer `-2`"]),
        (&float, 8, Some("a"), &["floating point `2.0`"]),
        (&exponent, 8, Some("a"), &["floating point `1000.0`"]),
        (&string, 8, Some("a"), &["string \"2\""]),
        (&missing_shape, 8, Some("a"), &["missing field `shape`"]),
        (&unknown_dtype, 8, Some("a"), &["unknown dtype `F5`"]),
        (&half_byte, 2, Some("a"), &["3 elements of F4 do not fill whole bytes"]),
        (&backwards, 8, Some("a"), &["[8, 0] end before they begin"]),
        (&three, 8, Some("a"), &["line 1 column"]),
        (&past, 8, Some("a"), &["need 8 bytes", "hold 18446744073709551615"]),
        (r#"{"__metadata__":{"a":1}}"#, 0, None, &["invalid type: integer"]),
        (r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0, None, &["duplicate key `a`"]),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, 0, None, &["duplicate key `__metadata__`"]),
        (r#"{"a":["F32",[2],[0,8]]}"#, 8, Some("a"), &["invalid type: sequence"]),
    ];
    for (header, data_len, tensor, says) in cases {
        let error = Model::of(safetensors(header, *data_len)).fails(Malformed, &[says, &[SINGLE][..]].concat());
        let shown: String = header.chars().take(200).collect();
        assert_eq!(error.tensor(), *tensor, "{shown}");
        assert_eq!(error.file().unwrap().file_name().unwrap(), SINGLE, "{shown}");
    }
}

#[test]
fn s17_a_dtype_that_is_no_weight_still_opens() {
    let header = r#"{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}"#;
    let checkpoint = Model::of(safetensors(header, 8)).open_ok();
    let tensor = checkpoint.tensor("a").unwrap();
    let error = checkpoint.read_f32(tensor, 0, &mut [0.0]).unwrap_err();
    assert_eq!(error.kind(), genai_checkpoint::ErrorKind::Unsupported);
    assert_eq!(error.tensor(), Some("a"));
}

#[test]
fn s19_names_are_opaque_and_printed_escaped() {
    let long = "n".repeat(1 << 20);
    let wild = "../\0a\u{1b}[31m\u{202e}";
    let checkpoint = Model::of(f32_tensors_json(&[&long, wild, ""])).open_ok();
    for name in [&long, wild, ""] {
        assert_eq!(checkpoint.tensor(name).unwrap().shape, [1]);
    }

    let both = serde_json::json!({ wild: { "dtype": "F5", "shape": [], "data_offsets": [0, 0] } }).to_string();
    let error = Model::of(safetensors(both, 0)).fails(Malformed, &["../\\0a\\u{1b}[31m\\u{202e}"]);
    assert_eq!(error.tensor(), Some(wild));
    let both = serde_json::json!({ &long: { "dtype": &long, "shape": [], "data_offsets": [0, 0] } }).to_string();
    let error = Model::of(safetensors(both, 0)).fails(Malformed, &["(1048576 bytes)"]);
    assert!(error.to_string().len() < 2000);
}

fn f32_tensors_json(names: &[&str]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    for (i, name) in names.iter().enumerate() {
        let offsets = [i * 4, i * 4 + 4];
        header.insert(name.to_string(), serde_json::json!({ "dtype": "F32", "shape": [1], "data_offsets": offsets }));
    }
    safetensors(serde_json::Value::from(header).to_string(), names.len() * 4)
}

#[test]
fn s20_s21_files_that_are_something_else() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    Model::of(pointer).fails(Malformed, &[SINGLE, "Git LFS pointer", "git lfs pull"]);
    Model::of("<!DOCTYPE html>\n<html><body>Sign in</body></html>").fails(Malformed, &["web page", "login page"]);
    Model::of("\n  <HTML><title>502 Bad Gateway</title>").fails(Malformed, &["web page"]);
    Model::of(b"PK\x03\x04 archive/data.pkl").fails(Malformed, &["PyTorch pickle", "convert"]);

    let model = Model::of(f32_tensors(&[("a", 1)])).with("config.json", pointer);
    model.fails(Malformed, &["config.json", "Git LFS pointer"]);
}

#[test]
fn s24_any_alignment_and_trailing_padding() {
    for padding in 0..9 {
        let header = format!("{OK}{}", " ".repeat(padding));
        let checkpoint = Model::of(safetensors(&header, 8)).open_ok();
        let tensor = checkpoint.tensor("a").unwrap();
        assert_eq!(tensor.file_offset(), 8 + header.len() as u64);
        let mut out = [0.0; 2];
        checkpoint.read_f32(tensor, 0, &mut out).unwrap();
        assert_eq!(out.map(f32::to_bits), [0x0302_0100, 0x0706_0504]);
    }
}

#[test]
fn scalars_empty_tensors_and_unknown_fields_are_fine() {
    let header = r#"{
        "scalar":{"dtype":"F64","shape":[],"data_offsets":[0,8]},
        "none":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[8,8],"note":[{"x":null}]},
        "codes":{"dtype":"F4","shape":[2],"data_offsets":[8,9]}}"#;
    let checkpoint = Model::of(safetensors(header.trim(), 9)).open_ok();
    let sizes: Vec<_> = checkpoint.tensors().map(|t| (t.name.as_str(), t.elements(), t.byte_len())).collect();
    assert_eq!(sizes, [("codes", 2, 1), ("none", 0, 0), ("scalar", 1, 8)]);
    assert_eq!(checkpoint.total_bytes(), 9);
    assert_eq!(checkpoint.warnings().len(), 1);
    assert!(checkpoint.warnings()[0].contains("`none`") && checkpoint.warnings()[0].contains("`note`"));
}
