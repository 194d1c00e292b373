//! Products with a weight that is read tile by tile.

use genai_architectures::Linear;

use super::{Weights, expect_width};
use crate::{Matrix, Result};

/// How much of one weight is held at a time, unless one row is longer.
pub(super) const TILE_BYTES: usize = 4 << 20;

/// `y = x · Wᵀ + b`, `[rows, out_features]`.
pub(super) fn linear(weights: &dyn Weights, linear: &Linear, x: &Matrix) -> Result<Matrix> {
    expect_width("in_features of a linear's spec", linear.in_features, x.cols())?;
    let mut y = product(weights, &linear.weight(), linear.out_features, x)?;
    if linear.bias {
        let mut bias = vec![0.0; linear.out_features];
        weights.read(&linear.bias_name(), &[linear.out_features], 0, &mut bias)?;
        for row in 0..y.rows() {
            for (y, bias) in y.row_mut(row).iter_mut().zip(&bias) {
                *y += bias;
            }
        }
    }
    Ok(y)
}

/// `y = x · Wᵀ` with the tensor `name` of `[out_features, x.cols()]` as `W`.
pub(super) fn product(weights: &dyn Weights, name: &str, out_features: usize, x: &Matrix) -> Result<Matrix> {
    let in_features = x.cols();
    let tile_rows = (TILE_BYTES / size_of::<f32>() / in_features.max(1)).clamp(1, out_features.max(1));
    let mut tile = vec![0.0; tile_rows * in_features];
    let mut y = Matrix::zeros(x.rows(), out_features);
    for first in (0..out_features).step_by(tile_rows) {
        let rows = tile_rows.min(out_features - first);
        let tile = &mut tile[..rows * in_features];
        weights.read(name, &[out_features, in_features], first * in_features, tile)?;
        multiply_transposed(x, tile, &mut y, first);
    }
    Ok(y)
}

/// `y[:, first_column..] = x · tileᵀ`, for a tile of whole rows of `x.cols()` values.
#[allow(unsafe_code)] // `gemm` has no safe entry.
fn multiply_transposed(x: &Matrix, tile: &[f32], y: &mut Matrix, first_column: usize) {
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
    // SAFETY: strides are (column, row). `x` is [m, k] with rows k apart; the right side is the tile [n, k] read as
    // its transpose, so a column is k apart; `to` is column `first_column` of [m, y.cols()]. The assertions above
    // keep every access inside the three slices, and `y` is borrowed alone.
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

    /// A weight whose element `i` is a function of `i`, and which notes the greatest read.
    struct Formula(std::cell::Cell<usize>);

    fn element(index: usize) -> f32 {
        ((index * 37 + 11) % 101) as f32 / 64.0 - 0.75
    }

    impl Weights for Formula {
        fn read(&self, _: &str, _: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            self.0.set(self.0.get().max(out.len()));
            for (offset, value) in out.iter_mut().enumerate() {
                *value = element(first + offset);
            }
            Ok(())
        }
    }

    #[test]
    fn tiles_join_into_the_plain_product_and_stay_small() {
        // 3000 rows of 1000 values are 12 MB: three tiles, the last one short.
        let (rows, out, width) = (3, 3000, 1000);
        let x = Matrix::new(rows, width, (0..rows * width).map(|i| element(i * 7)).collect()).unwrap();
        let weights = Formula(std::cell::Cell::new(0));
        let y = product(&weights, "w", out, &x).unwrap();
        for row in 0..rows {
            for column in 0..out {
                let expected: f64 =
                    (0..width).map(|i| f64::from(x.row(row)[i]) * f64::from(element(column * width + i))).sum();
                assert!((f64::from(y.row(row)[column]) - expected).abs() < 1e-3, "({row}, {column})");
            }
        }
        assert!(weights.0.get() * size_of::<f32>() <= TILE_BYTES);
    }
}
