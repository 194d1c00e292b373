//! Weights per second of the hot loops, on one core, with everything in the second-level cache.
//!
//! `cargo bench -p genai-quantize` runs all; a word after `--` picks. One row is 2048 weights, as in a layer of a model
//! of a billion parameters; a tile is as many rows as a build makes at a time. `items/s` are weights.

use divan::{Bencher, counter::ItemsCount};
use genai_quantize::{Buffers, IntScheme, Method, ScaleDtype, Simd, convert, quantize_rows_with};

const K: usize = 2048;
const ROWS: usize = 16;

fn main() {
    divan::main();
}

/// Those of this processor.
fn levels() -> Vec<Simd> {
    Simd::supported()
}

/// Sums of uniform numbers: near enough to normal for loops without branches on values.
fn weights() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..ROWS * K).map(|_| 0.02 * (uniform() + uniform() + uniform() + uniform())).collect()
}

fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * values.len()];
    convert::f32_to_bf16(Simd::portable(), values, &mut bytes).unwrap();
    bytes
}

/// bf16 bytes to packed codes, scales and zero points: all that a build does to a weight between reading and writing.
#[divan::bench_group]
mod bf16_to_codes {
    use super::*;

    #[divan::bench(args = levels())]
    fn int4_block32_symmetric_f32_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        bf16_to_codes(bencher, simd, IntScheme::new(4, 32, true).unwrap(), ScaleDtype::F32);
    }

    #[divan::bench(args = levels())]
    fn int4_block32_asymmetric_f16_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        bf16_to_codes(bencher, simd, IntScheme::new(4, 32, false).unwrap(), ScaleDtype::F16);
    }

    #[divan::bench(args = levels())]
    fn int4_block128_symmetric_f16_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        bf16_to_codes(bencher, simd, IntScheme::new(4, 128, true).unwrap(), ScaleDtype::F16);
    }

    #[divan::bench(args = levels())]
    fn int4_block32_rtn_f32_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        let scheme = IntScheme::new(4, 32, true).unwrap().with_method(Method::Rtn);
        bf16_to_codes(bencher, simd, scheme, ScaleDtype::F32);
    }

    #[divan::bench(args = levels())]
    fn int4_block32_k_quant_f32_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        let scheme = IntScheme::new(4, 32, false).unwrap().with_method(Method::KQuant);
        bf16_to_codes(bencher, simd, scheme, ScaleDtype::F32);
    }

    #[divan::bench(args = levels())]
    fn int4_block128_k_quant_f16_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        let scheme = IntScheme::new(4, 128, false).unwrap().with_method(Method::KQuant);
        bf16_to_codes(bencher, simd, scheme, ScaleDtype::F16);
    }

    #[divan::bench(args = levels())]
    fn int8_block32_symmetric_f32_scales(bencher: Bencher<'_, '_>, simd: Simd) {
        bf16_to_codes(bencher, simd, IntScheme::new(8, 32, true).unwrap(), ScaleDtype::F32);
    }
}

fn bf16_to_codes(bencher: Bencher<'_, '_>, simd: Simd, scheme: IntScheme, dtype: ScaleDtype) {
    let source = bf16_bytes(&weights());
    let mut values = vec![0.0; ROWS * K];
    let mut codes = vec![0; ROWS * scheme.code_bytes_per_row(K)];
    let mut scales = vec![0; ROWS * scheme.blocks(K) * dtype.size()];
    let mut zero_points = vec![0; ROWS * scheme.zero_point_bytes_per_row(K)];
    bencher.counter(ItemsCount::new(ROWS * K)).bench_local(|| {
        convert::bf16_to_f32(simd, divan::black_box(&source), &mut values).unwrap();
        assert_eq!(convert::first_non_finite(simd, &values), None);
        let out = Buffers { codes: &mut *codes, scales: &mut *scales, zero_points: &mut *zero_points };
        quantize_rows_with(simd, scheme, dtype, &values, K, out).unwrap();
    });
}

/// f32 to codes, without the widening.
#[divan::bench(args = levels())]
fn f32_to_codes_int4_block32_symmetric(bencher: Bencher<'_, '_>, simd: Simd) {
    let scheme = IntScheme::new(4, 32, true).unwrap();
    let values = weights();
    let mut codes = vec![0; ROWS * scheme.code_bytes_per_row(K)];
    let mut scales = vec![0; ROWS * scheme.blocks(K) * 4];
    bencher.counter(ItemsCount::new(ROWS * K)).bench_local(|| {
        let out = Buffers { codes: &mut *codes, scales: &mut *scales, zero_points: &mut [][..] };
        quantize_rows_with(simd, scheme, ScaleDtype::F32, divan::black_box(&values), K, out).unwrap();
    });
}

#[divan::bench_group]
mod conversions {
    use super::*;

    #[divan::bench(args = levels())]
    fn bf16_to_f32(bencher: Bencher<'_, '_>, simd: Simd) {
        widen(bencher, |bytes, values| convert::bf16_to_f32(simd, bytes, values));
    }

    #[divan::bench(args = levels())]
    fn f16_to_f32(bencher: Bencher<'_, '_>, simd: Simd) {
        widen(bencher, |bytes, values| convert::f16_to_f32(simd, bytes, values));
    }

    #[divan::bench(args = levels())]
    fn f32_to_bf16(bencher: Bencher<'_, '_>, simd: Simd) {
        narrow(bencher, |values, bytes| convert::f32_to_bf16(simd, values, bytes));
    }

    #[divan::bench(args = levels())]
    fn f32_to_f16(bencher: Bencher<'_, '_>, simd: Simd) {
        narrow(bencher, |values, bytes| convert::f32_to_f16(simd, values, bytes));
    }

    #[divan::bench(args = levels())]
    fn first_non_finite(bencher: Bencher<'_, '_>, simd: Simd) {
        let values = weights();
        let count = ItemsCount::new(values.len());
        bencher.counter(count).bench_local(|| convert::first_non_finite(simd, divan::black_box(&values)));
    }

    fn widen(bencher: Bencher<'_, '_>, convert: impl Fn(&[u8], &mut [f32]) -> genai_quantize::Result<()>) {
        let source = bf16_bytes(&weights());
        let mut values = vec![0.0; source.len() / 2];
        let count = ItemsCount::new(values.len());
        bencher.counter(count).bench_local(|| convert(divan::black_box(&source), &mut values).unwrap());
    }

    fn narrow(bencher: Bencher<'_, '_>, convert: impl Fn(&[f32], &mut [u8]) -> genai_quantize::Result<()>) {
        let values = weights();
        let mut bytes = vec![0; 2 * values.len()];
        let count = ItemsCount::new(values.len());
        bencher.counter(count).bench_local(|| convert(divan::black_box(&values), &mut bytes).unwrap());
    }
}
