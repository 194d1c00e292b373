//! Codes and zero points brought from the layout of `MatMulNBits`, which the quantizer makes, to that of a job.

use genai_quantize::IntScheme;

use crate::plan::CodeLayout;

/// Changes the codes and zero points of so many rows of `k` weights in place.
pub(super) fn lay_out(
    layout: CodeLayout,
    scheme: IntScheme,
    k: usize,
    rows: usize,
    codes: &mut [u8],
    zero_points: &mut Vec<u8>,
) {
    // Of each code in a byte.
    let middle = if scheme.bits() == 4 { 0x88 } else { 0x80 };
    match layout {
        CodeLayout::Blocks => {}
        CodeLayout::BlocksWithZeroPoints => {
            if scheme.is_symmetric() {
                let [_, bytes] = layout.bytes_of_rows(scheme, k, rows);
                zero_points.clear();
                zero_points.resize(bytes, middle);
            }
        }
        CodeLayout::Flat => {
            if scheme.is_symmetric() {
                // The middle code becomes zero: the same number in two's complement.
                codes.iter_mut().for_each(|byte| *byte ^= middle);
            } else if scheme.bits() == 4 {
                close_gaps(zero_points, scheme.blocks(k), rows);
            }
        }
    }
}

/// Rows of so many half bytes, each of which starts at a byte, moved together.
fn close_gaps(bytes: &mut Vec<u8>, elements: usize, rows: usize) {
    if elements.is_multiple_of(2) {
        return;
    }
    // An element never moves to a place behind its own, so none is overwritten that is still to be moved.
    let row_bytes = elements.div_ceil(2);
    for row in 0..rows {
        for column in 0..elements {
            let code = bytes[row * row_bytes + column / 2] >> (4 * (column % 2)) & 0xf;
            let place = row * elements + column;
            let shift = 4 * (place % 2);
            bytes[place / 2] = bytes[place / 2] & !(0xf << shift) | code << shift;
        }
    }
    bytes.truncate((rows * elements).div_ceil(2));
    if let Some(last) = bytes.last_mut().filter(|_| rows % 2 == 1) {
        *last &= 0xf;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(layout: CodeLayout, scheme: (usize, bool), k: usize, codes: &[u8], zero_points: &[u8]) -> [Vec<u8>; 2] {
        let scheme = IntScheme::new(scheme.0, 16, scheme.1).unwrap();
        let rows = codes.len() / scheme.code_bytes_per_row(k);
        let (mut codes, mut zero_points) = (codes.to_vec(), zero_points.to_vec());
        lay_out(layout, scheme, k, rows, &mut codes, &mut zero_points);
        assert_eq!([codes.len(), zero_points.len()], layout.bytes_of_rows(scheme, k, rows));
        [codes, zero_points]
    }

    #[test]
    fn flat_codes_are_signed_where_there_is_no_zero_point() {
        let codes = [0x21, 0x03, 0x8f, 0, 0, 0, 0, 0];
        let [signed, none] = laid_out(CodeLayout::Flat, (4, true), 16, &codes, &[]);
        assert_eq!((signed, none), (vec![0xa9, 0x8b, 0x07, 0x88, 0x88, 0x88, 0x88, 0x88], vec![]));
        let [signed, _] = laid_out(CodeLayout::Flat, (8, true), 16, &[0x7f; 16], &[]);
        assert_eq!(signed, [0xff; 16]);
        let [unsigned, _] = laid_out(CodeLayout::Flat, (4, false), 16, &codes, &[3]);
        assert_eq!(unsigned, codes);
    }

    #[test]
    fn flat_zero_points_have_no_gaps_between_rows() {
        // Three blocks in a row: two bytes each as they come.
        for (rows, zero_points, expected) in [
            (2, &[0x21, 0x83, 0x54, 0x86][..], &[0x21, 0x43, 0x65][..]),
            (1, &[0x21, 0x83], &[0x21, 0x03]),
            (3, &[0x21, 0x83, 0x54, 0x86, 0x87, 0x89], &[0x21, 0x43, 0x65, 0x87, 0x09]),
        ] {
            let [_, flat] = laid_out(CodeLayout::Flat, (4, false), 40, &vec![0; 24 * rows], zero_points);
            assert_eq!(flat, expected);
        }
        let [_, bytes] = laid_out(CodeLayout::Flat, (8, false), 40, &[0; 96], &[1, 2, 3, 4, 5, 6]);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn explicit_zero_points_are_the_middle_code() {
        let [codes, zero_points] = laid_out(CodeLayout::BlocksWithZeroPoints, (4, true), 40, &[7; 48], &[]);
        assert_eq!((codes, zero_points), (vec![7; 48], vec![0x88; 4]));
        let [_, zero_points] = laid_out(CodeLayout::BlocksWithZeroPoints, (8, true), 40, &[7; 96], &[]);
        assert_eq!(zero_points, [0x80; 6]);
        let [_, own] = laid_out(CodeLayout::BlocksWithZeroPoints, (4, false), 40, &[7; 24], &[1, 2]);
        assert_eq!(own, [1, 2]);
    }
}
