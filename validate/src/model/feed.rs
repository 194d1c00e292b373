//! The inputs of a run but for its cache.

use std::iter::repeat_n;

use ort::value::{DynTensor, TensorElementType as Element};

use super::tensors::integers;
use super::wiring::{Paged, PositionIds, ScalarInput, Wiring};
use crate::Result;

/// New tokens of one sequence, and what it has in the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) past: Past,
}

/// Where the tokens of one sequence are among the columns of its batch: `first` tokens, then a gap that the longer
/// prompts of others made, then the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) tokens: usize,
    pub(crate) first: usize,
    pub(crate) gap: usize,
}

impl Past {
    /// Behind a prompt, without a gap.
    pub(crate) fn of(tokens: usize) -> Self {
        Self { tokens, first: tokens, gap: 0 }
    }

    pub(crate) fn columns(self) -> usize {
        self.tokens + self.gap
    }

    /// After a run of `width` columns in which the row had `own` tokens.
    pub(crate) fn after(self, own: usize, width: usize) -> Self {
        let tokens = self.tokens + own;
        let padded = width.saturating_sub(own);
        match padded {
            0 => Self { tokens, ..self },
            _ => Self { tokens, first: tokens, gap: self.gap + padded },
        }
    }

    fn is_real(self, column: usize) -> bool {
        column < self.columns() && !(self.first..self.first + self.gap).contains(&column)
    }
}

pub(crate) type Inputs = Vec<(String, DynTensor)>;

impl Wiring {
    /// For rows padded on the right to `width` new tokens, with as many columns of each in the cache.
    ///
    /// Real tokens count on from their row's past, pads have position 0 and are masked, as the peer feeds them.
    pub(crate) fn token_inputs(&self, rows: &[Row], width: usize, pad: u32) -> Result<Inputs> {
        let shape = [rows.len(), width];
        let pads = |row: &Row| width.saturating_sub(row.ids.len());
        let mut inputs = Vec::with_capacity(3);

        let ids = rows.iter().flat_map(|row| row.ids.iter().copied().chain(repeat_n(pad, pads(row))));
        inputs.push((
            self.input_ids.name.clone(),
            integers(self.input_ids.element, &shape, ids.map(i64::from).collect())?,
        ));

        if let Some(mask) = &self.attention_mask {
            let columns = rows.iter().map(|row| row.past.columns()).max().unwrap_or(0);
            let mut values = Vec::with_capacity(rows.len() * (columns + width));
            for row in rows {
                let end = values.len() + columns + width;
                values.extend((0..row.past.columns()).map(|column| i64::from(row.past.is_real(column))));
                values.resize(values.len() + row.ids.len(), 1);
                values.resize(end, 0);
            }
            let shape = [rows.len(), columns + width];
            inputs.push((mask.name.clone(), integers(mask.element, &shape, values)?));
        }
        if let Some(PositionIds { input, planes }) = &self.position_ids {
            let row_positions = |row: &Row| {
                let real = (row.past.tokens..row.past.tokens + row.ids.len()).map(|position| position as i64);
                real.chain(repeat_n(0, pads(row))).collect::<Vec<_>>()
            };
            let plane: Vec<i64> = rows.iter().flat_map(row_positions).collect();
            let (shape, values) = match planes {
                None => (shape.to_vec(), plane),
                Some(planes) => (vec![*planes, rows.len(), width], plane.repeat(*planes)),
            };
            inputs.push((input.name.clone(), integers(input.element, &shape, values)?));
        }
        for (scalar, input) in &self.scalars {
            let total = rows.iter().map(|row| row.past.tokens + row.ids.len()).max().unwrap_or(0) as i64;
            let (shape, value): (&[usize], _) = match scalar {
                ScalarInput::TotalLength => (&[1], total),
                ScalarInput::LastPosition => (&[1, 1], total - 1),
                ScalarInput::AllLogits => (&[1], 0),
            };
            inputs.push((input.name.clone(), integers(input.element, shape, vec![value])?));
        }
        Ok(inputs)
    }

    /// For rows that come one behind the other, without pads; row `n` has the pages from `n * each` on.
    pub(crate) fn packed_inputs(&self, paged: &Paged, rows: &[Row], (page, each): (usize, usize)) -> Result<Inputs> {
        let ids: Vec<i64> = rows.iter().flat_map(|row| row.ids).map(|&id| i64::from(id)).collect();
        let mut starts = vec![0];
        let (mut newest, mut totals) = (0, Vec::new());
        for row in rows {
            starts.push(starts.last().copied().unwrap_or(0) + row.ids.len() as i64);
            newest = newest.max(row.ids.len() as i64);
            totals.push((row.past.tokens + row.ids.len()) as i64);
        }
        let used = rows.iter().map(|row| (row.past.tokens + row.ids.len()).div_ceil(page)).max().unwrap_or(0);
        let pages = rows.iter().enumerate().flat_map(|(index, row)| {
            let own = (row.past.tokens + row.ids.len()).div_ceil(page);
            (0..used).map(move |place| if place < own { (index * each + place) as i64 } else { -1 })
        });
        let pasts = rows.iter().map(|row| row.past.tokens as i64).collect();
        let bounds = [newest, totals.iter().copied().max().unwrap_or(0), totals.iter().copied().min().unwrap_or(0)];

        let int = Element::Int32;
        let mut inputs = vec![
            (self.input_ids.name.clone(), integers(self.input_ids.element, &[ids.len()], ids)?),
            (paged.starts.clone(), integers(int, &[starts.len()], starts)?),
            (paged.pasts.clone(), integers(int, &[rows.len()], pasts)?),
            (paged.pages.clone(), integers(int, &[rows.len(), used], pages.collect())?),
        ];
        if let Some(name) = &paged.bounds {
            inputs.push((name.clone(), integers(int, &[3], bounds.to_vec())?));
        }
        Ok(inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_behind_the_prompt() {
        let short = Past::default().after(2, 5);
        assert_eq!(short, Past { tokens: 2, first: 2, gap: 3 });
        let later = short.after(1, 1).after(1, 1);
        let real: Vec<bool> = (0..8).map(|column| later.is_real(column)).collect();
        assert_eq!(real, [true, true, false, false, false, true, true, false]);
        assert_eq!(Past::default().after(5, 5).after(1, 1), Past { tokens: 6, first: 0, gap: 0 });
    }
}
