//! Products with a weight that is read tile by tile.

use genai_architectures::{Linear, View};
use std::ops::Range;

use super::{Update, Weights, expect_width};
use crate::{Error, Matrix, Result};

/// How much of one weight is held at a time, unless one row is longer.
pub(super) const TILE_BYTES: usize = 4 << 20;

/// `y = x · Wᵀ + b`, `[rows, out_features]`.
pub(super) fn linear(weights: &dyn Weights, linear: &Linear, x: &Matrix) -> Result<Matrix> {
    expect_width("in_features of a linear's spec", linear.in_features, x.cols())?;
    check_view(linear)?;
    let mut y = Matrix::zeros(x.rows(), linear.out_features);
    let mut first = 0;
    for range in linear.ranges() {
        product(weights, linear, range.clone(), x, &mut y, first)?;
        if linear.bias {
            add_bias(weights, linear, range.clone(), &mut y, first)?;
        }
        first += range.len();
    }
    if let Some(update) = weights.update(&linear.path)? {
        add_update(&update, linear, x, &mut y)?;
    }
    Ok(y)
}

/// Adds `scale · (x · Aᵀ) · Bᵀ`.
fn add_update(update: &Update, linear: &Linear, x: &Matrix, y: &mut Matrix) -> Result<()> {
    let rank = update.a.rows();
    expect_width("in_features of an update", update.a.cols(), linear.in_features)?;
    expect_width("out_features of an update", update.b.rows(), linear.bias_length())?;
    expect_width("the rank of an update", update.b.cols(), rank)?;
    let mut inner = Matrix::zeros(x.rows(), rank);
    multiply(x, update.a.data(), &mut inner, 0);
    let mut outer = Matrix::zeros(x.rows(), linear.bias_length());
    multiply(&inner, update.b.data(), &mut outer, 0);
    for row in 0..y.rows() {
        let mut sums = y.row_mut(row).iter_mut();
        for output in linear.ranges().into_iter().flatten() {
            if let (Some(sum), Some(addend)) = (sums.next(), outer.row(row).get(output)) {
                *sum += update.scale * addend;
            }
        }
    }
    Ok(())
}

/// `y[:, first..] = x · W[range]ᵀ`, where `range` are outputs as the tensor counts them.
fn product(
    weights: &dyn Weights,
    linear: &Linear,
    range: Range<usize>,
    x: &Matrix,
    y: &mut Matrix,
    first: usize,
) -> Result<()> {
    let (name, shape, in_features) = (linear.weight(), linear.weight_shape(), linear.in_features);
    let tile_outputs = (TILE_BYTES / size_of::<f32>() / in_features.max(1)).clamp(1, range.len().max(1));
    let mut tile = vec![0.0; tile_outputs * in_features];
    let mut line = vec![0.0; tile_outputs];
    for start in range.clone().step_by(tile_outputs) {
        let outputs = tile_outputs.min(range.end - start);
        let tile = &mut tile[..outputs * in_features];
        match &linear.view {
            View::Whole | View::Rows { .. } => weights.read(&name, &shape, start * in_features, tile)?,
            View::Columns { total, .. } => {
                let line = &mut line[..outputs];
                for input in 0..in_features {
                    weights.read(&name, &shape, input * total + start, line)?;
                    for (output, value) in line.iter().enumerate() {
                        tile[output * in_features + input] = *value;
                    }
                }
            }
        }
        weights.round(&name, tile, in_features)?;
        multiply(x, tile, y, first + start - range.start);
    }
    Ok(())
}

/// Adds to `y[:, first..]` the part `range` of the stored bias.
fn add_bias(weights: &dyn Weights, linear: &Linear, range: Range<usize>, y: &mut Matrix, first: usize) -> Result<()> {
    let mut bias = vec![0.0; range.len()];
    weights.read(&linear.bias_name(), &[linear.bias_length()], range.start, &mut bias)?;
    for row in 0..y.rows() {
        for (y, bias) in y.row_mut(row)[first..].iter_mut().zip(&bias) {
            *y += bias;
        }
    }
    Ok(())
}

fn check_view(linear: &Linear) -> Result<()> {
    let (path, total, ranges) = (&linear.path, linear.bias_length(), linear.ranges());
    if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > total) {
        let expected = format!("within the 0..{total} of `{path}`");
        return Err(Error::argument("a range of a linear's view", format!("{range:?}"), expected));
    }
    let covered: usize = ranges.iter().map(Range::len).sum();
    if covered != linear.out_features {
        let expected = format!("{covered}, the length of the view of `{path}`");
        return Err(Error::argument("out_features of a linear's spec", linear.out_features, expected));
    }
    Ok(())
}

