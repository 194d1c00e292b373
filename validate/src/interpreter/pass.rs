//! What all kinds of layers are made of: mixer, MLP, norms and sums.

use genai_architectures::{DecoderSpec, Layer, Mixer, Norm};

use super::attention::{Keys, attention};
use super::mlp::mlp;
use super::norm::norm;
use super::{Batch, Weights};
use crate::{Matrix, Result};

/// One layer's pass over a batch.
pub(super) struct Pass<'a> {
    pub(super) spec: &'a DecoderSpec,
    pub(super) weights: &'a dyn Weights,
    pub(super) batch: &'a Batch,
    /// Of the layer.
    pub(super) index: usize,
    /// The layer's own input, `[tokens, width]`.
    pub(super) input: Option<&'a Matrix>,
}

impl Pass<'_> {
    pub(super) fn layer(&self) -> &Layer {
        &self.spec.layers[self.index]
    }

    /// `[tokens, hidden_size]`
    pub(super) fn mix(&self, keys: &mut Keys, hidden: &Matrix) -> Result<Matrix> {
        let Mixer::Attention(of_layer) = &self.layer().mixer;
        attention(self.spec, self.weights, self.batch, (self.index, keys), of_layer, hidden)
    }

    /// `[tokens, hidden_size]`
    pub(super) fn feed(&self, hidden: &Matrix) -> Result<Matrix> {
        mlp(self.weights, &self.layer().mlp, hidden)
    }

    pub(super) fn norm(&self, of: &Norm, hidden: &Matrix) -> Result<Matrix> {
        norm(self.weights, of, hidden)
    }
}

/// `to += scale * from`
pub(super) fn add(to: &mut Matrix, scale: f32, from: &Matrix) {
    for (to, from) in to.data_mut().iter_mut().zip(from.data()) {
        *to += scale * from;
    }
}
