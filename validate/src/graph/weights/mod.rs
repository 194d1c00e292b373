//! The matrices of a graph as f32, however they are stored.
//!
//! A matrix is `[n, k]`: a row for each output (each token of an embedding), a column for each input, as checkpoints have
//! it. Graphs store some transposed, some as codes with a scale per block; here all are read alike, row by row:
//!
//! ```text
//!  value[row, column] = (code[row, column] − zero[row, block]) · scale[row, block]
//! ```
//!
//! Operators: <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md> (MatMulNBits,
//! GatherBlockQuantized, QMoE), <https://onnx.ai/onnx/operators> (DequantizeLinear).

mod find;
mod origin;
mod plane;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::{Graph, Problem};
use crate::Result;
use plane::Plane;

/// What the matrix is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Multiplied with activations.
    Product,
    /// Rows are picked by token.
    Embedding,
    /// One of several that a router chooses from.
    Expert(usize),
}

/// One matrix that a node works with. A matrix that two nodes share is there twice.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The node's name, such as `/model/layers.0/attn/q_proj/MatMul_Q4`.
    pub node: String,
    pub op_type: String,
    /// The initializer that holds the numbers or codes.
    pub tensor: String,
    /// The node's input that the matrix comes in by.
    pub slot: usize,
    pub used: Use,
    /// Rows: outputs, or tokens.
    pub n: usize,
    /// Columns: inputs, or the width of an embedding.
    pub k: usize,
    /// Of a number or code.
    pub bits: u32,
    /// Columns that share a scale, where there are scales.
    pub block: Option<usize>,
    /// In words, such as `int4, blocks of 32, zero points`.
    pub stored: String,
    /// Of numbers, or codes, scales and zero points together.
    pub bytes: u64,
    /// Names of the initializers of scales and zero points.
    pub scales: Option<String>,
    pub zero_points: Option<String>,
    source: Source,
}

/// The matrices of a graph, and those that cannot be one.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    /// In the order of the nodes.
    pub matrices: Vec<Weight>,
    /// Tensors of a quantized matrix that do not fit together, with both sizes.
    pub problems: Vec<Problem>,
}

/// Where the numbers lie. Rows and columns of storage are those of the matrix, or the other way round.
#[derive(Clone, Debug)]
struct Source {
    /// Storage is `[k, n]`.
    transposed: bool,
    values: Plane,
    scales: Option<Plane>,
    zeros: Option<Plane>,
    /// Where there are no zero points.
    zero: f32,
    /// The block of each column, where it is not `column / block`.
    groups: Option<String>,
}

impl Weight {
    /// Replaces `out` by rows of the matrix, `k` numbers each.
    ///
    /// A transposed matrix is read once from end to end for every call: ask for many rows at once.
    ///
    /// # Errors
    /// `Package` where a tensor cannot be read, `Io` if the system fails.
    pub fn rows(&self, graph: &Graph, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let rows = rows.start.min(self.n)..rows.end.min(self.n);
        self.source.rows(graph, rows, self.k, out)
    }

    /// Gives the whole matrix, some rows at a time: those that fit into `numbers` numbers, at least one.
    ///
    /// # Errors
    /// As [`Weight::rows`], and what `each` returns. `each` gets the number of the first row.
    pub fn for_each_rows(
        &self,
        graph: &Graph,
        numbers: usize,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let step = numbers.checked_div(self.k).unwrap_or(0).max(1);
        let mut out = Vec::new();
        for start in (0..self.n).step_by(step) {
            self.rows(graph, start..start.saturating_add(step), &mut out)?;
            each(start, &out)?;
        }
        Ok(())
    }

    /// Whether each column belongs to a block that there is. Only matrices with group indices can fail.
    pub(crate) fn check_groups(&self, graph: &Graph) -> Result<(), String> {
        let (Some(name), Some(block)) = (&self.source.groups, self.block) else { return Ok(()) };
        let groups = graph.integers_of(name).map_err(|error| error.to_string())?;
        let blocks = self.k.div_ceil(block);
        if groups.len() < self.k {
            return Err(format!("has {} group indices for {} columns", groups.len(), self.k));
        }
        let outside = groups.iter().find(|&&group| !usize::try_from(group).is_ok_and(|group| group < blocks));
        match outside {
            Some(group) => Err(format!("has the group index {group} in `{name}`, there are {blocks} blocks")),
            None => Ok(()),
        }
    }
}
