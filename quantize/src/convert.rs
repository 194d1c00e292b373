//! Between f32 and the two-byte floats, for weights that stay float. Bytes are little-endian, of any alignment.

use half::{bf16, f16};

use crate::{Error, Result, Simd};

/// Widens `bytes`, two per value, into `values`. Exact. Fails with `Length` unless `bytes` is twice as long.
pub fn bf16_to_f32(simd: Simd, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    check_byte_length(bytes.len(), values.len())?;
    simd.bf16_to_f32(bytes, values);
    Ok(())
}

/// Widens `bytes`, two per value, into `values`. Exact. Fails with `Length` unless `bytes` is twice as long.
pub fn f16_to_f32(simd: Simd, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    check_byte_length(bytes.len(), values.len())?;
    simd.f16_to_f32(bytes, values);
    Ok(())
}

/// Rounds `values` to the nearest f16, ties to even, into `bytes`, two per value.
///
/// An infinity or NaN stays one: whether it is allowed is known where the values come from ([`first_non_finite`]).
///
/// # Errors
///
/// `Length` unless `bytes` is twice as long as `values`; `Overflow` for the first finite value that would become
/// infinite (from 65520 on). After an error the contents of `bytes` are unspecified.
pub fn f32_to_f16(simd: Simd, values: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_byte_length(bytes.len(), values.len())?;
    if simd.f32_to_f16(values, bytes) {
        return Err(overflow(values, "f16", f16::MAX.to_f32(), |value| f16::from_f32(value).is_finite()));
    }
    Ok(())
}

