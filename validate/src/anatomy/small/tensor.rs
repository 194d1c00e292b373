//! Small tensors, and what changes their shapes.

/// Elements of the largest one, and its axes.
pub(super) const MOST: usize = 1 << 22;
pub(super) const MOST_AXES: usize = 16;

/// Row-major; numbers of every type are f64, and no is 0.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::anatomy) struct Tensor {
    pub(in crate::anatomy) shape: Vec<usize>,
    pub(in crate::anatomy) values: Vec<f64>,
    /// Whether its type has no fractions.
    pub(in crate::anatomy) whole: bool,
}

impl Tensor {
    /// `None` where the count of values is not that of the shape.
    pub(super) fn new(shape: Vec<usize>, values: Vec<f64>, whole: bool) -> Option<Self> {
        (count(&shape)? == values.len()).then_some(Self { shape, values, whole })
    }

    pub(super) fn filled(shape: Vec<usize>, value: f64, whole: bool) -> Option<Self> {
        let values = vec![value; count(&shape)?];
        Self::new(shape, values, whole)
    }

    #[allow(clippy::as_conversions)] // Sizes are far below 2^53.
    pub(super) fn sizes(sizes: &[usize]) -> Self {
        Self { shape: vec![sizes.len()], values: sizes.iter().map(|&size| size as f64).collect(), whole: true }
    }

    /// The one number that all of it is.
    pub(in crate::anatomy) fn uniform(&self) -> Option<f64> {
        let first = *self.values.first()?;
        self.values.iter().all(|value| *value == first).then_some(first)
    }

    /// The last two axes as they are or repeated, once for each place of the others.
    pub(in crate::anatomy) fn over(&self, rows: usize, columns: usize) -> Option<Vec<f64>> {
        let shape = common(&[&self.shape, &[rows, columns]])?;
        shape.ends_with(&[rows, columns]).then(|| self.expanded(&shape))?.map(|all| all.values)
    }

    pub(super) fn integers(&self) -> impl Iterator<Item = i64> {
        #[allow(clippy::as_conversions)] // Saturates, as ends of slices are meant to.
        self.values.iter().map(|value| *value as i64)
    }

    pub(super) fn one_integer(&self) -> Option<i64> {
        self.integers().next().filter(|_| self.values.len() == 1)
    }

    fn strides(&self) -> Vec<isize> {
        let mut stride = 1_isize;
        let mut strides: Vec<isize> = Vec::new();
        for size in self.shape.iter().rev() {
            strides.push(stride);
            stride = stride.saturating_mul(isize::try_from(*size).unwrap_or(isize::MAX));
        }
        strides.reverse();
        strides
    }

    /// The elements at `start` and each sum of steps from there.
    fn stepped(&self, shape: Vec<usize>, strides: &[isize], start: isize) -> Option<Self> {
        let count = count(&shape)?;
        let (mut values, mut place, mut at) = (Vec::with_capacity(count), vec![0_usize; shape.len()], start);
        for _ in 0..count {
            values.push(*self.values.get(usize::try_from(at).ok()?)?);
            for ((index, size), stride) in place.iter_mut().zip(&shape).zip(strides).rev() {
                *index += 1;
                at = at.wrapping_add(*stride);
                if *index < *size {
                    break;
                }
                at = at.wrapping_sub(stride.wrapping_mul(isize::try_from(*index).ok()?));
                *index = 0;
            }
        }
        Self::new(shape, values, self.whole)
    }

    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Option<Self> {
        Self::new(shape, self.values.clone(), self.whole)
    }

