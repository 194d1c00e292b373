//! What holds for all weights, and the fast loops against a slow reading of the rule.

use genai_quantize::{Buffers, IntScheme, Method, ScaleDtype, Simd, dequantize_rows, quantize_rows_with};
use proptest::prelude::*;
use proptest::sample::select;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also the layout: every length comes from [`IntScheme`], and every byte is compared.
    #[test]
    fn the_fast_loops_follow_the_rule(scheme in schemes_of(&[Method::Default]), dtype in dtypes(), (k, rows) in matrices()) {
        let expected = by_the_rule(scheme, dtype, &rows, k);
        for simd in Simd::supported() {
            prop_assert_eq!(&quantize(simd, scheme, dtype, &rows, k), &expected, "{:?}", simd);
        }
    }

    #[test]
    fn the_error_is_at_most_half_a_step_unless_clipped(
        scheme in schemes_of(&[Method::Default, Method::Rtn]),
        dtype in dtypes(),
        (k, rows) in matrices(),
    ) {
        let quantized = quantize(Simd::detect(), scheme, dtype, &rows, k);
        let back = dequantize(scheme, dtype, &quantized, k);
        let scales = quantized.scales(dtype);
        for (i, (&weight, &back)) in rows.iter().zip(&back).enumerate() {
            let scale = f64::from(scales[i / k * scheme.blocks(k) + i % k / scheme.block_size()]);
            // A symmetric grid reaches 2^(bits-1) steps on the side of its widest weight and one less on the other.
            let clipped = scheme.is_symmetric() && scheme.method() == Method::Default && f64::from(weight) / scale > f64::from(mid(scheme)) - 1.0;
            let steps = if clipped { 1.0 } else { 0.5 };
            // Rounding of the scale when it is stored, and of f32 arithmetic at up to 255 steps.
            let slack = f64::from(epsilon(dtype)) * f64::from(weight.abs()) + 1e-4 * scale.abs();
            let error = (f64::from(back) - f64::from(weight)).abs();
            prop_assert!(error <= steps * scale.abs() + slack, "{weight} became {back}, scale {scale}");
        }
    }

    /// It gives up on single weights for the sake of the others, but not on any of them altogether.
    #[test]
    fn the_search_keeps_every_weight_within_some_steps(
        scheme in schemes_of(&[Method::KQuant]),
        dtype in dtypes(),
        (k, rows) in matrices(),
    ) {
        let back = dequantize(scheme, dtype, &quantize(Simd::detect(), scheme, dtype, &rows, k), k);
        for (row, back) in rows.chunks(k).zip(back.chunks(k)) {
            for (block, back) in row.chunks(scheme.block_size()).zip(back.chunks(scheme.block_size())) {
                let (low, high) = block.iter().fold((0.0_f32, 0.0_f32), |(low, high), w| (low.min(*w), high.max(*w)));
                let step = (high - low) / (2.0 * mid(scheme) - 1.0);
                for (weight, back) in block.iter().zip(back) {
                    let slack = 4.0 * epsilon(dtype) * weight.abs().max(high - low);
                    prop_assert!((weight - back).abs() <= 2.0 * step + slack, "{weight} became {back}, step {step}");
                }
            }
        }
    }

    #[test]
    fn zero_rows_stay_exactly_zero(
        scheme in schemes(),
        dtype in dtypes(),
        k in 1..600_usize,
        zero in select(vec![0.0, -0.0]),
    ) {
        let rows = vec![zero; 3 * k];
        let back = dequantize(scheme, dtype, &quantize(Simd::detect(), scheme, dtype, &rows, k), k);
        prop_assert!(back.iter().all(|&weight| weight == 0.0));
    }

    #[test]
    fn tiles_of_rows_give_the_same_bytes(
        scheme in schemes(),
        dtype in dtypes(),
        (k, rows) in matrices(),
        cut in 0..5_usize,
    ) {
        let (upper, lower) = rows.split_at(cut.min(rows.len() / k) * k);
        let (upper, lower) = (quantize(Simd::detect(), scheme, dtype, upper, k), quantize(Simd::detect(), scheme, dtype, lower, k));
        let whole = quantize(Simd::detect(), scheme, dtype, &rows, k);
        prop_assert_eq!(whole.codes, [upper.codes, lower.codes].concat());
        prop_assert_eq!(whole.scale_bytes, [upper.scale_bytes, lower.scale_bytes].concat());
        prop_assert_eq!(whole.zero_points, [upper.zero_points, lower.zero_points].concat());
    }
}

fn schemes() -> impl Strategy<Value = IntScheme> {
    schemes_of(&Method::ALL)
}

fn schemes_of(methods: &[Method]) -> impl Strategy<Value = IntScheme> + use<> {
    (select(vec![4, 8]), select(vec![16, 32, 64, 128, 256]), any::<bool>(), select(methods.to_vec())).prop_map(
        |(bits, block_size, symmetric, method)| {
            IntScheme::new(bits, block_size, symmetric).unwrap().with_method(method)
        },
    )
}

fn dtypes() -> impl Strategy<Value = ScaleDtype> {
    select(vec![ScaleDtype::F32, ScaleDtype::F16, ScaleDtype::Bf16])
}

