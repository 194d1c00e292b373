//! Every level against the portable loops, on all patterns of bits.

use proptest::prelude::*;

use super::Simd;
use crate::{Buffers, Error, ErrorKind, IntScheme, Method, Result, ScaleDtype, convert, quantize_rows_with};

/// Any bits at all, but often what is hard: zeros, the smallest and the largest numbers, ties, infinities, NaNs.
fn bits() -> impl Strategy<Value = f32> {
    let nasty = [
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(0x007f_ffff),
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        // A signalling one.
        f32::from_bits(0x7f80_0001),
        // Where f16 rounds to infinity, and where bf16 does.
        65519.996,
        65520.0,
        f32::from_bits(0x7f7f_8000),
        f32::from_bits(0x7f7f_7fff),
        // Ties of f16 and bf16, and a subnormal of f16.
        1.0 + 1.0 / 2048.0,
        1.0 + 1.0 / 256.0,
        5.0e-8,
    ];
    prop_oneof![
        4 => any::<u32>().prop_map(f32::from_bits),
        2 => (-64_i32..=64).prop_map(|eighths| eighths as f32 / 8.0),
        4 => prop::sample::select(nasty.to_vec()),
    ]
}

/// What a whole matrix can be made of: mostly numbers, since one NaN hides the rest.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let scale = prop::sample::select(vec![1.0_f32, 1e-3, 1e-38, 1e-44, 1e4, 1e38]);
    let ties = (-64_i32..=64).prop_map(|eighths| eighths as f32 / 8.0);
    let weight = prop_oneof![
        20 => -1.0_f32..1.0,
        20 => ties,
        2 => prop::sample::select(vec![0.0, -0.0, f32::from_bits(1), -f32::MIN_POSITIVE]),
    ];
    let finite = (scale, prop::collection::vec(weight, 1..1400))
        .prop_map(|(scale, weights)| weights.into_iter().map(|weight| weight * scale).collect());
    prop_oneof![9 => finite, 1 => prop::collection::vec(bits(), 1..300)]
}

