//! MLPs and activations.

use super::Linear;
use crate::{Config, Error, Result};

#[derive(Debug, Clone, PartialEq)]
pub enum Mlp {
    /// `down(activation(gate(x)) * up(x))`. With a cutoff, of each row `g = gate(x)` only what stands `cutoff` standard
    /// deviations above its mean goes on: `max(g - (mean(g) + cutoff * std(g)), 0)`, of the population.
    Gated { gate: Linear, up: Linear, down: Linear, activation: Activation, cutoff: Option<f32> },
    /// `down(activation(up(x)))`
    Plain { up: Linear, down: Linear, activation: Activation },
    /// `down(g * sigmoid(1.702 g) * (u + 1))`, where outputs `2i` of `gate_up` are `g` and outputs `2i + 1` are `u`; with
    /// a limit, `g` is no more than it and `u` lies within `-limit..=limit`.
    ClampedGate { gate_up: Linear, down: Linear, limit: Option<f32> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// Exact, with the error function.
    Gelu,
    /// The approximation by `tanh`.
    GeluTanh,
    Relu,
    /// `max(x, 0)²`
    ReluSquared,
    /// `x > 0`: `a_p x² + b x`; else `a_n (expm1(min(x, eps)) - x) + b x`, with `a_p = softplus(alpha_p)` and
    /// `a_n = beta + softplus(alpha_n)`; the tensors `{path}.alpha_p` and `{path}.alpha_n`, `[1]`, are learned.
    XIelu {
        path: String,
        beta: f32,
        eps: f32,
    },
}

impl Activation {
    /// Reads the name of an activation as transformers' `ACT2FN` knows it.
    pub(crate) fn read(config: &Config, key: &str, default: Self) -> Result<Self> {
        let Some(name) = config.opt_str(key)? else { return Ok(default) };
        match name.as_str() {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "relu2" => Ok(Self::ReluSquared),
            _ => Err(Error::Unsupported {
                key: config.path(key),
                value: name,
                supported: "silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, relu2".to_owned(),
            }),
        }
    }
}

impl Mlp {
    pub(super) fn num_parameters(&self) -> u64 {
        let (linears, activation) = match self {
            Self::Gated { gate, up, down, activation, .. } => (vec![gate, up, down], Some(activation)),
            Self::Plain { up, down, activation } => (vec![up, down], Some(activation)),
            Self::ClampedGate { gate_up, down, .. } => (vec![gate_up, down], None),
        };
        let learned = match activation {
            Some(Activation::XIelu { .. }) => 2,
            None
            | Some(
                Activation::Silu | Activation::Gelu | Activation::GeluTanh | Activation::Relu | Activation::ReluSquared,
            ) => 0,
        };
        linears.into_iter().map(Linear::num_parameters).sum::<u64>() + learned
    }
}
