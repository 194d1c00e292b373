//! From what a model is to how it is computed and stored: the graph, and a job for every weight.
//!
//! ```text
//! input_ids ─► embedding ─► layers ─► final norm ─► head ─► logits     but for what the interface leaves out
//! attention_mask ─► mask (lengths) ───┘  └─► present.{i}.key, present.{i}.value
//! ```
//!
//! Where no size may be open there is no mask: `position_ids` says how much of the cache is filled.
//!
//! Pure: nothing is read. Node names and public names follow the scheme that recipes and users of onnxruntime-genai key
//! on: `/model/layers.{i}/attn/qkv_proj/MatMul` with the initializer `model.layers.{i}.attn.qkv_proj.MatMul.weight`.

mod alibi;
mod attention;
mod block_sparsity;
mod cache;
mod embedding;
mod fixed;
mod heads;
mod hidden_states;
mod layer;
mod layer_inputs;
mod linear;
mod lora;
mod mask;
mod mlp;
mod norm;
mod paged;
mod rotary;
mod standard_attention;
mod standard_rotary;
mod storage;
mod streams;
mod tensors;

use std::{collections::BTreeMap, ops::Range};

use genai_architectures::{DecoderSpec, KeyValue, Mixer};
use genai_checkpoint::Adapter;
use genai_quantize::ScaleDtype;

use mask::{Caches, Lengths};

use crate::{
    Error, Logits, Result, Settings,
    graph::{
        Constant, Dim, Dtype, Fact, Graph, Value,
        ops::{CacheCodes, Cast, Slice},
    },
    plan::{Job, Layout, Plan, Rows, Segment, Sink, Source},
};

/// Plans the package of a decoder. `data_file` is the name of the file that will hold the weights.
pub fn lower(spec: &DecoderSpec, settings: &Settings, data_file: &str) -> Result<Plan> {
    lower_with_adapters(spec, &[], settings, data_file)
}

