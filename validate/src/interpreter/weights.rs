//! Where the interpreter's numbers come from.

use genai_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Tensors by name, read in pieces.
pub trait Weights {
    /// Fills `out` with consecutive elements of a tensor, from element `first` of its row-major order, as f32.
    ///
    /// An error when there is no such tensor or its shape is not `expected_shape`.
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()>;
}

impl Weights for Checkpoint {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name).ok_or_else(|| Error::weight(name, "is not in the checkpoint"))?;
        let same = tensor.shape.len() == expected_shape.len()
            && tensor.shape.iter().zip(expected_shape).all(|(&is, &expected)| is == expected as u64);
        if !same {
            let problem = format!("has shape {:?}, expected {expected_shape:?}", tensor.shape);
            return Err(Error::weight(name, problem));
        }
        Ok(self.read_f32(tensor, first as u64, out)?)
    }
}

/// Rounds whole rows of the named matrix in place: values of `[rows, k]`, then `k`. For the same rows it must give the
/// same values, whatever rows come with them.
pub type Rounding<'a> = dyn Fn(&str, &mut [f32], usize) -> Result<()> + 'a;

/// Weights whose matrices are rounded as they are read: what a package holds that stores them in fewer bits. Its logits
/// against these show errors of lowering and kernels, with the loss of the rounding itself taken out.
pub struct Rounded<'a> {
    pub weights: &'a dyn Weights,
    pub round: &'a Rounding<'a>,
}

impl Weights for Rounded<'_> {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        self.weights.read(name, expected_shape, first, out)?;
        let &[_, k] = expected_shape else { return Ok(()) };
        // A part of a row cannot be rounded: its blocks are not all there.
        if k == 0 || !first.is_multiple_of(k) || !out.len().is_multiple_of(k) {
            let (name, value) = ("the part of a rounded matrix", format!("{} values from {first}", out.len()));
            return Err(Error::argument(name, value, format!("whole rows of {k}")));
        }
        (self.round)(name, out, k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element `i` of every tensor is `i + 0.25`.
    struct Counting;

    impl Weights for Counting {
        fn read(&self, _: &str, _: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            for (index, value) in out.iter_mut().enumerate() {
                *value = (first + index) as f32 + 0.25;
            }
            Ok(())
        }
    }

    #[test]
    fn rows_of_matrices_are_rounded_and_vectors_are_not() {
        let round = |name: &str, rows: &mut [f32], k: usize| {
            assert_eq!((name, k), ("w", 3));
            rows.iter_mut().for_each(|value| *value = value.floor());
            Ok(())
        };
        let rounded = Rounded { weights: &Counting, round: &round };
        let mut rows = [0.0; 6];
        rounded.read("w", &[4, 3], 3, &mut rows).unwrap();
        assert_eq!(rows, [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let mut vector = [0.0; 2];
        rounded.read("v", &[2], 0, &mut vector).unwrap();
        assert_eq!(vector, [0.25, 1.25]);
        for (first, length) in [(1, 3), (3, 2)] {
            let error = rounded.read("w", &[4, 3], first, &mut rows[..length]).unwrap_err();
            assert!(error.to_string().contains("whole rows of 3"), "{error}");
        }
    }
}
