//! How the parts of a layer join the residual stream.

use genai_architectures::{Norm, Residual};

use super::attention::Keys;
use super::layer_inputs::own_input;
use super::pass::{Pass, add};
use super::streams;
use crate::{Matrix, Result};

/// Adds a layer's outputs to `hidden`, `[tokens, hidden_size]` for each stream.
pub(super) fn add_layer(pass: &Pass, keys: &mut Keys, hidden: &mut Matrix) -> Result<()> {
    match &pass.layer().residual {
        Residual::PreNorm { mixer_norm, mlp_norm, scale } => {
            let scale = scale.unwrap_or(1.0);
            let mixed = pass.mix(keys, &pass.norm(mixer_norm, hidden)?)?;
            add(hidden, scale, &mixed);
            let fed = pass.feed(&pass.norm(mlp_norm, hidden)?)?;
            add(hidden, scale, &fed);
        }
        Residual::PostNorm { mixer_norm, mlp_norm } => {
            let mixed = pass.mix(keys, hidden)?;
            add(hidden, 1.0, &pass.norm(mixer_norm, &mixed)?);
            let fed = pass.feed(hidden)?;
            add(hidden, 1.0, &pass.norm(mlp_norm, &fed)?);
        }
        Residual::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post } => {
            sandwich(pass, keys, [mixer_pre, mixer_post, mlp_pre, mlp_post], hidden)?;
        }
        Residual::ScaledSandwich { mixer_pre, mixer_post, mlp_pre, mlp_post, input, scale } => {
            sandwich(pass, keys, [mixer_pre, mixer_post, mlp_pre, mlp_post], hidden)?;
            if let Some(input) = input {
                let update = own_input(pass, input, hidden)?;
                add(hidden, 1.0, &update);
            }
            let mut factor = [0.0];
            pass.weights.read(scale, &[1], 0, &mut factor)?;
            hidden.data_mut().iter_mut().for_each(|x| *x *= factor[0]);
        }
        Residual::AltUp(altup) => *hidden = streams::altup(pass, keys, altup, hidden)?,
        Residual::Parallel { mixer_norm, mlp_norm } => {
            let normed = pass.norm(mixer_norm, hidden)?;
            let mixed = pass.mix(keys, &normed)?;
            let fed = match mlp_norm {
                Some(mlp_norm) => pass.feed(&pass.norm(mlp_norm, hidden)?)?,
                None => pass.feed(&normed)?,
            };
            add(hidden, 1.0, &mixed);
            add(hidden, 1.0, &fed);
        }
    }
    Ok(())
}

