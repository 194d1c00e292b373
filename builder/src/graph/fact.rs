//! What is known of a value before any data exists.

use std::fmt;

/// Element types that this crate writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    I64,
    I32,
    U8,
    I8,
    /// Two to a byte, the first in the low half, without gaps between rows.
    U4,
    /// The same, two's complement.
    I4,
    /// E4M3 without infinities.
    F8E4M3,
    Bool,
}

/// A size: known when building, or a symbol that stands for one number throughout a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Known(u64),
    Symbol(&'static str),
    /// One of several symbols of a kind.
    Numbered(&'static str, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub dtype: Dtype,
    pub shape: Vec<Dim>,
}

impl Fact {
    pub fn new(dtype: Dtype, shape: Vec<Dim>) -> Self {
        Self { dtype, shape }
    }

    /// The size of the last dimension.
    pub fn last(&self) -> Option<&Dim> {
        self.shape.last()
    }

    /// The same with another size in the last dimension.
    pub fn with_last(&self, size: u64) -> Self {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Known(size);
        }
        Self { dtype: self.dtype, shape }
    }

    pub fn with_dtype(&self, dtype: Dtype) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }
}

impl Dtype {
    /// Bits of one element.
    pub fn bits(self) -> u64 {
        match self {
            Self::I64 => 64,
            Self::F32 | Self::I32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::U8 | Self::I8 | Self::F8E4M3 | Self::Bool => 8,
            Self::U4 | Self::I4 => 4,
        }
    }

    /// Bytes of one element of a dtype whose elements are whole bytes.
    pub fn bytes(self) -> u64 {
        self.bits() / 8
    }

    /// The name in `onnx.TensorProto.DataType`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "FLOAT",
            Self::F16 => "FLOAT16",
            Self::Bf16 => "BFLOAT16",
            Self::I64 => "INT64",
            Self::I32 => "INT32",
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::U4 => "UINT4",
            Self::I4 => "INT4",
            Self::F8E4M3 => "FLOAT8E4M3FN",
            Self::Bool => "BOOL",
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype.name())?;
        for (index, dim) in self.shape.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match dim {
                Dim::Known(size) => write!(f, "{comma}{size}")?,
                Dim::Symbol(name) => write!(f, "{comma}{name}")?,
                Dim::Numbered(name, number) => write!(f, "{comma}{name}_{number}")?,
            }
        }
        f.write_str("]")
    }
}

/// Known sizes as dimensions.
pub fn dims<const N: usize>(sizes: [usize; N]) -> Vec<Dim> {
    sizes.iter().map(|size| Dim::Known(*size as u64)).collect()
}
