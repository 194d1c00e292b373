//! Round-to-nearest, as ONNX Runtime's native quantizer does it.

use crate::layout::{Buffers, bytes_per_row};
use crate::{Error, IntScheme, Result, ScaleDtype};

/// Quantizes `n` rows of `k` f32 weights, rounding to nearest.
///
/// `rows` is `[n, k]` row-major. The outputs must have exactly these lengths, and every byte of them is written:
/// `codes` `n * code_bytes_per_row(k)`, `scales` `n * blocks(k) * scale_dtype.size()` (little-endian), `zero_points`
/// `n * zero_point_bytes_per_row(k)` (empty when symmetric).
///
/// # The rule
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
    let lens = Buffers { codes: codes.len(), scales: scales.len(), zero_points: zero_points.len() };
    let per_row = bytes_per_row(scheme, scale_dtype, rows.len(), k, lens)?;
    let quantize_row = row_kernel(scheme)?;
    for (i, row) in rows.chunks_exact(k).enumerate() {
        let out = Buffers {
            codes: &mut codes[i * per_row.codes..][..per_row.codes],
            scales: &mut scales[i * per_row.scales..][..per_row.scales],
            zero_points: &mut zero_points[i * per_row.zero_points..][..per_row.zero_points],
        };
        quantize_row(scheme.is_symmetric(), scale_dtype, row, out).map_err(|fault| fault.at_row(i, scale_dtype))?;
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

type RowKernel = fn(bool, ScaleDtype, &[f32], Buffers<&mut [u8]>) -> Result<(), Fault>;

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
        16 => Ok(quantize_row::<BITS, 16>),
        32 => Ok(quantize_row::<BITS, 32>),
        64 => Ok(quantize_row::<BITS, 64>),
        128 => Ok(quantize_row::<BITS, 128>),
        256 => Ok(quantize_row::<BITS, 256>),
        _ => Err(Error::UnsupportedBlockSize { block_size }),
    }
}

fn quantize_row<const BITS: usize, const BLOCK: usize>(
    symmetric: bool,
    scale_dtype: ScaleDtype,
    row: &[f32],
    out: Buffers<&mut [u8]>,
) -> Result<(), Fault> {
    let codes = out.codes.chunks_exact_mut(BLOCK * BITS / 8);
    let scales = out.scales.chunks_exact_mut(scale_dtype.size());
    for (b, ((values, codes), scale)) in row.chunks(BLOCK).zip(codes).zip(scales).enumerate() {
        let padded;
        let block = match values.as_array::<BLOCK>() {
            Some(block) => block,
            None => {
                padded = pad_with_zeros(values);
                &padded
            }
        };

        let column = b * BLOCK;
        let extent = extent(block);
        if !extent.finite {
            return Err(first_non_finite(values, column));
        }
        let grid = if symmetric {
            Grid::symmetric::<BITS>(&extent, block[0], scale_dtype)
        } else {
            Grid::asymmetric::<BITS>(&extent, scale_dtype)
        };
        if !scale_dtype.round(grid.scale).is_finite() {
            return Err(Fault::ScaleOverflow { column, scale: grid.scale });
        }

        scale_dtype.write(grid.scale, scale);
        if !symmetric {
            write_zero_point::<BITS>(out.zero_points, b, grid.zero_point as u8);
        }
        let mut wide = encode::<BITS, BLOCK>(block, &grid);
        wide[values.len()..].fill(0);
        pack::<BITS, BLOCK>(&wide, codes);
    }
    Ok(())
}

/// Zeros alter no scale: they are not the widest weight, and the asymmetric range includes zero anyway.
fn pad_with_zeros<const BLOCK: usize>(values: &[f32]) -> [f32; BLOCK] {
    let mut padded = [0.0; BLOCK];
    padded[..values.len()].copy_from_slice(values);
    padded
}

struct Extent {
    min: f32,
    max: f32,
    finite: bool,
}

/// Independent accumulators: enough to fill the vector registers of any machine, and a divisor of every block size.
const LANES: usize = 16;

fn extent<const BLOCK: usize>(block: &[f32; BLOCK]) -> Extent {
    let mut min = [f32::INFINITY; LANES];
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut non_finite = [false; LANES];
    for chunk in block.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = chunk[lane];
            min[lane] = lesser(value, min[lane]);
            max[lane] = greater(value, max[lane]);
            non_finite[lane] |= !value.is_finite();
        }
    }
    Extent {
        min: min.into_iter().fold(f32::INFINITY, lesser),
        max: max.into_iter().fold(f32::NEG_INFINITY, greater),
        finite: !non_finite.contains(&true),
    }
}

