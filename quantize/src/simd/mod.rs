//! The hot loops, once in portable Rust and once for each width of vectors, behind one type that picks.
//!
//! | loop | is |
//! | --- | --- |
//! | `extents` | the least and greatest value of each block |
//! | `encode` | weights to packed codes, by reciprocals of scales in f32, halves up |
//! | `divide` | the same by division in f64, ties to even |
//! | `search` | the scale and least weight of each block that make the error small |
//! | `bf16_to_f32`, `f16_to_f32` | widening |
//! | `f32_to_bf16`, `f32_to_f16` | rounding to nearest, ties to even |
//! | `all_finite` | whether no value is NaN or infinite |
//!
//! All levels give the same bytes: each lane does the separately rounded operations of the portable loop, and a
//! minimum does not depend on the order in which it is taken. Nothing is prefetched: the callers' tiles stay in the
//! second-level cache.
//!
//! This is the only module of the crate with `unsafe`: for loads and stores of vectors through references of their
//! size, and for calls of functions that need instructions which a [`Simd`] of their level vouches for.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod search;

use std::fmt;

pub(crate) use portable::{greater, lesser};
pub(crate) use search::LANES;

use crate::{Error, Result};

/// The vector instructions that the loops of this crate use. Results do not depend on it.
///
/// A value exists only where the processor has the instructions.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Simd(Level);

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// What compiles for any processor.
    pub fn portable() -> Self {
        Self(Level::Portable)
    }

    /// The widest that this processor has.
    pub fn detect() -> Self {
        let levels = Self::supported();
        levels.into_iter().next_back().unwrap_or_else(Self::portable)
    }

    /// All that this processor has, narrowest first.
    pub fn supported() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut, reason = "there is one level"))]
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            levels.extend(avx2.then_some(Level::Avx2));
            levels.extend(avx512.then_some(Level::Avx512));
        }
        levels.into_iter().map(Self).collect()
    }

    /// The level of that [name](Self::name).
    ///
    /// # Errors
    ///
    /// `Unsupported` if there is no such level, or this processor lacks its instructions.
    pub fn named(name: &str) -> Result<Self> {
        let supported = Self::supported();
        supported.iter().find(|level| level.name() == name).copied().ok_or_else(|| Error::UnsupportedSimd {
            name: name.to_owned(),
            supported: supported.iter().map(|level| level.name()).collect(),
        })
    }

    /// `portable`, `avx2` (with F16C) or `avx512` (F, BW, DQ and VL).
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }
}

/// Just below one half: added before a truncation it rounds 0 ..= 2^22 with halves up, and 0.49999997 to 0.
#[cfg(target_arch = "x86_64")]
const BELOW_HALF: f32 = 0.5_f32.next_down();

impl fmt::Debug for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Calls the loop of the level.
macro_rules! dispatch {
    ($simd:expr, $loop:ident $(::<$($parameter:ident),+>)? ($($argument:expr),*)) => {
        match $simd.0 {
            Level::Portable => portable::$loop $(::<$($parameter),+>)? ($($argument),*),
            // SAFETY: a `Simd` of a level is made only where all instructions of the level were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::$loop $(::<$($parameter),+>)? ($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::$loop $(::<$($parameter),+>)? ($($argument),*) },
        }
    };
}

/// Lengths are the callers' to keep: a shorter slice ends a loop early.
impl Simd {
    /// The least and greatest value of each whole block of `values`; false if any of them is NaN or infinite, and the
    /// extents are of no use then. Of zeros of both signs either may be the one.
    pub(crate) fn extents<const BLOCK: usize>(self, values: &[f32], min: &mut [f32], max: &mut [f32]) -> bool {
        dispatch!(self, extents::<BLOCK>(values, min, max))
    }

    /// `round(clamp(weight * reciprocal + zero_point, 0, 2^BITS - 1))` of each weight, with the numbers of its block,
    /// halves up, packed low bits first.
    pub(crate) fn encode<const BITS: usize, const BLOCK: usize>(
        self,
        values: &[f32],
        reciprocals: &[f32],
        zero_points: &[f32],
        codes: &mut [u8],
    ) {
        dispatch!(self, encode::<BITS, BLOCK>(values, reciprocals, zero_points, codes))
    }

    /// `round(clamp(weight / scale + zero_point, 0, 2^BITS - 1))` of each weight in f64, with the numbers of its block,
    /// ties to even, packed low bits first.
    pub(crate) fn divide<const BITS: usize, const BLOCK: usize>(
        self,
        values: &[f32],
        scales: &[f64],
        zero_points: &[f32],
        codes: &mut [u8],
    ) {
        dispatch!(self, divide::<BITS, BLOCK>(values, scales, zero_points, codes))
    }

    /// The scale and the least weight of the grid of each whole block, by the search of `Method::KQuant`. Of `mins` and
    /// `maxs` none is on the other side of zero.
    pub(crate) fn search<const BITS: usize, const BLOCK: usize>(
        self,
        values: &[f32],
        mins: &[f32],
        maxs: &[f32],
        scales: &mut [f32],
        leasts: &mut [f32],
    ) {
        dispatch!(self, search::<BITS, BLOCK>(values, mins, maxs, scales, leasts))
    }

    pub(crate) fn bf16_to_f32(self, bytes: &[u8], values: &mut [f32]) {
        dispatch!(self, bf16_to_f32(bytes, values))
    }

    pub(crate) fn f16_to_f32(self, bytes: &[u8], values: &mut [f32]) {
        dispatch!(self, f16_to_f32(bytes, values))
    }

    /// True if a finite value became infinite.
    pub(crate) fn f32_to_bf16(self, values: &[f32], bytes: &mut [u8]) -> bool {
        dispatch!(self, f32_to_bf16(values, bytes))
    }

    /// True if a finite value became infinite.
    pub(crate) fn f32_to_f16(self, values: &[f32], bytes: &mut [u8]) -> bool {
        dispatch!(self, f32_to_f16(values, bytes))
    }

    pub(crate) fn all_finite(self, values: &[f32]) -> bool {
        dispatch!(self, all_finite(values))
    }
}

#[cfg(test)]
mod tests;
