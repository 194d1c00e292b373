//! How weights become integers.

use super::{Row, Wrong, boolean};
use crate::failure::Failure;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Quantization {
    pub(crate) block_size: Option<usize>,
    pub(crate) is_symmetric: Option<bool>,
    pub(crate) accuracy_level: Option<u8>,
}

const INTEGERS: &str = "int4, int8";

pub(super) const ROWS: &[Row] = &[
    Row {
        key: "block_size",
        values: "16, 32, 64, 128 or 256",
        default: "32",
        applies: INTEGERS,
        about: "How many weights of a row share a scale.",
        set: |options, value| {
            let size = value.parse().ok().filter(|size| [16, 32, 64, 128, 256].contains(size));
            options.quantization.block_size = Some(size.ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    Row {
        key: "is_symmetric",
        values: "true or false",
        default: "true",
        applies: INTEGERS,
        about: "Whether the middle code stands for zero; otherwise each block has a zero point of its own.",
        set: |options, value| {
            options.quantization.is_symmetric = Some(boolean(value)?);
            Ok(())
        },
    },
    Row {
        key: "accuracy_level",
        values: "a number from 0 to 4",
        default: "4 for cpu and webgpu, else 0",
        applies: "int4, int8 where weights are a MatMulNBits",
        about: "The least precision of activations in a product: 0 leaves it open, 1 is fp32, 2 fp16, 3 bf16, 4 int8.",
        set: |options, value| {
            let level = value.parse().ok().filter(|level| *level <= 4);
            options.quantization.accuracy_level = Some(level.ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    Row {
        key: "algo_config",
        values: "default",
        default: "default",
        applies: INTEGERS,
        about: "How scales are chosen: `default` rounds to nearest as ONNX Runtime does.",
        set: |_, value| match value {
            "default" => Ok(()),
            _ => Err(Wrong::Other(Failure::unsupported(
                format!("extra option algo_config is {value:?}, which is not supported"),
                "algo_config=default rounds to nearest as ONNX Runtime does",
            ))),
        },
    },
];