#[derive(Debug, PartialEq)]
struct Quantized {
    codes: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

fn quantize(simd: Simd, scheme: IntScheme, dtype: ScaleDtype, row: &[f32]) -> Result<Quantized> {
    let k = row.len();
    let mut out = Quantized {
        codes: vec![0xaa; scheme.code_bytes_per_row(k)],
        scales: vec![0xaa; scheme.blocks(k) * dtype.size()],
        zero_points: vec![0xaa; scheme.zero_point_bytes_per_row(k)],
    };
    let buffers = Buffers { codes: &mut *out.codes, scales: &mut *out.scales, zero_points: &mut *out.zero_points };
    quantize_rows_with(simd, scheme, dtype, row, k, buffers)?;
    Ok(out)
}

/// Floats and errors by their bits: a NaN equals itself.
fn narrowed(
    round: fn(Simd, &[f32], &mut [u8]) -> Result<()>,
    simd: Simd,
    values: &[f32],
) -> Result<Vec<u8>, (usize, u32)> {
    // At an odd address.
    let mut bytes = vec![0xaa; 2 * values.len() + 1];
    match round(simd, values, &mut bytes[1..]) {
        Ok(()) => Ok(bytes.split_off(1)),
        Err(Error::ValueOverflow { index, value, .. }) => Err((index, value.to_bits())),
        Err(other) => panic!("{other}"),
    }
}

/// A NaN keeps its sign; its payload is the processor's.
fn without_payloads(mut halves: Vec<u8>, infinity: u16) -> Vec<u8> {
    for pair in halves.as_chunks_mut::<2>().0 {
        let bits = u16::from_le_bytes(*pair);
        if bits & 0x7fff > infinity {
            *pair = (bits & 0x8000 | infinity | 1).to_le_bytes();
        }
    }
    halves
}

fn widened(widen: fn(Simd, &[u8], &mut [f32]) -> Result<()>, simd: Simd, bytes: &[u8]) -> Vec<Option<u32>> {
    let mut values = vec![0.5; bytes.len() / 2];
    widen(simd, bytes, &mut values).unwrap();
    values.iter().map(|value| (!value.is_nan()).then_some(value.to_bits())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_level_quantizes_alike(
        bits in prop::sample::select(vec![4, 8]),
        block_size in prop::sample::select(vec![16, 32, 64, 128, 256]),
        symmetric in any::<bool>(),
        method in prop::sample::select(Method::ALL.to_vec()),
        dtype in prop::sample::select(vec![ScaleDtype::F32, ScaleDtype::F16, ScaleDtype::Bf16]),
        row in weights(),
    ) {
        let scheme = IntScheme::new(bits, block_size, symmetric).unwrap().with_method(method);
        let portable = quantize(Simd::portable(), scheme, dtype, &row);
        for simd in Simd::supported() {
            match (&portable, quantize(simd, scheme, dtype, &row)) {
                (Ok(expected), Ok(found)) => prop_assert_eq!(&found, expected, "{:?}", simd),
                // A NaN is not equal to itself, but its place and its text are.
                (Err(expected), Err(found)) => prop_assert_eq!(found.to_string(), expected.to_string(), "{:?}", simd),
                (expected, found) => prop_assert!(false, "{simd:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn every_level_rounds_to_halves_alike(values in prop::collection::vec(bits(), 0..80)) {
        // One value that overflows hides the rest.
        let fitting: Vec<f32> = values.iter().map(|&v| if v.abs() >= 65520.0 && v.is_finite() { 1.5 } else { v }).collect();
        for values in [&values, &fitting] {
            let f16 = |simd| narrowed(convert::f32_to_f16, simd, values).map(|halves| without_payloads(halves, 0x7c00));
            let bf16 = |simd| narrowed(convert::f32_to_bf16, simd, values).map(|halves| without_payloads(halves, 0x7f80));
            for simd in Simd::supported() {
                prop_assert_eq!(f16(simd), f16(Simd::portable()), "{:?}", simd);
                prop_assert_eq!(bf16(simd), bf16(Simd::portable()), "{:?}", simd);
            }
        }
    }

    #[test]
    fn every_level_widens_alike(bytes in prop::collection::vec(any::<[u8; 2]>(), 0..80)) {
        let bytes = bytes.as_flattened();
        for simd in Simd::supported() {
            for widen in [convert::f16_to_f32 as fn(_, &_, &mut _) -> _, convert::bf16_to_f32] {
                prop_assert_eq!(widened(widen, simd, bytes), widened(widen, Simd::portable(), bytes), "{:?}", simd);
            }
        }
    }

    #[test]
    fn every_level_finds_the_first_that_is_not_finite(values in prop::collection::vec(bits(), 0..600)) {
        let expected = values.iter().position(|value| !value.is_finite());
        for simd in Simd::supported() {
            prop_assert_eq!(convert::first_non_finite(simd, &values), expected, "{:?}", simd);
        }
    }
}

#[test]
fn every_level_rounds_every_half_up() {
    // With a scale of 1 and a zero point of 0, a code is the rounded weight.
    let scheme = IntScheme::new(8, 16, false).unwrap();
    let near = |whole: u8| {
        let half = f32::from(whole) + 0.5;
        [f32::from(whole), half.next_down(), half, half.next_up(), f32::from(whole + 1).next_down()]
    };
    for simd in Simd::supported() {
        for whole in 0..=254 {
            let mut row = [0.0; 16];
            row[0] = 255.0;
            row[1..6].copy_from_slice(&near(whole));
            let codes = quantize(simd, scheme, ScaleDtype::F32, &row).unwrap().codes;
            let expected: Vec<u8> = row.iter().map(|weight| weight.round() as u8).collect();
            assert_eq!(codes, expected, "{simd:?}, {whole}");
        }
    }
}

#[test]
fn levels_have_names_and_the_widest_is_the_default() {
    let supported = Simd::supported();
    assert_eq!(supported.first(), Some(&Simd::portable()));
    assert_eq!(supported.last(), Some(&Simd::detect()));
    for simd in supported {
        assert_eq!(Simd::named(simd.name()), Ok(simd));
    }
    let error = Simd::named("mmx").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().starts_with("vector instructions \"mmx\" are not supported here, expected portable"));
}
