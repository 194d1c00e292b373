//! Names of stored tensors.

/// A tensor whose stored name starts with `stored` is the one whose name starts with `named` in the spec, the rest
/// being equal: the same model is published alone and as a part of another, or was saved without its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorPrefix {
    pub stored: &'static str,
    pub named: &'static str,
}

/// Names of tensors, those of the spec where it has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorPattern {
    /// Names that start so, such as those of a vision tower.
    Starts(&'static str),
    /// Names that end so, such as buffers that every layer saved.
    Ends(&'static str),
    /// Names of the tensors of this module, such as one that a layer saved and does not use.
    Of(String),
}

impl TensorPattern {
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Starts(start) => name.starts_with(start),
            Self::Ends(end) => name.ends_with(end),
            Self::Of(module) => name.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('.')),
        }
    }
}
