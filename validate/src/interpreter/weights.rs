//! Where the interpreter's numbers come from.

use std::collections::BTreeMap;

use genai_architectures::DecoderSpec;
use genai_checkpoint::{Adapter, Checkpoint, LowRankUpdate};

use crate::{Error, Matrix, Result};

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

    /// What is added to the weight of the linear at `path`, after its rounding.
    fn update(&self, _path: &str) -> Result<Option<Update>> {
        Ok(None)
    }
}

/// `scale · B · A`
#[derive(Debug)]
pub struct Update {
    /// `[rank, in_features]`
    pub a: Matrix,
    /// `[outputs, rank]`, with the outputs as the stored weight counts them.
    pub b: Matrix,
    pub scale: f32,
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

    fn update(&self, path: &str) -> Result<Option<Update>> {
        self.weights.update(path)
    }
}

/// Weights of a checkpoint with those of an adapter of it added.
pub struct Adapted<'a> {
    weights: &'a dyn Weights,
    /// By the path that the spec gives the module.
    updates: BTreeMap<String, &'a LowRankUpdate>,
}

impl<'a> Adapted<'a> {
    /// `weights` have the tensors of the adapter too.
    pub fn new(spec: &DecoderSpec, weights: &'a dyn Weights, adapter: &'a Adapter) -> Self {
        let path = |module: &str| {
            // Tensors have names in the spec; a module has that of its tensors.
            let named = spec.name_of(&format!("{module}.weight"));
            named.and_then(|name| Some(name.strip_suffix(".weight")?.to_owned())).unwrap_or_else(|| module.to_owned())
        };
        Self { weights, updates: adapter.updates().map(|(module, update)| (path(module), update)).collect() }
    }
}

impl Weights for Adapted<'_> {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        self.weights.read(name, expected_shape, first, out)
    }

    fn round(&self, name: &str, rows: &mut [f32], k: usize) -> Result<()> {
        self.weights.round(name, rows, k)
    }

    fn update(&self, path: &str) -> Result<Option<Update>> {
        let Some(LowRankUpdate { rank, in_features, out_features, scale, a, b }) = self.updates.get(path) else {
            return Ok(None);
        };
        let matrix = |name: &str, rows: usize, cols: usize| {
            let mut matrix = Matrix::zeros(rows, cols);
            self.weights.read(name, &[rows, cols], 0, matrix.data_mut())?;
            Ok::<_, Error>(matrix)
        };
        Ok(Some(Update { a: matrix(a, *rank, *in_features)?, b: matrix(b, *out_features, *rank)?, scale: *scale }))
    }
}

#[cfg(test)]
mod tests {
    use genai_architectures::Linear;

    use super::*;
    use crate::interpreter::{product::linear, synthetic::Tensors};

    /// What adds one update to the module `fused`, of four outputs and two inputs.
    struct WithUpdate(Tensors);

    impl Weights for WithUpdate {
        fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            self.0.read(name, expected_shape, first, out)
        }

        fn update(&self, path: &str) -> Result<Option<Update>> {
            let a = Matrix::new(1, 2, vec![1.0, 2.0])?;
            let b = Matrix::new(4, 1, vec![1.0, 10.0, 100.0, 1000.0])?;
            Ok((path == "fused").then_some(Update { a, b, scale: 0.5 }))
        }
    }

    #[test]
    fn an_update_is_added_to_the_outputs_that_a_view_takes_behind_the_rounding() {
        let quarters = |name| (name, [4, 2].as_slice(), vec![0.25; 8]);
        let weights = WithUpdate(Tensors::of([quarters("fused.weight"), quarters("other.weight")]));
        let round = |_: &str, rows: &mut [f32], _: usize| {
            rows.iter_mut().for_each(|value| *value = value.floor());
            Ok(())
        };
        let rounded = Rounded { weights: &weights, round: &round };
        let x = Matrix::new(1, 2, vec![1.0, 3.0]).unwrap();
        // x · Aᵀ is 7, half of it is added as often as B says.
        let view = Linear::rows("fused", [2..4, 0..1], 4, 2, false);
        assert_eq!(linear(&rounded, &view, &x).unwrap().data(), [350.0, 3500.0, 3.5]);
        assert_eq!(linear(&rounded, &Linear::whole("other", 4, 2, false), &x).unwrap().data(), [0.0; 4]);
        let narrow = Linear::whole("fused", 3, 2, false);
        assert!(
            linear(&WithUpdate(Tensors::of([("fused.weight", [3, 2].as_slice(), vec![0.0; 6])])), &narrow, &x).is_err()
        );
    }

    #[test]
    fn rows_are_rounded_whole_however_they_are_stored() {
        // Two outputs of three inputs: 1.5 2.5 3.5 and 4.5 5.5 6.5, and a bias that no rounding may touch.
        let by_rows = vec![1.5, 2.5, 3.5, 4.5, 5.5, 6.5];
        let by_columns = vec![1.5, 4.5, 2.5, 5.5, 3.5, 6.5];
        let weights = Tensors::of([
            ("rows.weight", [2, 3].as_slice(), by_rows),
            ("columns.weight", [3, 2].as_slice(), by_columns),
            ("rows.bias", [2].as_slice(), vec![0.5, 0.5]),
            ("columns.bias", [2].as_slice(), vec![0.5, 0.5]),
        ]);
        let round = |name: &str, rows: &mut [f32], k: usize| {
            assert!(name.ends_with(".weight") && k == 3, "{name} {k}");
            rows.iter_mut().for_each(|value| *value = value.floor());
            Ok(())
        };
        let rounded = Rounded { weights: &weights, round: &round };
        let ones = Matrix::new(1, 3, vec![1.0; 3]).unwrap();
        for module in [Linear::whole("rows", 2, 3, true), Linear::columns("columns", [0..1, 1..2], 2, 3, true)] {
            assert_eq!(linear(&rounded, &module, &ones).unwrap().data(), [6.5, 15.5], "{}", module.path);
        }
    }
}