/// One machine instruction, unlike `f32::min`, whose promise about NaN costs three.
fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cold]
fn first_non_finite(values: &[f32], column: usize) -> Fault {
    let (i, value) = values.iter().copied().enumerate().find(|(_, value)| !value.is_finite()).unwrap_or((0, f32::NAN));
    Fault::NonFinite { column: column + i, value }
}

/// The grid of one block: weight = (code - zero_point) * scale.
struct Grid {
    /// Not yet rounded to the storage dtype.
    scale: f32,
    /// What a weight is multiplied by to reach a code. 0 where a scale is too small for weights to matter.
    reciprocal: f32,
    /// A whole number.
    zero_point: f32,
}

impl Grid {
    fn symmetric<const BITS: usize>(extent: &Extent, first: f32, scale_dtype: ScaleDtype) -> Self {
        let Extent { min, max, .. } = *extent;
        let widest = if max.abs() > min.abs() { max } else { min };
        // Of zeros of both signs, ONNX Runtime takes the one that it meets first.
        let widest = if widest == 0.0 { first } else { widest };
        let scale = -widest / mid::<BITS>();
        Self { scale, reciprocal: reciprocal(scale, scale_dtype), zero_point: mid::<BITS>() }
    }

    fn asymmetric<const BITS: usize>(extent: &Extent, scale_dtype: ScaleDtype) -> Self {
        let min = lesser(extent.min, 0.0);
        let max = greater(extent.max, 0.0);
        let scale = (max - min) / top::<BITS>();
        let zero_point = if scale == 0.0 { 0.0 } else { clamp::<BITS>(0.0 - min / scale).round() };
        Self { scale, reciprocal: reciprocal(scale, scale_dtype), zero_point }
    }
}

fn reciprocal(scale: f32, scale_dtype: ScaleDtype) -> f32 {
    let scale = match scale_dtype {
        ScaleDtype::F32 | ScaleDtype::F16 => scale_dtype.round(scale),
        ScaleDtype::Bf16 => scale,
    };
    let reciprocal = 1.0 / scale;
    if reciprocal.is_finite() { reciprocal } else { 0.0 }
}

/// The largest code.
const fn top<const BITS: usize>() -> f32 {
    ((1_u32 << BITS) - 1) as f32
}

/// The zero point of a symmetric scheme.
const fn mid<const BITS: usize>() -> f32 {
    (1_u32 << (BITS - 1)) as f32
}

fn clamp<const BITS: usize>(code: f32) -> f32 {
    lesser(greater(code, 0.0), top::<BITS>())
}

fn encode<const BITS: usize, const BLOCK: usize>(block: &[f32; BLOCK], grid: &Grid) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (code, &weight) in codes.iter_mut().zip(block) {
        *code = round_half_up(clamp::<BITS>(weight * grid.reciprocal + grid.zero_point));
    }
    codes
}

/// Rounds 0 ..= 255 to the nearest integer, halves up, in operations that every vector unit has.
///
/// Adding 2^23 leaves no bits for a fraction: the sum is rounded to an integer, ties to even, which then stands in
/// its low bits. The exact remainder tells the ties that went down. (`floor(x + 0.5)` fails at 0.49999997.)
fn round_half_up(x: f32) -> u8 {
    const NO_FRACTION: f32 = 8_388_608.0;
    let sum = x + NO_FRACTION;
    let tie_went_down = x - (sum - NO_FRACTION) == 0.5;
    (sum.to_bits() as u8).wrapping_add(u8::from(tie_went_down))
}

fn pack<const BITS: usize, const BLOCK: usize>(codes: &[u8; BLOCK], bytes: &mut [u8]) {
    if BITS == 8 {
        bytes.copy_from_slice(codes);
    } else {
        for (byte, [low, high]) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
            *byte = low | high << 4;
        }
    }
}

/// Writes the zero point of block `b`. A low half byte also writes `mid` above itself, in case the row ends there.
fn write_zero_point<const BITS: usize>(zero_points: &mut [u8], b: usize, zero_point: u8) {
    if BITS == 8 {
        zero_points[b] = zero_point;
    } else if b.is_multiple_of(2) {
        zero_points[b / 2] = zero_point | (mid::<BITS>() as u8) << 4;
    } else {
        zero_points[b / 2] = zero_points[b / 2] & 0x0f | zero_point << 4;
    }
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
    fn rounding_agrees_with_round_on_every_float_near_a_half() {
        for i in 0..=254_u8 {
            let half = f32::from(i) + 0.5;
            for x in [f32::from(i), half.next_down(), half, half.next_up(), f32::from(i + 1).next_down()] {
                assert_eq!(f32::from(round_half_up(x)), x.round(), "{x:?}");
            }
        }
        assert_eq!(round_half_up(255.0), 255);
        assert_eq!(round_half_up(f32::MIN_POSITIVE), 0);
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
