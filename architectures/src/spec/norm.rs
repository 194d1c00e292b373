//! Norms over the last dimension.

#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Module path; the weight is the tensor `{path}.weight` and the bias `{path}.bias`.
    pub path: String,
    pub kind: NormKind,
    pub weight: NormWeight,
    pub bias: bool,
    /// Added to the mean square (or the variance) before the root.
    pub eps: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps)`
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps)`
    Layer,
}

/// The factor on what was normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// The stored weight.
    Plain,
    /// One more than the stored weight.
    OnePlus,
    /// None; nothing is stored.
    None,
}

impl Norm {
    pub(super) fn num_parameters(&self, width: usize) -> u64 {
        let weight = self.weight != NormWeight::None;
        width as u64 * (u64::from(weight) + u64::from(self.bias))
    }

    /// The name of the bias tensor, present when [`Norm::bias`] is true.
    pub fn bias_name(&self) -> String {
        format!("{}.bias", self.path)
    }

    /// The name of the weight tensor.
    pub fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }
}
