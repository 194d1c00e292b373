//! What goes from the embedding to every layer beside the hidden state: inputs of the layers' own, and further streams.

use super::{Activation, Linear, Norm};

/// A small input for each layer, made of the tokens and of the first hidden state `x`; layer `i` reads
///
/// `scale * (norm(projection_scale * projection(x)[i]) + table_scale * table[token][i])`
///
/// where `[i]` is the `i`th stretch of `width` values.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInputs {
    pub width: usize,
    /// Module path; the table is the tensor `{table}.weight` of `[rows, layers * width]`.
    pub table: String,
    /// A token past the last row reads the first one.
    pub rows: usize,
    pub table_scale: f32,
    /// `[layers * width, hidden_size]`
    pub projection: Linear,
    pub projection_scale: f32,
    /// Over each stretch of `width`.
    pub norm: Norm,
    pub scale: f32,
}

/// What a layer makes of its own input: `norm(projection(activation(gate(x)) * input))`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInput {
    /// `[width, hidden_size]`
    pub gate: Linear,
    pub activation: Activation,
    /// `[hidden_size, width]`
    pub projection: Linear,
    pub norm: Norm,
}

/// How the first hidden state `x` becomes `count` streams, and the streams become one again.
///
/// Stream 0 is `x` itself and stream `i` is `rescaled(expand[i - 1](x), x)`; at the end the mean is taken of stream 0 and
/// of each `rescaled(merge[i - 1](stream i), stream 0)`. There `rescaled(y, to)` is
/// `y * sqrt(mean(to²)) / sqrt(max(mean(y²), 1e-5))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Streams {
    /// At least 2.
    pub count: usize,
    /// The stream that goes through the layers.
    pub active: usize,
    /// `count - 1` linears of `[hidden_size, hidden_size]`.
    pub expand: Vec<Linear>,
    /// The same at the end.
    pub merge: Vec<Linear>,
}

/// A layer over several streams: alternating updates (<https://arxiv.org/abs/2301.13310>), with a learned residual of low
/// rank (<https://arxiv.org/abs/2411.07501>) beside the mixer.
///
/// ```text
/// routed(x)  = tanh(router_scale * router(router_norm(x)))              [count]
/// predicted  = streams + prediction(routed(streams[active])) · streams  the product of [count, count]
/// p          = predicted[active];  n = mixer_pre(p)
/// mixed      = (p + mixer_post(mixer(n)) + laurel(n)) / sqrt(2)
/// activated  = mixed + mlp_post(mlp(mlp_pre(mixed)))
/// streams    = predicted + (1 + correction(routed(activated))) * (activated - p)
/// streams[1..] += input(output_scale * streams[active])
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AltUp {
    pub router_norm: Norm,
    /// `[count, hidden_size]`
    pub router: Linear,
    pub router_scale: f32,
    /// `[count * count, count]`; row `j * count + i` is what stream `i` gives to stream `j`.
    pub prediction: Linear,
    /// `[count, count]`
    pub correction: Linear,
    /// A tensor `[hidden_size]`.
    pub output_scale: Option<String>,
    pub laurel: LowRank,
    pub mixer_pre: Norm,
    pub mixer_post: Norm,
    pub mlp_pre: Norm,
    pub mlp_post: Norm,
    pub input: LayerInput,
}

/// `x + norm(right(left(x)))`
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[rank, hidden_size]`
    pub left: Linear,
    /// `[hidden_size, rank]`
    pub right: Linear,
    pub norm: Norm,
}

impl LayerInputs {
    /// The name of the table tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.table)
    }

    pub(super) fn num_parameters(&self, layers: usize) -> u64 {
        let table = self.rows as u64 * layers as u64 * self.width as u64;
        table + self.projection.num_parameters() + self.norm.num_parameters(self.width)
    }
}

impl LayerInput {
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        vec![&mut self.gate, &mut self.projection]
    }

    /// Of the linears; the norm is counted with those of the layer.
    pub(super) fn num_parameters(&self) -> u64 {
        self.gate.num_parameters() + self.projection.num_parameters()
    }
}

impl Streams {
    /// The least mean square by which a stream is divided.
    pub const LEAST_MEAN_SQUARE: f32 = 1e-5;

    pub(super) fn num_parameters(&self) -> u64 {
        self.expand.iter().chain(&self.merge).map(Linear::num_parameters).sum()
    }
}

impl AltUp {
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let Self { router, prediction, correction, laurel, input, .. } = self;
        let own = [router, prediction, correction, &mut laurel.left, &mut laurel.right];
        own.into_iter().chain(input.linears_mut()).collect()
    }

    /// Of all but the norms.
    pub(super) fn num_parameters(&self, hidden_size: usize) -> u64 {
        let Self { router, prediction, correction, laurel, input, output_scale, .. } = self;
        let linears = [router, prediction, correction, &laurel.left, &laurel.right];
        let scale = if output_scale.is_some() { hidden_size as u64 } else { 0 };
        linears.into_iter().map(Linear::num_parameters).sum::<u64>() + input.num_parameters() + scale
    }
}
