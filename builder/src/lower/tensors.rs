//! Which parts of which tensors of the checkpoint the package holds: all of each, and none twice.

use std::{collections::BTreeMap, ops::Range};

use crate::{Error, Result};

#[derive(Debug, Default)]
pub(super) struct Tensors {
    taken: BTreeMap<String, Taken>,
}

#[derive(Debug)]
struct Taken {
    shape: Vec<usize>,
    /// The dimension that parts are cut along.
    axis: usize,
    ranges: Vec<Range<usize>>,
}

impl Tensors {
    /// All of a tensor.
    pub(super) fn whole(&mut self, tensor: &str, shape: &[usize]) {
        self.part(tensor, shape, 0, std::iter::once(0..shape.first().copied().unwrap_or(1)));
    }

    /// Stretches of one dimension of a tensor.
    pub(super) fn part(
        &mut self,
        tensor: &str,
        shape: &[usize],
        axis: usize,
        ranges: impl IntoIterator<Item = Range<usize>>,
    ) {
        let fresh = || Taken { shape: shape.to_vec(), axis, ranges: Vec::new() };
        self.taken.entry(tensor.to_owned()).or_insert_with(fresh).ranges.extend(ranges);
    }

    /// The tensors with their shapes.
    ///
    /// # Errors
    /// A part that is taken twice, or not at all: a family describes its fused tensors wrongly.
    pub(super) fn accounted(self) -> Result<BTreeMap<String, Vec<u64>>> {
        self.taken
            .into_iter()
            .map(|(tensor, mut taken)| {
                taken.ranges.sort_by_key(|range| range.start);
                let mut end = 0;
                for range in &taken.ranges {
                    if range.start != end {
                        return Err(Error::graph(&tensor, format!("parts {:?} leave gaps or overlap", taken.ranges)));
                    }
                    end = range.end;
                }
                if end != taken.shape.get(taken.axis).copied().unwrap_or(1) {
                    return Err(Error::graph(&tensor, format!("only the first {end} of {:?} are used", taken.shape)));
                }
                Ok((tensor, taken.shape.iter().map(|dim| *dim as u64).collect()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounted(ranges: &[Range<usize>]) -> Result<BTreeMap<String, Vec<u64>>> {
        let mut tensors = Tensors::default();
        for range in ranges {
            tensors.part("fused", &[6, 2], 0, [range.clone()]);
        }
        tensors.accounted()
    }

    #[test]
    fn parts_must_cover_a_tensor_exactly_once() {
        assert_eq!(accounted(&[4..6, 0..4]).unwrap()["fused"], [6, 2]);
        for wrong in [std::slice::from_ref(&(0..4)), &[0..4, 3..6], &[0..2, 4..6], &[0..6, 0..6]] {
            assert!(accounted(wrong).is_err(), "{wrong:?}");
        }
    }
}
