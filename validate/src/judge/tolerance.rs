//! How far two computations of one package may lie apart, and how far its layers may lie from a reference's.

use std::fmt;

use crate::Precision;

/// Between roads of one package.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RoadLimit {
    /// The greatest difference of a logit, over the logits' spread.
    max_abs: f64,
    /// Mean KL divergence, in nats per token.
    kl_mean: f64,
}

impl RoadLimit {
    pub(super) fn holds(self, max_abs: f64, kl_mean: f64) -> bool {
        max_abs <= self.max_abs && kl_mean <= self.kl_mean
    }
}

impl fmt::Display for RoadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0e} and {:.0e}", self.max_abs, self.kl_mean)
    }
}

/// Rounding of the weights is the same on all roads, so that what differs is the order of sums, and where activations or
/// caches are rounded, on which side of a step a value falls.
pub(super) fn road_limit(precision: Precision) -> RoadLimit {
    let (max_abs, kl_mean) = match precision {
        Precision::Fp32 => (1e-4, 1e-7),
        Precision::Fp16 => (0.1, 1e-4),
        Precision::Bf16 => (0.5, 1e-3),
        Precision::Int8 => (0.2, 1e-3),
        Precision::Int4 => (0.2, 1e-3),
    };
    RoadLimit { max_abs, kl_mean }
}

/// The greatest relative RMS error of a tensor between layers.
pub(super) fn layer_limit(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 1e-4,
        Precision::Fp16 => 2e-2,
        Precision::Bf16 => 0.1,
        Precision::Int8 => 0.1,
        Precision::Int4 => 0.6,
    }
}
