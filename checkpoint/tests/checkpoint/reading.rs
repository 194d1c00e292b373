//! Reading tensor data, and noticing that files change (S22).

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use genai_checkpoint::ErrorKind::{Incomplete, Malformed, Unsupported};
use half::{bf16, f16};

use crate::support::{Model, SINGLE, assert_fails, f32_tensors, safetensors};

/// More than one conversion chunk, and not a multiple of it.
const N: usize = 40_003;

#[test]
fn floats_are_read_as_f32_in_whole_and_in_part() {
    let values: Vec<f32> = (0..N).map(|i| (i % 251) as f32 - 125.0).collect();
    let encodings: [(&str, usize, Vec<u8>); 3] = [
        ("F32", 4, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("F16", 2, values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect()),
        ("BF16", 2, values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()),
    ];
    for (dtype, width, data) in encodings {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[{N}],"data_offsets":[0,{}]}}}}"#, N * width);
        let mut bytes = safetensors(header, 0);
        bytes.extend(&data);
        let checkpoint = Model::of(bytes).open_ok();
        let tensor = checkpoint.tensor("a").unwrap();

        for (first, len) in [(0, N), (0, 0), (1, 16 * 1024), (16 * 1024 - 1, 3), (N - 1, 1), (N, 0), (5, N - 5)] {
            let mut out = vec![f32::NAN; len];
            checkpoint.read_f32(tensor, first as u64, &mut out).unwrap();
            assert_eq!(out, values[first..first + len], "{dtype} {first} {len}");
        }
        let mut raw = vec![0; 10];
        checkpoint.read(tensor, 6, &mut raw).unwrap();
        assert_eq!(raw, data[6..16]);

        for (first, len) in [(N as u64, 1), (1, N), (u64::MAX, 1), (u64::MAX / 2, 1)] {
            assert_fails(checkpoint.read_f32(tensor, first, &mut vec![0.0; len]), Incomplete, &["`a`"]);
        }
        let end = tensor.byte_len();
        for (offset, len) in [(end, 1), (end - 1, 2), (u64::MAX, 1)] {
            assert_fails(checkpoint.read(tensor, offset, &mut vec![0; len]), Incomplete, &["`a`", &end.to_string()]);
        }
    }
}

#[test]
fn special_values_pass_through() {
    let header = r#"{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#;
    let mut bytes = safetensors(header, 0);
    bytes.extend([0x7fc0u16, 0x7f81, 0xff80, 0x8000].iter().flat_map(|bits| bits.to_le_bytes()));
    let checkpoint = Model::of(bytes).open_ok();
    let mut out = [0.0; 4];
    checkpoint.read_f32(checkpoint.tensor("a").unwrap(), 0, &mut out).unwrap();
    assert_eq!(out.map(f32::to_bits), [0x7fc0_0000, 0x7f81_0000, 0xff80_0000, 0x8000_0000]);
}

#[test]
fn other_dtypes_are_read_as_bytes_only() {
    let header = r#"{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#;
    let checkpoint = Model::of(safetensors(header, 8)).open_ok();
    let tensor = checkpoint.tensor("a").unwrap();
    assert_fails(checkpoint.read_f32(tensor, 0, &mut [0.0]), Unsupported, &[SINGLE, "`a`", "I32"]);
    let mut raw = [0; 8];
    checkpoint.read(tensor, 0, &mut raw).unwrap();
    assert_eq!(raw, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn s22_a_file_truncated_after_opening() {
    let model = Model::of(f32_tensors(&[("a", 1000), ("b", 1000)]));
    let checkpoint = model.open_ok();
    let half = fs::metadata(model.path(SINGLE)).unwrap().len() / 2;
    File::options().write(true).open(model.path(SINGLE)).unwrap().set_len(half).unwrap();

    let (a, b) = (checkpoint.tensor("a").unwrap(), checkpoint.tensor("b").unwrap());
    checkpoint.read_f32(a, 0, &mut [0.0; 900]).unwrap();
    let now = format!("has {half} bytes");
    assert_fails(
        checkpoint.read_f32(b, 0, &mut [0.0; 1000]),
        Malformed,
        &["changed while reading", "`b`", SINGLE, &now],
    );
    assert_fails(checkpoint.verify_unchanged(), Malformed, &["changed while reading", SINGLE, &now]);
}

#[test]
fn verify_unchanged_notices_every_file() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change, &str); 4] = [
        ("replaced", |path| fs::rename(path.with_extension("new"), path).unwrap(), "replaced by another file"),
        ("removed", |path| fs::remove_file(path).unwrap(), "was removed"),
        (
            "grown",
            |path| File::options().append(true).open(path).unwrap().set_len(1 << 20).unwrap(),
            "has 1048576 bytes",
        ),
        (
            "touched",
            |path| {
                let later = SystemTime::now() + Duration::from_secs(60);
                File::options().append(true).open(path).unwrap().set_modified(later).unwrap();
            },
            "modification time",
        ),
    ];
    for name in [SINGLE, "config.json", "generation_config.json"] {
        for (what, change, says) in &changes {
            let model = Model::of(f32_tensors(&[("a", 1)])).with("generation_config.json", "{}");
            fs::copy(model.path(name), model.path(name).with_extension("new")).unwrap();
            let checkpoint = model.open_ok();
            checkpoint.verify_unchanged().unwrap();
            change(&model.path(name));
            assert_fails(checkpoint.verify_unchanged(), Malformed, &["changed while reading", name, says]);
            // What was opened stays readable unless it was cut.
            assert!(checkpoint.read(checkpoint.tensor("a").unwrap(), 0, &mut [0; 4]).is_ok(), "{what}");
        }
    }
}

#[test]
fn threads_read_at_once() {
    const LEN: u64 = 1 << 16;
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{LEN}],"data_offsets":[0,{}]}}}}"#, LEN * 4);
    let mut bytes = safetensors(header, 0);
    bytes.extend((0..LEN).flat_map(|i| (i as f32).to_le_bytes()));
    let checkpoint = Model::of(bytes).open_ok();
    let tensor = checkpoint.tensor("a").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let checkpoint = &checkpoint;
            scope.spawn(move || {
                for step in 0..64 {
                    let first = (step * 4 + thread) * 256;
                    let mut out = [0.0; 256];
                    checkpoint.read_f32(tensor, first, &mut out).unwrap();
                    assert!(out.iter().enumerate().all(|(i, v)| *v == (first + i as u64) as f32), "from {first}");
                }
            });
        }
    });
}
