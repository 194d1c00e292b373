//! The MLP of a layer, and activations.
//!
//! ```text
//! gated  x ─► gate_proj ─► act ─► Mul ─► down_proj        plain  x ─► up_proj ─► act ─► down_proj
//!        x ─► up_proj ────────────┘
//!
//! both at once  x ─► gate_up_proj ─► Split ─► …
//!
//! clamped gate  x ─► up_proj ─► Reshape [.., inner, 2] ─► Split ─┬► Min  ─► x sigmoid(1.702 x) ─► Mul ─► down_proj
//!                                                                └► Clip ─► + 1 ──────────────────┘
//! ```

use genai_architectures::{Activation, Linear, Mlp};

use super::{Lowering, linear::dotted};
use crate::{
    Result, Role,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{
            Add, Clip, Exp, Gelu, Greater, Min, Mul, ReduceMean, Relu, Reshape, Sigmoid, Softplus, Split, Sqrt, Sub,
            Where,
        },
    },
};

impl Lowering<'_> {
    pub(super) fn mlp(&mut self, path: &str, mlp: &Mlp, input: Value) -> Result<Value> {
        let (inner, down) = match mlp {
            Mlp::Gated { gate, up, down, activation, cutoff } => {
                let (mut gate, fused_up) = if self.settings.fusion.gate_up {
                    let (gate, up) = self.gate_and_up(path, gate, up, input)?;
                    (gate, Some(up))
                } else {
                    (self.linear(&format!("{path}/gate_proj"), Role::GateProj, input, &[gate])?, None)
                };
                if let Some(cutoff) = cutoff {
                    gate = self.above_cutoff(&format!("{path}/cutoff"), gate, *cutoff)?;
                }
                let up = match fused_up {
                    Some(up) => up,
                    None => self.linear(&format!("{path}/up_proj"), Role::UpProj, input, &[up])?,
                };
                let activated = self.activation(&format!("{path}/act_fn"), activation, gate)?;
                (self.graph.add(&format!("{path}/Mul"), &Mul(activated, up))?, down)
            }
            Mlp::Plain { up, down, activation } => {
                let up = self.linear(&format!("{path}/up_proj"), Role::UpProj, input, &[up])?;
                (self.activation(&format!("{path}/act_fn"), activation, up)?, down)
            }
            Mlp::ClampedGate { gate_up, down, limit } => {
                let both = self.linear(&format!("{path}/up_proj"), Role::UpProj, input, &[gate_up])?;
                (self.clamped_gate(path, both, down.in_features, *limit)?, down)
            }
        };
        self.linear(&format!("{path}/down_proj"), Role::DownProj, inner, &[down])
    }

    /// Both halves of a gated MLP by one product.
    fn gate_and_up(&mut self, path: &str, gate: &Linear, up: &Linear, input: Value) -> Result<(Value, Value)> {
        let path = format!("{path}/gate_up_proj");
        let both = self.linear(&path, Role::GateProj, input, &[gate, up])?;
        let sizes = [gate, up].map(|half| half.out_features as u64);
        let split = self.graph.constant(Constant::Int64s(sizes.iter().map(|size| *size as i64).collect()))?;
        let name = format!("{path}/Split");
        let halves = self.graph.wire(&name, &name, &Split { input: both, split, sizes: sizes.to_vec() })?;
        Ok((halves[0], halves[1]))
    }

    /// `max(x - (mean(x) + cutoff * std(x)), 0)` of each row, in f32.
    fn above_cutoff(&mut self, path: &str, input: Value, cutoff: f32) -> Result<Value> {
        let at = |part: &str| format!("{path}/{part}");
        let wide = self.cast(&at("input"), input, Dtype::F32)?;
        let axes = self.graph.constant(Constant::Int64s(vec![-1]))?;
        let cutoff = self.graph.constant(Constant::Float(cutoff))?;
        let mean = self.graph.add(&at("mean/ReduceMean"), &ReduceMean { input: wide, axes })?;
        let centred = self.graph.add(&at("Sub"), &Sub(wide, mean))?;
        let square = self.graph.add(&at("Mul"), &Mul(centred, centred))?;
        let variance = self.graph.add(&at("variance/ReduceMean"), &ReduceMean { input: square, axes })?;
        let deviation = self.graph.add(&at("Sqrt"), &Sqrt(variance))?;
        let least = self.graph.add(&at("deviation/Mul"), &Mul(deviation, cutoff))?;
        let above = self.graph.add(&at("deviation/Sub"), &Sub(centred, least))?;
        let above = self.graph.add(&at("Relu"), &Relu(above))?;
        self.in_activation_dtype(path, above)
    }

    /// `g * sigmoid(1.702 g) * (u + 1)` of `both`, in which `g` and `u` alternate.
    fn clamped_gate(&mut self, path: &str, both: Value, inner: usize, limit: Option<f32>) -> Result<Value> {
        let at = |part: &str| format!("{path}/{part}");
        let limits = match limit {
            Some(limit) => Some((self.scalar(-limit)?, self.scalar(limit)?)),
            None => None,
        };
        let (one, steepness) = (self.scalar(1.0)?, self.scalar(1.702)?);
        let graph = &mut self.graph;
        let whole = graph.fact(both).with_last(inner as u64).shape;
        let pairs = [whole.as_slice(), &[Dim::Known(2)]].concat();
        let target = graph.constant(Constant::Int64s(vec![0, 0, inner as i64, 2]))?;
        let pairs = Reshape { input: both, target, shape: pairs };
        let pairs = graph.add(&at("up_proj/Reshape"), &pairs)?;
        let split = graph.constant(Constant::Int64s(vec![1, 1]))?;
        let name = at("up_proj/Split");
        let parts = graph.wire(&name, &name, &Split { input: pairs, split, sizes: vec![1, 1] })?;
        let target = graph.constant(Constant::Int64s(vec![0, 0, inner as i64]))?;
        let mut part =
            |name: &str, input: Value| graph.add(&at(name), &Reshape { input, target, shape: whole.clone() });
        let (mut gate, mut up) = (part("gate/Reshape", parts[0])?, part("up/Reshape", parts[1])?);
        if let Some((min, max)) = limits {
            gate = graph.add(&at("gate/Min"), &Min(gate, max))?;
            up = graph.add(&at("up/Clip"), &Clip { input: up, min, max })?;
        }
        let steep = graph.add(&at("act_fn/Mul"), &Mul(gate, steepness))?;
        let sigmoid = graph.add(&at("act_fn/Sigmoid"), &Sigmoid(steep))?;
        let gate = graph.add(&at("act_fn/Mul_1"), &Mul(gate, sigmoid))?;
        let up = graph.add(&at("up/Add"), &Add(up, one))?;
        graph.add(&at("Mul"), &Mul(gate, up))
    }

    pub(super) fn activation(&mut self, path: &str, activation: &Activation, input: Value) -> Result<Value> {
        match activation {
            Activation::Silu => {
                let sigmoid = self.graph.add(&format!("{path}/Sigmoid"), &Sigmoid(input))?;
                self.graph.add(&format!("{path}/Mul"), &Mul(input, sigmoid))
            }
            Activation::Gelu => self.graph.add(&format!("{path}/Gelu"), &Gelu { input, approximate: "none" }),
            Activation::GeluTanh => self.graph.add(&format!("{path}/Gelu"), &Gelu { input, approximate: "tanh" }),
            Activation::Relu => self.graph.add(&format!("{path}/Relu"), &Relu(input)),
            Activation::ReluSquared => {
                let relu = self.graph.add(&format!("{path}/Relu"), &Relu(input))?;
                self.graph.add(&format!("{path}/Mul"), &Mul(relu, relu))
            }
            Activation::XIelu { path: module, beta, eps } => self.xielu(path, module, *beta, *eps, input),
        }
    }

    /// `x > 0`: `a_p x² + b x`, else `a_n (expm1(min(x, eps)) - x) + b x`.
    fn xielu(&mut self, path: &str, module: &str, beta: f32, eps: f32, input: Value) -> Result<Value> {
        let name = |part: &str| format!("{}.{part}", dotted(path));
        let at = |part: &str| format!("{path}/{part}");
        let alpha_p = self.parameter(&name("alpha_p"), format!("{module}.alpha_p"), &[1], 0.0)?;
        let alpha_n = self.parameter(&name("alpha_n"), format!("{module}.alpha_n"), &[1], 0.0)?;
        let (beta, eps) = (self.scalar(beta)?, self.scalar(eps)?);
        let (zero, one) = (self.scalar(0.0)?, self.scalar(1.0)?);
        let graph = &mut self.graph;
        let a_p = graph.add(&at("alpha_p/Softplus"), &Softplus(alpha_p))?;
        let a_n = graph.add(&at("alpha_n/Softplus"), &Softplus(alpha_n))?;
        let a_n = graph.add(&at("alpha_n/Add"), &Add(a_n, beta))?;

        let square = graph.add(&at("positive/Square"), &Mul(input, input))?;
        let positive = graph.add(&at("positive/Mul"), &Mul(square, a_p))?;
        let below = graph.add(&at("negative/Min"), &Min(input, eps))?;
        let exponential = graph.add(&at("negative/Exp"), &Exp(below))?;
        let less_one = graph.add(&at("negative/Sub"), &Sub(exponential, one))?;
        let bent = graph.add(&at("negative/Sub_x"), &Sub(less_one, input))?;
        let negative = graph.add(&at("negative/Mul"), &Mul(bent, a_n))?;
        let is_positive = graph.add(&at("Greater"), &Greater(input, zero))?;
        let chosen = graph.add(&at("Where"), &Where { condition: is_positive, yes: positive, no: negative })?;
        let linear = graph.add(&at("linear/Mul"), &Mul(input, beta))?;
        graph.add(&at("Add"), &Add(chosen, linear))
    }
}
