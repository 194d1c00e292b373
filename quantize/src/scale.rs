use std::fmt;

use half::{bf16, f16};

/// The dtype in which scales are stored: that of the activations, as `MatMulNBits` demands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ScaleDtype {
    F32,
    F16,
    Bf16,
}

impl ScaleDtype {
    /// Bytes of one scale.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The nearest value that the dtype holds, ties to even; infinite where `scale` overflows it.
    pub(crate) fn round(self, scale: f32) -> f32 {
        match self {
            Self::F32 => scale,
            Self::F16 => f16::from_f32(scale).to_f32(),
            Self::Bf16 => bf16::from_f32(scale).to_f32(),
        }
    }

    /// Writes `scale`, rounded as by [`Self::round`], into exactly [`Self::size`] bytes.
    pub(crate) fn write(self, scale: f32, bytes: &mut [u8]) {
        match self {
            Self::F32 => bytes.copy_from_slice(&scale.to_le_bytes()),
            Self::F16 => bytes.copy_from_slice(&f16::from_f32(scale).to_le_bytes()),
            Self::Bf16 => bytes.copy_from_slice(&bf16::from_f32(scale).to_le_bytes()),
        }
    }

    /// Reads one scale from exactly [`Self::size`] bytes.
    pub(crate) fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Self::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            _ => unreachable!("a scale of {self} in {} bytes", bytes.len()),
        }
    }
}

impl fmt::Display for ScaleDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}
