//! How far a matrix of the graph is from a tensor of the checkpoint: in all, by row and by block, and what rounding
//! explains of it.

use crate::graph::Weight;

/// Rows that are kept to be compared with other tensors.
const SAMPLES: usize = 5;
/// Blocks and rows out of line that are kept to be looked at.
const OUTLIERS: usize = 24;

/// How far a stored matrix may be from the checkpoint's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Root of the mean squared error over that of the values, of a whole matrix: past this is a doubt.
    pub(super) relative: f64,
    /// Of one block, over its largest value: mean square, largest, and mean.
    pub(super) block_rms: f32,
    pub(super) block_max: f32,
    pub(super) block_mean: f32,
}

impl Limits {
    /// By the bits of a number: about twice what packages of every scheme show (`packages_of_every_scheme_pass` among the
    /// tests of the workspace), of which the worst are 0.113 for four bits and 0.0056 for eight.
    pub(super) fn of(weight: &Weight) -> Self {
        let codes = weight.scales.is_some();
        let (relative, block_rms, block_max, block_mean) = match (weight.bits, codes) {
            (0..=2, true) => (0.9, 0.6, 1.2, 0.5),
            (3..=4, true) => (0.2, 0.12, 0.3, 0.08),
            (_, true) => (0.02, 0.01, 0.02, 0.006),
            (_, false) if weight.stored == "bf16" => (4e-3, 8e-3, 8e-3, 8e-3),
            (_, false) if weight.bits == 16 => (1e-3, 1e-3, 1e-3, 1e-3),
            (_, false) if weight.bits == 8 => (0.08, 0.13, 0.13, 0.13),
            (_, false) => (1e-6, 2e-6, 2e-6, 2e-6),
        };
        Self { relative, block_rms, block_max, block_mean }
    }
}

/// What was seen of one tensor of the checkpoint in a matrix of the graph.
pub(super) struct Tally {
    pub(super) error: f64,
    pub(super) square: f64,
    /// Numbers that are none.
    pub(super) not_finite: Option<(usize, usize)>,
    pub(super) samples: Vec<Sample>,
    /// Rows with a block out of line, and their count.
    pub(super) rows: Vec<Sample>,
    pub(super) bad_rows: usize,
    pub(super) blocks: Vec<Outlier>,
    pub(super) bad_blocks: usize,
    pub(super) count: usize,
}

/// A row of the graph's matrix.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) row: usize,
    pub(super) values: Vec<f32>,
}

/// A block of a row, against what it should be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlier {
    pub(super) row: usize,
    pub(super) block: usize,
    pub(super) error: f64,
    pub(super) square: f64,
    pub(super) largest: f32,
    pub(super) worst: f32,
    pub(super) mean: f32,
    pub(super) count: usize,
    /// Of the values found on those expected, as a straight line through zero.
    pub(super) ratio: f64,
    /// What is left beside that line.
    pub(super) beside: f64,
    /// What is left beside a shift of all by the same.
    pub(super) unshifted: f64,
    pub(super) zero: bool,
}

impl Outlier {
    pub(super) fn of(row: usize, block: usize, found: &[f32], expected: &[f32]) -> Self {
        let mut this = Self { row, block, count: found.len(), zero: true, ..Self::default() };
        let (mut sum, mut product) = (0.0_f64, 0.0_f64);
        let mut own = 0.0_f64;
        for (found, expected) in found.iter().zip(expected) {
            let (v, w) = (f64::from(*found), f64::from(*expected));
            let error = found - expected;
            this.error += f64::from(error).powi(2);
            this.square += w * w;
            sum += f64::from(error);
            product += v * w;
            own += v * v;
            this.largest = this.largest.max(expected.abs());
            this.worst = this.worst.max(error.abs());
            this.zero &= *found == 0.0;
        }
        #[allow(clippy::as_conversions)] // Columns of a block.
        let count = found.len().max(1) as f64;
        #[allow(clippy::as_conversions)]
        let mean = (sum / count) as f32;
        this.mean = mean;
        this.ratio = if this.square > 0.0 { product / this.square } else { 0.0 };
        this.beside = (own - this.ratio * product).max(0.0);
        this.unshifted = (this.error - sum * sum / count).max(0.0);
        this
    }

