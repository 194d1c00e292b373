//! `.onnx_adapter` files: named tensors that ONNX Runtime hands to a graph as inputs, and onnxruntime-genai's `Adapters`
//! loads.
//!
//! ```text
//! root offset, "TORT" │ vtable │ Adapter │ parameter offsets │ Parameter … │ dims, name … │ length, data …
//! ```
//!
//! A FlatBuffer of the schema `onnxruntime/lora/adapter_format/adapter_schema.fbs`:
//!
//! ```text
//! table Parameter { name: string; dims: [int64]; data_type: int; raw_data: [ubyte] (force_align: 8); }
//! table Adapter { format_version: int; adapter_version: int; model_version: int; parameters: [Parameter]; }
//! ```
//!
//! Both tables have four fields of four bytes, so one vtable serves all. The `flatbuffers` crate would hold a file whole
//! and write it back to front; here all offsets are known before any data is, and data is written where it belongs, a
//! tile at a time, as that of the model.

use std::collections::BTreeMap;

use crate::{
    Error, Plan, Result,
    graph::{Dtype, Graph},
    plan::{Job, Rows, Sink, Slot},
};

/// A file that a session may be given beside the graph.
#[derive(Debug)]
pub struct AdapterFile {
    /// A plan without a graph: the file's name, its length, and the data in it.
    pub data: Plan,
    /// What stands between the data, by offset.
    frame: Vec<(u64, Vec<u8>)>,
}

/// A tensor of the file, `[k, n]`.
#[derive(Debug)]
pub(crate) struct Parameter {
    /// That of the graph's input.
    pub(crate) name: String,
    pub(crate) rows: Rows,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// The version of the format that ONNX Runtime 1.20 to 1.31 reads.
const FORMAT_VERSION: i32 = 1;
/// For the use of clients, which none is known to make.
const ADAPTER_VERSION: i32 = 1;
const MODEL_VERSION: i32 = 1;

/// Readers follow signed offsets of 32 bits.
const LONGEST: u64 = i32::MAX as u64;

/// ONNX Runtime computes on the data where it lies; a line of the cache suits every kernel.
const ALIGNMENT: u64 = 64;

/// Lengths of the vtable, of a table and of an offset.
const VTABLE: u64 = 12;
const TABLE: u64 = 20;
const WORD: u64 = 4;

const ROOT: u64 = 8 + VTABLE;

impl AdapterFile {
    /// Lays out a file of parameters of one dtype.
    ///
    /// # Errors
    /// `Unsupported` where they take more than 2 GiB.
    pub(crate) fn new(name: &str, dtype: Dtype, parameters: Vec<Parameter>) -> Result<Self> {
        let file = format!("{name}.onnx_adapter");
        let wrong_dtype = || Error::graph(&file, format!("no adapters of type {}", dtype.name()));
        let data_type = data_type(dtype).ok_or_else(wrong_dtype)?;
        let mut frame = Frame::default();
        let tables = ROOT + TABLE + WORD * (1 + parameters.len() as u64);
        frame.word(ROOT);
        frame.bytes(b"TORT");
        [VTABLE, TABLE, 4, 8, 12, 16].iter().for_each(|value| frame.bytes(&(*value as u16).to_le_bytes()));
        frame.table();
        [FORMAT_VERSION, ADAPTER_VERSION, MODEL_VERSION].iter().for_each(|version| frame.bytes(&version.to_le_bytes()));
        frame.offset(ROOT + TABLE);
        frame.word(parameters.len() as u64);
        for index in 0..parameters.len() as u64 {
            frame.offset(tables + index * TABLE);
        }

        // What the tables point to stands behind them all.
        let mut end = tables + parameters.len() as u64 * TABLE;
        let places: Vec<_> = parameters
            .iter()
            .map(|parameter| {
                // The elements of a vector are aligned, not its length before them.
                let dims = (end + WORD).next_multiple_of(8) - WORD;
                let name = dims + WORD + 2 * 8;
                end = (name + WORD + parameter.name.len() as u64 + 1).next_multiple_of(WORD);
                (dims, name)
            })
            .collect();
        let mut slots = Vec::with_capacity(parameters.len());
        for Parameter { n, k, .. } in &parameters {
            let length = (*n as u64).checked_mul(*k as u64).and_then(|count| count.checked_mul(dtype.bytes()));
            let offset = (end + WORD).next_multiple_of(ALIGNMENT);
            let after = length.and_then(|length| offset.checked_add(length));
            end = after.filter(|after| *after <= LONGEST).ok_or_else(|| Error::Unsupported {
                what: format!("{file} would be longer than the 2 GiB that the format holds"),
                hint: "bake the adapter in with adapter_path, or take fp16".to_owned(),
            })?;
            slots.push(Slot { offset, length: end - offset });
        }
        for ((dims, name), slot) in places.iter().zip(&slots) {
            frame.table();
            frame.offset(*name);
            frame.offset(*dims);
            frame.word(data_type);
            frame.offset(slot.offset - WORD);
        }
        for (parameter, (dims, name)) in parameters.iter().zip(&places) {
            frame.pad_to(*dims);
            frame.word(2);
            [parameter.k, parameter.n].iter().for_each(|dim| frame.bytes(&(*dim as u64).to_le_bytes()));
            frame.pad_to(*name);
            frame.word(parameter.name.len() as u64);
            frame.bytes(parameter.name.as_bytes());
            frame.bytes(&[0]);
        }
        let mut pieces = vec![(0, frame.text)];
        pieces.extend(slots.iter().map(|slot| (slot.offset - WORD, (slot.length as u32).to_le_bytes().to_vec())));

        let job = |(slot, Parameter { rows, n, k, .. }): (usize, Parameter)| Job {
            rows,
            n,
            k,
            sink: Sink::Transposed { slot, dtype },
        };
        let jobs = parameters.into_iter().enumerate().map(job).collect();
        let data = Plan {
            graph: Graph::default(),
            data_file: file,
            slots,
            data_bytes: end,
            jobs,
            tensors: BTreeMap::new(),
            weights: 0,
            weight_bytes: 0,
            adapters: Vec::new(),
        };
        Ok(Self { data, frame: pieces })
    }

    /// What stands between the data: offsets, and bytes to be written there.
    pub(crate) fn frame(&self) -> &[(u64, Vec<u8>)] {
        &self.frame
    }
}

/// The front of a file, in the making.
#[derive(Default)]
struct Frame {
    text: Vec<u8>,
}

impl Frame {
    fn at(&self) -> u64 {
        self.text.len() as u64
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// Everything here is below [`LONGEST`].
    fn word(&mut self, value: u64) {
        self.bytes(&(value as u32).to_le_bytes());
    }

    /// A pointer to what stands further on.
    fn offset(&mut self, to: u64) {
        self.word(to - self.at());
    }

    /// The head of a table: how far back its vtable is.
    fn table(&mut self) {
        self.word(self.at() - 8);
    }

    fn pad_to(&mut self, at: u64) {
        self.text.resize(at as usize, 0);
    }
}

/// `TensorDataType` of the schema, numbered as in ONNX.
fn data_type(dtype: Dtype) -> Option<u64> {
    match dtype {
        Dtype::F32 => Some(1),
        Dtype::F16 => Some(10),
        Dtype::Bf16 => Some(16),
        Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::I8 | Dtype::U4 | Dtype::I4 | Dtype::F8E4M3 | Dtype::Bool => None,
    }
}