/// `y[:, first_column..] = x · tileᵀ`, for a tile of whole outputs of `x.cols()` values.
#[allow(unsafe_code)] // `gemm` has no safe entry.
fn multiply(x: &Matrix, tile: &[f32], y: &mut Matrix, first_column: usize) {
    let (m, k) = (x.rows(), x.cols());
    if m == 0 || k == 0 {
        return;
    }
    let n = tile.len() / k;
    assert_eq!(tile.len(), n * k);
    assert_eq!(y.rows(), m);
    assert!(first_column + n <= y.cols());
    let (k_stride, y_stride) = (k as isize, y.cols() as isize);
    let to = y.data_mut()[first_column..].as_mut_ptr();
    // SAFETY: strides are (column, row). `x` is [m, k] with rows k apart; the right side is the tile read as [k, n],
    // whose columns are the outputs, k apart; `to` is column `first_column` of [m, y.cols()]. The assertions above keep
    // every access inside the three slices, and `y` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            y_stride,
            false,
            x.data().as_ptr(),
            1,
            k_stride,
            tile.as_ptr(),
            k_stride,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::synthetic::Tensors;

    /// A weight whose element `i` is a function of `i`, and which notes the greatest read and the count of elements.
    #[derive(Default)]
    struct Formula {
        greatest: std::cell::Cell<usize>,
        total: std::cell::Cell<usize>,
    }

    fn element(index: usize) -> f32 {
        ((index * 37 + 11) % 101) as f32 / 64.0 - 0.75
    }

    impl Weights for Formula {
        fn read(&self, _: &str, _: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            self.greatest.set(self.greatest.get().max(out.len()));
            self.total.set(self.total.get() + out.len());
            for (offset, value) in out.iter_mut().enumerate() {
                *value = element(first + offset);
            }
            Ok(())
        }
    }

    #[test]
    fn tiles_join_into_the_plain_product_and_stay_small() {
        // 3000 outputs of 1000 values are 12 MB: three tiles, the last one short. Of the columns, two thirds and one
        // third, the other way round.
        let (rows, out, width) = (3, 3000, 1000);
        let x = Matrix::new(rows, width, (0..rows * width).map(|i| element(i * 7)).collect()).unwrap();
        let turned = |column: usize| (column + 2000) % out;
        let whole = (Linear::whole("w", out, width, false), &(|column, i| column * width + i) as &dyn Fn(_, _) -> _);
        let columns = Linear::columns("w", vec![2000..3000, 0..2000], out, width, false);
        for (linear_spec, index) in [whole, (columns, &|column, i| i * out + turned(column))] {
            let weights = Formula::default();
            let y = linear(&weights, &linear_spec, &x).unwrap();
            for row in 0..rows {
                for column in 0..out {
                    let expected: f64 =
                        (0..width).map(|i| f64::from(x.row(row)[i]) * f64::from(element(index(column, i)))).sum();
                    assert!((f64::from(y.row(row)[column]) - expected).abs() < 1e-3, "({row}, {column})");
                }
            }
            assert!(weights.greatest.get() * size_of::<f32>() <= TILE_BYTES);
            assert_eq!(weights.total.get(), out * width, "every element is read once");
        }
    }

    #[test]
    fn views_take_their_part_of_weight_and_bias() {
        // Seven outputs of three inputs, stored both ways.
        let value = |output: usize, input: usize| (10 * output + input) as f32;
        let by_output = (0..21).map(|i| value(i / 3, i % 3)).collect();
        let by_input = (0..21).map(|i| value(i % 7, i / 7)).collect();
        let bias: Vec<f32> = (0..7).map(|output| 1000.0 * output as f32).collect();
        let tensors = Tensors::of([
            ("rows.weight", &[7, 3][..], by_output),
            ("rows.bias", &[7], bias.clone()),
            ("columns.weight", &[3, 7], by_input),
            ("columns.bias", &[7], bias),
        ]);
        let x = Matrix::new(2, 3, vec![1.0, -2.0, 4.0, 0.5, 3.0, -1.0]).unwrap();
        let cases: [&[Range<usize>]; 4] = [&[0..3, 3..7], &[2..2, 2..4], &[5..7, 1..2], &[6..7, 0..1, 0..1]];
        for ranges in cases {
            let outputs: Vec<usize> = ranges.iter().cloned().flatten().collect();
            for bias in [false, true] {
                let rows = Linear::rows("rows", ranges.to_vec(), 7, 3, bias);
                let columns = Linear::columns("columns", ranges.to_vec(), 7, 3, bias);
                for view in [rows, columns] {
                    let y = linear(&tensors, &view, &x).unwrap();
                    assert_eq!((y.rows(), y.cols()), (2, outputs.len()));
                    for row in 0..2 {
                        for (is, &output) in y.row(row).iter().zip(&outputs) {
                            let product: f32 = (0..3).map(|i| x.row(row)[i] * value(output, i)).sum();
                            let expected = product + if bias { 1000.0 * output as f32 } else { 0.0 };
                            assert_eq!(*is, expected, "{ranges:?}, output {output}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn views_outside_their_tensors_are_errors() {
        let x = Matrix::zeros(1, 3);
        let message = |linear_spec: &Linear| linear(&Formula::default(), linear_spec, &x).unwrap_err().to_string();
        let far = Linear::rows("w", vec![0..2, 5..8], 7, 3, false);
        assert_eq!(message(&far), "a range of a linear's view is 5..8, expected within the 0..7 of `w`");
        let far = Linear::columns("w", vec![5..8, 0..1], 7, 3, false);
        assert_eq!(message(&far), "a range of a linear's view is 5..8, expected within the 0..7 of `w`");
        let other = Linear { out_features: 3, ..Linear::rows("w", vec![0..1, 4..5], 7, 3, false) };
        assert_eq!(message(&other), "out_features of a linear's spec is 3, expected 2, the length of the view of `w`");
        let narrow = Linear::whole("w", 7, 2, false);
        assert_eq!(message(&narrow), "in_features of a linear's spec is 2, expected 3");
    }
}
