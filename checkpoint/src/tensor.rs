//! A tensor's description; its data stays in the file.

use crate::Dtype;

/// A tensor of a [`Checkpoint`](crate::Checkpoint): described here, read through the checkpoint.
///
/// Data is row-major and little-endian; a matrix weight is `[out, in]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name by which the program knows it: that in the file, unless the checkpoint was
    /// [renamed](crate::Checkpoint::renamed). Any string, so not a path, and to be escaped before it is printed.
    pub name: String,
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar. A dimension may be 0.
    pub shape: Vec<u64>,
    /// The name in the file, where it is another.
    pub(crate) renamed_from: Option<String>,
    pub(crate) elements: u64,
    /// Position in the checkpoint's list of weight files.
    pub(crate) file: usize,
    /// Where the data begins, in bytes from the start of the file.
    pub(crate) offset: u64,
    pub(crate) byte_len: u64,
}

impl Tensor {
    /// The name in the file, for messages: what a user finds there.
    pub fn stored_name(&self) -> &str {
        self.renamed_from.as_deref().unwrap_or(&self.name)
    }

    /// The number of elements, the product of the shape.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// The size of the data in bytes.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Where the data begins in its file, in bytes. It may have any alignment.
    pub fn file_offset(&self) -> u64 {
        self.offset
    }

    /// The position of the tensor's file in [`Checkpoint::weight_files`](crate::Checkpoint::weight_files).
    pub fn file_index(&self) -> usize {
        self.file
    }
}