/// The same of a decoder with LoRA adapters, of which the settings say what becomes.
pub fn lower_with_adapters(
    spec: &DecoderSpec,
    adapters: &[Adapter],
    settings: &Settings,
    data_file: &str,
) -> Result<Plan> {
    let settings = &Settings { attention: settings.attention.of(spec), ..settings.clone() };
    let mut lowering = Lowering {
        spec,
        settings,
        dtype: settings.dtype,
        graph: Graph::default(),
        layout: Layout::default(),
        jobs: Vec::new(),
        tensors: tensors::Tensors::default(),
        weights: 0,
        weight_bytes: 0,
        rotary: BTreeMap::new(),
        position_ids: None,
        alibi: None,
        block_biases: Vec::new(),
        query_scales: BTreeMap::new(),
        keys: BTreeMap::new(),
        presents: BTreeMap::new(),
        rotary_rows: BTreeMap::new(),
        visibilities: BTreeMap::new(),
        cache_codes: BTreeMap::new(),
        layer_inputs: Vec::new(),
        casts: BTreeMap::new(),
        within: None,
        asked: storage::Asked::default(),
        updates: lora::Updates::of(spec, adapters)?,
    };
    lowering.decoder()?;
    lowering.check_recipe()?;
    let adapters = lowering.updates.files(spec, lowering.dtype)?;
    Ok(Plan {
        graph: lowering.graph,
        data_file: data_file.to_owned(),
        data_bytes: lowering.layout.end,
        slots: lowering.layout.slots,
        jobs: lowering.jobs,
        tensors: lowering.tensors.accounted()?,
        weights: lowering.weights,
        weight_bytes: lowering.weight_bytes,
        adapters,
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
    tensors: tensors::Tensors,
    weights: u64,
    weight_bytes: u64,
    /// Cosine and sine of each rotary table made so far.
    rotary: BTreeMap<usize, (Value, Value)>,
    position_ids: Option<Value>,
    /// The bias that stands in for positions, made once.
    alibi: Option<Value>,
    /// The biases that hide blocks of positions.
    block_biases: block_sparsity::BlockBiases,
    /// Factors on the queries, by the layers' setting.
    query_scales: BTreeMap<(u32, usize), Value>,
    /// New keys and values of the layers so far, where they stand on their own before attention.
    keys: BTreeMap<usize, (Value, Value)>,
    /// Presents of the layers so far.
    presents: BTreeMap<usize, (Value, Value)>,
    /// Cosines and sines of the tokens, by the cosines of the table.
    rotary_rows: BTreeMap<Value, (Value, Value)>,
    /// Biases that hide what is not seen, by the window.
    visibilities: BTreeMap<Option<usize>, Value>,
    /// How the caches of the layers hold codes, made once for each.
    cache_codes: BTreeMap<usize, CacheCodes>,
    /// The input of each layer's own.
    layer_inputs: Vec<Value>,
    /// Constants in the dtype of activations, by the name of the node that makes them.
    casts: BTreeMap<String, Value>,
    /// The layer that is being lowered.
    within: Option<usize>,
    asked: storage::Asked,
    /// What adapters add to linears.
    updates: lora::Updates,
}

impl Lowering<'_> {
    fn decoder(&mut self) -> Result<()> {
        self.check_cache()?;
        self.check_norms_inside()?;
        let (tokens, caches, lengths) = match self.settings.cache.paged {
            None if self.settings.is_fixed() => self.fixed_inputs()?,
            None => self.padded_inputs()?,
            Some(_) => self.packed_inputs()?,
        };
        let (spec, settings) = (self.spec, self.settings);
        self.alibi_bias(tokens, &lengths)?;
        self.block_biases(tokens, &lengths)?;
        let (embedded, table) = self.embed(tokens)?;
        self.layer_inputs(tokens, embedded)?;
        let mut stream = norm::Stream::new(self.expand(embedded)?);
        let (mut presents, mut entering) = (Vec::new(), BTreeMap::new());
        for (index, layer) in spec.layers.iter().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer;
            let cached = if let KeyValue::OfLayer(source) = attention.key_value { source } else { index };
            let past = caches.get(&cached).copied();
            let past = past.ok_or_else(|| Error::graph("past_key_values", format!("layer {cached} has no cache")))?;
            if settings.interface.aux_hidden_states.contains(&index) {
                entering.insert(index, self.entering(index, stream)?);
            }
            let present;
            self.within = Some(index);
            (stream, present) = self.layer(index, layer, stream, past, &lengths)?;
            self.within = None;
            if cached == index {
                presents.push(present);
            }
        }
        let path = format!("/model/layers.{}/final_norm_layernorm", spec.layers.len());
        let stream = self.merge(stream)?;
        let normed = self.last_norm(stream, &spec.final_norm, &path)?;
        let read = match settings.interface.logits {
            Logits::All => Some(normed),
            Logits::Last => Some(self.last_rows(normed, lengths.rows()?)?),
            Logits::None => None,
        };
        if let Some(read) = read {
            let mut logits = self.head(read, &table)?;
            if let Lengths::Pages(_) = lengths {
                logits = self.flat("/lm_head/flat/Reshape", logits)?;
            }
            self.graph.output(logits, "logits")?;
        }
        if settings.interface.hidden_states {
            self.graph.output(normed, "hidden_states")?;
        }
        self.aux_hidden_states(&entering)?;
        for (index, (key, _)) in presents.iter().enumerate() {
            self.graph.output(*key, &format!("present.{index}.key"))?;
        }
        for (index, (_, value)) in presents.iter().enumerate() {
            self.graph.output(*value, &format!("present.{index}.value"))?;
        }
        Ok(())
    }

    /// Token ids `[batch, sequence]`, the caches and the lengths of rows that are padded to one length.
    fn padded_inputs(&mut self) -> Result<(Value, Caches, Lengths)> {
        let rows = [Dim::Symbol("batch_size"), Dim::Symbol("sequence_length")];
        let tokens = match self.settings.interface.inputs_embeds {
            false => self.graph.input("input_ids", Fact::new(Dtype::I64, rows.to_vec()))?,
            true => {
                let shape = [rows.as_slice(), &[Dim::Known(self.spec.hidden_size as u64)]].concat();
                self.graph.input("inputs_embeds", Fact::new(self.dtype, shape))?
            }
        };
        let mask_shape = vec![Dim::Symbol("batch_size"), Dim::Symbol("total_sequence_length")];
        let attention_mask = self.graph.input("attention_mask", Fact::new(Dtype::I64, mask_shape))?;
        if self.needs_positions() {
            self.position_ids = Some(self.graph.input("position_ids", Fact::new(Dtype::I64, rows.to_vec()))?);
        }
        let caches = self.past()?;
        Ok((tokens, caches, Lengths::Rows(self.row_lengths(attention_mask)?)))
    }

    /// Adds an initializer of one slot whose bytes the caller's job writes.
    fn stored(&mut self, name: &str, dtype: Dtype, dims: &[usize]) -> Result<(Value, usize)> {
        let dims: Vec<u64> = dims.iter().map(|dim| *dim as u64).collect();
        let bits = dims.iter().try_fold(dtype.bits(), |product, dim| product.checked_mul(*dim));
        let bits = bits.ok_or_else(|| Error::graph(name, "the tensor is too large"))?;
        let slot = self.layout.reserve(bits.div_ceil(8));
        Ok((self.graph.initializer(name, dtype, &dims, slot)?, slot))
    }

    /// A tensor of the checkpoint as it is, in the dtype of activations, each value raised by `plus`.
    fn parameter(&mut self, name: &str, tensor: String, dims: &[usize], plus: f32) -> Result<Value> {
        self.parameter_as(name, tensor, dims, plus, self.dtype)
    }

    /// The same in another dtype.
    fn parameter_as(&mut self, name: &str, tensor: String, dims: &[usize], plus: f32, dtype: Dtype) -> Result<Value> {
        self.tensors.whole(&tensor, dims);
        let rows = dims.iter().product::<usize>() / row_width(dims);
        let segment = Segment { source: Source::Rows { tensor, first: 0 }, rows };
        self.filled(name, vec![segment], dims, plus, dtype)
    }

    /// Tensors of the checkpoint one after another, named with their shapes there.
    fn stacked(&mut self, name: &str, tensors: Vec<(String, Vec<usize>)>, dims: &[usize], plus: f32) -> Result<Value> {
        let width = row_width(dims);
        let segment = |(tensor, shape): (String, Vec<usize>)| {
            self.tensors.whole(&tensor, &shape);
            Segment { source: Source::Rows { tensor, first: 0 }, rows: shape.iter().product::<usize>() / width }
        };
        let segments = tensors.into_iter().map(segment).collect();
        self.filled(name, segments, dims, plus, self.dtype)
    }

    /// A tensor of one value.
    fn constant_tensor(&mut self, name: &str, value: f32, dims: &[usize], dtype: Dtype) -> Result<Value> {
        let rows = dims.iter().product::<usize>() / row_width(dims);
        self.filled(name, vec![Segment { source: Source::Constant(value), rows }], dims, 0.0, dtype)
    }

    fn filled(&mut self, name: &str, segments: Vec<Segment>, dims: &[usize], plus: f32, dtype: Dtype) -> Result<Value> {
        let (value, slot) = self.stored(name, dtype, dims)?;
        let k = row_width(dims);
        let n = dims.iter().product::<usize>() / k;
        let rows = Rows::Checkpoint { segments, plus };
        self.jobs.push(Job { rows, n, k, sink: Sink::Dense { slot, dtype } });
        Ok(value)
    }

    /// A scalar in the dtype of activations.
    fn scalar(&mut self, value: f32) -> Result<Value> {
        self.scalar_as(value, self.dtype)
    }

    /// A scalar in f32 or the dtype of activations.
    fn scalar_as(&mut self, value: f32, dtype: Dtype) -> Result<Value> {
        let constant = self.graph.constant(Constant::Float(value))?;
        self.cast(&format!("/model/constant_nodes/FLOAT/{value}"), constant, dtype)
    }

    /// An f32 value in the dtype of activations.
    fn in_activation_dtype(&mut self, path: &str, value: Value) -> Result<Value> {
        self.cast(path, value, self.dtype)
    }

    /// A whole number in the dtype of ids, positions or places that it meets.
    fn whole_number(&mut self, value: i64, like: Value) -> Result<Value> {
        let constant = self.graph.constant(Constant::Int64(value))?;
        let dtype = self.graph.fact(like).dtype;
        self.cast(&format!("/model/constant_nodes/{}/{value}", dtype.name()), constant, dtype)
    }

    /// A value in another dtype, by a node `{path}/Cast`; as it is where it has that dtype already.
    fn cast(&mut self, path: &str, value: Value, to: Dtype) -> Result<Value> {
        if self.graph.fact(value).dtype == to {
            return Ok(value);
        }
        let name = format!("{path}/Cast");
        match self.casts.get(&name) {
            Some(cast) => Ok(*cast),
            None => {
                let cast = self.graph.add(&name, &Cast { input: value, to })?;
                self.casts.insert(name, cast);
                Ok(cast)
            }
        }
    }

    /// A stretch of one dimension.
    fn stretch(&mut self, name: &str, data: Value, axis: usize, range: Range<usize>) -> Result<Value> {
        let mut vector = |value: usize| self.graph.constant(Constant::Int64s(vec![value as i64]));
        let (starts, ends, axes) = (vector(range.start)?, vector(range.end)?, vector(axis)?);
        let mut shape = self.graph.fact(data).shape.clone();
        shape[axis] = Dim::Known(range.len() as u64);
        self.graph.add(name, &Slice { data, starts, ends, axes, shape })
    }

    /// The dtype of the residual stream.
    fn stream_dtype(&self) -> Dtype {
        if self.spec.wide_residual && self.dtype == Dtype::F16 { Dtype::F32 } else { self.dtype }
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

/// A vector is a column of rows of one value.
fn row_width(dims: &[usize]) -> usize {
    if dims.len() > 1 { dims[dims.len() - 1] } else { 1 }
}
