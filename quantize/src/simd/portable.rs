//! The loops as any compiler vectorises them. Those that need no instruction by name are inlined into the functions of
//! the other levels, and compiled with their instructions there.

use half::f16;
use half::slice::HalfFloatSliceExt;

pub(super) use super::search::search;

/// Independent accumulators: enough to fill the vector registers of any machine, and a divisor of every block size.
const LANES: usize = 16;

/// Values that are converted at a time: the vector instructions need f16 aligned, and the bytes need not be.
const CHUNK: usize = 256;

pub(super) fn extents<const BLOCK: usize>(values: &[f32], mins: &mut [f32], maxs: &mut [f32]) -> bool {
    let mut non_finite = [false; LANES];
    for ((block, least), greatest) in values.as_chunks::<BLOCK>().0.iter().zip(mins).zip(maxs) {
        let mut min = [f32::INFINITY; LANES];
        let mut max = [f32::NEG_INFINITY; LANES];
        for chunk in block.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let value = chunk[lane];
                min[lane] = lesser(value, min[lane]);
                max[lane] = greater(value, max[lane]);
                non_finite[lane] |= !value.is_finite();
            }
        }
        *least = min.into_iter().fold(f32::INFINITY, lesser);
        *greatest = max.into_iter().fold(f32::NEG_INFINITY, greater);
    }
    !non_finite.contains(&true)
}

pub(super) fn encode<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    reciprocals: &[f32],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    let top = ((1_u32 << BITS) - 1) as f32;
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(codes.chunks_exact_mut(BLOCK * BITS / 8));
    for ((block, codes), (reciprocal, zero_point)) in blocks.zip(reciprocals.iter().zip(zero_points)) {
        let mut wide = [0; BLOCK];
        for (code, &weight) in wide.iter_mut().zip(block) {
            *code = round_half_up(lesser(greater(weight * reciprocal + zero_point, 0.0), top));
        }
        pack::<BITS, BLOCK>(&wide, codes);
    }
}

#[inline(always)]
pub(super) fn divide<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    scales: &[f64],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    /// Added to 0 ..= 255 it leaves no bits for a fraction: ties go to even, and the low bits are the integer.
    const NO_FRACTION: f64 = 4_503_599_627_370_496.0;
    let top = f64::from((1_u32 << BITS) - 1);
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(codes.chunks_exact_mut(BLOCK * BITS / 8));
    for ((block, codes), (scale, zero_point)) in blocks.zip(scales.iter().zip(zero_points)) {
        let zero_point = f64::from(*zero_point);
        let mut wide = [0; BLOCK];
        for (code, &weight) in wide.iter_mut().zip(block) {
            let exact = f64::from(weight) / scale + zero_point;
            let least = if exact > 0.0 { exact } else { 0.0 };
            *code = ((if least < top { least } else { top }) + NO_FRACTION).to_bits() as u8;
        }
        pack::<BITS, BLOCK>(&wide, codes);
    }
}

#[inline(always)]
fn pack<const BITS: usize, const BLOCK: usize>(wide: &[u8; BLOCK], codes: &mut [u8]) {
    if BITS == 8 {
        codes.copy_from_slice(wide);
    } else {
        for (byte, [low, high]) in codes.iter_mut().zip(wide.as_chunks::<2>().0) {
            *byte = low | high << 4;
        }
    }
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

/// One machine instruction, unlike `f32::min`, whose promise about NaN costs three.
pub(crate) fn lesser(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

pub(crate) fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// A bf16 is the upper half of an f32.
#[inline(always)]
pub(super) fn bf16_to_f32(bytes: &[u8], values: &mut [f32]) {
    for (value, &pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16);
    }
}

pub(super) fn f16_to_f32(bytes: &[u8], values: &mut [f32]) {
    let mut aligned = [f16::ZERO; CHUNK];
    for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let halves = &mut aligned[..values.len()];
        for (half, &pair) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(pair);
        }
        halves.convert_to_f32_slice(values);
    }
}

/// In integers: rounds what is cut off by carrying into what stays. A NaN is cut, and kept one by its quiet bit.
#[inline(always)]
pub(super) fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) -> bool {
    const INFINITY: u32 = f32::INFINITY.to_bits();
    let mut overflowed = 0;
    for (pair, &value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        let bits = value.to_bits();
        let magnitude = bits & !(1 << 31);
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        overflowed |= u32::from(magnitude < INFINITY && rounded & 0x7fff == INFINITY >> 16);
        *pair = ((if magnitude > INFINITY { quiet } else { rounded }) as u16).to_le_bytes();
    }
    overflowed != 0
}

pub(super) fn f32_to_f16(values: &[f32], bytes: &mut [u8]) -> bool {
    let mut aligned = [f16::ZERO; CHUNK];
    let mut overflowed = false;
    for (values, bytes) in values.chunks(CHUNK).zip(bytes.chunks_mut(2 * CHUNK)) {
        let halves = &mut aligned[..values.len()];
        halves.convert_from_f32_slice(values);
        for ((pair, half), value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(&*halves).zip(values) {
            overflowed |= value.is_finite() && !half.is_finite();
            *pair = half.to_le_bytes();
        }
    }
    overflowed
}

#[inline(always)]
pub(super) fn all_finite(values: &[f32]) -> bool {
    // Without a branch per value.
    values.chunks(CHUNK).all(|chunk| !chunk.iter().fold(false, |bad, value| bad | !value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
