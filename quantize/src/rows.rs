//! From rows of weights to codes, scales and zero points.

use crate::grids::{Grids, blocks_at_once, mid};
use crate::layout::{Buffers, bytes_per_row};
use crate::{Error, IntScheme, Result, ScaleDtype, Simd};

/// Quantizes `n` rows of `k` f32 weights, rounding to the nearest of the numbers that a block's scale and zero point allow.
///
/// `rows` is `[n, k]` row-major. The outputs must have exactly these lengths, and every byte of them is written:
/// `codes` `n * code_bytes_per_row(k)`, `scales` `n * blocks(k) * scale_dtype.size()` (little-endian), `zero_points`
/// `n * zero_point_bytes_per_row(k)` (empty when symmetric).
///
/// # The rule of `Method::Default`
///
/// That of `quantize_matmul_4bits` and `quantize_matmul_8bits` of ONNX Runtime 1.31, found by experiment and held by
/// recorded vectors (`tests/ort_vectors.rs`). All in f32, each operation rounded on its own, over the real columns:
///
/// ```text
/// symmetric   m  = the largest in magnitude (the negative one of a tie)       scale = -m / 2^(bits-1)
///             zp = 2^(bits-1)                                    so m itself becomes code 0; a scale may be negative
/// asymmetric  lo = min(values, 0), hi = max(values, 0)                        scale = (hi - lo) / (2^bits - 1)
///             zp = round(clamp(-lo / scale, 0, 2^bits - 1))
/// both        code = round(clamp(w * (1 / stored(scale)) + zp, 0, 2^bits - 1))          round: halves go up
/// ```
///
/// `stored` rounds to `scale_dtype` for f32 and f16. For bf16 ONNX Runtime quantizes with f32 scales and rounds them
/// afterwards, so there it is the identity.
///
/// Corners. A zero block has symmetric codes `2^(bits-1)` and a zero scale of the sign opposite to its first weight,
/// or asymmetric codes, zero point and scale 0. A block whose scale rounds to 0 in f16 becomes 0 (symmetric: weights up
/// to 2^-22 at 4 bits, 2^-18 at 8 bits). Codes past `k` are 0, zero points past the last block `2^(bits-1)`. The bytes
/// differ from ONNX Runtime in two places:
/// * `k` odd, 4 bits: ONNX Runtime may leave a stale code in the half byte after the last weight, which nothing reads;
///   here it is 0.
/// * a scale of 2^-128 or less, whose reciprocal overflows: ONNX Runtime's codes are arbitrary; here the block is 0.
///
/// # The rules of the other methods
///
/// Those of `rtn_quantize` of ONNX Runtime 1.31, held by recorded vectors too (`tests/method_vectors.rs`). Codes and the
/// zero points of `Rtn` are made in f64, the search is in f32:
///
/// ```text
/// Rtn         lo = min(values, 0), hi = max(values, 0)
///   symmetric   scale = 2 max(-lo, hi) / (2^bits - 1)     zp = 2^(bits-1)
///   asymmetric  scale = (hi - lo) / (2^bits - 1)          zp = round(clamp(-lo / scale, 0, 2^bits - 1))
/// KQuant      u = sqrt(mean(w²)) + |w|
///             first the grid between lo and hi, then for i in 0..20
///               q = round(clamp((2^bits - 2 + i / 10) (w - lo) / (hi - lo), 0, 2^bits - 1))
///               scale, least = those that make the sum of u (scale q + least - w)² least; kept, as lo too, if it is
///               less than before
///             zp = round(clamp(-least / scale, 0, 2^bits - 1))
/// both        code = round(clamp(w / scale + zp, 0, 2^bits - 1))              round: ties to even
/// ```
///
/// A zero block has the scale 1. A last block that is not full is filled up with zeros, which take part in the search.
/// The bytes differ from the peer's where the peer is wrong, or has none:
/// * `lo` and `hi` have zero between them. The peer's need not, and the zero point of a block of one sign would have to be
///   outside the codes; it clips it, which moves all weights. In the search a fit whose zero point is outside the codes is
///   made again through the nearest code.
/// * in f16 the peer rounds `hi - lo` of `Rtn` before it divides.
/// * where the stored scale is further than 2^-11 from the exact one (bf16, which the peer does not have; subnormal f16),
///   codes are made with the stored one.
/// * the packing of the peer fails for an odd number of blocks of 4 bits.
/// * in a row of one block the peer adds the terms of the search in another order.
///
/// # Errors
///
/// `Length` if the slices do not fit together, `NonFinite` for the first NaN or infinity, `Overflow` if a scale is
/// infinite in `scale_dtype`. After an error the contents of the outputs are unspecified.
pub fn quantize_rows(
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    rows: &[f32],
    k: usize,
    codes: &mut [u8],
    scales: &mut [u8],
    zero_points: &mut [u8],
) -> Result<()> {
    quantize_rows_with(Simd::detect(), scheme, scale_dtype, rows, k, Buffers { codes, scales, zero_points })
}