    pub(super) fn expanded(&self, shape: &[usize]) -> Option<Self> {
        let missing = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; missing];
        for ((size, stride), wanted) in self.shape.iter().zip(self.strides()).zip(shape.get(missing..)?) {
            strides.push(match size {
                1 => 0,
                size if size == wanted => stride,
                _ => return None,
            });
        }
        self.stepped(shape.to_vec(), &strides, 0)
    }

    pub(super) fn transposed(&self, order: &[usize]) -> Option<Self> {
        let strides = self.strides();
        let shape = order.iter().map(|axis| self.shape.get(*axis).copied()).collect::<Option<Vec<_>>>()?;
        let steps = order.iter().map(|axis| strides.get(*axis).copied()).collect::<Option<Vec<_>>>()?;
        (order.len() == self.shape.len()).then(|| self.stepped(shape, &steps, 0))?
    }

    /// `[start, end)` of one axis, as `Slice` counts.
    pub(super) fn sliced(&self, axis: usize, start: i64, end: i64, step: i64) -> Option<Self> {
        let (mut shape, mut strides) = (self.shape.clone(), self.strides());
        let size = i64::try_from(*shape.get(axis)?).ok()?;
        let from_end = |place: i64| if place < 0 { place.saturating_add(size) } else { place };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let start = from_end(start).clamp(low.max(0), high.max(0));
        let end = from_end(end).clamp(low, high);
        let length = if step > 0 { end - start } else { start - end };
        let length =
            length.max(0).checked_add(step.checked_abs()?.checked_sub(1)?)?.checked_div(step.checked_abs()?)?;
        let stride = strides.get_mut(axis)?;
        let first = isize::try_from(start).ok()?.checked_mul(*stride)?;
        *stride = stride.checked_mul(isize::try_from(step).ok()?)?;
        *shape.get_mut(axis)? = usize::try_from(length).ok()?;
        self.stepped(shape, &strides, first)
    }

    /// Outer sizes, the axis, inner sizes, each multiplied up.
    fn around(&self, axis: usize) -> Option<(usize, usize, usize)> {
        let outer = self.shape.get(..axis)?.iter().product();
        let inner = self.shape.get(axis + 1..)?.iter().product();
        Some((outer, *self.shape.get(axis)?, inner))
    }

    pub(super) fn gathered(&self, axis: usize, indices: &Self) -> Option<Self> {
        let (outer, size, inner) = self.around(axis)?;
        let mut shape = self.shape.get(..axis)?.to_vec();
        shape.extend(&indices.shape);
        shape.extend(self.shape.get(axis + 1..)?);
        let mut values = Vec::with_capacity(count(&shape)?);
        for block in 0..outer {
            for index in indices.integers() {
                let index = if index < 0 { index.checked_add(i64::try_from(size).ok()?)? } else { index };
                let index = usize::try_from(index).ok().filter(|index| *index < size)?;
                let start = (block * size + index) * inner;
                values.extend(self.values.get(start..start + inner)?);
            }
        }
        Self::new(shape, values, self.whole)
    }

    /// By places of the first axes, which lie along the last axis of `places`.
    pub(super) fn gathered_at(&self, places: &Self) -> Option<Self> {
        let (&axes, others) = places.shape.split_last()?;
        let inner = self.shape.get(axes..)?;
        let (size, strides) = (inner.iter().product::<usize>(), self.strides());
        let shape = [others, inner].concat();
        let mut values = Vec::with_capacity(count(&shape)?);
        let numbers: Vec<i64> = places.integers().collect();
        for place in numbers.chunks_exact(axes.max(1)) {
            let mut start = 0_usize;
            for ((index, size), stride) in place.iter().zip(&self.shape).zip(&strides) {
                let index = if *index < 0 { index.checked_add(i64::try_from(*size).ok()?)? } else { *index };
                let index = usize::try_from(index).ok().filter(|index| index < size)?;
                start = start.checked_add(index.checked_mul(usize::try_from(*stride).ok()?)?)?;
            }
            values.extend(self.values.get(start..start + size)?);
        }
        Self::new(shape, values, self.whole)
    }

    pub(super) fn joined(parts: &[&Self], axis: usize) -> Option<Self> {
        let first = parts.first()?;
        let (outer, _, _) = first.around(axis)?;
        let mut shape = first.shape.clone();
        *shape.get_mut(axis)? = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(*part.shape.get(axis)?))?;
        let mut values = Vec::with_capacity(count(&shape)?);
        for block in 0..outer {
            for part in parts {
                let (_, size, inner) = part.around(axis)?;
                values.extend(part.values.get(block * size * inner..(block + 1) * size * inner)?);
            }
        }
        Self::new(shape, values, first.whole)
    }

    /// Each line along an axis by itself: `line` gives as many values as it gets, or one.
    pub(super) fn by_line(&self, axis: usize, keep: bool, line: impl Fn(&[f64]) -> Vec<f64>) -> Option<Self> {
        let (outer, size, inner) = self.around(axis)?;
        let mut lines = Vec::new();
        for place in 0..outer * inner {
            let start = place.checked_div(inner)? * size * inner + place % inner;
            let values: Vec<f64> =
                (0..size).map(|step| self.values.get(start + step * inner).copied()).collect::<Option<_>>()?;
            lines.push(line(&values));
        }
        let length = lines.first()?.len();
        let mut values = Vec::new();
        for block in lines.chunks(inner) {
            for step in 0..length {
                for line in block {
                    values.push(*line.get(step)?);
                }
            }
        }
        let mut shape = self.shape.clone();
        if keep {
            *shape.get_mut(axis)? = length;
        } else {
            shape.remove(axis);
        }
        Self::new(shape, values, self.whole)
    }
}

/// Elements of a shape; `None` for more of them or of axes than are held, where sizes of zero count as one.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    if shape.len() > MOST_AXES {
        return None;
    }
    let most = shape.iter().try_fold(1_usize, |all, &size| all.checked_mul(size.max(1)));
    most.filter(|most| *most <= MOST).map(|most| if shape.contains(&0) { 0 } else { most })
}

/// The shape that several have together.
pub(super) fn common(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let mut common = vec![1; rank];
    for shape in shapes {
        for (size, wanted) in shape.iter().rev().zip(common.iter_mut().rev()) {
            match (*size, *wanted) {
                (1, _) => {}
                (size, 1) => *wanted = size,
                (size, wanted) if size == wanted => {}
                _ => return None,
            }
        }
    }
    Some(common)
}