    pub(super) fn is_beyond(&self, limits: &Limits) -> bool {
        #[allow(clippy::as_conversions)]
        let rms = (self.error / self.count.max(1) as f64).sqrt() as f32;
        // A block of zeros is stored exactly.
        let largest = self.largest.max(1e-30);
        let over = |value: f32, limit: f32| value.is_nan() || value > limit * largest;
        over(rms, limits.block_rms) || over(self.worst, limits.block_max) || over(self.mean.abs(), limits.block_mean)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            error: 0.0,
            square: 0.0,
            not_finite: None,
            samples: Vec::new(),
            rows: Vec::new(),
            bad_rows: 0,
            blocks: Vec::new(),
            bad_blocks: 0,
            count: 0,
        }
    }
}

impl Tally {
    pub(super) fn relative(&self) -> f64 {
        if self.square > 0.0 {
            (self.error / self.square).sqrt()
        } else if self.error > 0.0 {
            f64::INFINITY
        } else {
            0.0
        }
    }

    pub(super) fn row(
        &mut self,
        row: usize,
        rows: usize,
        found: &[f32],
        expected: &[f32],
        block: usize,
        limits: &Limits,
    ) {
        self.count += 1;
        if self.not_finite.is_none()
            && let Some(column) = found.iter().position(|value| !value.is_finite())
        {
            self.not_finite = Some((row, column));
        }
        let step = (rows / SAMPLES).max(1);
        let sample = || Sample { row, values: found.to_vec() };
        if row % step == step / 2 && self.samples.len() < SAMPLES {
            self.samples.push(sample());
        }
        let mut bad = false;
        for (index, (found, expected)) in found.chunks(block).zip(expected.chunks(block)).enumerate() {
            let outlier = Outlier::of(row, index, found, expected);
            self.error += outlier.error;
            self.square += outlier.square;
            if outlier.is_beyond(limits) {
                bad = true;
                self.bad_blocks += 1;
                if self.blocks.len() < OUTLIERS {
                    self.blocks.push(outlier);
                }
            }
        }
        if bad {
            self.bad_rows += 1;
            if self.rows.len() < OUTLIERS {
                self.rows.push(sample());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [f32; 4] = [1.0, -2.0, 3.0, 0.5];
    const LIMITS: Limits = Limits { relative: 0.02, block_rms: 0.01, block_max: 0.02, block_mean: 0.006 };

    fn block(change: impl Fn(f32) -> f32) -> Outlier {
        Outlier::of(3, 1, &EXPECTED.map(change), &EXPECTED)
    }

    #[test]
    fn blocks_tell_factors_from_shifts() {
        let doubled = block(|value| 2.0 * value);
        assert!((doubled.ratio - 2.0).abs() < 1e-6 && doubled.beside < 1e-6 && doubled.is_beyond(&LIMITS));
        let shifted = block(|value| value + 0.5);
        assert!(shifted.unshifted < 1e-6 && (shifted.mean - 0.5).abs() < 1e-6 && shifted.is_beyond(&LIMITS));
        assert!(block(|_| 0.0).zero);
        assert!(block(|value| value * 0.0 + f32::NAN).is_beyond(&LIMITS), "what is no number");
        assert!(!block(|value| value * 1.005).is_beyond(&LIMITS), "rounding");
    }

    #[test]
    fn rows_out_of_line_are_counted_by_block() {
        let mut tally = Tally::default();
        let expected = [1.0; 8];
        let mut found = expected;
        for row in 0..10 {
            // The second block of the last two rows.
            found[5] = if row < 8 { 1.0 } else { 2.0 };
            tally.row(row, 10, &found, &expected, 4, &LIMITS);
        }
        assert_eq!((tally.count, tally.bad_rows, tally.bad_blocks), (10, 2, 2));
        assert_eq!(tally.blocks.iter().map(|block| (block.row, block.block)).collect::<Vec<_>>(), [(8, 1), (9, 1)]);
        assert_eq!(tally.samples.iter().map(|sample| sample.row).collect::<Vec<_>>(), [1, 3, 5, 7, 9], "spread out");
        assert!((tally.relative() - (2.0_f64 / 80.0).sqrt()).abs() < 1e-9);
        assert_eq!(Tally { error: 1.0, ..Tally::default() }.relative(), f64::INFINITY, "of what should be zero");
    }
}
