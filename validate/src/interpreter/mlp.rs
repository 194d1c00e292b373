//! Feed-forward parts and their activations.

use genai_architectures::{Activation, Mlp};

use super::product::linear;
use super::{Weights, expect_positive, expect_width};
use crate::{Matrix, Result};

/// `[tokens, hidden_size]`
pub(super) fn mlp(weights: &dyn Weights, mlp: &Mlp, hidden: &Matrix) -> Result<Matrix> {
    match mlp {
        Mlp::Gated { gate, up, down, activation, cutoff } => {
            expect_width("down.out_features", down.out_features, hidden.cols())?;
            let curve = curve(weights, activation)?;
            let mut inner = linear(weights, gate, hidden)?;
            if let Some(cutoff) = cutoff {
                cut_off(f64::from(*cutoff), &mut inner);
            }
            let up = linear(weights, up, hidden)?;
            expect_width("up.out_features", up.cols(), inner.cols())?;
            for (gate, up) in inner.data_mut().iter_mut().zip(up.data()) {
                *gate = curve(f64::from(*gate)) as f32 * up;
            }
            linear(weights, down, &inner)
        }
        Mlp::Plain { up, down, activation } => {
            expect_width("down.out_features", down.out_features, hidden.cols())?;
            let curve = curve(weights, activation)?;
            let mut inner = linear(weights, up, hidden)?;
            for x in inner.data_mut() {
                *x = curve(f64::from(*x)) as f32;
            }
            linear(weights, down, &inner)
        }
        Mlp::ClampedGate { gate_up, down, limit } => {
            expect_width("down.out_features", down.out_features, hidden.cols())?;
            expect_width("gate_up.out_features", gate_up.out_features, 2 * down.in_features)?;
            if let Some(limit) = limit {
                expect_positive("limit", *limit)?;
            }
            let both = linear(weights, gate_up, hidden)?;
            let mut inner = Matrix::zeros(both.rows(), down.in_features);
            for (inner, pair) in inner.data_mut().iter_mut().zip(both.data().as_chunks::<2>().0) {
                *inner = clamped_gate(*pair, *limit) as f32;
            }
            linear(weights, down, &inner)
        }
    }
}

/// Of each row only what stands `cutoff` standard deviations above its mean.
fn cut_off(cutoff: f64, rows: &mut Matrix) {
    let count = rows.cols() as f64;
    for row in 0..rows.rows() {
        let row = rows.row_mut(row);
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let least = mean + variance.sqrt() * cutoff;
        row.iter_mut().for_each(|x| *x = relu(f64::from(*x) - least) as f32);
    }
}

/// `g * sigmoid(1.702 g) * (u + 1)`, both brought within the limit first.
fn clamped_gate([gate, up]: [f32; 2], limit: Option<f32>) -> f64 {
    let (mut gate, mut up) = (f64::from(gate), f64::from(up));
    if let Some(limit) = limit.map(f64::from) {
        // Not `f64::min`, which would turn a NaN into the limit.
        gate = if gate > limit { limit } else { gate };
        up = up.clamp(-limit, limit);
    }
    gate / (1.0 + libm::exp(-1.702 * gate)) * (up + 1.0)
}

pub(super) type Curve = Box<dyn Fn(f64) -> f64>;

/// The function that an activation is, with its learned parameters read.
pub(super) fn curve(weights: &dyn Weights, activation: &Activation) -> Result<Curve> {
    Ok(match activation {
        Activation::Silu => Box::new(|x| x / (1.0 + libm::exp(-x))),
        Activation::Gelu => Box::new(|x| 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => Box::new(|x| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + libm::tanh(inner))
        }),
        Activation::Relu => Box::new(relu),
        Activation::ReluSquared => Box::new(|x| relu(x) * relu(x)),
        Activation::XIelu { path, beta, eps } => {
            let learned = |name: &str| -> Result<f64> {
                let mut value = [0.0];
                weights.read(&format!("{path}.{name}"), &[1], 0, &mut value)?;
                Ok(f64::from(value[0]))
            };
            let (beta, eps) = (f64::from(*beta), f64::from(*eps));
            let (rise, fall) = (softplus(learned("alpha_p")?), beta + softplus(learned("alpha_n")?));
            Box::new(move |x| {
                let bend = if x > 0.0 { rise * x * x } else { fall * (libm::expm1(x.min(eps)) - x) };
                bend + beta * x
            })
        }
    })
}

