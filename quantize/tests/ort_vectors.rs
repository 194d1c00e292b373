//! Byte for byte against ONNX Runtime's own quantizer, as recorded by `fixtures/record/quantize_vectors.py`.

use std::path::Path;

use genai_quantize::{Buffers, IntScheme, ScaleDtype, Simd, convert, quantize_rows_with};
use safetensors::SafeTensors;

const DTYPES: [(&str, ScaleDtype); 3] =
    [("f32", ScaleDtype::F32), ("f16", ScaleDtype::F16), ("bf16", ScaleDtype::Bf16)];
const INPUTS: [&str; 4] = ["even", "ragged", "odd", "nasty"];

#[test]
fn bytes_equal_those_of_onnx_runtime() {
    for simd in Simd::supported() {
        compare(simd);
    }
}

fn compare(simd: Simd) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/quantize/ort_vectors.safetensors");
    let file = std::fs::read(path).unwrap();
    let recorded = SafeTensors::deserialize(&file).unwrap();
    let bytes = |name: &str| recorded.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data();

    let mut differences = Vec::new();
    for (dtype_name, dtype) in DTYPES {
        for input in INPUTS {
            let tensor = recorded.tensor(&format!("{dtype_name}/{input}")).unwrap();
            let k = tensor.shape()[1];
            let rows = widen(simd, tensor.data(), dtype);

            for (bits, block_size, symmetric) in schemes() {
                let scheme = IntScheme::new(bits, block_size, symmetric).unwrap();
                let kind = if symmetric { "sym" } else { "asym" };
                let case = format!("{dtype_name}/{input}/{bits}/{block_size}/{kind}");

                let mut codes = bytes(&format!("{case}/codes")).to_vec();
                clear_half_byte_past_k(scheme, k, &mut codes);
                let expected = Quantized {
                    codes,
                    scales: bytes(&format!("{case}/scales")).to_vec(),
                    zero_points: if symmetric { vec![] } else { bytes(&format!("{case}/zero_points")).to_vec() },
                };
                differences.extend(quantize(simd, scheme, dtype, &rows, k).difference(&expected, &case));
            }
        }
    }
    assert!(differences.is_empty(), "{simd:?}: {} buffers differ:\n{}", differences.len(), differences.join("\n"));
}

fn schemes() -> impl Iterator<Item = (usize, usize, bool)> {
    let block_sizes = [16, 32, 64, 128, 256];
    [4, 8].into_iter().flat_map(move |bits| {
        block_sizes.into_iter().flat_map(move |block_size| [true, false].map(|symmetric| (bits, block_size, symmetric)))
    })
}

fn widen(simd: Simd, bytes: &[u8], dtype: ScaleDtype) -> Vec<f32> {
    let mut values = vec![f32::NAN; bytes.len() / dtype.size()];
    match dtype {
        ScaleDtype::F32 => values = bytes.as_chunks().0.iter().map(|&le| f32::from_le_bytes(le)).collect(),
        ScaleDtype::F16 => convert::f16_to_f32(simd, bytes, &mut values).unwrap(),
        ScaleDtype::Bf16 => convert::bf16_to_f32(simd, bytes, &mut values).unwrap(),
    }
    values
}

/// ONNX Runtime leaves a stale code beside the last weight of an odd row: no weight, and no claim of ours.
fn clear_half_byte_past_k(scheme: IntScheme, k: usize, codes: &mut [u8]) {
    if scheme.bits() == 4 && k % 2 == 1 {
        for row in codes.chunks_mut(scheme.code_bytes_per_row(k)) {
            row[k / 2] &= 0x0f;
        }
    }
}

struct Quantized {
    codes: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

fn quantize(simd: Simd, scheme: IntScheme, dtype: ScaleDtype, rows: &[f32], k: usize) -> Quantized {
    let n = rows.len() / k;
    // Not zero at the start: every byte has to be written.
    let mut codes = vec![0xaa; n * scheme.code_bytes_per_row(k)];
    let mut scales = vec![0xaa; n * scheme.blocks(k) * dtype.size()];
    let mut zero_points = vec![0xaa; n * scheme.zero_point_bytes_per_row(k)];
    let out = Buffers { codes: &mut *codes, scales: &mut *scales, zero_points: &mut *zero_points };
    quantize_rows_with(simd, scheme, dtype, rows, k, out).unwrap();
    Quantized { codes, scales, zero_points }
}

impl Quantized {
    /// One line for each buffer that differs.
    fn difference(&self, expected: &Self, case: &str) -> Vec<String> {
        [
            ("codes", &self.codes, &expected.codes),
            ("scales", &self.scales, &expected.scales),
            ("zero_points", &self.zero_points, &expected.zero_points),
        ]
        .into_iter()
        .filter(|(_, actual, expected)| actual != expected)
        .map(|(buffer, actual, expected)| {
            let first = actual.iter().zip(expected).position(|(a, b)| a != b);
            let unequal = actual.iter().zip(expected).filter(|(a, b)| a != b).count();
            let bytes = first.map(|i| (i, actual[i], expected[i]));
            let lengths = (actual.len(), expected.len());
            format!(
                "{case}/{buffer}: {unequal} bytes differ, first (index, ours, recorded) {bytes:?}, lengths {lengths:?}"
            )
        })
        .collect()
    }
}
