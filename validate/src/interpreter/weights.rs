//! Where the interpreter's numbers come from.

use genai_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Tensors by name, read in pieces.
pub trait Weights {
    /// Fills `out` with consecutive elements of a tensor, from element `first` of its row-major order, as f32.
    ///
    /// An error when there is no such tensor or its shape is not `expected_shape`.
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()>;

    /// Makes of whole rows of the matrix `name`, `[rows, k]`, one for each output, what a package holds of them.
    fn round(&self, _name: &str, _rows: &mut [f32], _k: usize) -> Result<()> {
        Ok(())
    }
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

/// Weights whose matrices are rounded behind the reading: what a package holds that stores them in fewer bits. Its
/// logits against these show errors of lowering and kernels, with the loss of the rounding itself taken out.
pub struct Rounded<'a> {
    pub weights: &'a dyn Weights,
    pub round: &'a Rounding<'a>,
}

impl Weights for Rounded<'_> {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        self.weights.read(name, expected_shape, first, out)
    }

    fn round(&self, name: &str, rows: &mut [f32], k: usize) -> Result<()> {
        (self.round)(name, rows, k)
    }
}
