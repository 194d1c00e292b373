//! The grids of some blocks side by side, weight = (code - zero point) * scale, by each [`Method`].

use crate::simd::{LANES, greater, lesser};
use crate::{IntScheme, Method, ScaleDtype, Simd};

/// Blocks that are worked on together: few enough for their weights to stay in the first-level cache between the loop
/// that finds the extents and the one that rounds, many enough for what is done per block to be vectorised.
const MOST_BLOCKS: usize = 64;
const MOST_WEIGHTS: usize = 2048;

/// Blocks of this size that are worked on together.
pub(crate) fn blocks_at_once(method: Method, block_size: usize) -> usize {
    let at_once = MOST_BLOCKS.min(MOST_WEIGHTS / block_size);
    match method {
        Method::Default | Method::Rtn => at_once,
        // The search takes as long for a few blocks as for all its lanes.
        Method::KQuant => at_once.max(LANES),
    }
}

/// What is known of the blocks that are worked on; `blocks` of each array are in use.
pub(crate) struct Grids {
    blocks: usize,
    min: [f32; MOST_BLOCKS],
    max: [f32; MOST_BLOCKS],
    /// Not yet rounded to the storage dtype.
    scales: [f32; MOST_BLOCKS],
    /// The same where they are computed in f64.
    exact: [f64; MOST_BLOCKS],
    /// As they are read back from the storage dtype.
    stored: [f32; MOST_BLOCKS],
    /// What a weight is multiplied by to reach a code. 0 where a scale is too small for weights to matter.
    reciprocals: [f32; MOST_BLOCKS],
    /// Whole numbers.
    zero_points: [f32; MOST_BLOCKS],
}

impl Default for Grids {
    fn default() -> Self {
        let none = [0.0; MOST_BLOCKS];
        Self {
            blocks: 0,
            min: none,
            max: none,
            scales: none,
            exact: [0.0; MOST_BLOCKS],
            stored: none,
            reciprocals: none,
            zero_points: none,
        }
    }
}

impl Grids {
    /// Those of the blocks that were quantized last.
    pub(crate) fn zero_points(&self) -> &[f32] {
        &self.zero_points[..self.blocks]
    }

    /// Takes the extents of whole blocks; false if a value is not finite.
    pub(crate) fn take_extents<const BLOCK: usize>(&mut self, simd: Simd, values: &[f32]) -> bool {
        self.blocks = values.len() / BLOCK;
        simd.extents::<BLOCK>(values, &mut self.min[..self.blocks], &mut self.max[..self.blocks])
    }

    /// Finds the grids of `values`, whose extents were taken last.
    pub(crate) fn find<const BITS: usize, const BLOCK: usize>(
        &mut self,
        simd: Simd,
        scheme: IntScheme,
        dtype: ScaleDtype,
        values: &[f32],
    ) {
        match scheme.method() {
            Method::Default => self.nearest::<BITS, BLOCK>(scheme.is_symmetric(), values),
            Method::Rtn => self.between_extremes::<BITS>(scheme.is_symmetric()),
            Method::KQuant => self.searched::<BITS, BLOCK>(simd, values),
        }
        let (scales, exact) = (&mut self.scales[..self.blocks], &mut self.exact[..self.blocks]);
        if scheme.method() != Method::Default {
            for (scale, exact) in scales.iter_mut().zip(exact) {
                // Any scale makes zeros of a zero block; the peer writes 1.
                *exact = if *exact == 0.0 { 1.0 } else { *exact };
                *scale = if dtype == ScaleDtype::F32 { *exact as f32 } else { to_odd(*exact) };
            }
        }
    }

