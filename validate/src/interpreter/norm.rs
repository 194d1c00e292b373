//! Norms of hidden states and of heads.

use genai_architectures::{HeadNorm, Norm, NormKind, NormSpan, NormWeight};

use super::Weights;
use crate::{Matrix, Result};

/// The norm of each row.
pub(super) fn norm(weights: &dyn Weights, norm: &Norm, hidden: &Matrix) -> Result<Matrix> {
    let width = hidden.cols();
    let affine = Affine::read(weights, norm, &[(norm.weight(), vec![width])], &[(norm.bias_name(), vec![width])])?;
    let mut normed = hidden.clone();
    normalize(norm, width, &affine, &mut normed);
    Ok(normed)
}

/// The norm of rows of `heads * head_dim` values, in place.
pub(super) fn norm_heads(
    weights: &dyn Weights,
    head_norm: &HeadNorm,
    heads: usize,
    head_dim: usize,
    values: &mut Matrix,
) -> Result<()> {
    let over = match head_norm.span {
        NormSpan::Head | NormSpan::EachHead | NormSpan::EachHeadApart => head_dim,
        NormSpan::Whole => heads * head_dim,
    };
    let (factors, shifts) = (head_norm.weights(heads, head_dim), head_norm.biases(heads, head_dim));
    let affine = Affine::read(weights, &head_norm.norm, &factors, &shifts)?;
    normalize(&head_norm.norm, over, &affine, values);
    Ok(())
}

/// What follows the division by the root: `factor * x + shift`.
struct Affine {
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    /// Reads the tensors of a norm, given by name and shape.
    fn read(weights: &dyn Weights, norm: &Norm, factors: &[Stored], shifts: &[Stored]) -> Result<Self> {
        let plus = match norm.weight {
            NormWeight::Plain => Some(0.0),
            NormWeight::OnePlus => Some(1.0),
            NormWeight::None => None,
        };
        let factor = match plus {
            Some(plus) => read_all(weights, factors)?.into_iter().map(|factor| factor + plus).collect(),
            None => vec![1.0; length(factors)],
        };
        let shift = if norm.bias { read_all(weights, shifts)? } else { vec![0.0; length(shifts)] };
        Ok(Self { factor, shift })
    }
}

/// A tensor's name and shape.
type Stored = (String, Vec<usize>);

