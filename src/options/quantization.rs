//! How weights become integers.

use genai_builder::{Matrices, Operators, Selector};
use genai_quantize::Method;

use super::{Row, Wrong, boolean};
use crate::failure::Failure;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Quantization {
    pub(crate) block_size: Option<usize>,
    pub(crate) is_symmetric: Option<bool>,
    pub(crate) accuracy_level: Option<u8>,
    pub(crate) method: Option<Method>,
    /// Bits for some matrices.
    pub(crate) mixed: Vec<(Matrices, usize)>,
    /// What a former name of `algo_config` adds to it.
    pub(crate) mixed_by_method: Mixed,
    pub(crate) nodes_to_exclude: Vec<String>,
    pub(crate) operators: Option<Operators>,
    pub(crate) shared_embeddings: Option<bool>,
}

/// Selectors and the bits that they give.
type Mixed = &'static [(Selector, usize)];

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
        values: "default, rtn or k_quant",
        default: "default",
        applies: INTEGERS,
        about: "How scales and zero points are found. `default` rounds to nearest as ONNX Runtime does. `rtn` does so with \
                a positive scale that reaches as far on both sides. `k_quant` searches for the grid of \
                each block with the least error; it always has zero points. `rtn_last`, `k_quant_last`, `k_quant_mixed` \
                and `k_quant_linear` are former names: the method with `matmul_mixed_precision` for the head, and for \
                sensitive layers or linear attention, in int8.",
        set: |options, value| {
            let (method, mixed) = algorithm(value)?;
            if !mixed.is_empty() {
                let now: Vec<_> =
                    mixed.iter().map(|(selector, bits)| format!("{}:int{bits}", selector.name())).collect();
                let now = format!("algo_config={} matmul_mixed_precision={}", method.name(), now.join(","));
                options.notes.push(format!("algo_config={value} is {now} by now"));
            }
            (options.quantization.method, options.quantization.mixed_by_method) = (Some(method), mixed);
            Ok(())
        },
    },
    Row {
        key: "matmul_mixed_precision",
        values: "SELECTOR:TYPE,… of the selectors last_matmul, mixed_layers, linear_attn or names of nodes, and the types \
                 int4, int8",
        default: "none",
        applies: INTEGERS,
        about: "Other bits for matrices that rounding costs most. `last_matmul` is the head. `mixed_layers` is the value linear, with \
                query and key where they are one, and the one that leads out of the MLP, in the first and the last eighth of the \
                layers and every third between. `linear_attn` is linear attention and the MLP after it, in models that \
                have some. A node is called as for nodes_to_exclude. Of several that are about a matrix the first counts.",
        set: |options, value| {
            let mut asked: Vec<(Matrices, usize)> = Vec::new();
            for entry in value.split(',') {
                let (matrices, bits) = mixed(entry.trim()).ok_or(Wrong::Value)?;
                if asked.iter().any(|(known, _)| *known == matrices) {
                    let twice = format!("extra option matmul_mixed_precision has {} twice", matrices.name());
                    return Err(Wrong::Other(Failure::usage(twice)));
                }
                asked.push((matrices, bits));
            }
            options.quantization.mixed = asked;
            Ok(())
        },
    },
    Row {
        key: "nodes_to_exclude",
        values: "names of nodes, separated by commas",
        default: "none",
        applies: INTEGERS,
        about: "Nodes whose weights stay float, called as in a float package: `/model/layers.0/mlp/down_proj/MatMul`, \
                `/lm_head/MatMul`, `/model/embed_tokens/Gather`. A name that would change nothing is an error.",
        set: |options, value| {
            let names: Vec<_> = value.split(',').map(|name| name.trim().to_owned()).collect();
            if names.iter().any(String::is_empty) {
                return Err(Wrong::Value);
            }
            options.quantization.nodes_to_exclude = names;
            Ok(())
        },
    },
    Row {
        key: "op_types_to_quantize",
        values: "MatMul, Gather or MatMul/Gather",
        default: "MatMul",
        applies: "int4, int8; Gather where weights are a MatMulNBits",
        about: "What is quantized: linears (`MatMul`), and the embedding table (`Gather`). A table that is the head's too is \
                quantized with it in any case.",
        set: |options, value| {
            let mut operators = Operators { products: false, lookups: false };
            for name in value.split('/') {
                match name {
                    "MatMul" => operators.products = true,
                    "Gather" => operators.lookups = true,
                    _ => return Err(Wrong::Value),
                }
            }
            options.quantization.operators = Some(operators);
            Ok(())
        },
    },
    Row {
        key: "shared_embeddings",
        values: "true or false",
        default: "as the model's tie_word_embeddings",
        applies: "models with a tied head",
        about: "Whether a tied head and the embedding table are stored as one matrix. `false` stores both; the table is then \
                float unless op_types_to_quantize has Gather. With weights as DequantizeLinear a quantized head is \
                apart in any case.",
        set: |options, value| {
            options.quantization.shared_embeddings = Some(boolean(value)?);
            Ok(())
        },
    },
];

const LAST: Mixed = &[(Selector::LastMatmul, 8)];

/// The method of a name, and the matrices that a former name gives 8 bits.
fn algorithm(name: &str) -> Result<(Method, Mixed), Wrong> {
    match name {
        "default" => Ok((Method::Default, &[])),
        "rtn" => Ok((Method::Rtn, &[])),
        "rtn_last" => Ok((Method::Rtn, LAST)),
        "k_quant" => Ok((Method::KQuant, &[])),
        "k_quant_last" => Ok((Method::KQuant, LAST)),
        "k_quant_mixed" => Ok((Method::KQuant, &[(Selector::LastMatmul, 8), (Selector::MixedLayers, 8)])),
        "k_quant_linear" => Ok((Method::KQuant, &[(Selector::LastMatmul, 8), (Selector::LinearAttention, 8)])),
        _ => Err(Wrong::Value),
    }
}

/// `SELECTOR:TYPE` or `NODE:TYPE`.
fn mixed(entry: &str) -> Option<(Matrices, usize)> {
    let (name, bits) = entry.rsplit_once(':')?;
    let matrices = match name.starts_with('/') {
        true => Matrices::Node(name.to_owned()),
        false => Matrices::Selected(Selector::ALL.into_iter().find(|selector| selector.name() == name)?),
    };
    match bits {
        "int4" => Some((matrices, 4)),
        "int8" => Some((matrices, 8)),
        _ => None,
    }
}
