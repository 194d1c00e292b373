//! One decoder layer: norms, residual stream, MLP.
//!
//! ```text
//! residual, update ─► SkipSimplifiedLayerNormalization ─► normed ─► attention ─► next update
//!                                                      └► residual + update ─► next residual
//! ```

use genai_architectures::{Activation, Layer, Mixer, Mlp, Norm, NormKind, Residual};

use super::{Lowering, mask::Lengths};
use crate::{
    Result, Role,
    graph::{
        Value,
        ops::{Gelu, Mul, Relu, Sigmoid, SimplifiedLayerNormalization, SkipSimplifiedLayerNormalization},
    },
    lower::linear::dotted,
};

/// The residual stream between two parts: what has been added up, and what is still to be added.
pub(super) struct Stream {
    residual: Value,
    update: Option<Value>,
}

impl Stream {
    pub(super) fn new(residual: Value) -> Self {
        Self { residual, update: None }
    }
}

impl Lowering<'_> {
    /// Returns the stream after the layer, and its present key and value.
    pub(super) fn layer(
        &mut self,
        index: usize,
        layer: &Layer,
        stream: Stream,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Stream, (Value, Value))> {
        let path = format!("/model/layers.{index}");
        let Mixer::Attention(attention) = &layer.mixer;
        let Residual::PreNorm { mixer_norm, mlp_norm } = &layer.residual;

        let (normed, residual) = self.norm(&stream, mixer_norm, &format!("{path}/input_layernorm"))?;
        let (mixed, present) = self.attention(&format!("{path}/attn"), attention, normed, past, lengths)?;
        let stream = Stream { residual, update: Some(mixed) };
        let (normed, residual) = self.norm(&stream, mlp_norm, &format!("{path}/post_attention_layernorm"))?;
        let update = self.mlp(&format!("{path}/mlp"), &layer.mlp, normed)?;
        Ok((Stream { residual, update: Some(update) }, present))
    }

    /// The norm of the stream, and the stream added up.
    fn norm(&mut self, stream: &Stream, norm: &Norm, path: &str) -> Result<(Value, Value)> {
        let gamma = self.norm_weight(norm, path)?;
        let Some(update) = stream.update else {
            let op = SimplifiedLayerNormalization { input: stream.residual, scale: gamma, epsilon: norm.eps };
            let outputs = self.graph.wire(&format!("{path}/LayerNorm"), path, &op)?;
            return Ok((outputs[0], stream.residual));
        };
        let outputs = self.skip_norm(stream.residual, update, gamma, norm.eps, path, true)?;
        Ok((outputs[0], outputs[1]))
    }

    /// The norm of a stream that nothing follows.
    pub(super) fn last_norm(&mut self, stream: &Stream, norm: &Norm, path: &str) -> Result<Value> {
        let gamma = self.norm_weight(norm, path)?;
        match stream.update {
            Some(update) => Ok(self.skip_norm(stream.residual, update, gamma, norm.eps, path, false)?[0]),
            None => {
                let op = SimplifiedLayerNormalization { input: stream.residual, scale: gamma, epsilon: norm.eps };
                Ok(self.graph.wire(&format!("{path}/LayerNorm"), path, &op)?[0])
            }
        }
    }

    fn skip_norm(
        &mut self,
        input: Value,
        skip: Value,
        gamma: Value,
        epsilon: f32,
        path: &str,
        sum: bool,
    ) -> Result<Vec<Value>> {
        let op = SkipSimplifiedLayerNormalization { input, skip, gamma, epsilon, sum };
        self.graph.wire(&format!("{path}/SkipLayerNorm"), path, &op)
    }

    fn norm_weight(&mut self, norm: &Norm, path: &str) -> Result<Value> {
        match norm.kind {
            NormKind::Rms => self.vector(&format!("{}.weight", dotted(path)), norm.weight(), self.spec.hidden_size),
        }
    }

    fn mlp(&mut self, path: &str, mlp: &Mlp, input: Value) -> Result<Value> {
        let Mlp::Gated { gate, up, down, activation } = mlp;
        let gate = self.linear(&format!("{path}/gate_proj"), Role::GateProj, input, &[gate])?;
        let up = self.linear(&format!("{path}/up_proj"), Role::UpProj, input, &[up])?;
        let activated = self.activation(&format!("{path}/act_fn"), *activation, gate)?;
        let product = self.graph.add(&format!("{path}/Mul"), &Mul(activated, up))?;
        self.linear(&format!("{path}/down_proj"), Role::DownProj, product, &[down])
    }

    fn activation(&mut self, path: &str, activation: Activation, input: Value) -> Result<Value> {
        match activation {
            Activation::Silu => {
                let sigmoid = self.graph.add(&format!("{path}/Sigmoid"), &Sigmoid(input))?;
                self.graph.add(&format!("{path}/Mul"), &Mul(input, sigmoid))
            }
            Activation::Gelu => self.graph.add(&format!("{path}/Gelu"), &Gelu { input, approximate: "none" }),
            Activation::GeluTanh => self.graph.add(&format!("{path}/Gelu"), &Gelu { input, approximate: "tanh" }),
            Activation::Relu => self.graph.add(&format!("{path}/Relu"), &Relu(input)),
        }
    }
}