/// [`quantize_rows`] with these vector instructions instead of the widest that there are. The bytes are the same.
pub fn quantize_rows_with(
    simd: Simd,
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    rows: &[f32],
    k: usize,
    out: Buffers<&mut [u8]>,
) -> Result<()> {
    let Buffers { codes, scales, zero_points } = out;
    let lens = Buffers { codes: codes.len(), scales: scales.len(), zero_points: zero_points.len() };
    let per_row = bytes_per_row(scheme, scale_dtype, rows.len(), k, lens)?;
    let quantize_row = row_kernel(scheme)?;
    let mut quantizer = Quantizer { simd, scheme, scale_dtype, grids: Grids::default() };
    for (i, row) in rows.chunks_exact(k).enumerate() {
        let out = Buffers {
            codes: &mut codes[i * per_row.codes..][..per_row.codes],
            scales: &mut scales[i * per_row.scales..][..per_row.scales],
            zero_points: &mut zero_points[i * per_row.zero_points..][..per_row.zero_points],
        };
        quantize_row(&mut quantizer, row, out).map_err(|fault| fault.at_row(i, scale_dtype))?;
    }
    Ok(())
}

/// Why a row has no quantized form.
enum Fault {
    NonFinite { column: usize, value: f32 },
    ScaleOverflow { column: usize, scale: f32 },
}

impl Fault {
    fn at_row(self, row: usize, dtype: ScaleDtype) -> Error {
        match self {
            Self::NonFinite { column, value } => Error::NonFinite { row, column, value },
            Self::ScaleOverflow { column, scale } => Error::ScaleOverflow { row, column, scale, dtype },
        }
    }
}

type RowKernel = fn(&mut Quantizer, &[f32], Buffers<&mut [u8]>) -> Result<(), Fault>;

/// The loops have their code width and block size at compile time, so that they unroll and vectorise.
fn row_kernel(scheme: IntScheme) -> Result<RowKernel> {
    match scheme.bits() {
        4 => row_kernel_of_bits::<4>(scheme.block_size()),
        8 => row_kernel_of_bits::<8>(scheme.block_size()),
        bits => Err(Error::UnsupportedBits { bits }),
    }
}

fn row_kernel_of_bits<const BITS: usize>(block_size: usize) -> Result<RowKernel> {
    match block_size {
        16 => Ok(Quantizer::row::<BITS, 16>),
        32 => Ok(Quantizer::row::<BITS, 32>),
        64 => Ok(Quantizer::row::<BITS, 64>),
        128 => Ok(Quantizer::row::<BITS, 128>),
        256 => Ok(Quantizer::row::<BITS, 256>),
        _ => Err(Error::UnsupportedBlockSize { block_size }),
    }
}

struct Quantizer {
    simd: Simd,
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    grids: Grids,
}

