//! Several streams `[batch, sequence, count, hidden]` in place of one hidden state.
//!
//! ```text
//! first hidden state ─► expand ─► streams ─► layers ─► streams ─► merge ─► final norm
//! ```
//!
//! The formulas are those of [`Streams`] and [`AltUp`]. All is in the dtype of the residual stream but for the linears.

use genai_architectures::{AltUp, Layer, LowRank, Mixer, Streams};

use super::{Lowering, mask::Lengths, norm::Stream};
use crate::{
    Error, Result, Role,
    graph::{
        Constant, Value,
        ops::{Add, Concat, Div, MatMul, Max, Mul, ReduceMean, Sqrt, Sub, Tanh},
    },
};

const EXPAND: &str = "/model/altup_projections";
const MERGE: &str = "/model/altup_unembed_projections";

/// The weights of a layer's router, which works before the layer and after it.
struct Router {
    norm: (Value, Option<Value>),
    /// `[hidden, count]`
    weight: Value,
}

impl Lowering<'_> {
    /// The streams that a model with several starts from; the hidden state itself for one.
    pub(super) fn expand(&mut self, embedded: Value) -> Result<Value> {
        let Some(streams) = &self.spec.streams else { return Ok(embedded) };
        let hidden_size = self.spec.hidden_size;
        let at = |part: &str| format!("{EXPAND}/{part}");
        let modules: Vec<_> = streams.expand.iter().collect();
        let input = self.in_activation_dtype(&at("input"), embedded)?;
        let others = self.linear(EXPAND, Role::Stream, input, &modules)?;
        let others = self.cast(EXPAND, others, self.stream_dtype())?;
        let others = self.apart(&at("Reshape"), others, streams.count - 1, hidden_size)?;
        let first = self.apart(&at("first/Reshape"), embedded, 1, hidden_size)?;
        let target = self.magnitude(&at("first"), first)?;
        let others = self.rescaled(EXPAND, others, target)?;
        self.graph.add(&at("Concat"), &Concat { inputs: vec![first, others], axis: 2, total: None })
    }

    /// One stream of several.
    pub(super) fn merge(&mut self, stream: Stream) -> Result<Stream> {
        let Some(Streams { count, merge, .. }) = &self.spec.streams else { return Ok(stream) };
        let streams = self.sum(stream, MERGE)?;
        let first = self.stream_at(&format!("{MERGE}/0"), streams, 0)?;
        let target = self.magnitude(&format!("{MERGE}/0"), first)?;
        let mut sum = first;
        for (module, index) in merge.iter().zip(1..) {
            let path = format!("{MERGE}/{index}");
            let input = self.stream_at(&path, streams, index)?;
            let input = self.in_activation_dtype(&format!("{path}/input"), input)?;
            let other = self.linear(&path, Role::Stream, input, &[module])?;
            let other = self.cast(&path, other, self.stream_dtype())?;
            let other = self.rescaled(&path, other, target)?;
            sum = self.graph.add(&format!("{path}/sum/Add"), &Add(sum, other))?;
        }
        let share = self.scalar_as(1.0 / *count as f32, self.stream_dtype())?;
        Ok(Stream::new(self.graph.add(&format!("{MERGE}/mean/Mul"), &Mul(sum, share))?))
    }

    /// A layer over streams; returns them after it, and its present key and value.
    pub(super) fn altup(
        &mut self,
        index: usize,
        altup: &AltUp,
        layer: &Layer,
        streams: Value,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Value, (Value, Value))> {
        let path = format!("/model/layers.{index}");
        let at = |part: &str| format!("{path}/{part}");
        let Some(&Streams { count, active, .. }) = self.spec.streams.as_ref() else {
            return Err(Error::graph(&path, "the model has one stream"));
        };
        let Mixer::Attention(attention) = &layer.mixer;
        let dtype = self.stream_dtype();

        let router = self.router(&at("altup"), altup)?;
        let before = self.stream_at(&at("altup/active"), streams, active)?;
        let routed = self.routed(&at("altup/predict"), altup, &router, before)?;
        let shares = self.linear(&at("altup/prediction_coefs"), Role::Router, routed, &[&altup.prediction])?;
        let shares = self.cast(&at("altup/prediction_coefs"), shares, dtype)?;
        let shares = self.apart(&at("altup/prediction_coefs/Reshape"), shares, count, count)?;
        let change = self.graph.add(&at("altup/predict/MatMul"), &MatMul { a: shares, b: streams })?;
        let predicted = self.graph.add(&at("altup/predict/Add"), &Add(change, streams))?;
        let entering = self.stream_at(&at("altup/predicted"), predicted, active)?;

        let normed = self.plain_norm(entering, &altup.mixer_pre, &at("input_layernorm"))?;
        let laurel = self.low_rank(&at("laurel"), &altup.laurel, normed)?;
        let (mixed, present) = self.attention(index, &at("attn"), attention, normed, past, lengths)?;
        let mixed = self.update_norm(mixed, &altup.mixer_post, &at("post_attention_layernorm"))?;
        let mixed = self.graph.add(&at("attn/residual/Add"), &Add(entering, mixed))?;
        let mixed = self.graph.add(&at("laurel/residual/Add"), &Add(mixed, laurel))?;
        let factor = self.scalar_as(std::f32::consts::FRAC_1_SQRT_2, dtype)?;
        let mixed = self.graph.add(&at("laurel/residual/Mul"), &Mul(mixed, factor))?;
        let normed = self.plain_norm(mixed, &altup.mlp_pre, &at("pre_feedforward_layernorm"))?;
        let fed = self.mlp(&at("mlp"), &layer.mlp, normed)?;
        let fed = self.update_norm(fed, &altup.mlp_post, &at("post_feedforward_layernorm"))?;
        let activated = self.graph.add(&at("mlp/residual/Add"), &Add(mixed, fed))?;

        let routed = self.routed(&at("altup/correct"), altup, &router, activated)?;
        let shares = self.linear(&at("altup/correction_coefs"), Role::Router, routed, &[&altup.correction])?;
        let shares = self.cast(&at("altup/correction_coefs"), shares, dtype)?;
        let one = self.scalar_as(1.0, dtype)?;
        let shares = self.graph.add(&at("altup/correction_coefs/Add"), &Add(shares, one))?;
        let shares = self.apart(&at("altup/correction_coefs/Reshape"), shares, count, 1)?;
        let innovation = self.graph.add(&at("altup/correct/Sub"), &Sub(activated, entering))?;
        let innovation = self.apart(&at("altup/correct/Reshape"), innovation, 1, self.spec.hidden_size)?;
        let change = self.graph.add(&at("altup/correct/Mul"), &Mul(innovation, shares))?;
        let corrected = self.graph.add(&at("altup/correct/Add"), &Add(predicted, change))?;

        let mut leaving = self.stream_at(&at("altup/corrected"), corrected, active)?;
        if let Some(tensor) = &altup.output_scale {
            let name = format!("model.layers.{index}.altup.correct_output_scale");
            let scale = self.parameter_as(&name, tensor.clone(), &[self.spec.hidden_size], 0.0, dtype)?;
            leaving = self.graph.add(&at("altup/correct_output_scale/Mul"), &Mul(leaving, scale))?;
        }
        let update = self.layer_input(&at("per_layer"), index, &altup.input, leaving)?;
        let update = self.apart(&at("per_layer/Reshape"), update, 1, self.spec.hidden_size)?;
        // The first stream gets none of it, whichever is the active one.
        let mut takes = vec![1.0; count];
        takes[0] = 0.0;
        let takes = self.graph.constant(Constant::Floats { values: takes, dims: vec![count, 1] })?;
        let takes = self.cast("/model/altup/others", takes, dtype)?;
        let update = self.graph.add(&at("per_layer/others/Mul"), &Mul(update, takes))?;
        Ok((self.graph.add(&at("per_layer/Add"), &Add(corrected, update))?, present))
    }

    fn router(&mut self, path: &str, altup: &AltUp) -> Result<Router> {
        let (hidden_size, dtype) = (self.spec.hidden_size, self.stream_dtype());
        let norm = self.norm_weights(&altup.router_norm, &format!("{path}/router_norm"), hidden_size, dtype)?;
        Ok(Router { norm, weight: self.shared_weight(&format!("{path}/modality_router"), &altup.router)? })
    }

    /// `[batch, sequence, count]`, in the dtype of activations.
    fn routed(&mut self, path: &str, altup: &AltUp, router: &Router, x: Value) -> Result<Value> {
        let name = format!("{path}/router_norm");
        let (scale, bias) = router.norm;
        let normed = self.norm_node(&format!("{name}/LayerNorm"), &name, x, &altup.router_norm, scale, bias)?;
        let normed = self.in_activation_dtype(&name, normed)?;
        let product = MatMul { a: normed, b: router.weight };
        let routed = self.graph.add(&format!("{path}/modality_router/MatMul"), &product)?;
        let scale = self.scalar(altup.router_scale)?;
        let routed = self.graph.add(&format!("{path}/modality_router/Mul"), &Mul(routed, scale))?;
        self.graph.add(&format!("{path}/Tanh"), &Tanh(routed))
    }

    /// In the dtype of the stream.
    fn low_rank(&mut self, path: &str, low_rank: &LowRank, x: Value) -> Result<Value> {
        let left = self.linear(&format!("{path}/linear_left"), Role::Stream, x, &[&low_rank.left])?;
        let right = self.linear(&format!("{path}/linear_right"), Role::Stream, left, &[&low_rank.right])?;
        let update = self.update_norm(right, &low_rank.norm, &format!("{path}/post_laurel_norm"))?;
        let x = self.cast(&format!("{path}/input"), x, self.stream_dtype())?;
        self.graph.add(&format!("{path}/Add"), &Add(x, update))
    }

    /// Stream `index` as a hidden state `[batch, sequence, hidden]`.
    fn stream_at(&mut self, path: &str, streams: Value, index: usize) -> Result<Value> {
        let one = self.stretch(&format!("{path}/Slice"), streams, 2, index..index + 1)?;
        self.together(&format!("{path}/Reshape"), one, self.spec.hidden_size)
    }

    /// `sqrt(mean(x²))` over the last dimension, which becomes 1.
    fn magnitude(&mut self, path: &str, x: Value) -> Result<Value> {
        let mean = self.mean_square(path, x)?;
        self.graph.add(&format!("{path}/Sqrt"), &Sqrt(mean))
    }

    fn mean_square(&mut self, path: &str, x: Value) -> Result<Value> {
        let axes = self.graph.constant(Constant::Int64s(vec![-1]))?;
        let square = self.graph.add(&format!("{path}/square/Mul"), &Mul(x, x))?;
        self.graph.add(&format!("{path}/ReduceMean"), &ReduceMean { input: square, axes })
    }

    /// `x` with the magnitude `target`.
    fn rescaled(&mut self, path: &str, x: Value, target: Value) -> Result<Value> {
        let path = format!("{path}/rescale");
        let mean = self.mean_square(&path, x)?;
        let least = self.scalar_as(Streams::LEAST_MEAN_SQUARE, self.stream_dtype())?;
        let mean = self.graph.add(&format!("{path}/Max"), &Max(mean, least))?;
        let own = self.graph.add(&format!("{path}/Sqrt"), &Sqrt(mean))?;
        let raised = self.graph.add(&format!("{path}/Mul"), &Mul(x, target))?;
        self.graph.add(&format!("{path}/Div"), &Div(raised, own))
    }
}