/// Mixer and MLP, each with a norm before it and one after it.
fn sandwich(
    pass: &Pass,
    keys: &mut Keys,
    [mixer_pre, mixer_post, mlp_pre, mlp_post]: [&Norm; 4],
    hidden: &mut Matrix,
) -> Result<()> {
    let mixed = pass.mix(keys, &pass.norm(mixer_pre, hidden)?)?;
    add(hidden, 1.0, &pass.norm(mixer_post, &mixed)?);
    let fed = pass.feed(&pass.norm(mlp_pre, hidden)?)?;
    add(hidden, 1.0, &pass.norm(mlp_post, &fed)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use genai_architectures::{
        Activation, Attention, DecoderSpec, KeyValue, Layer, Linear, Mixer, Mlp, Norm, Position,
    };

    use super::*;
    use crate::Matrix;
    use crate::interpreter::Batch;
    use crate::interpreter::synthetic::{self, EPS, HEAD_DIM, HIDDEN, INNER, Synthetic};

    type Vector = Vec<f64>;

    fn tensor(path: &str, shape: &[usize]) -> Vector {
        Synthetic::tensor(&format!("{path}.weight"), shape)
    }

    fn product(path: &str, out: usize, x: &Vector) -> Vector {
        let weight = tensor(path, &[out, x.len()]);
        weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    /// A single token sees itself alone, so attention is two products.
    fn mixed(x: Vector) -> Vector {
        product("o", HIDDEN, &product("v", HEAD_DIM, &x))
    }

    fn fed(x: Vector) -> Vector {
        product("down", HIDDEN, &product("up", INNER, &x).iter().map(|x| x.max(0.0)).collect())
    }

    fn rms(path: &str, x: &Vector) -> Vector {
        let root = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + f64::from(EPS)).sqrt();
        x.iter().zip(tensor(path, &[x.len()])).map(|(x, w)| x / root * w).collect()
    }

    fn sum(x: &Vector, factor: f64, y: Vector) -> Vector {
        x.iter().zip(y).map(|(x, y)| x + factor * y).collect()
    }

    fn layer(residual: Residual) -> Layer {
        let Mixer::Attention(attention) = synthetic::spec(None).layers.remove(0).mixer;
        let one_head = Attention {
            num_heads: 1,
            num_kv_heads: 1,
            q: Linear::whole("q", HEAD_DIM, HIDDEN, false),
            key_value: KeyValue::Own {
                k: Linear::whole("k", HEAD_DIM, HIDDEN, false),
                v: Linear::whole("v", HEAD_DIM, HIDDEN, false),
            },
            o: Linear::whole("o", HIDDEN, HEAD_DIM, false),
            position: Position::None,
            ..attention
        };
        let (up, down) = (Linear::whole("up", INNER, HIDDEN, false), Linear::whole("down", HIDDEN, INNER, false));
        let mlp = Mlp::Plain { up, down, activation: Activation::Relu };
        Layer { mixer: Mixer::Attention(one_head), mlp, residual }
    }

    #[test]
    fn each_residual_is_its_formula() {
        let norm = |path: &str| -> Norm { synthetic::norm_spec(path) };
        let (a, b, c, d) = (norm("a"), norm("b"), norm("c"), norm("d"));
        type Formula = fn(&Vector) -> Vector;
        let pre: Formula = |x| {
            let x = sum(x, 1.0, mixed(rms("a", x)));
            sum(&x, 1.0, fed(rms("b", &x)))
        };
        let scaled: Formula = |x| {
            let x = sum(x, 0.25, mixed(rms("a", x)));
            sum(&x, 0.25, fed(rms("b", &x)))
        };
        let post: Formula = |x| {
            let x = sum(x, 1.0, rms("a", &mixed(x.clone())));
            sum(&x, 1.0, rms("b", &fed(x.clone())))
        };
        let sandwich: Formula = |x| {
            let x = sum(x, 1.0, rms("b", &mixed(rms("a", x))));
            sum(&x, 1.0, rms("d", &fed(rms("c", &x))))
        };
        let scaled_sandwich: Formula = |x| {
            let x = sum(x, 1.0, rms("b", &mixed(rms("a", x))));
            let x = sum(&x, 1.0, rms("d", &fed(rms("c", &x))));
            let factor = Synthetic::tensor("scale", &[1])[0];
            x.iter().map(|x| x * factor).collect()
        };
        let parallel: Formula = |x| sum(&sum(x, 1.0, mixed(rms("a", x))), 1.0, fed(rms("b", x)));
        let shared: Formula = |x| sum(&sum(x, 1.0, mixed(rms("a", x))), 1.0, fed(rms("a", x)));
        let cases = [
            (Residual::PreNorm { mixer_norm: a.clone(), mlp_norm: b.clone(), scale: None }, pre),
            (Residual::PreNorm { mixer_norm: a.clone(), mlp_norm: b.clone(), scale: Some(0.25) }, scaled),
            (Residual::PostNorm { mixer_norm: a.clone(), mlp_norm: b.clone() }, post),
            (
                Residual::ScaledSandwich {
                    mixer_pre: a.clone(),
                    mixer_post: b.clone(),
                    mlp_pre: c.clone(),
                    mlp_post: d.clone(),
                    input: None,
                    scale: "scale".to_owned(),
                },
                scaled_sandwich,
            ),
            (Residual::Sandwich { mixer_pre: a.clone(), mixer_post: b.clone(), mlp_pre: c, mlp_post: d }, sandwich),
            (Residual::Parallel { mixer_norm: a.clone(), mlp_norm: Some(b) }, parallel),
            (Residual::Parallel { mixer_norm: a, mlp_norm: None }, shared),
        ];
        let spec = synthetic::spec(None);
        let batch = Batch::new(&spec, &[&[0]]).unwrap();
        let x = Synthetic::tensor("x", &[HIDDEN]);
        let mut outputs: Vec<Vector> = vec![];
        for (residual, formula) in cases {
            let mut hidden = Matrix::new(1, HIDDEN, x.iter().map(|x| *x as f32).collect()).unwrap();
            let spec = DecoderSpec { layers: vec![layer(residual.clone())], ..spec.clone() };
            let pass = Pass { spec: &spec, weights: &Synthetic, batch: &batch, index: 0, input: None };
            add_layer(&pass, &mut Keys::new(), &mut hidden).unwrap();
            let expected = formula(&x);
            for (is, expected) in hidden.row(0).iter().zip(&expected) {
                assert!((f64::from(*is) - expected).abs() < 1e-5, "{residual:?}: {is} and {expected}");
            }
            let differ = |other: &Vector| other.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2);
            assert!(outputs.iter().all(differ), "{residual:?} is like another");
            outputs.push(expected);
        }
    }
}
