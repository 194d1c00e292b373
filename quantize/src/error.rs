use crate::ScaleDtype;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The crate knows no tensor names: a caller adds the name of the weight.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("{bits}-bit codes are not supported, expected 4 or 8")]
    UnsupportedBits { bits: usize },

    #[error("block_size {block_size} is not supported, expected 16, 32, 64, 128 or 256")]
    UnsupportedBlockSize { block_size: usize },

    #[error("vector instructions {name:?} are not supported here, expected {}", .supported.join(" or "))]
    UnsupportedSimd { name: String, supported: Vec<&'static str> },

    #[error("{values} values do not form rows of k = {k}")]
    RowLength { values: usize, k: usize },

    /// `len` and `expected` count the elements of the slice: bytes of a `[u8]`, values of a `[f32]`.
    #[error("{buffer} has length {len}, expected {expected}")]
    BufferLength { buffer: &'static str, len: usize, expected: usize },

    #[error("weight at row {row}, column {column} is {value}, expected a finite number")]
    NonFinite { row: usize, column: usize, value: f32 },

    /// `column` is the first column of the block.
    #[error("the block at row {row}, column {column} needs the scale {scale:e}, which overflows {dtype}")]
    ScaleOverflow { row: usize, column: usize, scale: f32, dtype: ScaleDtype },

    #[error("value {value:e} at index {index} overflows {dtype}, whose largest value is {max:e}")]
    ValueOverflow { index: usize, value: f32, dtype: &'static str, max: f32 },
}

/// The classes of [`Error`] that a caller may want to tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// A request that this crate does not implement.
    Unsupported,
    /// Slices whose lengths do not fit together: a mistake of the caller.
    Length,
    /// A NaN or an infinity among the weights.
    NonFinite,
    /// A finite number that the storage dtype cannot hold.
    Overflow,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedBits { .. } | Self::UnsupportedBlockSize { .. } | Self::UnsupportedSimd { .. } => {
                ErrorKind::Unsupported
            }
            Self::RowLength { .. } | Self::BufferLength { .. } => ErrorKind::Length,
            Self::NonFinite { .. } => ErrorKind::NonFinite,
            Self::ScaleOverflow { .. } | Self::ValueOverflow { .. } => ErrorKind::Overflow,
        }
    }

    /// What the user could do about it, where there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NonFinite { .. } => Some("the weights are damaged, or come from a training run that diverged"),
            Self::ScaleOverflow { dtype: ScaleDtype::F16, .. } => Some("store the scales as bf16 or f32"),
            Self::ValueOverflow { dtype: "f16", .. } => Some("store the weight as bf16 or f32"),
            _ => None,
        }
    }
}