/// Rounds `values` to the nearest bf16, ties to even, into `bytes`, two per value.
///
/// An infinity or NaN stays one, as in [`f32_to_f16`].
///
/// # Errors
///
/// `Length` unless `bytes` is twice as long as `values`; `Overflow` for the first finite value that would become
/// infinite (the last 2^15 floats below infinity). After an error the contents of `bytes` are unspecified.
pub fn f32_to_bf16(simd: Simd, values: &[f32], bytes: &mut [u8]) -> Result<()> {
    check_byte_length(bytes.len(), values.len())?;
    if simd.f32_to_bf16(values, bytes) {
        return Err(overflow(values, "bf16", bf16::MAX.to_f32(), |value| bf16::from_f32(value).is_finite()));
    }
    Ok(())
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(simd: Simd, values: &[f32]) -> Option<usize> {
    // Almost all tensors have none.
    if simd.all_finite(values) { None } else { values.iter().position(|value| !value.is_finite()) }
}

/// The first finite value that a dtype cannot hold.
#[cold]
fn overflow(values: &[f32], dtype: &'static str, max: f32, fits: impl Fn(f32) -> bool) -> Error {
    let too_large = |&(_, value): &(usize, f32)| value.is_finite() && !fits(value);
    let (index, value) = values.iter().copied().enumerate().find(too_large).unwrap_or((0, f32::NAN));
    Error::ValueOverflow { index, value, dtype, max }
}

fn check_byte_length(bytes: usize, values: usize) -> Result<()> {
    let expected = values.saturating_mul(2);
    if bytes == expected { Ok(()) } else { Err(Error::BufferLength { buffer: "bytes", len: bytes, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn simd() -> Simd {
        Simd::detect()
    }

    /// The bytes of every two-byte pattern, and the same bytes at an odd address.
    fn every_pattern() -> (Vec<u8>, Vec<u8>) {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let shifted = [&[0], &*bytes].concat();
        (bytes, shifted)
    }

    #[test]
    fn every_f16_survives_the_way_to_f32_and_back() {
        let (bytes, shifted) = every_pattern();
        let mut values = vec![0.0; 1 << 16];
        f16_to_f32(simd(), &shifted[1..], &mut values).unwrap();
        for (pattern, &value) in (0..=u16::MAX).zip(&values) {
            let expected = f16::from_bits(pattern).to_f32_const();
            assert!(value == expected || value.is_nan() && expected.is_nan(), "{pattern:#06x}: {value} != {expected}");
        }
        let mut back = vec![0xaa; bytes.len() + 1];
        f32_to_f16(simd(), &values, &mut back[1..]).unwrap();
        assert_same_unless_nan(&back[1..], &bytes, 0x7c00);
    }

    #[test]
    fn every_bf16_survives_the_way_to_f32_and_back() {
        let (bytes, shifted) = every_pattern();
        let mut values = vec![0.0; 1 << 16];
        bf16_to_f32(simd(), &shifted[1..], &mut values).unwrap();
        assert_eq!((values[0x3f80], values[0xc049], values[0x0001]), (1.0, -3.140625, f32::from_bits(1 << 16)));
        let mut back = vec![0xaa; bytes.len() + 1];
        f32_to_bf16(simd(), &values, &mut back[1..]).unwrap();
        assert_same_unless_nan(&back[1..], &bytes, 0x7f80);
    }

    /// NaNs may come back with another payload, but as NaNs.
    fn assert_same_unless_nan(actual: &[u8], expected: &[u8], infinity: u16) {
        for (&actual, &expected) in actual.as_chunks::<2>().0.iter().zip(expected.as_chunks::<2>().0) {
            let (actual, expected) = (u16::from_le_bytes(actual), u16::from_le_bytes(expected));
            let both_nan = actual & 0x7fff > infinity && expected & 0x7fff > infinity;
            assert!(actual == expected || both_nan, "{actual:#06x} != {expected:#06x}");
        }
    }

    #[test]
    fn ties_round_to_even() {
        // One unit in the last place of 1 is 2^-10 in f16 and 2^-7 in bf16.
        let of_ulps = |ulp: f32| [1.0 + 0.5 * ulp, 1.0 + 1.5 * ulp, (1.0 + 0.5 * ulp).next_up(), -1.0 - 1.5 * ulp];
        let mut bytes = [0; 8];
        f32_to_f16(simd(), &of_ulps(2.0_f32.powi(-10)), &mut bytes).unwrap();
        assert_eq!(bytes, [0x00, 0x3c, 0x02, 0x3c, 0x01, 0x3c, 0x02, 0xbc]);
        f32_to_bf16(simd(), &of_ulps(2.0_f32.powi(-7)), &mut bytes).unwrap();
        assert_eq!(bytes, [0x80, 0x3f, 0x82, 0x3f, 0x81, 0x3f, 0x82, 0xbf]);
    }

    #[test]
    fn only_a_finite_value_can_overflow() {
        let mut values = vec![1.0; 600];
        values[3] = f32::INFINITY;
        values[4] = f32::NAN;
        values[400] = -65519.996;
        values[500] = 3.389e38;
        let mut bytes = vec![0; 1200];
        assert_eq!(f32_to_bf16(simd(), &values, &mut bytes), Ok(()));

        let error = f32_to_f16(simd(), &values, &mut bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overflow);
        assert_eq!(error.to_string(), "value 3.389e38 at index 500 overflows f16, whose largest value is 6.5504e4");
        values[400] = -65520.0;
        assert!(matches!(f32_to_f16(simd(), &values, &mut bytes), Err(Error::ValueOverflow { index: 400, .. })));

        values[550] = f32::from_bits(0x7f7f_8000).next_down();
        assert_eq!(f32_to_bf16(simd(), &values, &mut bytes), Ok(()));
        values[550] = values[550].next_up();
        assert!(matches!(f32_to_bf16(simd(), &values, &mut bytes), Err(Error::ValueOverflow { index: 550, .. })));
    }

    #[test]
    fn the_first_non_finite_value_is_found_wherever_it_is() {
        let mut values = vec![f32::MAX; 700];
        assert_eq!(first_non_finite(simd(), &values), None);
        for (index, value) in [(699, f32::NAN), (512, f32::INFINITY), (300, f32::NEG_INFINITY), (0, f32::NAN)] {
            values[index] = value;
            assert_eq!(first_non_finite(simd(), &values), Some(index));
        }
    }

    #[test]
    fn a_byte_length_that_does_not_fit_is_an_error() {
        for len in [0, 5, 7, 8] {
            let mut bytes = vec![0; len];
            let expected = Err(Error::BufferLength { buffer: "bytes", len, expected: 6 });
            assert_eq!(bf16_to_f32(simd(), &bytes, &mut [0.0; 3]), expected);
            assert_eq!(f16_to_f32(simd(), &bytes, &mut [0.0; 3]), expected);
            assert_eq!(f32_to_f16(simd(), &[0.0; 3], &mut bytes), expected);
            assert_eq!(f32_to_bf16(simd(), &[0.0; 3], &mut bytes), expected);
        }
    }
}
