//! Rotary positions.

use genai_architectures::{Rope, RopeLayout, RopeScaling};
use std::ops::Range;

use crate::{Error, Matrix, Result};

/// Turns every head of a sequence's rows by their positions.
///
/// The whole sequence turns by the frequencies of its length, which matters under dynamic and long rope.
pub(super) fn rotate(rope: &Rope, head_dim: usize, span: &Range<usize>, heads: &mut Matrix) {
    let inverse_frequencies = rope.inverse_frequencies(span.len());
    let factor = rope.attention_factor(span.len());
    for (position, row) in span.clone().enumerate() {
        let turns: Vec<(f32, f32)> = inverse_frequencies
            .iter()
            .map(|frequency| {
                // The angle is rounded to f32 as models are trained with it; at far positions that is a visible part
                // of a radian.
                let (sin, cos) = libm::sincos(f64::from(position as f32 * frequency));
                (cos as f32 * factor, sin as f32 * factor)
            })
            .collect();
        for head in heads.row_mut(row).chunks_exact_mut(head_dim) {
            let turned = &mut head[..rope.dim];
            match rope.layout {
                RopeLayout::Half => {
                    let (left, right) = turned.split_at_mut(rope.dim / 2);
                    for ((a, b), turn) in left.iter_mut().zip(right).zip(&turns) {
                        (*a, *b) = turn_pair((*a, *b), *turn);
                    }
                }
                RopeLayout::Interleaved => {
                    for (pair, turn) in turned.chunks_exact_mut(2).zip(&turns) {
                        (pair[0], pair[1]) = turn_pair((pair[0], pair[1]), *turn);
                    }
                }
            }
        }
    }
}

fn turn_pair((a, b): (f32, f32), (cos, sin): (f32, f32)) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

/// Whether the rope fits heads of `head_dim`, and its own tables fit it.
pub(super) fn check(rope: &Rope, head_dim: usize) -> Result<()> {
    if rope.dim > head_dim || !rope.dim.is_multiple_of(2) {
        return Err(Error::argument("rope.dim", rope.dim, format!("an even number of at most {head_dim}, a head")));
    }
    match &rope.scaling {
        RopeScaling::LongRope { short, long, .. } => {
            match [short.len(), long.len()].into_iter().find(|&length| length != rope.dim / 2) {
                Some(length) => {
                    let expected = format!("{}, one for each rotated pair", rope.dim / 2);
                    Err(Error::argument("the number of long rope factors", length, expected))
                }
                None => Ok(()),
            }
        }
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Proportional { .. }
        | RopeScaling::Dynamic { .. }
        | RopeScaling::Yarn { .. }
        | RopeScaling::Llama3 { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(layout: RopeLayout) -> Rope {
        Rope { dim: 4, theta: 100.0, layout, scaling: RopeScaling::None }
    }

    #[test]
    fn rotated_heads_meet_by_their_distance_alone() {
        let length = 12;
        for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
            let rotated = |vector: [f32; 6]| {
                // Two heads of 6, of which 4 dimensions turn; two rows stand before the sequence.
                let row = [vector, vector].concat();
                let mut rows = Matrix::new(length + 2, 12, row.repeat(length + 2)).unwrap();
                rotate(&rope(layout), 6, &(2..length + 2), &mut rows);
                rows
            };
            let (plain_q, plain_k) = ([0.3, -1.2, 0.8, 0.5, 2.0, -3.0], [1.1, 0.4, -0.7, 0.9, 0.25, 1.5]);
            let (q, k) = (rotated(plain_q), rotated(plain_k));
            let dot =
                |i: usize, j: usize| -> f32 { q.row(i + 2).iter().zip(k.row(j + 2)).take(6).map(|(q, k)| q * k).sum() };
            for distance in 0..length {
                for i in distance..length {
                    assert!((dot(i, i - distance) - dot(distance, 0)).abs() < 1e-5);
                }
            }
            assert!((dot(1, 0) - dot(0, 0)).abs() > 0.1);
            for row in 0..length + 2 {
                assert_eq!(q.row(row)[4..6], plain_q[4..], "dimensions past the rope stay");
                assert_eq!(q.row(row)[..6], q.row(row)[6..], "every head turns alike");
            }
            for unturned in 0..3 {
                assert_eq!(q.row(unturned)[..6], plain_q);
            }
            // Position 1 turns the first pair by one radian, the second by 100^(-1/2).
            let pairs = match layout {
                RopeLayout::Half => [(0, 2, 1f32), (1, 3, 0.1)],
                RopeLayout::Interleaved => [(0, 1, 1f32), (2, 3, 0.1)],
            };
            for (a, b, angle) in pairs {
                let (sin, cos) = angle.sin_cos();
                assert!((q.row(3)[a] - (plain_q[a] * cos - plain_q[b] * sin)).abs() < 1e-6);
                assert!((q.row(3)[b] - (plain_q[b] * cos + plain_q[a] * sin)).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn long_ropes_turn_by_the_list_of_the_length() {
        let scaling = RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            long: vec![4.0, 8.0],
            original_context: 3,
            short_attention_factor: 1.5,
            long_attention_factor: 2.0,
        };
        let rope = Rope { scaling, ..rope(RopeLayout::Half) };
        // Position 2 of 3 and of 4 tokens: frequencies 1 and 0.1 over the factors.
        for (length, angles, factor) in [(3, [2.0f32, 0.1], 1.5), (4, [0.5, 0.025], 2.0)] {
            let mut rows = Matrix::new(length, 4, [1.0, 1.0, 0.0, 0.0].repeat(length)).unwrap();
            rotate(&rope, 4, &(0..length), &mut rows);
            for (pair, angle) in angles.into_iter().enumerate() {
                let (sin, cos) = angle.sin_cos();
                assert!((rows.row(2)[pair] - factor * cos).abs() < 1e-6, "{length} tokens");
                assert!((rows.row(2)[pair + 2] - factor * sin).abs() < 1e-6, "{length} tokens");
            }
        }
    }

    #[test]
    fn ropes_that_do_not_fit_are_errors() {
        let message = |rope: &Rope| check(rope, 4).unwrap_err().to_string();
        assert!(check(&rope(RopeLayout::Half), 4).is_ok());
        let wide = Rope { dim: 6, ..rope(RopeLayout::Half) };
        assert_eq!(message(&wide), "rope.dim is 6, expected an even number of at most 4, a head");
        let odd = Rope { dim: 3, ..rope(RopeLayout::Half) };
        assert_eq!(message(&odd), "rope.dim is 3, expected an even number of at most 4, a head");
        let scaling = RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            long: vec![4.0],
            original_context: 3,
            short_attention_factor: 1.0,
            long_attention_factor: 1.0,
        };
        let short = Rope { scaling, ..rope(RopeLayout::Half) };
        assert_eq!(message(&short), "the number of long rope factors is 1, expected 2, one for each rotated pair");
    }
}