/// Not `f64::max`, which would turn a NaN into 0.
fn relu(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// `ln(1 + exp(x))`, without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use genai_architectures::Linear;

    use super::*;
    use crate::interpreter::synthetic::Tensors;

    #[test]
    fn activations_have_their_known_values() {
        // torch 2: silu, gelu, gelu(approximate="tanh"), relu, relu squared.
        let cases = [
            (Activation::Silu, 1.0, 0.731_058_6),
            (Activation::Silu, -2.0, -0.238_405_85),
            (Activation::Gelu, 1.0, 0.841_344_8),
            (Activation::Gelu, -2.0, -0.045_500_27),
            (Activation::GeluTanh, 1.0, 0.841_191_95),
            (Activation::GeluTanh, -2.0, -0.045_402_348),
            (Activation::Relu, 1.5, 1.5),
            (Activation::Relu, -2.0, 0.0),
            (Activation::ReluSquared, 1.5, 2.25),
            (Activation::ReluSquared, -2.0, 0.0),
        ];
        for (activation, x, expected) in cases {
            let curve = curve(&Tensors::of([]), &activation).unwrap();
            assert!((curve(x) - expected).abs() < 2e-7, "{activation:?}({x})");
            assert!(curve(f64::NAN).is_nan());
        }
    }

    #[test]
    fn xielu_is_that_of_transformers() {
        // transformers 5.23, XIELUActivation(dtype=float64) with alpha_p = 0.3, alpha_n = -0.75, eps = -0.125, an eps
        // large enough to be seen.
        let weights = Tensors::of([("act.alpha_p", &[1][..], vec![0.3]), ("act.alpha_n", &[1][..], vec![-0.75])]);
        let xielu = Activation::XIelu { path: "act".to_owned(), beta: 0.5, eps: -0.125 };
        let curve = curve(&weights, &xielu).unwrap();
        let cases = [
            (2.5, 6.589720278),
            (0.5, 0.463588811),
            (0.0, -0.104210090),
            (-0.0625, -0.080030652),
            (-0.125, -0.055851214),
            (-0.5, -0.155521047),
            (-3.0, 0.317896720),
        ];
        for (x, expected) in cases {
            assert!((curve(x) - expected).abs() < 1e-7, "{x}: {} and {expected}", curve(x));
        }
        assert!(curve(f64::NAN).is_nan());
        assert!(super::curve(&Tensors::of([]), &xielu).is_err());
    }

    #[test]
    fn clamped_gates_alternate_with_what_they_let_through() {
        let weights = Tensors::of([
            ("gate_up.weight", &[4, 1][..], vec![1.0, -2.0, 3.0, 0.5]),
            ("gate_up.bias", &[4], vec![0.0, 0.5, -8.0, 0.25]),
            ("down.weight", &[1, 2], vec![1.0, 100.0]),
        ]);
        let (gate_up, down) = (Linear::whole("gate_up", 4, 1, true), Linear::whole("down", 1, 2, false));
        let run = |limit| {
            let spec = Mlp::ClampedGate { gate_up: gate_up.clone(), down: down.clone(), limit };
            mlp(&weights, &spec, &Matrix::new(1, 1, vec![2.0]).unwrap()).map(|out| f64::from(out.data()[0]))
        };
        // Gates 2 and -2, ups -3.5 and 1.25; sigmoid(3.404) is 0.96782931, sigmoid(0.851) 0.70077687. A gate is
        // bounded above alone.
        let (open, shut, half) = (0.967_829_31, 0.032_170_69, 0.700_776_87);
        let expected = 2.0 * open * -2.5 + 100.0 * -2.0 * shut * 2.25;
        assert!((run(None).unwrap() - expected).abs() < 1e-5);
        let expected = 0.5 * half * 0.5 + 100.0 * -2.0 * shut * 1.5;
        assert!((run(Some(0.5)).unwrap() - expected).abs() < 1e-5);
        assert_eq!(run(Some(0.0)).unwrap_err().to_string(), "limit is 0, expected a number above 0");
        assert!(clamped_gate([f32::NAN, 0.0], Some(1.0)).is_nan() && clamped_gate([1.0, f32::NAN], Some(1.0)).is_nan());
    }

    #[test]
    fn softplus_stands_far_out() {
        assert_eq!(softplus(1000.0), 1000.0);
        assert_eq!(softplus(-1000.0), 0.0);
        assert!((softplus(0.0) - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn gates_multiply_and_plain_ones_do_not() {
        let weights = Tensors::of([
            ("gate.weight", &[2, 2][..], vec![1.0, 0.0, 0.0, -1.0]),
            ("up.weight", &[2, 2], vec![2.0, 1.0, 1.0, 1.0]),
            ("up.bias", &[2], vec![0.5, -0.5]),
            ("down.weight", &[2, 2], vec![1.0, 10.0, 0.0, 1.0]),
        ]);
        let hidden = Matrix::new(1, 2, vec![3.0, -2.0]).unwrap();
        let (gate, up) = (Linear::whole("gate", 2, 2, false), Linear::whole("up", 2, 2, true));
        let down = Linear::whole("down", 2, 2, false);
        let activation = Activation::Relu;
        // gate (3, 2), up (4.5, 0.5).
        let gated =
            Mlp::Gated { gate, up: up.clone(), down: down.clone(), activation: activation.clone(), cutoff: None };
        assert_eq!(mlp(&weights, &gated, &hidden).unwrap().data(), [13.5 + 10.0, 1.0]);
        let plain = Mlp::Plain { up: up.clone(), down: down.clone(), activation };
        assert_eq!(mlp(&weights, &plain, &hidden).unwrap().data(), [4.5 + 5.0, 0.5]);
        // up (-3.5, -0.5) of the other side is cut off.
        let other = Matrix::new(1, 2, vec![-3.0, 2.0]).unwrap();
        assert_eq!(mlp(&weights, &plain, &other).unwrap().data(), [0.0, 0.0]);

        let narrow = Mlp::Plain { up, down: Linear::whole("down", 1, 2, false), activation: Activation::Silu };
        let message = mlp(&weights, &narrow, &hidden).unwrap_err().to_string();
        assert_eq!(message, "down.out_features is 1, expected 2");
    }
}
