//! From ids to the first hidden state.

use genai_architectures::{DecoderSpec, LearnedPositions};

use super::norm::norm;
use super::{Batch, Weights};
use crate::{Error, Matrix, Result};

/// `[tokens, hidden_size]`
pub(super) fn embed(spec: &DecoderSpec, weights: &dyn Weights, batch: &Batch) -> Result<Matrix> {
    let embedding = &spec.embedding;
    let table = embedding.weight();
    let mut hidden = Matrix::zeros(batch.ids.len(), spec.hidden_size);
    for (row, &id) in batch.ids.iter().enumerate() {
        let first = id as usize * spec.hidden_size;
        weights.read(&table, &[spec.vocab_size, spec.hidden_size], first, hidden.row_mut(row))?;
        weights.round(&table, hidden.row_mut(row), spec.hidden_size)?;
    }
    if let Some(scale) = embedding.scale {
        hidden.data_mut().iter_mut().for_each(|x| *x *= scale);
    }
    if let Some(positions) = &embedding.positions {
        add_positions(weights, positions, batch, &mut hidden)?;
    }
    match &embedding.norm {
        Some(embedding_norm) => norm(weights, embedding_norm, &hidden),
        None => Ok(hidden),
    }
}

fn add_positions(
    weights: &dyn Weights,
    positions: &LearnedPositions,
    batch: &Batch,
    hidden: &mut Matrix,
) -> Result<()> {
    let LearnedPositions { rows, offset, .. } = *positions;
    let (table, width) = (positions.weight(), hidden.cols());
    let longest = batch.spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
    if longest > rows.saturating_sub(offset) {
        let expected = format!("at most {}, the positions of `{table}`", rows.saturating_sub(offset));
        return Err(Error::argument("the length of a sequence", longest, expected));
    }
    let mut learned = vec![0.0; width];
    for position in 0..longest {
        weights.read(&table, &[rows, width], (position + offset) * width, &mut learned)?;
        for span in batch.spans.iter().filter(|span| position < span.len()) {
            for (x, learned) in hidden.row_mut(span.start + position).iter_mut().zip(&learned) {
                *x += learned;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use genai_architectures::{Embedding, Norm, NormKind, NormWeight};

    use super::*;
    use crate::interpreter::synthetic::{self, Tensors};

    /// 3 tokens and 4 positions of width 2; the first row of positions is skipped.
    fn case(scale: Option<f32>, positions: bool, normed: bool) -> (DecoderSpec, Tensors) {
        let positions = positions.then(|| LearnedPositions { path: "positions".to_owned(), rows: 4, offset: 1 });
        let norm = normed.then(|| Norm {
            path: "norm".to_owned(),
            kind: NormKind::Layer,
            weight: NormWeight::Plain,
            bias: true,
            eps: 0.0,
        });
        let embedding = Embedding { path: "table".to_owned(), scale, positions, norm };
        let spec = DecoderSpec { hidden_size: 2, vocab_size: 3, embedding, ..synthetic::spec(None) };
        let tensors = Tensors::of([
            ("table.weight", &[3, 2][..], vec![1.0, 2.0, 3.0, 5.0, -7.0, 11.0]),
            ("positions.weight", &[4, 2], vec![100.0, 100.0, 0.5, 0.25, -1.0, 1.0, 8.0, -8.0]),
            ("norm.weight", &[2], vec![2.0, 3.0]),
            ("norm.bias", &[2], vec![0.5, -0.5]),
        ]);
        (spec, tensors)
    }

    fn embedded(spec: &DecoderSpec, tensors: &Tensors, sequences: &[&[u32]]) -> Result<Matrix> {
        embed(spec, tensors, &Batch::new(spec, sequences)?)
    }

    #[test]
    fn rows_are_scaled_then_moved_then_normed() {
        let sequences: [&[u32]; 2] = [&[2, 0], &[1, 1, 0]];
        let data = |scale, positions, normed| {
            let (spec, tensors) = case(scale, positions, normed);
            embedded(&spec, &tensors, &sequences).unwrap().data().to_vec()
        };
        assert_eq!(data(None, false, false), [-7.0, 11.0, 1.0, 2.0, 3.0, 5.0, 3.0, 5.0, 1.0, 2.0]);
        // Each sequence starts at position 0, which is row 1; positions are not scaled.
        let moved = [-13.5, 22.25, 1.0, 5.0, 6.5, 10.25, 5.0, 11.0, 10.0, -4.0];
        assert_eq!(data(Some(2.0), true, false), moved);
        // Two values without eps norm to -1 and 1.
        let normed = [-1.5, 2.5, -1.5, 2.5, -1.5, 2.5, -1.5, 2.5, 2.5, -3.5];
        assert_eq!(data(Some(2.0), true, true), normed);
    }

    #[test]
    fn positions_past_the_table_are_an_error() {
        let (spec, tensors) = case(None, true, false);
        assert!(embedded(&spec, &tensors, &[&[0, 0, 0]]).is_ok());
        let message = embedded(&spec, &tensors, &[&[0, 0, 0, 0]]).unwrap_err().to_string();
        assert_eq!(message, "the length of a sequence is 4, expected at most 3, the positions of `positions.weight`");
    }
}
