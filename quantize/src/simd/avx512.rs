//! Sixteen lanes: AVX-512 F, BW, DQ and VL.

use std::arch::x86_64::*;

use super::{
    BELOW_HALF,
    avx2::{store_8, store_16},
    portable,
};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn extents<const BLOCK: usize>(values: &[f32], mins: &mut [f32], maxs: &mut [f32]) -> bool {
    /// Quiet NaN, both infinities, signalling NaN.
    const NON_FINITE: i32 = 0x01 | 0x08 | 0x10 | 0x80;
    let mut non_finite = 0;
    for ((block, least), greatest) in values.as_chunks::<BLOCK>().0.iter().zip(mins).zip(maxs) {
        let (mut min, mut max) = (_mm512_set1_ps(f32::INFINITY), _mm512_set1_ps(f32::NEG_INFINITY));
        for lanes in block.as_chunks::<16>().0 {
            let lanes = load(lanes);
            min = _mm512_min_ps(lanes, min);
            max = _mm512_max_ps(lanes, max);
            non_finite |= _mm512_fpclass_ps_mask::<NON_FINITE>(lanes);
        }
        *least = _mm512_reduce_min_ps(min);
        *greatest = _mm512_reduce_max_ps(max);
    }
    non_finite == 0
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn encode<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    reciprocals: &[f32],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    let (zero, top) = (_mm512_setzero_ps(), _mm512_set1_ps(((1_u32 << BITS) - 1) as f32));
    let below_half = _mm512_set1_ps(BELOW_HALF);
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(codes.chunks_exact_mut(BLOCK * BITS / 8));
    for ((block, codes), (reciprocal, zero_point)) in blocks.zip(reciprocals.iter().zip(zero_points)) {
        let (reciprocal, zero_point) = (_mm512_set1_ps(*reciprocal), _mm512_set1_ps(*zero_point));
        for (lanes, codes) in block.as_chunks::<16>().0.iter().zip(codes.chunks_exact_mut(2 * BITS)) {
            // Two instructions, each rounded on its own.
            let exact = _mm512_add_ps(_mm512_mul_ps(load(lanes), reciprocal), zero_point);
            let clamped = _mm512_min_ps(_mm512_max_ps(exact, zero), top);
            let wide = _mm512_cvttps_epi32(_mm512_add_ps(clamped, below_half));
            if BITS == 8 {
                store_16(_mm512_cvtepi32_epi8(wide), codes);
            } else {
                // Pairs of codes as one 64-bit lane: the upper one is moved to bit 4.
                let pairs = _mm512_or_si512(wide, _mm512_srli_epi64::<28>(wide));
                store_8(_mm512_cvtepi64_epi8(pairs), codes);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn divide<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    scales: &[f64],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    portable::divide::<BITS, BLOCK>(values, scales, zero_points, codes);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn search<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    mins: &[f32],
    maxs: &[f32],
    scales: &mut [f32],
    leasts: &mut [f32],
) {
    portable::search::<BITS, BLOCK>(values, mins, maxs, scales, leasts);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn bf16_to_f32(bytes: &[u8], values: &mut [f32]) {
    portable::bf16_to_f32(bytes, values);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn f16_to_f32(bytes: &[u8], values: &mut [f32]) {
    let (wide, rest) = values.as_chunks_mut::<16>();
    let (pairs, rest_bytes) = bytes.as_chunks::<32>();
    for (values, halves) in wide.iter_mut().zip(pairs) {
        // SAFETY: the references are to 32 readable bytes and to 16 writable floats; alignment is not needed.
        unsafe {
            let lanes = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
            _mm512_storeu_ps(values.as_mut_ptr(), lanes);
        }
    }
    portable::f16_to_f32(rest_bytes, rest);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) -> bool {
    portable::f32_to_bf16(values, bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn f32_to_f16(values: &[f32], bytes: &mut [u8]) -> bool {
    const INFINITE: i32 = 0x08 | 0x10;
    let (wide, rest) = values.as_chunks::<16>();
    let (pairs, rest_bytes) = bytes.as_chunks_mut::<32>();
    let mut overflowed = 0;
    for (values, pairs) in wide.iter().zip(pairs) {
        let lanes = load(values);
        let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes);
        let was_infinite = _mm512_fpclass_ps_mask::<INFINITE>(lanes);
        overflowed |= _mm512_fpclass_ps_mask::<INFINITE>(_mm512_cvtph_ps(halves)) & !was_infinite;
        // SAFETY: the reference is to 32 writable bytes; alignment is not needed.
        unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), halves) };
    }
    portable::f32_to_f16(rest, rest_bytes) | (overflowed != 0)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn all_finite(values: &[f32]) -> bool {
    portable::all_finite(values)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; 16]) -> __m512 {
    // SAFETY: the reference is to 16 readable floats; alignment is not needed.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}
