//! Eight lanes: AVX2 and F16C.

use std::arch::x86_64::*;

use super::{BELOW_HALF, portable};

#[target_feature(enable = "avx2,f16c")]
pub(super) fn extents<const BLOCK: usize>(values: &[f32], mins: &mut [f32], maxs: &mut [f32]) -> bool {
    let exponent = _mm256_set1_epi32(f32::INFINITY.to_bits() as i32);
    let mut non_finite = _mm256_setzero_si256();
    for ((block, least), greatest) in values.as_chunks::<BLOCK>().0.iter().zip(mins).zip(maxs) {
        let (mut min, mut max) = (_mm256_set1_ps(f32::INFINITY), _mm256_set1_ps(f32::NEG_INFINITY));
        for lanes in block.as_chunks::<8>().0 {
            let lanes = load(lanes);
            min = _mm256_min_ps(lanes, min);
            max = _mm256_max_ps(lanes, max);
            // All exponent bits set.
            let bits = _mm256_and_si256(_mm256_castps_si256(lanes), exponent);
            non_finite = _mm256_or_si256(non_finite, _mm256_cmpeq_epi32(bits, exponent));
        }
        let min = _mm_min_ps(_mm256_castps256_ps128(min), _mm256_extractf128_ps::<1>(min));
        let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
        let min = _mm_min_ps(min, _mm_movehl_ps(min, min));
        let max = _mm_max_ps(max, _mm_movehl_ps(max, max));
        *least = _mm_cvtss_f32(_mm_min_ss(min, _mm_movehdup_ps(min)));
        *greatest = _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
    }
    _mm256_testz_si256(non_finite, non_finite) == 1
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn encode<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    reciprocals: &[f32],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    let (zero, top) = (_mm256_setzero_ps(), _mm256_set1_ps(((1_u32 << BITS) - 1) as f32));
    let below_half = _mm256_set1_ps(BELOW_HALF);
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(codes.chunks_exact_mut(BLOCK * BITS / 8));
    for ((block, codes), (reciprocal, zero_point)) in blocks.zip(reciprocals.iter().zip(zero_points)) {
        let (reciprocal, zero_point) = (_mm256_set1_ps(*reciprocal), _mm256_set1_ps(*zero_point));
        for (lanes, codes) in block.as_chunks::<8>().0.as_chunks::<2>().0.iter().zip(codes.chunks_exact_mut(2 * BITS)) {
            let [a, b] = [&lanes[0], &lanes[1]].map(|lanes| {
                // Two instructions, each rounded on its own.
                let exact = _mm256_add_ps(_mm256_mul_ps(load(lanes), reciprocal), zero_point);
                let clamped = _mm256_min_ps(_mm256_max_ps(exact, zero), top);
                _mm256_cvttps_epi32(_mm256_add_ps(clamped, below_half))
            });
            // Each half of a register is packed on its own: a0-a3 b0-b3 and a4-a7 b4-b7.
            let words = _mm256_packs_epi32(a, b);
            if BITS == 8 {
                let bytes = _mm256_packus_epi16(words, words);
                let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
                store_16(_mm_unpacklo_epi32(low, high), codes);
            } else {
                // Even codes plus 16 times the odd ones beside them.
                let pairs = _mm256_madd_epi16(words, _mm256_set1_epi32(0x0010_0001));
                let bytes = _mm256_packus_epi16(_mm256_packs_epi32(pairs, pairs), _mm256_setzero_si256());
                let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
                store_8(_mm_unpacklo_epi16(low, high), codes);
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn divide<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    scales: &[f64],
    zero_points: &[f32],
    codes: &mut [u8],
) {
    portable::divide::<BITS, BLOCK>(values, scales, zero_points, codes);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn search<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    mins: &[f32],
    maxs: &[f32],
    scales: &mut [f32],
    leasts: &mut [f32],
) {
    portable::search::<BITS, BLOCK>(values, mins, maxs, scales, leasts);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn bf16_to_f32(bytes: &[u8], values: &mut [f32]) {
    portable::bf16_to_f32(bytes, values);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn f16_to_f32(bytes: &[u8], values: &mut [f32]) {
    let (wide, rest) = values.as_chunks_mut::<8>();
    let (pairs, rest_bytes) = bytes.as_chunks::<16>();
    for (values, halves) in wide.iter_mut().zip(pairs) {
        // SAFETY: the references are to 16 readable bytes and to 8 writable floats; alignment is not needed.
        unsafe {
            let lanes = _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()));
            _mm256_storeu_ps(values.as_mut_ptr(), lanes);
        }
    }
    portable::f16_to_f32(rest_bytes, rest);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) -> bool {
    portable::f32_to_bf16(values, bytes)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn f32_to_f16(values: &[f32], bytes: &mut [u8]) -> bool {
    let (wide, rest) = values.as_chunks::<8>();
    let (pairs, rest_bytes) = bytes.as_chunks_mut::<16>();
    let (magnitude, infinity) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(f32::INFINITY));
    let is_infinite = |lanes| _mm256_cmp_ps::<_CMP_EQ_OQ>(_mm256_andnot_ps(magnitude, lanes), infinity);
    let mut overflowed = _mm256_setzero_ps();
    for (values, pairs) in wide.iter().zip(pairs) {
        let lanes = load(values);
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(lanes);
        let became = _mm256_andnot_ps(is_infinite(lanes), is_infinite(_mm256_cvtph_ps(halves)));
        overflowed = _mm256_or_ps(overflowed, became);
        // SAFETY: the reference is to 16 writable bytes; alignment is not needed.
        unsafe { _mm_storeu_si128(pairs.as_mut_ptr().cast(), halves) };
    }
    portable::f32_to_f16(rest, rest_bytes) | (_mm256_movemask_ps(overflowed) != 0)
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn all_finite(values: &[f32]) -> bool {
    portable::all_finite(values)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32; 8]) -> __m256 {
    // SAFETY: the reference is to 8 readable floats; alignment is not needed.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Stores the lanes into exactly 16 bytes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn store_16(lanes: __m128i, bytes: &mut [u8]) {
    if let Some(bytes) = bytes.as_mut_array::<16>() {
        // SAFETY: the reference is to 16 writable bytes; alignment is not needed.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), lanes) };
    }
}

/// Stores the lower half of the lanes into exactly 8 bytes.
#[inline]
#[target_feature(enable = "sse2")]
pub(super) fn store_8(lanes: __m128i, bytes: &mut [u8]) {
    if let Some(bytes) = bytes.as_mut_array::<8>() {
        // SAFETY: the reference is to 8 writable bytes; alignment is not needed.
        unsafe { _mm_storel_epi64(bytes.as_mut_ptr().cast(), lanes) };
    }
}
