//! From what a model is to how it is computed and stored: the graph, and a job for every weight.
//!
//! ```text
//! input_ids ─► embedding ─► layers ─► final norm ─► head ─► logits
//! attention_mask ─► mask (lengths) ───┘  └─► present.{i}.key, present.{i}.value
//! ```
//!
//! Pure: nothing is read. Node names and public names follow the scheme that recipes and users of onnxruntime-genai key
//! on: `/model/layers.{i}/attn/qkv_proj/MatMul` with the initializer `model.layers.{i}.attn.qkv_proj.MatMul.weight`.

mod attention;
mod embedding;
mod layer;
mod linear;
mod mask;
mod rotary;

use std::collections::BTreeMap;

use genai_architectures::DecoderSpec;
use genai_quantize::ScaleDtype;

use crate::{
    Error, Precision, Recipe, Result, Target,
    graph::{Dim, Dtype, Fact, Graph, Value},
    plan::{Job, Layout, Plan, Rows, Segment, Sink},
};

/// What the user asked for, every default decided.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub target: &'static Target,
    pub precision: Precision,
    pub recipe: Recipe,
    /// `MatMulNBits` accuracy level, 0 to 4.
    pub accuracy_level: u8,
}

/// Plans the package of a decoder. `data_file` is the name of the file that will hold the weights.
pub fn lower(spec: &DecoderSpec, settings: &Settings, data_file: &str) -> Result<Plan> {
    let dtype = settings.target.activation_dtype(settings.precision)?;
    let mut lowering = Lowering {
        spec,
        settings,
        dtype,
        graph: Graph::default(),
        layout: Layout::default(),
        jobs: Vec::new(),
        tensors: BTreeMap::new(),
        weights: 0,
        weight_bytes: 0,
        rotary: BTreeMap::new(),
        position_ids: None,
    };
    lowering.decoder()?;
    Ok(Plan {
        graph: lowering.graph,
        data_file: data_file.to_owned(),
        data_bytes: lowering.layout.end,
        slots: lowering.layout.slots,
        jobs: lowering.jobs,
        tensors: lowering.tensors,
        weights: lowering.weights,
        weight_bytes: lowering.weight_bytes,
    })
}

/// The graph so far, and what it is made from.
struct Lowering<'a> {
    spec: &'a DecoderSpec,
    settings: &'a Settings,
    /// Of activations, cache, norms, scales and float weights.
    dtype: Dtype,
    graph: Graph,
    layout: Layout,
    jobs: Vec<Job>,
    tensors: BTreeMap<String, Vec<u64>>,
    weights: u64,
    weight_bytes: u64,
    /// Cosine and sine of each rotary table made so far.
    rotary: BTreeMap<usize, (Value, Value)>,
    position_ids: Option<Value>,
}

impl Lowering<'_> {
    fn decoder(&mut self) -> Result<()> {
        let rows = [Dim::Symbol("batch_size"), Dim::Symbol("sequence_length")];
        let input_ids = self.graph.input("input_ids", Fact::new(Dtype::I64, rows.to_vec()))?;
        let mask_shape = vec![Dim::Symbol("batch_size"), Dim::Symbol("total_sequence_length")];
        let attention_mask = self.graph.input("attention_mask", Fact::new(Dtype::I64, mask_shape))?;
        if self.rotates_outside_attention() {
            self.position_ids = Some(self.graph.input("position_ids", Fact::new(Dtype::I64, rows.to_vec()))?);
        }
        let caches = self.past()?;
        let lengths = self.lengths(attention_mask)?;

        let spec = self.spec;
        let (embedded, table) = self.embed(input_ids)?;
        let mut stream = layer::Stream::new(embedded);
        let mut presents = Vec::new();
        for (index, (layer, past)) in spec.layers.iter().zip(caches).enumerate() {
            let present;
            (stream, present) = self.layer(index, layer, stream, past, &lengths)?;
            presents.push(present);
        }
        let path = format!("/model/layers.{}/final_norm_layernorm", spec.layers.len());
        let normed = self.last_norm(&stream, &spec.final_norm, &path)?;
        let logits = self.head(normed, &table)?;

        self.graph.output(logits, "logits")?;
        for (index, (key, _)) in presents.iter().enumerate() {
            self.graph.output(*key, &format!("present.{index}.key"))?;
        }
        for (index, (_, value)) in presents.iter().enumerate() {
            self.graph.output(*value, &format!("present.{index}.value"))?;
        }
        Ok(())
    }

    /// Adds an initializer of one slot whose bytes the caller's job writes.
    fn stored(&mut self, name: &str, dtype: Dtype, dims: &[usize]) -> Result<(Value, usize)> {
        let dims: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
        let bytes = dims.iter().try_fold(dtype.bytes(), |product, dim| product.checked_mul(*dim));
        let bytes = bytes.ok_or_else(|| Error::graph(name, "the tensor is too large"))?;
        let slot = self.layout.reserve(bytes);
        Ok((self.graph.initializer(name, dtype, &dims, slot)?, slot))
    }

    /// A vector of the checkpoint, `[length]`, in the dtype of activations.
    fn vector(&mut self, name: &str, tensor: String, length: usize) -> Result<Value> {
        let (value, slot) = self.stored(name, self.dtype, &[length])?;
        self.require(&tensor, &[length])?;
        let rows = Rows::Checkpoint(vec![Segment { tensor: Some(tensor), rows: length }]);
        self.jobs.push(Job { rows, n: length, k: 1, sink: Sink::Dense { slot, dtype: self.dtype } });
        Ok(value)
    }

    /// Notes that a tensor of the checkpoint is read, and the shape it must have.
    fn require(&mut self, tensor: &str, shape: &[usize]) -> Result<()> {
        let shape: Vec<u64> = shape.iter().map(|dim| *dim as u64).collect();
        match self.tensors.insert(tensor.to_owned(), shape) {
            None => Ok(()),
            Some(_) => Err(Error::graph(tensor, "the tensor is read twice")),
        }
    }

    fn scale_dtype(&self) -> Result<ScaleDtype> {
        match self.dtype {
            Dtype::F32 => Ok(ScaleDtype::F32),
            Dtype::F16 => Ok(ScaleDtype::F16),
            Dtype::Bf16 => Ok(ScaleDtype::Bf16),
            other => Err(Error::graph("scales", format!("no scales of type {}", other.name()))),
        }
    }
}
