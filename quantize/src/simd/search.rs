//! The search of [`Method::KQuant`](crate::Method::KQuant), sixteen blocks side by side: a lane is a block, so no sum
//! crosses lanes. Written for any compiler to vectorise, and inlined into the functions of every level.

use super::{greater, lesser};

/// Blocks side by side.
pub(crate) const LANES: usize = 16;

type Lanes = [f32; LANES];

/// Grids that are tried after the one between the extremes.
const STEPS: u32 = 20;

/// Finds for each whole block of `values`, whose extremes with zero among them are `mins` and `maxs`, the scale and the
/// least weight of its grid.
#[inline(always)]
pub(super) fn search<const BITS: usize, const BLOCK: usize>(
    values: &[f32],
    mins: &[f32],
    maxs: &[f32],
    scales: &mut [f32],
    leasts: &mut [f32],
) {
    let groups = values.chunks(LANES * BLOCK).zip(mins.chunks(LANES).zip(maxs.chunks(LANES)));
    for ((values, (mins, maxs)), (scales, leasts)) in groups.zip(scales.chunks_mut(LANES).zip(leasts.chunks_mut(LANES)))
    {
        // Lanes without a block have zeros, and what is found for them is dropped.
        let mut blocks = [[0.0; LANES]; BLOCK];
        for (lane, block) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
            for (row, value) in blocks.iter_mut().zip(block) {
                row[lane] = *value;
            }
        }
        let (mut min, mut max) = ([0.0; LANES], [0.0; LANES]);
        min[..mins.len()].copy_from_slice(mins);
        max[..maxs.len()].copy_from_slice(maxs);
        let (scale, least) = search_lanes::<BITS, BLOCK>(&blocks, min, &max);
        scales.copy_from_slice(&scale[..scales.len()]);
        leasts.copy_from_slice(&least[..leasts.len()]);
    }
}

/// Every operation is in f32 and rounded on its own, and sums are taken in the order of numpy, so that the numbers are
/// those of the peer.
#[inline(always)]
fn search_lanes<const BITS: usize, const BLOCK: usize>(
    x: &[Lanes; BLOCK],
    mut least: Lanes,
    max: &Lanes,
) -> (Lanes, Lanes) {
    let top = ((1_u32 << BITS) - 1) as f32;
    let [squares] = sums::<BLOCK, 1>(|i| [lanes(|l| x[i][l] * x[i][l])]);
    let spread = lanes(|l| (squares[l] / BLOCK as f32).sqrt());
    let mut weights = [[0.0; LANES]; BLOCK];
    for (weights, x) in weights.iter_mut().zip(x) {
        *weights = lanes(|l| spread[l] + x[l].abs());
    }
    let [sum_w, sum_x] = sums::<BLOCK, 2>(|i| [weights[i], lanes(|l| weights[i][l] * x[i][l])]);

    let (mut scale, mut best) = ([0.0; LANES], [f32::INFINITY; LANES]);
    for step in 0..=STEPS {
        let first = step == 0;
        // The peer's expression, in its order.
        let factor = if first { top } else { (-1.0 + 0.1 * f64::from(step - 1) + f64::from(top)) as f32 };
        let span = lanes(|l| max[l] - least[l]);
        let inverse = lanes(|l| factor / span[l]);
        let [sum_q, sum_q2, sum_xq] = sums::<BLOCK, 3>(|i| {
            let q = codes(&x[i], &inverse, &least, top);
            let wq = lanes(|l| weights[i][l] * q[l]);
            [wq, lanes(|l| wq[l] * q[l]), lanes(|l| wq[l] * x[i][l])]
        });
        let (mut fitted_scale, mut fitted_least) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let determinant = sum_w[l] * sum_q2[l] - sum_q[l] * sum_q[l];
            let slope = (sum_w[l] * sum_xq[l] - sum_x[l] * sum_q[l]) / determinant;
            let start = (sum_q2[l] * sum_x[l] - sum_q[l] * sum_xq[l]) / determinant;
            // The zero point has to be a code. A fit that needs another one is made again, through zero at the code
            // that is nearest.
            let zero_point = -start / slope;
            let through_first = sum_xq[l] / sum_q2[l];
            let through_last = (sum_xq[l] - top * sum_x[l]) / (sum_q2[l] - 2.0 * top * sum_q[l] + top * top * sum_w[l]);
            let (low, high) = (zero_point < -0.5, zero_point > top + 0.5);
            fitted_scale[l] = if low { through_first } else { slope };
            fitted_scale[l] = if high { through_last } else { fitted_scale[l] };
            fitted_least[l] = if low { 0.0 } else { start };
            fitted_least[l] = if high { -top * through_last } else { fitted_least[l] };
            // The first grid is taken as it is; where its inverse overflows, with the scale that it would have had.
            let between = if inverse[l].is_finite() { 1.0 / inverse[l] } else { span[l] / top };
            fitted_scale[l] = if first { between } else { fitted_scale[l] };
            fitted_least[l] = if first { least[l] } else { fitted_least[l] };
        }
        let [errors] = sums::<BLOCK, 1>(|i| {
            let q = codes(&x[i], &inverse, &least, top);
            [lanes(|l| {
                let difference = fitted_scale[l] * q[l] + fitted_least[l] - x[i][l];
                weights[i][l] * (difference * difference)
            })]
        });
        for l in 0..LANES {
            // False where the fit is not a number.
            let better = first | ((errors[l] < best[l]) & (fitted_scale[l] > 0.0));
            best[l] = if better { errors[l] } else { best[l] };
            scale[l] = if better { fitted_scale[l] } else { scale[l] };
            least[l] = if better { fitted_least[l] } else { least[l] };
        }
    }
    (scale, least)
}

#[inline(always)]
fn codes(x: &Lanes, inverse: &Lanes, least: &Lanes, top: f32) -> Lanes {
    /// Added and taken away again it rounds what is below 2^22, ties to even.
    const NO_FRACTION: f32 = 8_388_608.0;
    lanes(|l| (lesser(greater(inverse[l] * (x[l] - least[l]), 0.0), top) + NO_FRACTION) - NO_FRACTION)
}

/// Sums over the weights of each block, in the order in which numpy adds neighbours: eight sums of every eighth, added in
/// pairs; of more than 128, first each half.
#[inline(always)]
fn sums<const BLOCK: usize, const N: usize>(terms: impl Fn(usize) -> [Lanes; N]) -> [Lanes; N] {
    const APART: usize = 8;
    const HALF: usize = 128;
    let stretch = BLOCK.min(HALF);
    let mut total = [[0.0; LANES]; N];
    for start in (0..BLOCK).step_by(stretch) {
        let mut parts = [[[0.0; LANES]; N]; APART];
        for (first, part) in parts.iter_mut().enumerate() {
            for i in (start + first..start + stretch).step_by(APART) {
                *part = added(part, &terms(i));
            }
        }
        let [a, b, c, d, e, f, g, h] = &parts;
        let sum = added(&added(&added(a, b), &added(c, d)), &added(&added(e, f), &added(g, h)));
        total = if start == 0 { sum } else { added(&total, &sum) };
    }
    total
}

#[inline(always)]
fn added<const N: usize>(a: &[Lanes; N], b: &[Lanes; N]) -> [Lanes; N] {
    let mut sums = [[0.0; LANES]; N];
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = lanes(|l| a[l] + b[l]);
    }
    sums
}

#[inline(always)]
fn lanes(value: impl Fn(usize) -> f32) -> Lanes {
    let mut values = [0.0; LANES];
    for (l, out) in values.iter_mut().enumerate() {
        *out = value(l);
    }
    values
}
