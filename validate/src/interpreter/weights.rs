//! Where the interpreter's numbers come from.

use genai_checkpoint::Checkpoint;

use crate::{Error, Result};

/// Tensors by name, read in pieces.
pub(crate) trait Weights {
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
