//! A table of numbers inside a tensor, and a matrix made of three of them.

use std::ops::Range;

use super::Source;
use crate::Result;
use crate::graph::Graph;

/// Where the numbers of a table lie in a tensor, for cell `(i, j)` of the matrix as it is stored: at
/// `base + i / rows · stride + j / columns · step`.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub(super) tensor: String,
    /// Of a code packed into bytes; `None` where the tensor's own elements are the numbers.
    pub(super) packed: Option<u32>,
    pub(super) base: u64,
    /// Rows that share a number, and the distance between two rows of numbers.
    pub(super) rows: usize,
    pub(super) stride: u64,
    /// The same for columns.
    pub(super) columns: usize,
    pub(super) step: u64,
}

impl Plane {
    /// The index of a cell. It was checked against the tensor when the plane was made.
    fn index(&self, row: usize, column: usize) -> u64 {
        let part = |cell: usize, shared: usize, distance: u64| {
            u64::try_from(cell.checked_div(shared).unwrap_or(0)).unwrap_or(u64::MAX).saturating_mul(distance)
        };
        let row = part(row, self.rows, self.stride);
        self.base.saturating_add(row).saturating_add(part(column, self.columns, self.step))
    }

    /// The numbers of a row, for these columns: one for each `columns` of them, from the one that holds the first on.
    fn read(&self, graph: &Graph, row: usize, columns: &Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let first = self.index(row, columns.start);
        let last = self.index(row, columns.end.saturating_sub(1).max(columns.start));
        let count = usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(usize::MAX);
        let Some(tensor) = graph.initializer(&self.tensor) else {
            return Err(graph.error(&self.tensor, "is no constant of the graph"));
        };
        match self.packed {
            Some(bits) => graph.codes(tensor, u64::from(bits), first, count, out)?,
            None => graph.numbers(tensor, first, count, out)?,
        }
        if out.len() == count { Ok(()) } else { Err(graph.error(&self.tensor, "ends before its matrix does")) }
    }

    /// Which of the numbers that [`Plane::read`] gave belongs to a column.
    fn position(&self, column: usize, columns: &Range<usize>) -> usize {
        if self.step == 0 {
            return 0;
        }
        let block = |column: usize| column.checked_div(self.columns).unwrap_or(0);
        block(column).saturating_sub(block(columns.start))
    }
}

/// Buffers of one reading.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Source {
    pub(super) fn rows(&self, graph: &Graph, rows: Range<usize>, k: usize, out: &mut Vec<f32>) -> Result<()> {
        let groups = self.groups(graph, k)?;
        let mut buffers = Buffers::default();
        out.clear();
        if !self.transposed {
            for row in rows {
                self.stored_row(graph, row, &(0..k), groups.as_deref(), &mut buffers)?;
                out.extend_from_slice(&buffers.values);
            }
            return Ok(());
        }
        out.resize(rows.len().saturating_mul(k), 0.0);
        for column in 0..k {
            self.stored_row(graph, column, &rows, None, &mut buffers)?;
            for (row, value) in out.chunks_exact_mut(k).zip(&buffers.values) {
                if let Some(cell) = row.get_mut(column) {
                    *cell = *value;
                }
            }
        }
        Ok(())
    }

    /// Leaves in `buffers.values` some columns of a row of storage.
    fn stored_row(
        &self,
        graph: &Graph,
        row: usize,
        columns: &Range<usize>,
        groups: Option<&[usize]>,
        buffers: &mut Buffers,
    ) -> Result<()> {
        self.values.read(graph, row, columns, &mut buffers.values)?;
        let Some(scales) = &self.scales else { return Ok(()) };
        scales.read(graph, row, columns, &mut buffers.scales)?;
        if let Some(zeros) = &self.zeros {
            zeros.read(graph, row, columns, &mut buffers.zeros)?;
        }
        for (column, value) in columns.clone().zip(&mut buffers.values) {
            let position = |plane: &Plane| match groups {
                Some(groups) => groups.get(column).copied().unwrap_or(usize::MAX),
                None => plane.position(column, columns),
            };
            let zero = self.zeros.as_ref().map(|plane| buffers.zeros.get(position(plane)).copied());
            let zero = zero.map_or(Some(self.zero), |zero| zero);
            let scale = buffers.scales.get(position(scales)).copied();
            let (Some(zero), Some(scale)) = (zero, scale) else {
                return Err(graph.error(&scales.tensor, "has no scale for some column"));
            };
            *value = (*value - zero) * scale;
        }
        Ok(())
    }

    /// The block of each column.
    fn groups(&self, graph: &Graph, k: usize) -> Result<Option<Vec<usize>>> {
        let Some(name) = &self.groups else { return Ok(None) };
        let groups: Vec<usize> = graph
            .integers_of(name)?
            .iter()
            .take(k)
            .map(|&group| usize::try_from(group).unwrap_or(usize::MAX))
            .collect();
        Ok(Some(groups))
    }
}
