//! A dense matrix: what logits and hidden states are held in.

use std::ops::Range;

use crate::{Error, Result};

/// A row-major matrix `[rows, cols]` of f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// Takes `data`, row after row. An error unless it holds exactly `rows * cols` values.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self> {
        if rows.checked_mul(cols) != Some(data.len()) {
            let expected = format!("{rows} x {cols} values");
            return Err(Error::argument("the length of a matrix", data.len(), expected));
        }
        Ok(Self { rows, cols, data })
    }

    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row after row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.cols..][..self.cols]
    }

    /// Empty where there is no row.
    pub fn last_row(&self) -> &[f32] {
        &self.data[self.rows.saturating_sub(1) * self.cols..]
    }

    /// # Panics
    /// When there are no such rows.
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let data = self.data[rows.start * self.cols..rows.end * self.cols].to_vec();
        Self { rows: rows.len(), cols: self.cols, data }
    }

    /// # Panics
    /// When there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &mut self.data[row * self.cols..][..self.cols]
    }
}

/// The index of the greatest value, the lowest of equals as numpy and torch choose; `None` of an empty row or where
/// a value is not a number.
pub fn argmax(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (index, &value) in row.iter().enumerate() {
        if value.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, greatest)| value > greatest) {
            best = Some((index, value));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_must_fill_the_shape() {
        assert!(Matrix::new(2, 3, vec![0.0; 6]).is_ok());
        let message = Matrix::new(2, 3, vec![0.0; 5]).unwrap_err().to_string();
        assert_eq!(message, "the length of a matrix is 5, expected 2 x 3 values");
        assert!(Matrix::new(usize::MAX, 2, vec![0.0; 6]).is_err());
    }

    #[test]
    fn rows_are_taken_from_both_ends() {
        let matrix = Matrix::new(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(matrix.last_row(), [5.0, 6.0]);
        assert_eq!(matrix.slice(1..3), Matrix::new(2, 2, vec![3.0, 4.0, 5.0, 6.0]).unwrap());
        let empty = Matrix::zeros(0, 2);
        assert_eq!((empty.last_row(), empty.slice(0..0).rows()), (&[][..], 0));
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_refuses_nan() {
        assert_eq!(argmax(&[0.0, 2.0, 2.0, -1.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY]), Some(0));
        assert_eq!(argmax(&[0.0, f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }
}
