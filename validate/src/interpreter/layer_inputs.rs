//! Inputs of the layers' own.

use genai_architectures::{DecoderSpec, LayerInput};

use super::mlp::curve;
use super::norm::norm;
use super::pass::Pass;
use super::product::linear;
use super::{Batch, Weights, expect_width};
use crate::{Error, Matrix, Result};

/// One `[tokens, width]` for each layer; none where the layers have none. `embedded` is the first hidden state.
pub(super) fn layer_inputs(
    spec: &DecoderSpec,
    weights: &dyn Weights,
    batch: &Batch,
    embedded: &Matrix,
) -> Result<Vec<Matrix>> {
    let Some(inputs) = &spec.layer_inputs else { return Ok(Vec::new()) };
    let (width, all) = (inputs.width, spec.layers.len() * inputs.width);
    if width == 0 || inputs.rows == 0 {
        return Err(Error::argument("the rows and width of layer inputs", width.min(inputs.rows), "at least 1"));
    }
    expect_width("layer_inputs.projection.out_features", inputs.projection.out_features, all)?;
    let projected = linear(weights, &inputs.projection, embedded)?;
    let table = inputs.weight();
    let mut row = vec![0.0; all];
    let mut of_layers = vec![Matrix::zeros(batch.ids.len(), width); spec.layers.len()];
    for (token, &id) in batch.ids.iter().enumerate() {
        let id = if (id as usize) < inputs.rows { id as usize } else { 0 };
        weights.read(&table, &[inputs.rows, all], id * all, &mut row)?;
        weights.round(&table, &mut row, all)?;
        let projected = projected.row(token).iter().map(|x| x * inputs.projection_scale).collect();
        // Every stretch is normed with the same weight.
        let normed = norm(weights, &inputs.norm, &Matrix::new(spec.layers.len(), width, projected)?)?;
        for (layer, of_layer) in of_layers.iter_mut().enumerate() {
            let stored = &row[layer * width..(layer + 1) * width];
            for ((input, normed), stored) in of_layer.row_mut(token).iter_mut().zip(normed.row(layer)).zip(stored) {
                *input = (normed + stored * inputs.table_scale) * inputs.scale;
            }
        }
    }
    Ok(of_layers)
}

/// What a layer makes of its own input: `[tokens, hidden_size]`.
pub(super) fn own_input(pass: &Pass, of: &LayerInput, hidden: &Matrix) -> Result<Matrix> {
    let Some(input) = pass.input else {
        return Err(Error::argument("the inputs of layers", "none", "those that the layers read"));
    };
    let curve = curve(pass.weights, &of.activation)?;
    let mut gated = linear(pass.weights, &of.gate, hidden)?;
    expect_width("layer_input.gate.out_features", gated.cols(), input.cols())?;
    for (gate, input) in gated.data_mut().iter_mut().zip(input.data()) {
        *gate = curve(f64::from(*gate)) as f32 * input;
    }
    let projected = linear(pass.weights, &of.projection, &gated)?;
    expect_width("layer_input.projection.out_features", projected.cols(), pass.spec.hidden_size)?;
    pass.norm(&of.norm, &projected)
}
