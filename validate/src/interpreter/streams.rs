//! Several streams in place of one hidden state: rows of `count * hidden_size` values, one stream behind the other.

use genai_architectures::{AltUp, DecoderSpec, Linear, LowRank, Streams};

use super::attention::Keys;
use super::layer_inputs::own_input;
use super::pass::{Pass, add};
use super::product::linear;
use super::{Weights, expect_width};
use crate::{Error, Matrix, Result};

/// The streams that the first hidden state becomes; the same where there is one.
pub(super) fn expand(spec: &DecoderSpec, weights: &dyn Weights, embedded: Matrix) -> Result<Matrix> {
    let Some(streams) = &spec.streams else { return Ok(embedded) };
    check(streams)?;
    let mut all = Matrix::zeros(embedded.rows(), streams.count * embedded.cols());
    set_stream(&mut all, 0, &embedded);
    for (module, stream) in streams.expand.iter().zip(1..) {
        set_stream(&mut all, stream, &rescaled(weights, module, &embedded, &embedded)?);
    }
    Ok(all)
}

/// One hidden state of the streams.
pub(super) fn merge(spec: &DecoderSpec, weights: &dyn Weights, all: Matrix) -> Result<Matrix> {
    let Some(streams) = &spec.streams else { return Ok(all) };
    let first = stream(&all, 0, spec.hidden_size);
    let mut sum = first.clone();
    for (module, index) in streams.merge.iter().zip(1..) {
        add(&mut sum, 1.0, &rescaled(weights, module, &stream(&all, index, spec.hidden_size), &first)?);
    }
    sum.data_mut().iter_mut().for_each(|x| *x /= streams.count as f32);
    Ok(sum)
}

/// The streams after a layer.
pub(super) fn altup(pass: &Pass, keys: &mut Keys, altup: &AltUp, all: &Matrix) -> Result<Matrix> {
    let width = pass.spec.hidden_size;
    let Some(&Streams { count, active, .. }) = pass.spec.streams.as_ref() else {
        return Err(Error::argument("streams", "none", "those that the layers join"));
    };
    expect_width("prediction.out_features", altup.prediction.out_features, count * count)?;
    expect_width("correction.out_features", altup.correction.out_features, count)?;
    let shares = linear(pass.weights, &altup.prediction, &routed(pass, altup, &stream(all, active, width))?)?;
    let mut predicted = all.clone();
    for token in 0..all.rows() {
        let (row, shares) = (all.row(token), shares.row(token));
        for (to, to_row) in predicted.row_mut(token).chunks_exact_mut(width).enumerate() {
            for (from, from_row) in row.chunks_exact(width).enumerate() {
                let share = shares[to * count + from];
                to_row.iter_mut().zip(from_row).for_each(|(to, from)| *to += share * from);
            }
        }
    }

    let entering = stream(&predicted, active, width);
    let normed = pass.norm(&altup.mixer_pre, &entering)?;
    let laurel = low_rank(pass, &altup.laurel, &normed)?;
    let mut mixed = entering.clone();
    let update = pass.mix(keys, &normed)?;
    add(&mut mixed, 1.0, &pass.norm(&altup.mixer_post, &update)?);
    add(&mut mixed, 1.0, &laurel);
    mixed.data_mut().iter_mut().for_each(|x| *x *= std::f32::consts::FRAC_1_SQRT_2);
    let mut activated = mixed.clone();
    let update = pass.feed(&pass.norm(&altup.mlp_pre, &mixed)?)?;
    add(&mut activated, 1.0, &pass.norm(&altup.mlp_post, &update)?);

    let shares = linear(pass.weights, &altup.correction, &routed(pass, altup, &activated)?)?;
    let mut corrected = predicted;
    for token in 0..all.rows() {
        let moved = activated.row(token).iter().zip(entering.row(token)).map(|(to, from)| to - from);
        let moved: Vec<f32> = moved.collect();
        for (stream, share) in corrected.row_mut(token).chunks_exact_mut(width).zip(shares.row(token)) {
            stream.iter_mut().zip(&moved).for_each(|(x, moved)| *x += moved * (1.0 + share));
        }
    }

    let mut leaving = stream(&corrected, active, width);
    if let Some(tensor) = &altup.output_scale {
        let mut scale = vec![0.0; width];
        pass.weights.read(tensor, &[width], 0, &mut scale)?;
        for token in 0..leaving.rows() {
            leaving.row_mut(token).iter_mut().zip(&scale).for_each(|(x, scale)| *x *= scale);
        }
    }
    let update = own_input(pass, &altup.input, &leaving)?;
    for token in 0..corrected.rows() {
        // Whichever stream is the active one, the first gets none of it.
        for stream in corrected.row_mut(token).chunks_exact_mut(width).skip(1) {
            stream.iter_mut().zip(update.row(token)).for_each(|(x, update)| *x += update);
        }
    }
    Ok(corrected)
}

/// `[tokens, count]`
fn routed(pass: &Pass, altup: &AltUp, x: &Matrix) -> Result<Matrix> {
    let mut routed = linear(pass.weights, &altup.router, &pass.norm(&altup.router_norm, x)?)?;
    for x in routed.data_mut() {
        *x = libm::tanh(f64::from(*x) * f64::from(altup.router_scale)) as f32;
    }
    Ok(routed)
}

fn low_rank(pass: &Pass, low_rank: &LowRank, x: &Matrix) -> Result<Matrix> {
    let right = linear(pass.weights, &low_rank.right, &linear(pass.weights, &low_rank.left, x)?)?;
    let mut sum = pass.norm(&low_rank.norm, &right)?;
    add(&mut sum, 1.0, x);
    Ok(sum)
}

/// `module(x)` with the magnitude of the rows of `like`.
fn rescaled(weights: &dyn Weights, module: &Linear, x: &Matrix, like: &Matrix) -> Result<Matrix> {
    let mut y = linear(weights, module, x)?;
    expect_width("out_features of a stream's linear", y.cols(), like.cols())?;
    let mean_square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
    for token in 0..y.rows() {
        let target = mean_square(like.row(token)).sqrt();
        let own = mean_square(y.row(token)).max(f64::from(Streams::LEAST_MEAN_SQUARE)).sqrt();
        y.row_mut(token).iter_mut().for_each(|x| *x = (f64::from(*x) * target / own) as f32);
    }
    Ok(y)
}

fn stream(all: &Matrix, index: usize, width: usize) -> Matrix {
    let mut one = Matrix::zeros(all.rows(), width);
    for token in 0..all.rows() {
        one.row_mut(token).copy_from_slice(&all.row(token)[index * width..(index + 1) * width]);
    }
    one
}

fn set_stream(all: &mut Matrix, index: usize, one: &Matrix) {
    let width = one.cols();
    for token in 0..one.rows() {
        all.row_mut(token)[index * width..(index + 1) * width].copy_from_slice(one.row(token));
    }
}

fn check(streams: &Streams) -> Result<()> {
    let Streams { count, active, .. } = *streams;
    if count < 2 || active >= count {
        return Err(Error::argument("the active stream", active, format!("less than {count}, of at least 2")));
    }
    expect_width("the linears that make streams", streams.expand.len(), count - 1)?;
    expect_width("the linears that join streams", streams.merge.len(), count - 1)
}
