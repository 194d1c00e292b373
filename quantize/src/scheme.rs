use crate::{Error, Method, Result};

/// How the weights of a matrix become integers: code width, block size along k, zero point or none, and the method.
///
/// The constructor admits what the CPU kernel of `com.microsoft::MatMulNBits` runs (ONNX Runtime 1.31) and this crate
/// implements. The methods give buffer lengths for rows of `k` weights. They never overflow: a length past
/// `usize::MAX` saturates there, which no buffer matches.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct IntScheme {
    bits: usize,
    block_size: usize,
    symmetric: bool,
    method: Method,
}

impl IntScheme {
    /// A scheme of the default method. Fails with `Unsupported` unless `bits` is 4 or 8 and `block_size` is 16, 32, 64, 128 or 256.
    pub fn new(bits: usize, block_size: usize, symmetric: bool) -> Result<Self> {
        if !matches!(bits, 4 | 8) {
            return Err(Error::UnsupportedBits { bits });
        }
        if !matches!(block_size, 16 | 32 | 64 | 128 | 256) {
            return Err(Error::UnsupportedBlockSize { block_size });
        }
        Ok(Self { bits, block_size, symmetric, method: Method::Default })
    }

    /// The scheme with another method. `KQuant` has zero points even where the scheme had none.
    pub fn with_method(self, method: Method) -> Self {
        Self { symmetric: self.symmetric && method != Method::KQuant, method, ..self }
    }

    /// The scheme with as many bits per code as another.
    pub fn with_bits(self, bits: usize) -> Result<Self> {
        Ok(Self::new(bits, self.block_size, self.symmetric)?.with_method(self.method))
    }

    /// Bits per code: 4 or 8.
    pub fn bits(self) -> usize {
        self.bits
    }

    /// Weights that share one scale.
    pub fn block_size(self) -> usize {
        self.block_size
    }

    /// Whether every zero point is `2^(bits - 1)` and none is stored.
    pub fn is_symmetric(self) -> bool {
        self.symmetric
    }

    /// How scales and zero points are found.
    pub fn method(self) -> Method {
        self.method
    }

    /// Blocks per row: `ceil(k / block_size)`.
    pub fn blocks(self, k: usize) -> usize {
        k.div_ceil(self.block_size)
    }

    /// Bytes of one block of codes: `block_size * bits / 8`, the last dimension of the `MatMulNBits` input B.
    pub fn code_bytes_per_block(self) -> usize {
        self.block_size * self.bits / 8
    }

    /// Bytes of codes per row: the last block is stored whole.
    pub fn code_bytes_per_row(self, k: usize) -> usize {
        self.blocks(k).saturating_mul(self.code_bytes_per_block())
    }

    /// Bytes of zero points per row: `ceil(blocks * bits / 8)`, or 0 when symmetric. Each row ends on a whole byte.
    pub fn zero_point_bytes_per_row(self, k: usize) -> usize {
        if self.symmetric { 0 } else { self.blocks(k).div_ceil(self.codes_per_byte()) }
    }

    /// Stored bits per weight, with codes, zero points and scales of `scale_bytes` each. NaN for `k` = 0.
    pub fn bits_per_weight(self, k: usize, scale_bytes: usize) -> f64 {
        let scales = self.blocks(k) as f64 * scale_bytes as f64;
        let codes_and_zero_points = self.code_bytes_per_row(k) as f64 + self.zero_point_bytes_per_row(k) as f64;
        8.0 * (codes_and_zero_points + scales) / k as f64
    }

    pub(crate) fn codes_per_byte(self) -> usize {
        8 / self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn scheme(bits: usize, block_size: usize, symmetric: bool) -> IntScheme {
        IntScheme::new(bits, block_size, symmetric).unwrap()
    }

    #[test]
    fn the_last_block_and_the_last_zero_point_byte_are_whole() {
        let asymmetric = scheme(4, 32, false);
        assert_eq!(asymmetric.blocks(72), 3);
        assert_eq!(asymmetric.code_bytes_per_row(72), 48);
        assert_eq!(asymmetric.zero_point_bytes_per_row(72), 2);
        assert_eq!(scheme(4, 32, true).zero_point_bytes_per_row(72), 0);
        assert_eq!(scheme(8, 32, false).code_bytes_per_row(72), 96);
        assert_eq!(scheme(8, 32, false).zero_point_bytes_per_row(72), 3);
    }

    #[test]
    fn bits_per_weight_counts_scales_zero_points_and_padding() {
        assert_eq!(scheme(4, 32, true).bits_per_weight(4096, 2), 4.5);
        assert_eq!(scheme(4, 32, false).bits_per_weight(4096, 2), 4.625);
        assert_eq!(scheme(4, 32, true).bits_per_weight(16, 2), 9.0);
    }

    #[test]
    fn unsupported_values_are_named_with_what_is_supported() {
        let error = IntScheme::new(3, 32, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "3-bit codes are not supported, expected 4 or 8");
        for block_size in [0, 8, 33, 512] {
            let error = IntScheme::new(4, block_size, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("16, 32, 64, 128 or 256"), "{error}");
        }
    }

    #[test]
    fn the_search_always_has_zero_points() {
        assert!(scheme(4, 32, true).with_method(Method::Rtn).is_symmetric());
        assert!(!scheme(4, 32, true).with_method(Method::KQuant).is_symmetric());
        assert_eq!(scheme(4, 32, false).with_method(Method::Rtn).with_bits(8).unwrap().method(), Method::Rtn);
    }

    #[test]
    fn lengths_saturate() {
        assert_eq!(scheme(8, 256, false).code_bytes_per_row(usize::MAX), usize::MAX);
    }
}
