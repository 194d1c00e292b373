//! Norms, alone or together with the residual sum that they read.
//!
//! ```text
//! residual ──► (Simplified)LayerNormalization ─► normed
//! residual, update ─► Skip(Simplified)LayerNormalization ─► normed, residual + update
//! ```
//!
//! In standard operators the sum is an `Add`, and an RMS norm, in f32 whatever its input is:
//!
//! ```text
//! x ─► (Cast) ─┬─► Mul x ─► ReduceMean ─► Add eps ─► Sqrt ─► Div ─► (Cast) ─► Mul weight
//!              └──────────────────────────────────────────────┘
//! ```

use genai_architectures::{Norm, NormKind, NormWeight};

use super::{Lowering, linear::dotted};
use crate::{
    Result,
    graph::{
        Constant, Dtype, Value,
        ops::{
            Add, Div, LayerNormalization, Mul, ReduceMean, SimplifiedLayerNormalization, SkipLayerNormalization,
            SkipSimplifiedLayerNormalization, Sqrt,
        },
    },
    target::OperatorForm,
};

/// The residual stream between two parts: what has been added up, and what is still to be added.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    pub(super) residual: Value,
    pub(super) update: Option<Value>,
}

impl Stream {
    pub(super) fn new(residual: Value) -> Self {
        Self { residual, update: None }
    }
}

impl Lowering<'_> {
    /// The norm of the stream in the dtype of activations, and the stream added up.
    pub(super) fn norm(&mut self, stream: Stream, norm: &Norm, path: &str) -> Result<(Value, Value)> {
        match stream.update {
            None => Ok((self.plain_norm(stream.residual, norm, path)?, stream.residual)),
            Some(update) => {
                let outputs = self.skip_norm(stream.residual, update, norm, path, true)?;
                Ok((self.in_activation_dtype(path, outputs[0])?, outputs[1]))
            }
        }
    }

    /// The norm of a stream that nothing follows.
    pub(super) fn last_norm(&mut self, stream: Stream, norm: &Norm, path: &str) -> Result<Value> {
        match stream.update {
            None => self.plain_norm(stream.residual, norm, path),
            Some(update) => {
                let normed = self.skip_norm(stream.residual, update, norm, path, false)?[0];
                self.in_activation_dtype(path, normed)
            }
        }
    }

    /// The stream added up.
    pub(super) fn sum(&mut self, stream: Stream, path: &str) -> Result<Value> {
        match stream.update {
            None => Ok(stream.residual),
            Some(update) => self.graph.add(&format!("{path}/Add"), &Add(stream.residual, update)),
        }
    }

    /// The norm of a value over the hidden state, taken in the value's dtype, in the dtype of activations.
    pub(super) fn plain_norm(&mut self, input: Value, norm: &Norm, path: &str) -> Result<Value> {
        let normed = self.norm_alone(input, norm, path)?;
        self.in_activation_dtype(path, normed)
    }

    /// The norm of what is to be added to the stream, in the stream's dtype.
    pub(super) fn update_norm(&mut self, input: Value, norm: &Norm, path: &str) -> Result<Value> {
        let input = self.cast(path, input, self.stream_dtype())?;
        self.norm_alone(input, norm, path)
    }

    fn norm_alone(&mut self, input: Value, norm: &Norm, path: &str) -> Result<Value> {
        let dtype = self.graph.fact(input).dtype;
        let (scale, bias) = self.norm_weights(norm, path, self.spec.hidden_size, dtype)?;
        self.norm_node(&format!("{path}/LayerNorm"), path, input, norm, scale, bias)
    }

    /// The norm of `input` over its last dimension, with weights that exist already.
    pub(super) fn norm_node(
        &mut self,
        name: &str,
        output_path: &str,
        input: Value,
        norm: &Norm,
        scale: Value,
        bias: Option<Value>,
    ) -> Result<Value> {
        let epsilon = norm.eps;
        let outputs = match (norm.kind, self.settings.form.others) {
            (NormKind::Rms, OperatorForm::Fused) => {
                self.graph.wire(name, output_path, &SimplifiedLayerNormalization { input, scale, epsilon })?
            }
            (NormKind::Rms, OperatorForm::Standard) => return self.rms_norm(name, input, scale, epsilon),
            (NormKind::Layer, _) => {
                self.graph.wire(name, output_path, &LayerNormalization { input, scale, bias, epsilon })?
            }
        };
        Ok(outputs[0])
    }

    /// `x / sqrt(mean(x * x) + epsilon) * scale`
    fn rms_norm(&mut self, path: &str, input: Value, scale: Value, epsilon: f32) -> Result<Value> {
        let at = |part: &str| format!("{path}/{part}");
        let dtype = self.graph.fact(input).dtype;
        let wide = self.cast(&at("input"), input, Dtype::F32)?;
        let axes = self.graph.constant(Constant::Int64s(vec![-1]))?;
        let epsilon = self.graph.constant(Constant::Float(epsilon))?;
        let square = self.graph.add(&at("square/Mul"), &Mul(wide, wide))?;
        let mean = self.graph.add(&at("ReduceMean"), &ReduceMean { input: square, axes })?;
        let sum = self.graph.add(&at("Add"), &Add(mean, epsilon))?;
        let root = self.graph.add(&at("Sqrt"), &Sqrt(sum))?;
        let normed = self.graph.add(&at("Div"), &Div(wide, root))?;
        let normed = self.cast(&at("normed"), normed, dtype)?;
        self.graph.add(&at("Mul"), &Mul(normed, scale))
    }

    fn skip_norm(&mut self, input: Value, skip: Value, norm: &Norm, path: &str, sum: bool) -> Result<Vec<Value>> {
        if self.settings.form.others == OperatorForm::Standard {
            let residual = self.graph.add(&format!("{path}/Add"), &Add(input, skip))?;
            return Ok(vec![self.norm_alone(residual, norm, path)?, residual]);
        }
        let dtype = self.graph.fact(input).dtype;
        let (gamma, beta) = self.norm_weights(norm, path, self.spec.hidden_size, dtype)?;
        let (name, epsilon) = (format!("{path}/SkipLayerNorm"), norm.eps);
        match norm.kind {
            NormKind::Rms => {
                let op = SkipSimplifiedLayerNormalization { input, skip, gamma, epsilon, sum };
                self.graph.wire(&name, path, &op)
            }
            NormKind::Layer => {
                let op = SkipLayerNormalization { input, skip, gamma, beta, epsilon, sum };
                self.graph.wire(&name, path, &op)
            }
        }
    }

    /// Weight and bias of a norm over `width` values; ones where there is no weight, which the operators demand.
    pub(super) fn norm_weights(
        &mut self,
        norm: &Norm,
        path: &str,
        width: usize,
        dtype: Dtype,
    ) -> Result<(Value, Option<Value>)> {
        let name = format!("{}.weight", dotted(path));
        let weight = match norm.weight {
            NormWeight::Plain => self.parameter_as(&name, norm.weight(), &[width], 0.0, dtype)?,
            NormWeight::OnePlus => self.parameter_as(&name, norm.weight(), &[width], 1.0, dtype)?,
            NormWeight::None => self.constant_tensor(&name, 1.0, &[width], dtype)?,
        };
        let name = format!("{}.bias", dotted(path));
        let bias = norm.bias.then(|| self.parameter_as(&name, norm.bias_name(), &[width], 0.0, dtype)).transpose()?;
        Ok((weight, bias))
    }
}
