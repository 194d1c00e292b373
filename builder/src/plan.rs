//! Everything about a package that is known before a weight is read: graph, data file layout, jobs.

use std::collections::BTreeMap;

use genai_architectures::Rope;
use genai_quantize::{IntScheme, ScaleDtype};

use crate::{
    adapter_file::AdapterFile,
    graph::{Dtype, Graph, to_model},
};

/// A package to be: printable, and complete but for the bytes of the weights.
#[derive(Debug)]
pub struct Plan {
    pub graph: Graph,
    /// Name of the data file, beside the graph.
    pub data_file: String,
    pub slots: Vec<Slot>,
    /// Length of the data file in bytes.
    pub data_bytes: u64,
    pub jobs: Vec<Job>,
    /// Every tensor that the jobs read, with the shape that it must have.
    pub tensors: BTreeMap<String, Vec<u64>>,
    /// Learned weights in linears and tables, and the bytes that they take up with scales and zero points.
    pub weights: u64,
    pub weight_bytes: u64,
    /// Files that hold low-rank updates which a session may be given.
    pub adapters: Vec<AdapterFile>,
}

/// A stretch of the data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub offset: u64,
    pub length: u64,
}

/// A matrix to be made row by row: what its rows are, and where and how they are stored.
#[derive(Debug, Clone)]
pub struct Job {
    pub rows: Rows,
    /// Number of rows, the out features of a linear.
    pub n: usize,
    /// Length of a row, the in features of a linear.
    pub k: usize,
    pub sink: Sink,
}

/// Where rows come from.
#[derive(Debug, Clone)]
pub enum Rows {
    /// Rows of tensors, one after another, each value raised by `plus`.
    Checkpoint { segments: Vec<Segment>, plus: f32 },
    /// Rotary tables, one after another: the row of a position holds its cosines (or sines).
    Rotary { rope: Rope, part: RotaryPart, tables: Vec<RotaryTable> },
    /// Second factors of low-rank updates, one after another: a row is that of its own factor, and zero elsewhere.
    Factors(Vec<Factor>),
}

/// Rows of a second factor `[out, rank]`, as rows of a wider matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    pub rows: usize,
    /// `None` where nothing is added to these outputs: zeros.
    pub source: Option<FactorSource>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FactorSource {
    pub tensor: String,
    /// The first row that is taken.
    pub first: usize,
    pub rank: usize,
    /// Where these columns begin in the wider matrix.
    pub column: usize,
    /// By what they are multiplied.
    pub scale: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryPart {
    Cos,
    Sin,
}

/// Positions `0..rows`, with the frequencies that hold for a sequence of `length` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryTable {
    pub length: usize,
    pub rows: usize,
}

impl Rows {
    /// What is read of the checkpoint, where anything is.
    pub(crate) fn segments(&self) -> &[Segment] {
        match self {
            Self::Checkpoint { segments, .. } => segments,
            Self::Rotary { .. } | Self::Factors(_) => &[],
        }
    }
}

/// Consecutive rows of a matrix in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    pub source: Source,
    pub rows: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Rows of one value.
    Constant(f32),
    /// Rows of a tensor `[.., k]` from `first` on.
    Rows { tensor: String, first: usize },
    /// Columns of a tensor `[k, total]` from `first` on.
    Columns { tensor: String, first: usize, total: usize },
}

impl Rows {
    /// The tensors that are read, in order, some several times.
    pub fn tensors(&self) -> Vec<&str> {
        match self {
            Self::Checkpoint { segments, .. } => {
                segments.iter().filter_map(|segment| segment.source.tensor()).collect()
            }
            Self::Rotary { .. } => Vec::new(),
            Self::Factors(factors) => factors.iter().filter_map(Factor::tensor).collect(),
        }
    }
}

impl Source {
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Self::Constant(_) => None,
            Self::Rows { tensor, .. } | Self::Columns { tensor, .. } => Some(tensor),
        }
    }

    /// How many rows this begins after another that reads the same tensor the same way. Rows of a constant are alike.
    pub(crate) fn rows_after(&self, other: &Self) -> Option<isize> {
        match (self, other) {
            (Self::Constant(a), Self::Constant(b)) => (a.to_bits() == b.to_bits()).then_some(0),
            (Self::Rows { tensor: a, first }, Self::Rows { tensor: b, first: start }) if a == b => {
                Some(*first as isize - *start as isize)
            }
            (Self::Columns { tensor: a, first, total: m }, Self::Columns { tensor: b, first: start, total: n })
                if (a, m) == (b, n) =>
            {
                Some(*first as isize - *start as isize)
            }
            _ => None,
        }
    }

    /// The source of the rows that follow the first `rows`.
    pub(crate) fn skip(&self, rows: usize) -> Self {
        let mut rest = self.clone();
        match &mut rest {
            Self::Constant(_) => {}
            Self::Rows { first, .. } | Self::Columns { first, .. } => *first += rows,
        }
        rest
    }
}

/// How rows are stored. Numbers are f32 until here and rounded once.
#[derive(Debug, Clone, Copy)]
pub enum Sink {
    /// `[n, k]`
    Dense { slot: usize, dtype: Dtype },
    /// `[k, n]`
    Transposed { slot: usize, dtype: Dtype },
    /// Codes, scales `[n, blocks]`, and zero points, as the layout has them.
    Blocks {
        scheme: IntScheme,
        layout: CodeLayout,
        scale_dtype: ScaleDtype,
        codes: usize,
        scales: usize,
        zero_points: Option<usize>,
    },
}