/// `k` and rows `[n, k]`: centred or shifted, of several magnitudes, plain or coarse enough to produce ties.
fn matrices() -> impl Strategy<Value = (usize, Vec<f32>)> {
    let shapes = (0..5_usize, 1..600_usize);
    let shifts = select(vec![0.0_f32, 0.0, 1.5, -1.5]);
    let magnitudes = select(vec![1.0_f32, 64.0, 1000.0]);
    (shapes, shifts, magnitudes, any::<bool>()).prop_flat_map(|((n, k), shift, magnitude, coarse)| {
        let weight = (-1.0_f32..1.0).prop_map(move |x| if coarse { (x * 8.0).round() / 8.0 } else { x });
        let rows = prop::collection::vec(weight.prop_map(move |x| (x + shift) * magnitude), n * k);
        (Just(k), rows)
    })
}

#[derive(Debug, PartialEq)]
struct Quantized {
    codes: Vec<u8>,
    scale_bytes: Vec<u8>,
    zero_points: Vec<u8>,
}

fn quantize(simd: Simd, scheme: IntScheme, dtype: ScaleDtype, rows: &[f32], k: usize) -> Quantized {
    let n = rows.len() / k;
    // Not zero at the start: every byte has to be written.
    let mut codes = vec![0xaa; n * scheme.code_bytes_per_row(k)];
    let mut scale_bytes = vec![0xaa; n * scheme.blocks(k) * dtype.size()];
    let mut zero_points = vec![0xaa; n * scheme.zero_point_bytes_per_row(k)];
    let out = Buffers { codes: &mut *codes, scales: &mut *scale_bytes, zero_points: &mut *zero_points };
    quantize_rows_with(simd, scheme, dtype, rows, k, out).unwrap();
    Quantized { codes, scale_bytes, zero_points }
}

fn dequantize(scheme: IntScheme, dtype: ScaleDtype, quantized: &Quantized, k: usize) -> Vec<f32> {
    let n = quantized.codes.len() / scheme.code_bytes_per_row(k);
    let mut rows = vec![f32::NAN; n * k];
    let Quantized { codes, scale_bytes, zero_points } = quantized;
    dequantize_rows(scheme, dtype, codes, scale_bytes, zero_points, k, &mut rows).unwrap();
    rows
}

impl Quantized {
    fn scales(&self, dtype: ScaleDtype) -> Vec<f32> {
        self.scale_bytes
            .chunks(dtype.size())
            .map(|bytes| match dtype {
                ScaleDtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
                ScaleDtype::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
                ScaleDtype::Bf16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
            })
            .collect()
    }
}

/// The documentation of `quantize_rows`, one weight at a time.
fn by_the_rule(scheme: IntScheme, dtype: ScaleDtype, rows: &[f32], k: usize) -> Quantized {
    let mut quantized = Quantized { codes: vec![], scale_bytes: vec![], zero_points: vec![] };
    let top = 2.0 * mid(scheme) - 1.0;
    for row in rows.chunks(k) {
        let (mut codes, mut zero_points) = (vec![], vec![]);
        for block in row.chunks(scheme.block_size()) {
            let min = block.iter().copied().reduce(|low, w| if w < low { w } else { low }).unwrap();
            let max = block.iter().copied().reduce(|high, w| if w > high { w } else { high }).unwrap();
            let (scale, zero_point) = if scheme.is_symmetric() {
                (-(if max.abs() > min.abs() { max } else { min }) / mid(scheme), mid(scheme))
            } else {
                let (min, max) = (if min < 0.0 { min } else { 0.0 }, if max > 0.0 { max } else { 0.0 });
                let scale = (max - min) / top;
                (scale, if scale == 0.0 { 0.0 } else { (0.0 - min / scale).clamp(0.0, top).round() })
            };
            let (bytes, used) = match dtype {
                ScaleDtype::F32 => (scale.to_le_bytes().to_vec(), scale),
                ScaleDtype::F16 => {
                    let stored = half::f16::from_f32(scale);
                    (stored.to_le_bytes().to_vec(), stored.to_f32())
                }
                ScaleDtype::Bf16 => (half::bf16::from_f32(scale).to_le_bytes().to_vec(), scale),
            };
            quantized.scale_bytes.extend(bytes);
            zero_points.push(zero_point as u8);
            let reciprocal = if used == 0.0 { 0.0 } else { 1.0 / used };
            codes.extend(block.iter().map(|w| (w * reciprocal + zero_point).round().clamp(0.0, top) as u8));
        }
        codes.resize(k.next_multiple_of(scheme.block_size()), 0);
        quantized.codes.extend(packed(scheme, &codes, 0));
        if !scheme.is_symmetric() {
            quantized.zero_points.extend(packed(scheme, &zero_points, mid(scheme) as u8));
        }
    }
    quantized
}

fn packed(scheme: IntScheme, codes: &[u8], pad: u8) -> Vec<u8> {
    if scheme.bits() == 8 {
        return codes.to_vec();
    }
    codes.chunks(2).map(|pair| pair[0] | pair.get(1).unwrap_or(&pad) << 4).collect()
}

fn mid(scheme: IntScheme) -> f32 {
    if scheme.bits() == 8 { 128.0 } else { 8.0 }
}

/// One unit in the last place of 1: twice the relative error of a stored scale.
fn epsilon(dtype: ScaleDtype) -> f32 {
    match dtype {
        ScaleDtype::F32 => f32::EPSILON,
        ScaleDtype::F16 => half::f16::EPSILON.to_f32(),
        ScaleDtype::Bf16 => half::bf16::EPSILON.to_f32(),
    }
}
