//! Linears, and which part of a stored tensor they are.

use std::ops::Range;

/// `y = x · Wᵀ + b`, with `W` of `[out_features, in_features]` taken from the tensor `{path}.weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    pub path: String,
    pub out_features: usize,
    pub in_features: usize,
    /// Whether there is a tensor `{path}.bias`.
    pub bias: bool,
    pub view: View,
}

/// Which part of the stored tensors a linear is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// All of it: weight `[out_features, in_features]`, bias `[out_features]`.
    Whole,
    /// These rows, one after another, of a weight `[total, in_features]` and a bias `[total]`.
    Rows { ranges: Vec<Range<usize>>, total: usize },
    /// These columns, one after another, of a weight stored the other way round, `[in_features, total]`, and a bias
    /// `[total]`.
    Columns { ranges: Vec<Range<usize>>, total: usize },
}

impl Linear {
    /// A linear that is all of its tensors.
    pub fn whole(path: impl Into<String>, out_features: usize, in_features: usize, bias: bool) -> Self {
        Self { path: path.into(), out_features, in_features, bias, view: View::Whole }
    }

    /// Rows `ranges` of a fused weight `[total, in_features]`.
    pub fn rows(
        path: impl Into<String>,
        ranges: impl IntoIterator<Item = Range<usize>>,
        total: usize,
        in_features: usize,
        bias: bool,
    ) -> Self {
        let ranges: Vec<_> = ranges.into_iter().collect();
        let out_features = ranges.iter().map(Range::len).sum();
        Self { path: path.into(), out_features, in_features, bias, view: View::Rows { ranges, total } }
    }

    /// Columns `ranges` of a weight stored `[in_features, total]`.
    pub fn columns(
        path: impl Into<String>,
        ranges: impl IntoIterator<Item = Range<usize>>,
        total: usize,
        in_features: usize,
        bias: bool,
    ) -> Self {
        let ranges: Vec<_> = ranges.into_iter().collect();
        let out_features = ranges.iter().map(Range::len).sum();
        Self { path: path.into(), out_features, in_features, bias, view: View::Columns { ranges, total } }
    }

    pub fn num_parameters(&self) -> u64 {
        self.out_features as u64 * (self.in_features as u64 + u64::from(self.bias))
    }

    /// The name of the weight tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// The name of the bias tensor, present when [`Linear::bias`] is true.
    pub fn bias_name(&self) -> String {
        format!("{}.bias", self.path)
    }

    /// The shape of the stored weight.
    pub fn weight_shape(&self) -> [usize; 2] {
        match self.view {
            View::Whole => [self.out_features, self.in_features],
            View::Rows { total, .. } => [total, self.in_features],
            View::Columns { total, .. } => [self.in_features, total],
        }
    }

    /// The length of the stored bias.
    pub fn bias_length(&self) -> usize {
        match self.view {
            View::Whole => self.out_features,
            View::Rows { total, .. } | View::Columns { total, .. } => total,
        }
    }

    /// The stored rows (or columns) that make up the outputs, in order.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        match &self.view {
            View::Whole => std::iter::once(0..self.out_features).collect(),
            View::Rows { ranges, .. } | View::Columns { ranges, .. } => ranges.clone(),
        }
    }
}