/// How codes and zero points lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeLayout {
    /// As `MatMulNBits` takes them: codes uint8 `[n, blocks, block bytes]`, zero points uint8 `[n, bytes]`.
    Blocks,
    /// The same with zero points where the scheme has none: the middle code.
    BlocksWithZeroPoints,
    /// As tensors of one code each: `[n, blocks * block size]`, and zero points `[n, blocks]` without gaps between rows.
    /// Unsigned where there are zero points, else signed.
    Flat,
}

/// Lays stretches one behind another.
///
/// Tensors that a runtime may map or load by pages start on a page; small ones on a cache line.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub(crate) slots: Vec<Slot>,
    pub(crate) end: u64,
}

impl Layout {
    const PAGE: u64 = 4096;
    const LINE: u64 = 64;

    /// Reserves `length` bytes and returns the index of the slot.
    pub(crate) fn reserve(&mut self, length: u64) -> usize {
        let alignment = if length >= 16 * Self::PAGE { Self::PAGE } else { Self::LINE };
        let offset = self.end.next_multiple_of(alignment);
        self.slots.push(Slot { offset, length });
        self.end = offset + length;
        self.slots.len() - 1
    }
}

impl Plan {
    /// The graph as the bytes of `model.onnx`.
    pub fn model_bytes(&self) -> Vec<u8> {
        use prost::Message;
        to_model(&self.graph, &self.slots, &self.data_file).encode_to_vec()
    }

    /// This plan, then those of the adapters' files.
    pub(crate) fn with_adapters(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(self).chain(self.adapters.iter().map(|adapter| &adapter.data))
    }

    /// Length of the data file and of those of the adapters, in bytes.
    pub(crate) fn all_data_bytes(&self) -> u64 {
        self.with_adapters().map(|plan| plan.data_bytes).sum()
    }

    /// The jobs of the data file, then those of the adapters' files.
    pub fn all_jobs(&self) -> impl Iterator<Item = &Job> {
        self.with_adapters().flat_map(|plan| &plan.jobs)
    }

    /// Bits per weight of linears and tables, scales and zero points included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.weight_bytes as f64 / self.weights as f64
    }
}

impl CodeLayout {
    /// Bytes that the codes and the zero points of so many rows take up.
    pub fn bytes_of_rows(self, scheme: IntScheme, k: usize, rows: usize) -> [usize; 2] {
        let blocks = scheme.blocks(k);
        match self {
            Self::Blocks => [rows * scheme.code_bytes_per_row(k), rows * scheme.zero_point_bytes_per_row(k)],
            Self::BlocksWithZeroPoints => {
                [rows * scheme.code_bytes_per_row(k), rows * (blocks * scheme.bits()).div_ceil(8)]
            }
            Self::Flat => {
                let zero_points = if scheme.is_symmetric() { 0 } else { (rows * blocks * scheme.bits()).div_ceil(8) };
                [rows * scheme.code_bytes_per_row(k), zero_points]
            }
        }
    }

    /// The fewest rows that start and end at a byte each.
    pub fn rows_at_a_time(self, scheme: IntScheme, k: usize) -> usize {
        let shares_a_byte = !scheme.is_symmetric() && !(scheme.blocks(k) * scheme.bits()).is_multiple_of(8);
        match self {
            Self::Flat if shares_a_byte => 2,
            Self::Blocks | Self::BlocksWithZeroPoints | Self::Flat => 1,
        }
    }
}

impl Factor {
    pub fn tensor(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.tensor.as_str())
    }
}

impl Job {
    /// The fewest rows that can be made apart from the others.
    pub fn rows_at_a_time(&self) -> usize {
        match self.sink {
            Sink::Dense { .. } | Sink::Transposed { .. } => 1,
            Sink::Blocks { scheme, layout, .. } => layout.rows_at_a_time(scheme, self.k),
        }
    }

    /// What the job makes, for messages and progress: the first tensor it reads.
    pub fn subject(&self) -> &str {
        match &self.rows {
            Rows::Checkpoint { segments, .. } => {
                segments.iter().find_map(|segment| segment.source.tensor()).unwrap_or("a constant")
            }
            Rows::Factors(factors) => factors.iter().find_map(Factor::tensor).unwrap_or("a constant"),
            Rows::Rotary { part: RotaryPart::Cos, .. } => "cos_cache",
            Rows::Rotary { part: RotaryPart::Sin, .. } => "sin_cache",
        }
    }

    /// Bytes that one row takes up in the data file.
    pub fn stored_row_bytes(&self) -> u64 {
        match &self.sink {
            Sink::Dense { dtype, .. } | Sink::Transposed { dtype, .. } => self.k as u64 * dtype.bytes(),
            Sink::Blocks { scheme, layout, scale_dtype, .. } => {
                let scales = scheme.blocks(self.k) * scale_dtype.size();
                // Of a byte that two rows share, half: all rows together are to come to what is stored.
                const ROWS: usize = 8;
                let [codes, zero_points] = layout.bytes_of_rows(*scheme, self.k, ROWS);
                (scales + (codes + zero_points) / ROWS) as u64
            }
        }
    }
}
