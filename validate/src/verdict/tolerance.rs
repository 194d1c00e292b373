//! How far from its reference a package may be: the one table.

use std::fmt;

use serde::Serialize;

/// What the weights of a package, or its cache where that is coarser, are stored in; sets how much rounding is to be
/// expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    Fp32,
    Fp16,
    Bf16,
    Int8,
    Int4,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// A row of [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tolerance {
    precision: Precision,
    /// The row holds for models of at least so many parameters.
    parameters: u64,
    /// The greatest difference of a logit, in units of [`logit_scale`]; `None`: reported only.
    pub(super) max_abs: Option<Limit>,
    /// Mean KL divergence, in nats per token.
    pub(super) kl_mean: Limit,
    pub(super) agreement: Agreement,
}

/// Up to `pass` is a pass, above `fail` a failure, between them ambiguous.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limit {
    pub(super) pass: f64,
    pub(super) fail: f64,
}

/// How often both sides must prefer the same token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Agreement {
    /// Everywhere and in greedy search too, except where two tokens are so close that rounding decides.
    Ties,
    /// In this share of the positions; from `pass` up is a pass, below `fail` a failure. Greedy search is reported
    /// only, for one early divergence changes all that follows.
    Share { pass: f64, fail: f64 },
}

/// Where there are several rows for a precision, the one for the greatest model comes first.
///
/// "Demo models" are tales-llama (2.8 M parameters) and tales-qwen3 (5.5 M), each over 8192 held-out positions against
/// fp32, all in torch 2 with weights rounded to nearest: what right builds of very small models come to.
const TABLE: [Tolerance; 7] = [
    // max_abs: 1e-4 is what a faithful fp32 build must reach; other tools allow 1e-3 (ORT's llama_parity.py,
    // onnxruntime-genai's and mobius' tests). Two right fp32 implementations measured 0.2e-5 to 4e-5 on the fixtures.
    // kl_mean: an error e of all logits moves KL by about e²/2, so 1e-7 is already generous.
    Tolerance {
        precision: Precision::Fp32,
        parameters: 0,
        max_abs: Some(Limit { pass: 1e-4, fail: 1e-3 }),
        kl_mean: Limit { pass: 1e-7, fail: 1e-5 },
        agreement: Agreement::Ties,
    },
    // max_abs: 0.5 is ORT's llama_parity.py for fp16. The rest is read between the rows of llama.cpp's
    // KL-divergence table for an 8B model (Q8_0: KL 2.4e-4, same top-1 99.2 %).
    // Demo models: max_abs 0.32, 0.05; KL 3.8e-4, 5.6e-6; top-1 99.2 %, 99.8 %.
    Tolerance {
        precision: Precision::Fp16,
        parameters: 0,
        max_abs: Some(Limit { pass: 0.05, fail: 0.5 }),
        kl_mean: Limit { pass: 2e-4, fail: 1e-3 },
        agreement: Agreement::Share { pass: 0.995, fail: 0.99 },
    },
    // fp16 with 8 times the rounding error. Demo models: max_abs 0.50, 0.30; KL 1.1e-3, 5.6e-4; top-1 98.1 %, 98.4 %.
    Tolerance {
        precision: Precision::Bf16,
        parameters: 0,
        max_abs: Some(Limit { pass: 0.3, fail: 1.0 }),
        kl_mean: Limit { pass: 1e-3, fail: 5e-3 },
        agreement: Agreement::Share { pass: 0.985, fail: 0.97 },
    },
    // llama.cpp's table: Q8_0 has KL 2.4e-4 and top-1 99.2 %, Q5_K_M 4.7e-3 and 96.6 %.
    // Demo models, blocks of 32 to 128, head included or not: KL 3.5e-5 to 2.0e-4, top-1 98.9 to 99.4 %.
    Tolerance {
        precision: Precision::Int8,
        parameters: 0,
        max_abs: None,
        kl_mean: Limit { pass: 1e-3, fail: 5e-3 },
        agreement: Agreement::Share { pass: 0.99, fail: 0.97 },
    },
    // llama.cpp's table: between Q5_K_M (above) and Q3_K_M (KL 0.051, top-1 89.6 %).
    Tolerance {
        precision: Precision::Int4,
        parameters: 3_000_000_000,
        max_abs: None,
        kl_mean: Limit { pass: 0.03, fail: 0.05 },
        agreement: Agreement::Share { pass: 0.93, fail: 0.90 },
    },
    // Small models lose more per bit. Read between the rows above and below.
    Tolerance {
        precision: Precision::Int4,
        parameters: 100_000_000,
        max_abs: None,
        kl_mean: Limit { pass: 0.08, fail: 0.2 },
        agreement: Agreement::Share { pass: 0.88, fail: 0.80 },
    },
    // Models of a few million parameters. Demo models, blocks of 32 to 128, head included or not: KL 8.0e-3 to 5.4e-2,
    // top-1 83.5 to 93.7 %; a share of some dozen positions spreads by 4 % more.
    Tolerance {
        precision: Precision::Int4,
        parameters: 0,
        max_abs: None,
        kl_mean: Limit { pass: 0.1, fail: 0.25 },
        agreement: Agreement::Share { pass: 0.80, fail: 0.70 },
    },
];

impl Tolerance {
    pub(super) fn of(precision: Precision, num_parameters: u64) -> Self {
        let row = TABLE.iter().find(|row| row.precision == precision && num_parameters >= row.parameters);
        *row.expect("each precision has a row for 0 parameters; a test looks")
    }
}

/// The unit of differences between logits: an error is as harmful as it is large against their spread, and float
/// rounding grows with their size.
pub(super) fn logit_scale(reference_std: f64) -> f64 {
    reference_std.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_and_size_has_a_row_and_its_limits_are_in_order() {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16, Precision::Int8, Precision::Int4] {
            for parameters in [0, 1, 99_999_999, 100_000_000, 2_999_999_999, 3_000_000_000, u64::MAX] {
                let row = Tolerance::of(precision, parameters);
                assert_eq!(row.precision, precision);
                for limit in row.max_abs.iter().chain([&row.kl_mean]) {
                    assert!(limit.pass < limit.fail, "{row:?}");
                }
                if let Agreement::Share { pass, fail } = row.agreement {
                    assert!(fail < pass && pass < 1.0, "{row:?}");
                }
            }
        }
        let small = Tolerance::of(Precision::Int4, 2_999_999_999);
        assert_ne!(small, Tolerance::of(Precision::Int4, 3_000_000_000));
    }
}