fn length(tensors: &[Stored]) -> usize {
    tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// Tensors one after another.
fn read_all(weights: &dyn Weights, tensors: &[Stored]) -> Result<Vec<f32>> {
    let mut values = Vec::with_capacity(length(tensors));
    for (name, shape) in tensors {
        let start = values.len();
        values.resize(start + shape.iter().product::<usize>(), 0.0);
        weights.read(name, shape, 0, &mut values[start..])?;
    }
    Ok(values)
}

/// Norms each run of `over` values. The affine part starts over where it ends: `over` divides its length, and that
/// divides a row.
fn normalize(norm: &Norm, over: usize, affine: &Affine, values: &mut Matrix) {
    for run in values.data_mut().chunks_exact_mut(affine.factor.len()) {
        let affine = affine.factor.chunks_exact(over).zip(affine.shift.chunks_exact(over));
        for (group, (factors, shifts)) in run.chunks_exact_mut(over).zip(affine) {
            let mean = match norm.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => group.iter().map(|&x| f64::from(x)).sum::<f64>() / over as f64,
            };
            let mean_square = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / over as f64;
            let root = (mean_square + f64::from(norm.eps)).sqrt();
            for (x, (factor, shift)) in group.iter_mut().zip(factors.iter().zip(shifts)) {
                *x = ((f64::from(*x) - mean) / root) as f32 * factor + shift;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::synthetic::Tensors;

    const ROW: [f32; 6] = [1.0, 3.0, -2.0, 0.5, 4.0, -1.5];

    const NAMES: [[&str; 2]; 3] =
        [["norm.0.weight", "norm.0.bias"], ["norm.1.weight", "norm.1.bias"], ["norm.2.weight", "norm.2.bias"]];

    fn spec(kind: NormKind, weight: NormWeight, bias: bool) -> Norm {
        Norm { path: "norm".to_owned(), kind, weight, bias, eps: 0.25 }
    }

    fn stored(shape: &[usize]) -> Tensors {
        let weight = [0.5, -1.0, 2.0, 1.5, 0.25, 3.0];
        let bias = [0.1, 0.2, 0.3, -0.4, -0.5, -0.6];
        let width: usize = shape.iter().product();
        Tensors::of([("norm.weight", shape, weight[..width].to_vec()), ("norm.bias", shape, bias[..width].to_vec())])
    }

    fn assert_near(is: &[f32], expected: &[f32]) {
        assert_eq!(is.len(), expected.len());
        for (is, expected) in is.iter().zip(expected) {
            assert!((is - expected).abs() < 2e-6, "{is} and {expected}");
        }
    }

    /// Two rows, the second twice the first, of which only the first is looked at unless they must differ.
    fn rows() -> Matrix {
        Matrix::new(2, 6, [ROW, ROW.map(|x| 2.0 * x)].concat()).unwrap()
    }

    #[test]
    fn hidden_norms_are_those_of_torch() {
        // torch 2: F.rms_norm and F.layer_norm of ROW with eps 0.25; OnePlus with the weight plus one.
        let cases = [
            (
                NormKind::Rms,
                NormWeight::Plain,
                false,
                [0.210_042, -1.260_252, -1.680_336, 0.315_063, 0.420_084, -1.890_378],
            ),
            (
                NormKind::Rms,
                NormWeight::Plain,
                true,
                [0.310_042, -1.060_252, -1.380_336, -0.084_937, -0.079_916, -2.490_378],
            ),
            (NormKind::Rms, NormWeight::OnePlus, false, [0.630_126, 0.0, -2.520_504, 0.525_105, 2.100_42, -2.520_504]),
            (NormKind::Rms, NormWeight::OnePlus, true, [0.730_126, 0.2, -2.220_504, 0.125_105, 1.600_42, -3.120_504]),
            (
                NormKind::Rms,
                NormWeight::None,
                false,
                [0.420_084, 1.260_252, -0.840_168, 0.210_042, 1.680_336, -0.630_126],
            ),
            (
                NormKind::Rms,
                NormWeight::None,
                true,
                [0.520_084, 1.460_252, -0.540_168, -0.189_958, 1.180_336, -1.230_126],
            ),
            (
                NormKind::Layer,
                NormWeight::Plain,
                false,
                [0.037_372, -0.971_666, -2.541_279, -0.224_23, 0.355_032, -3.139_227],
            ),
            (
                NormKind::Layer,
                NormWeight::Plain,
                true,
                [0.137_372, -0.771_666, -2.241_279, -0.624_231, -0.144_968, -3.739_227],
            ),
            (
                NormKind::Layer,
                NormWeight::OnePlus,
                false,
                [0.112_115, 0.0, -3.811_919, -0.373_717, 1.775_158, -4.185_637],
            ),
            (
                NormKind::Layer,
                NormWeight::OnePlus,
                true,
                [0.212_115, 0.2, -3.511_919, -0.773_717, 1.275_158, -4.785_636],
            ),
            (
                NormKind::Layer,
                NormWeight::None,
                false,
                [0.074_744, 0.971_666, -1.270_64, -0.149_487, 1.420_127, -1.046_409],
            ),
            (
                NormKind::Layer,
                NormWeight::None,
                true,
                [0.174_743, 1.171_666, -0.970_64, -0.549_487, 0.920_127, -1.646_409],
            ),
        ];
        for (kind, weight, bias, expected) in cases {
            let normed = norm(&stored(&[6]), &spec(kind, weight, bias), &rows()).unwrap();
            assert_near(normed.row(0), &expected);
            assert!(normed.row(0)[0] != normed.row(1)[0], "eps keeps rows of another size apart");
        }
    }

    #[test]
    fn a_norm_without_weight_reads_no_tensor() {
        let none = Tensors::of([]);
        for kind in [NormKind::Rms, NormKind::Layer] {
            assert!(norm(&none, &spec(kind, NormWeight::None, false), &rows()).is_ok());
            assert!(norm(&none, &spec(kind, NormWeight::Plain, false), &rows()).is_err());
            assert!(norm(&none, &spec(kind, NormWeight::None, true), &rows()).is_err());
        }
    }

    #[test]
    fn spans_are_norms_of_the_pieces() {
        // 3 heads of 2.
        let heads = |span, shape: &[usize], kind| {
            let mut values = rows();
            let head_norm = HeadNorm { norm: spec(kind, NormWeight::Plain, true), span };
            norm_heads(&stored(shape), &head_norm, 3, 2, &mut values).unwrap();
            values.row(0).to_vec()
        };
        for kind in [NormKind::Rms, NormKind::Layer] {
            let (one, three) = (heads(NormSpan::Head, &[2], kind), heads(NormSpan::EachHead, &[3, 2], kind));
            let weight_of = |head: usize| [[0.5, -1.0], [2.0, 1.5], [0.25, 3.0]][head];
            let bias_of = |head: usize| [[0.1, 0.2], [0.3, -0.4], [-0.5, -0.6]][head];
            for head in 0..3 {
                let piece = Matrix::new(1, 2, ROW[2 * head..2 * head + 2].to_vec()).unwrap();
                let bare = norm(&Tensors::of([]), &spec(kind, NormWeight::None, false), &piece).unwrap();
                for d in 0..2 {
                    let bare = bare.row(0)[d];
                    assert_near(&[one[2 * head + d]], &[bare * weight_of(0)[d] + bias_of(0)[d]]);
                    assert_near(&[three[2 * head + d]], &[bare * weight_of(head)[d] + bias_of(head)[d]]);
                }
            }
            let apart = Tensors::of((0..3).flat_map(|head| {
                let (weight, bias) = (weight_of(head).to_vec(), bias_of(head).to_vec());
                [(NAMES[head][0], &[2][..], weight), (NAMES[head][1], &[2][..], bias)]
            }));
            let mut values = rows();
            let norm_apart = HeadNorm { norm: spec(kind, NormWeight::Plain, true), span: NormSpan::EachHeadApart };
            norm_heads(&apart, &norm_apart, 3, 2, &mut values).unwrap();
            assert_near(values.row(0), &three);
            let all = norm(&stored(&[6]), &spec(kind, NormWeight::Plain, true), &rows()).unwrap();
            assert_near(&heads(NormSpan::Whole, &[6], kind), all.row(0));
        }
    }
}
