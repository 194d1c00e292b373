//! The numbers of integer weight quantization: f32 rows in, packed bytes of the ONNX Runtime layout out, and back.
//!
//! ```text
//!  rows [n, k] f32 ──► blocks of `block_size` along k ──► per block: scale, zero point ──► codes, packed
//!                                                              │              │              │
//!                     dequantize_rows ◄── (q - zero_point) * scale ◄──────────┴──────────────┘
//! ```
//!
//! * [`IntScheme`] says how wide a code is, how many weights share a scale, whether there is a zero point, and by which
//!   method it is found. It owns the layout arithmetic, so output lengths are known before any weight is read.
//! * [`quantize_rows`] rounds to nearest on a grid that the [`Method`] finds: byte for byte what ONNX Runtime's own
//!   quantizer writes, and on ordinary weights what those of onnxruntime-genai's model builder do.
//! * [`dequantize_rows`] is what the `MatMulNBits` kernel computes with those bytes.
//! * [`convert`] moves between f32 and the two-byte floats, for weights that stay float.
//!
//! # Layout
//!
//! That of the `com.microsoft::MatMulNBits` inputs, for one weight of shape `[out, in]` = `[n, k]`:
//!
//! | buffer | shape | packing |
//! | --- | --- | --- |
//! | codes | u8 `[n, blocks, block_size * bits / 8]` | along k, low bits first; zero past k |
//! | scales | [`ScaleDtype`] `[n, blocks]` | little-endian |
//! | zero points | u8 `[n, ceil(blocks * bits / 8)]`, none when symmetric | along blocks, low bits first |
//!
//! Without zero points the operator takes `2^(bits - 1)`. The same bytes serve `GatherBlockQuantized`.
//!
//! # Invariants
//!
//! * Pure functions over slices: no IO, no threads, no global state.
//! * A row depends on nothing but itself, so a caller may cut rows into tiles and run them anywhere.
//! * Every operation is a separately rounded f32 or f64 operation (no fused multiply-add): the bytes do not depend on the
//!   machine, nor on the vector instructions that it has ([`Simd`]).
//! * A weight that has no faithful form (NaN, infinity, a scale that overflows) is an error, never a code.
//!
//! # Left out
//!
//! Model structure, tensor names, files and ONNX; float zero points and `g_idx`; calibrated methods.
// But for `simd`.
#![deny(unsafe_code)]

pub mod convert;
mod dequantize;
mod error;
mod grids;
mod layout;
mod method;
mod rows;
mod scale;
mod scheme;
mod simd;

pub use dequantize::dequantize_rows;
pub use error::{Error, ErrorKind, Result};
pub use layout::Buffers;
pub use method::Method;
pub use rows::{quantize_rows, quantize_rows_with};
pub use scale::ScaleDtype;
pub use scheme::IntScheme;
pub use simd::Simd;
