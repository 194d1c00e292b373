//! Numbers.

use genai_onnx::tensor_proto::DataType;

use super::super::sample::Sample;
use super::{assert_found, findings};
use crate::graph::sample::{external, floats, int, tensor};
use crate::report::Severity::{Doubt, Error, Warning};

#[test]
fn damage_to_weights() {
    assert_found(&[
        (
            "NaN",
            |s| s.numbers("lm_head", |index, value| if index == 77 { f32::NAN } else { value }),
            Error,
            "weights",
            "lm_head: 1 of 4480 values are NaN and 0 infinite, the first is number 77",
        ),
        (
            "infinity",
            |s| s.numbers("layers.1.qkv_proj.scales", |index, value| if index == 3 { f32::INFINITY } else { value }),
            Error,
            "weights",
            "1 infinite, the first is number 3",
        ),
        (
            "a matrix of zeros",
            |s| s.numbers("lm_head", |_, _| 0.0),
            Error,
            "weights",
            "lm_head: all 4480 values are zero",
        ),
        (
            "codes of zeros",
            |s| s.tensor("layers.2.o_proj.codes").raw_data = Some(vec![0; 512]),
            Error,
            "weights",
            "layers.2.o_proj.codes: all 512 values are zero",
        ),
        (
            "scales of zeros",
            |s| s.numbers("layers.0.o_proj.scales", |_, _| 0.0),
            Error,
            "weights",
            "layers.0.o_proj.scales: all 32 values are zero",
        ),
        (
            "a norm of zeros",
            |s| s.numbers("layers.1.norm.weight", |_, _| 0.0),
            Doubt,
            "weights",
            "layers.1.norm.weight",
        ),
        (
            "an exponent",
            |s| s.numbers("lm_head", |index, value| if index == 5 { 3e12 } else { value }),
            Doubt,
            "weights",
            "the largest value is 3000000000000",
        ),
        (
            "one scale",
            |s| s.numbers("layers.0.qkv_proj.scales", |index, value| if index == 5 { 90.0 } else { value }),
            Doubt,
            "weights",
            "the largest scale is 90",
        ),
        (
            "all scales of a layer",
            |s| s.numbers("layers.1.o_proj.scales", |_, value| value * 40.0),
            Doubt,
            "weights",
            "layers.1.o_proj.codes: is of size",
        ),
    ]);
    let mut sample = Sample::new();
    sample.graph().initializer[0] = external("embed", &[700, 32], &[("location", "model.onnx.data")]);
    sample.data = sample.data.repeat(5);
    let from = sample.data.len() / 4 * 3;
    sample.data[from..].fill(0);
    let found = findings(&sample);
    assert!(
        found.iter().any(|f| f.severity == Warning && f.message.contains("the last 5600 of 22400 values are zero")),
        "{found:#?}"
    );
}

#[test]
fn damage_to_quantized_matrices() {
    assert_found(&[
        (
            "another width",
            |s| s.attribute("layers.1/attn/qkv_proj", int("bits", 8)),
            Error,
            "quantized",
            "/model/layers.1/attn/qkv_proj: has codes",
        ),
        (
            "other blocks",
            |s| s.attribute("layers.1/attn/qkv_proj", int("block_size", 16)),
            Error,
            "quantized",
            "expected UINT8 [64, 2, 8]",
        ),
        (
            "scales of another matrix",
            |s| s.node("layers.0/attn/o_proj").input[2] = "layers.0.qkv_proj.scales".into(),
            Error,
            "quantized",
            "scales `layers.0.qkv_proj.scales` of shape [64, 1], expected [32, 1]",
        ),
        ("zero points one off", off_by_one, Doubt, "quantized", "has the mean"),
        (
            "group indices",
            |s| {
                let bytes = (0..32_i32).flat_map(|column| (column / 31).to_le_bytes()).collect();
                s.graph().initializer.push(tensor("groups", DataType::Int32, &[32], bytes));
                s.node("layers.0/attn/o_proj").input.extend(["".to_owned(), "groups".to_owned()]);
            },
            Error,
            "quantized",
            "has the group index 1 in `groups`, there are 1 blocks",
        ),
    ]);
}

/// Replaces the head by a quantized one, large enough to have a mean, whose zero points should be one more.
fn off_by_one(sample: &mut Sample) {
    let codes: Vec<u8> = (0..140 * 16_u32).map(|at| [0x86_u8, 0x97, 0xa5, 0x68][(at % 4) as usize]).collect();
    sample.graph().initializer.retain(|tensor| tensor.name() != "lm_head");
    sample.graph().initializer.extend([
        tensor("lm_head", DataType::Uint8, &[140, 1, 16], codes),
        floats("head.scales", &[140, 1], &[0.1; 140]),
        tensor("head.zeros", DataType::Uint8, &[140, 1], vec![0x06; 140]),
    ]);
    let head = sample.node("lm_head/MatMul");
    head.op_type = Some("MatMulNBits".into());
    head.domain = Some("com.microsoft".into());
    head.input.extend(["head.scales".to_owned(), "head.zeros".to_owned()]);
    head.attribute = vec![int("K", 32), int("N", 140), int("bits", 4), int("block_size", 32)];
}

#[test]
fn damage_to_positions() {
    assert_found(&[
        (
            "from position 1 on",
            |s| {
                for (name, function) in [("cos", f32::cos as fn(f32) -> f32), ("sin", f32::sin)] {
                    s.numbers(name, |index, _| {
                        function((index / 8 + 1) as f32 * 10000_f32.powf(-((index % 8) as f32) / 8.0))
                    });
                }
            },
            Error,
            "rope-table",
            "row 0 is not the angle 0",
        ),
        (
            "swapped",
            |s| s.node("layers.0/attn/GroupQueryAttention").input.swap(7, 8),
            Error,
            "rope-table",
            "sin, cos: row 0 is not the angle 0",
        ),
        (
            "one number",
            |s| s.numbers("sin", |index, value| if index == 8 * 40 + 3 { value + 0.1 } else { value }),
            Error,
            "rope-table",
            "row 40",
        ),
        (
            "rows out of order",
            |s| {
                for name in ["cos", "sin"] {
                    let bytes = s.tensor(name).raw_data.as_mut().unwrap();
                    let (left, right) = bytes.split_at_mut(30 * 32);
                    left[29 * 32..].swap_with_slice(&mut right[..32]);
                }
            },
            Error,
            "rope-table",
            "row 29 is not one step on from row 28",
        ),
        (
            "of two tables",
            |s| s.numbers("sin", |index, _| ((index / 8) as f32 * 500_000_f32.powf(-((index % 8) as f32) / 8.0)).sin()),
            Error,
            "rope-table",
            "column 1 does not lie on the circle",
        ),
        (
            "of two lengths",
            |s| {
                let sin = s.tensor("sin");
                sin.dims = vec![32, 8];
                sin.raw_data.as_mut().unwrap().truncate(32 * 32);
            },
            Error,
            "rope-table",
            "[64, 8] and [32, 8]",
        ),
        (
            "of another head size",
            |s| {
                for name in ["cos", "sin"] {
                    s.tensor(name).dims = vec![32, 16];
                }
            },
            Warning,
            "rope-table",
            "16 columns, more than half of head_size 16",
        ),
    ]);
}