impl Quantizer {
    fn row<const BITS: usize, const BLOCK: usize>(
        &mut self,
        row: &[f32],
        out: Buffers<&mut [u8]>,
    ) -> Result<(), Fault> {
        let scale_bytes = self.scale_dtype.size();
        let at_once = blocks_at_once(self.scheme.method(), BLOCK);
        let whole = row.len() / BLOCK;
        for first in (0..whole).step_by(at_once) {
            let blocks = first..whole.min(first + at_once);
            let values = &row[blocks.start * BLOCK..blocks.end * BLOCK];
            let codes = &mut out.codes[blocks.start * BLOCK * BITS / 8..blocks.end * BLOCK * BITS / 8];
            let scales = &mut out.scales[blocks.start * scale_bytes..blocks.end * scale_bytes];
            self.blocks::<BITS, BLOCK>(values, codes, scales, first)?;
            self.write_zero_points::<BITS>(out.zero_points, blocks);
        }
        let rest = &row[whole * BLOCK..];
        if !rest.is_empty() {
            // Zeros alter no scale: they are not the widest weight, and the asymmetric range includes zero anyway.
            let mut padded = [0.0; BLOCK];
            padded[..rest.len()].copy_from_slice(rest);
            let codes = &mut out.codes[whole * BLOCK * BITS / 8..];
            self.blocks::<BITS, BLOCK>(&padded, codes, &mut out.scales[whole * scale_bytes..], whole)?;
            clear_codes::<BITS>(codes, rest.len());
            self.write_zero_points::<BITS>(out.zero_points, whole..whole + 1);
        }
        Ok(())
    }

    /// Quantizes whole blocks, at most [`MOST_BLOCKS`], of which the first is block `first` of the row.
    fn blocks<const BITS: usize, const BLOCK: usize>(
        &mut self,
        values: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
        first: usize,
    ) -> Result<(), Fault> {
        let &mut Self { simd, scheme, scale_dtype: dtype, ref mut grids } = self;
        if !grids.take_extents::<BLOCK>(simd, values) {
            return Err(first_non_finite(values, first * BLOCK));
        }
        grids.find::<BITS, BLOCK>(simd, scheme, dtype, values);
        dtype.write_all(simd, grids.scales(), scales);
        dtype.read_all(simd, scales, grids.stored());
        if let Some(b) = grids.stored().iter().position(|scale| !scale.is_finite()) {
            return Err(Fault::ScaleOverflow { column: (first + b) * BLOCK, scale: grids.scales()[b] });
        }
        grids.encode::<BITS, BLOCK>(simd, scheme, dtype, values, codes);
        Ok(())
    }

    /// Writes the zero points of the blocks that were quantized last. Where the row ends on half a byte, the other half
    /// is `mid`.
    fn write_zero_points<const BITS: usize>(&self, row: &mut [u8], blocks: std::ops::Range<usize>) {
        if self.scheme.is_symmetric() {
            return;
        }
        for (b, &zero_point) in blocks.zip(self.grids.zero_points()) {
            let zero_point = zero_point as u8;
            if BITS == 8 {
                row[b] = zero_point;
            } else if b.is_multiple_of(2) {
                row[b / 2] = zero_point | (mid::<BITS>() as u8) << 4;
            } else {
                row[b / 2] = row[b / 2] & 0x0f | zero_point << 4;
            }
        }
    }
}

/// Zeros the codes of a block from weight `from` on.
fn clear_codes<const BITS: usize>(codes: &mut [u8], from: usize) {
    if BITS == 4 && from % 2 == 1 {
        codes[from / 2] &= 0x0f;
    }
    codes[(from * BITS).div_ceil(8)..].fill(0);
}

