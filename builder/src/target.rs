//! What each execution provider can do: one row, data only. Lowering asks the row and never the name.

use crate::{Error, Precision, Result, graph::Dtype};

/// An execution provider and its kernels.
#[derive(Debug)]
pub struct Target {
    /// As typed after `-e`.
    pub provider: &'static str,
    /// The dtype of activations, cache, norms and scales for each precision that the provider has kernels for.
    pub activations: &'static [(Precision, Dtype)],
    /// `MatMulNBits` accuracy level unless the user asks for another: 4 takes activations in int8, 0 leaves it open.
    pub accuracy_level: u8,
    /// `GroupQueryAttention` rotates heads whose dimension is a multiple of this; others are rotated before it.
    pub rotated_head_multiple: usize,
    /// `GroupQueryAttention` takes heads whose dimension is a multiple of this; others are padded with zeros.
    pub head_multiple: usize,
    /// What `genai_config.json` lists under `provider_options`.
    pub provider_options: &'static [(&'static str, &'static [(&'static str, &'static str)])],
}

pub const TARGETS: &[Target] = &[
    Target {
        provider: "cpu",
        activations: &[
            (Precision::Fp32, Dtype::F32),
            (Precision::Fp16, Dtype::F16),
            (Precision::Int8, Dtype::F32),
            (Precision::Int4, Dtype::F32),
        ],
        accuracy_level: 4,
        rotated_head_multiple: 16,
        head_multiple: 8,
        provider_options: &[],
    },
    Target {
        provider: "cuda",
        activations: &[
            (Precision::Fp16, Dtype::F16),
            (Precision::Bf16, Dtype::Bf16),
            (Precision::Int8, Dtype::F16),
            (Precision::Int4, Dtype::F16),
        ],
        accuracy_level: 0,
        rotated_head_multiple: 16,
        head_multiple: 8,
        provider_options: &[("cuda", &[("enable_cuda_graph", "0")])],
    },
];

impl Target {
    /// The row of a provider, by the name typed after `-e`.
    pub fn find(provider: &str) -> Result<&'static Self> {
        TARGETS.iter().find(|target| target.provider == provider).ok_or_else(|| Error::Unsupported {
            what: format!("execution provider {provider:?} is not supported"),
            hint: format!("supported: {}", names(TARGETS.iter().map(|target| target.provider))),
        })
    }

    /// The dimension of heads as attention and cache see them.
    pub fn padded_head_dim(&self, head_dim: usize) -> usize {
        head_dim.next_multiple_of(self.head_multiple)
    }

    /// The dtype of activations at a precision.
    pub fn activation_dtype(&self, precision: Precision) -> Result<Dtype> {
        let row = self.activations.iter().find(|(candidate, _)| *candidate == precision);
        row.map(|(_, dtype)| *dtype).ok_or_else(|| {
            let here = names(self.activations.iter().map(|(precision, _)| precision.name()));
            let elsewhere = TARGETS.iter().filter(|target| target.activations.iter().any(|(p, _)| *p == precision));
            let elsewhere = names(elsewhere.map(|target| target.provider));
            Error::Unsupported {
                what: format!("{} has no {} kernels for a decoder", self.provider, precision.name()),
                hint: format!("{} runs {here}; {} runs on {elsewhere}", self.provider, precision.name()),
            }
        })
    }
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_without_kernels_is_refused_with_the_pairs_that_work() {
        let error = Target::find("cuda").unwrap().activation_dtype(Precision::Fp32).unwrap_err();
        assert_eq!(error.to_string(), "cuda has no fp32 kernels for a decoder");
        assert_eq!(error.hint().unwrap(), "cuda runs fp16, bf16, int8, int4; fp32 runs on cpu");
        assert!(Target::find("tpu").unwrap_err().hint().unwrap().contains("cpu, cuda"));
    }
}