    /// Those that were found last, not yet rounded to their dtype.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales[..self.blocks]
    }

    /// The scales as they are read back from storage are written here before the codes are made.
    pub(crate) fn stored(&mut self) -> &mut [f32] {
        &mut self.stored[..self.blocks]
    }

    /// Makes the codes of `values`, whose grids were found last.
    pub(crate) fn encode<const BITS: usize, const BLOCK: usize>(
        &mut self,
        simd: Simd,
        scheme: IntScheme,
        dtype: ScaleDtype,
        values: &[f32],
        codes: &mut [u8],
    ) {
        let n = self.blocks;
        if scheme.method() == Method::Default {
            let used = if dtype == ScaleDtype::Bf16 { &self.scales[..n] } else { &self.stored[..n] };
            let reciprocals = &mut self.reciprocals[..n];
            for (reciprocal, scale) in reciprocals.iter_mut().zip(used) {
                let inverse = 1.0 / *scale;
                *reciprocal = if inverse.is_finite() { inverse } else { 0.0 };
            }
            simd.encode::<BITS, BLOCK>(values, reciprocals, &self.zero_points[..n], codes);
            return;
        }
        let (scales, zero_points) = (&mut self.exact[..n], &mut self.zero_points[..n]);
        for ((scale, stored), (zero_point, min)) in
            scales.iter_mut().zip(&self.stored).zip(zero_points.iter_mut().zip(&self.min))
        {
            *scale = used(*scale, *stored);
            let exact = match scheme.method() {
                // The search is in f32 to its end.
                Method::KQuant => f64::from(-min / *scale as f32),
                Method::Default | Method::Rtn => -f64::from(*min) / *scale,
            };
            let rounded = exact.clamp(0.0, f64::from(top::<BITS>())).round_ties_even();
            *zero_point = if scheme.is_symmetric() { mid::<BITS>() } else { rounded as f32 };
        }
        simd.divide::<BITS, BLOCK>(values, scales, zero_points, codes);
    }

    /// Scales and zero points of [`Method::Default`], in f32.
    fn nearest<const BITS: usize, const BLOCK: usize>(&mut self, symmetric: bool, values: &[f32]) {
        let n = self.blocks;
        let grids = self.scales[..n].iter_mut().zip(&mut self.zero_points).zip(self.min.iter().zip(&self.max));
        if symmetric {
            for (((scale, zero_point), (&min, &max)), first) in grids.zip(values.iter().step_by(BLOCK)) {
                let widest = if max.abs() > min.abs() { max } else { min };
                // Of zeros of both signs, ONNX Runtime takes the one that it meets first.
                let widest = if widest == 0.0 { *first } else { widest };
                *scale = -widest / mid::<BITS>();
                *zero_point = mid::<BITS>();
            }
        } else {
            for ((scale, zero_point), (&min, &max)) in grids {
                let (min, max) = (lesser(min, 0.0), greater(max, 0.0));
                *scale = (max - min) / top::<BITS>();
                let exact = lesser(greater(0.0 - min / *scale, 0.0), top::<BITS>());
                *zero_point = if *scale == 0.0 { 0.0 } else { exact.round() };
            }
        }
    }

    /// Exact scales and least weights of [`Method::Rtn`].
    fn between_extremes<const BITS: usize>(&mut self, symmetric: bool) {
        for ((exact, min), max) in self.exact[..self.blocks].iter_mut().zip(&mut self.min).zip(&self.max) {
            *min = lesser(*min, 0.0);
            let span = if symmetric {
                2.0 * f64::from(greater(max.abs(), min.abs()))
            } else {
                f64::from(greater(*max, 0.0) - *min)
            };
            *exact = span / f64::from(top::<BITS>());
        }
    }

    /// Exact scales and least weights of [`Method::KQuant`].
    fn searched<const BITS: usize, const BLOCK: usize>(&mut self, simd: Simd, values: &[f32]) {
        let n = self.blocks;
        for (min, max) in self.min[..n].iter_mut().zip(&mut self.max) {
            (*min, *max) = (lesser(*min, 0.0), greater(*max, 0.0));
        }
        let mut leasts = [0.0; MOST_BLOCKS];
        let scales = &mut self.scales[..n];
        simd.search::<BITS, BLOCK>(values, &self.min[..n], &self.max[..n], scales, &mut leasts[..n]);
        self.min = leasts;
        for (exact, scale) in self.exact.iter_mut().zip(scales) {
            *exact = f64::from(*scale);
        }
    }
}

/// The scale that codes are made with: the exact one, as the peer does, unless storing it costs more than its last bit
/// in f16. That happens in bf16, whose steps are coarser, and to the subnormal numbers of each dtype.
fn used(exact: f64, stored: f32) -> f64 {
    let stored = f64::from(stored);
    if (stored - exact).abs() <= exact * f64::from(half::f16::EPSILON) / 2.0 {
        exact
    } else if stored == 0.0 {
        // Whatever the codes, the block becomes zero.
        f64::INFINITY
    } else {
        stored
    }
}

/// The f32 of these bits cut off, its last bit set if any of them was: rounded once more, it becomes what the f64 would.
fn to_odd(exact: f64) -> f32 {
    let nearest = exact as f32;
    if f64::from(nearest) == exact || nearest.is_infinite() {
        return nearest;
    }
    let below = if f64::from(nearest) < exact { nearest } else { nearest.next_down() };
    f32::from_bits(below.to_bits() | 1)
}

/// The largest code.
const fn top<const BITS: usize>() -> f32 {
    ((1_u32 << BITS) - 1) as f32
}

/// The zero point of a symmetric scheme.
pub(crate) const fn mid<const BITS: usize>() -> f32 {
    (1_u32 << (BITS - 1)) as f32
}