#[cold]
fn first_non_finite(values: &[f32], column: usize) -> Fault {
    let (i, value) = values.iter().copied().enumerate().find(|(_, value)| !value.is_finite()).unwrap_or((0, f32::NAN));
    Fault::NonFinite { column: column + i, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn scheme(bits: usize, block_size: usize, symmetric: bool) -> IntScheme {
        IntScheme::new(bits, block_size, symmetric).unwrap()
    }

    /// One row as codes, scales and zero points.
    fn quantize(scheme: IntScheme, dtype: ScaleDtype, row: &[f32]) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
        let k = row.len();
        let mut codes = vec![0xaa; scheme.code_bytes_per_row(k)];
        let mut scales = vec![0xaa; scheme.blocks(k) * dtype.size()];
        let mut zero_points = vec![0xaa; scheme.zero_point_bytes_per_row(k)];
        quantize_rows(scheme, dtype, row, k, &mut codes, &mut scales, &mut zero_points)?;
        Ok((codes, scales, zero_points))
    }

    #[test]
    fn the_widest_weight_becomes_code_zero_and_codes_past_k_are_zero() {
        let (codes, scales, zero_points) =
            quantize(scheme(4, 16, true), ScaleDtype::F32, &[8.0, -1.0, 0.0, 0.5]).unwrap();
        // scale = -1, code = 8 - w: 0, 9, 8, 7.5 rounded up.
        assert_eq!(codes, [0x90, 0x88, 0, 0, 0, 0, 0, 0]);
        assert_eq!(scales, (-1.0_f32).to_le_bytes());
        assert_eq!(zero_points, []);
    }

    #[test]
    fn an_odd_number_of_zero_points_is_padded_with_the_middle() {
        let (codes, scales, zero_points) =
            quantize(scheme(4, 16, false), ScaleDtype::F16, &[-3.0, 12.0, -2.5, 0.49]).unwrap();
        assert_eq!(codes, [0xf0, 0x31, 0, 0, 0, 0, 0, 0]);
        assert_eq!(scales, half::f16::ONE.to_le_bytes());
        assert_eq!(zero_points, [0x83]);
    }

    #[test]
    fn a_block_below_the_reach_of_its_reciprocal_becomes_zero() {
        let row = [1e-40, -2e-40, 1e-42, 0.0];
        assert_eq!(quantize(scheme(8, 16, true), ScaleDtype::F32, &row).unwrap().0[..4], [128; 4]);
        let (codes, _, zero_points) = quantize(scheme(8, 16, false), ScaleDtype::F32, &row).unwrap();
        assert_eq!(codes[..4], [zero_points[0]; 4]);
    }

    #[test]
    fn a_non_finite_weight_is_an_error_with_its_place() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = [1.0; 2 * 40];
            rows[40 + 35] = value;
            rows[40 + 39] = f32::NAN;
            let scheme = scheme(4, 32, true);
            let error =
                quantize_rows(scheme, ScaleDtype::F32, &rows, 40, &mut [0; 64], &mut [0; 16], &mut []).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NonFinite);
            assert_eq!(error.to_string(), format!("weight at row 1, column 35 is {value}, expected a finite number"));
        }
    }

    #[test]
    fn a_scale_that_overflows_its_dtype_is_an_error_with_its_place() {
        let mut row = [1.0; 40];
        row[33] = -1e6;
        let error = quantize(scheme(4, 32, true), ScaleDtype::F16, &row).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overflow);
        assert_eq!(error.to_string(), "the block at row 0, column 32 needs the scale 1.25e5, which overflows f16");
        assert!(quantize(scheme(4, 32, true), ScaleDtype::Bf16, &row).is_ok());

        row[34] = 3e38;
        row[35] = -3e38;
        let error = quantize(scheme(8, 32, false), ScaleDtype::F32, &row).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overflow);
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let scheme = scheme(4, 16, false);
        let lengths = |rows: usize, k, codes: usize, scales: usize, zero_points: usize| {
            let (rows, mut codes) = (vec![1.0; rows], vec![0; codes]);
            let (mut scales, mut zero_points) = (vec![0; scales], vec![0; zero_points]);
            quantize_rows(scheme, ScaleDtype::F16, &rows, k, &mut codes, &mut scales, &mut zero_points)
        };
        assert_eq!(lengths(40, 20, 32, 8, 2), Ok(()));
        assert_eq!(lengths(0, 20, 0, 0, 0), Ok(()));
        assert_eq!(lengths(0, 0, 0, 0, 0), Err(Error::RowLength { values: 0, k: 0 }));
        assert_eq!(lengths(41, 20, 32, 8, 2), Err(Error::RowLength { values: 41, k: 20 }));
        for (codes, scales, zero_points) in [(31, 8, 2), (32, 9, 2), (32, 8, 3), (32, 8, 0)] {
            assert_eq!(lengths(40, 20, codes, scales, zero_points).unwrap_err().kind(), ErrorKind::Length);
        }
        assert_eq!(lengths(40, 20, 31, 8, 2).unwrap_err().to_string(), "codes has length 31, expected 32");
    }
}
