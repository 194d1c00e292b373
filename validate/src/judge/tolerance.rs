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
///
/// Measured on packages of the fixtures on the CPU, by all roads, the worst: fp32 (108 packages) 1.2e-5 and 8.9e-12; fp16
/// (36) 4.0e-3 and 3.8e-6; int8 (36) 0.094 and 7.3e-4; int4 (108) 0.075 and 4.4e-4, a package of onnxruntime-genai's
/// builder 0.041 and 1.8e-4. Limits are 3 times that and more. The CPU has no bfloat16: its row is that of fp16 with 8
/// times the rounding, and not measured.
pub(super) fn road_limit(precision: Precision) -> RoadLimit {
    let (max_abs, kl_mean) = match precision {
        Precision::Fp32 => (1e-4, 1e-7),
        Precision::Fp16 => (0.02, 2e-5),
        Precision::Bf16 => (0.16, 2e-4),
        Precision::Int8 => (0.3, 3e-3),
        Precision::Int4 => (0.3, 2e-3),
    };
    RoadLimit { max_abs, kl_mean }
}

/// The greatest relative RMS error of a tensor between layers.
///
/// Measured against the interpreter on the same packages, keys, values and the stream of all layers, the worst: fp32
/// 8.9e-7; fp16 1.3e-3; int8 0.045; int4 0.51 where weights are random, 0.22 in a trained model. Fixtures have few layers,
/// and errors grow with them: hence the room above, where it costs nothing, for what is wrong is off by 0.1 and more. Of
/// int4 no more can be said than that. The row of bf16 is 8 times that of fp16, and not measured.
pub(super) fn layer_limit(precision: Precision) -> f64 {
    match precision {
        Precision::Fp32 => 3e-5,
        Precision::Fp16 => 2e-2,
        Precision::Bf16 => 0.16,
        Precision::Int8 => 0.2,
        Precision::Int4 => 0.8,
    }
}
