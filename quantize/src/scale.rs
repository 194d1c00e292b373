use std::fmt;

use half::{bf16, f16};

use crate::Simd;

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

    /// Writes `scales`, rounded to the nearest that the dtype holds, ties to even; infinite where one overflows it.
    /// `bytes` is [`Self::size`] times as long.
    pub(crate) fn write_all(self, simd: Simd, scales: &[f32], bytes: &mut [u8]) {
        // Overflow is seen in what is read back.
        let _overflowed = match self {
            Self::F32 => {
                for (bytes, scale) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(scales) {
                    *bytes = scale.to_le_bytes();
                }
                false
            }
            Self::F16 => simd.f32_to_f16(scales, bytes),
            Self::Bf16 => simd.f32_to_bf16(scales, bytes),
        };
    }

    /// Reads what [`Self::write_all`] wrote.
    pub(crate) fn read_all(self, simd: Simd, bytes: &[u8], scales: &mut [f32]) {
        match self {
            Self::F32 => {
                for (bytes, scale) in bytes.as_chunks::<4>().0.iter().zip(scales) {
                    *scale = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => simd.f16_to_f32(bytes, scales),
            Self::Bf16 => simd.bf16_to_f32(bytes, scales),
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
