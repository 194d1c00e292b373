use crate::layout::{Buffers, bytes_per_row};
use crate::{IntScheme, Result, ScaleDtype};

/// Computes `n` rows of `k` f32 weights from their quantized form: `(code - zero_point) * scale`, in f32.
///
/// The inputs are laid out, and their lengths checked, as in [`crate::quantize_rows`]; `rows` is `[n, k]` row-major
/// and says how many rows there are. Codes past `k` are not read. A scale that is NaN or infinite is no error here:
/// it shows in the weights.
///
/// # Errors
///
/// `Length` if the slices do not fit together.
pub fn dequantize_rows(
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    codes: &[u8],
    scales: &[u8],
    zero_points: &[u8],
    k: usize,
    rows: &mut [f32],
) -> Result<()> {
    let lens = Buffers { codes: codes.len(), scales: scales.len(), zero_points: zero_points.len() };
    let per_row = bytes_per_row(scheme, scale_dtype, rows.len(), k, lens)?;
    for (i, row) in rows.chunks_exact_mut(k).enumerate() {
        let codes = codes[i * per_row.codes..][..per_row.codes].chunks_exact(scheme.code_bytes_per_block());
        let scales = scales[i * per_row.scales..][..per_row.scales].chunks_exact(scale_dtype.size());
        let zero_points = &zero_points[i * per_row.zero_points..][..per_row.zero_points];

        for (b, ((weights, codes), scale)) in row.chunks_mut(scheme.block_size()).zip(codes).zip(scales).enumerate() {
            let scale = scale_dtype.read(scale);
            let zero_point = f32::from(zero_point(scheme, zero_points, b));
            if scheme.bits() == 8 {
                for (weight, &code) in weights.iter_mut().zip(codes) {
                    *weight = (f32::from(code) - zero_point) * scale;
                }
            } else {
                for (pair, &byte) in weights.chunks_mut(2).zip(codes) {
                    for (weight, code) in pair.iter_mut().zip([byte & 0x0f, byte >> 4]) {
                        *weight = (f32::from(code) - zero_point) * scale;
                    }
                }
            }
        }
    }
    Ok(())
}

fn zero_point(scheme: IntScheme, row: &[u8], b: usize) -> u8 {
    match (scheme.is_symmetric(), scheme.bits()) {
        (true, bits) => 1 << (bits - 1),
        (false, 8) => row[b],
        (false, _) => row[b / 2] >> (4 * (b % 2)) & 0x0f,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn four_bit_codes_are_read_low_half_first_with_the_zero_point_of_their_block() {
        let scheme = IntScheme::new(4, 16, false).unwrap();
        let mut codes = [0; 16];
        codes[..2].copy_from_slice(&[0x90, 0x0f]);
        codes[8] = 0x21;
        let scales = [half::f16::from_f32(0.5).to_le_bytes(), half::f16::from_f32(-2.0).to_le_bytes()].concat();
        let mut row = [f32::NAN; 19];
        dequantize_rows(scheme, ScaleDtype::F16, &codes, &scales, &[0x38], 19, &mut row).unwrap();
        assert_eq!(row[..4], [-4.0, 0.5, 3.5, -4.0]);
        assert_eq!(row[16..], [4.0, 2.0, 6.0]);
    }

    #[test]
    fn eight_bit_codes_without_zero_points_are_centred_on_128() {
        let scheme = IntScheme::new(8, 16, true).unwrap();
        let mut codes = [128; 16];
        codes[..2].copy_from_slice(&[0, 255]);
        let mut row = [f32::NAN; 3];
        let scale = half::bf16::from_f32(0.25).to_le_bytes();
        dequantize_rows(scheme, ScaleDtype::Bf16, &codes, &scale, &[], 3, &mut row).unwrap();
        assert_eq!(row, [-32.0, 31.75, 0.0]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let scheme = IntScheme::new(8, 16, false).unwrap();
        let dequantize = |codes: usize, scales: usize, zero_points: usize, rows: usize| {
            let (codes, scales, zero_points) = (vec![0; codes], vec![0; scales], vec![0; zero_points]);
            dequantize_rows(scheme, ScaleDtype::F32, &codes, &scales, &zero_points, 20, &mut vec![0.0; rows])
        };
        assert_eq!(dequantize(64, 16, 4, 40), Ok(()));
        for (codes, scales, zero_points, rows) in [(63, 16, 4, 40), (64, 8, 4, 40), (64, 16, 5, 40), (64, 16, 4, 39)] {
            assert_eq!(dequantize(codes, scales, zero_points, rows).unwrap_err().kind(), ErrorKind::Length);
        }
    }
}
