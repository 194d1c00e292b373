//! Inputs of the layers' own, made once from the tokens and the embedding, and what each layer makes of its own.
//!
//! ```text
//! input_ids ─► table ─► scale ──────────────────────────────┐
//! embedding ─► per_layer_model_projection ─► scale ─► norm ─┴► Add ─► scale ─► Split ─► one for each layer
//!
//! x ─► gate ─► act ─► Mul input ─► projection ─► norm
//! ```

use genai_architectures::{LayerInput, LayerInputs};

use super::Lowering;
use crate::{
    Result, Role,
    graph::{
        Constant, Value,
        ops::{Add, Gather, Greater, Mul, Split, Where},
    },
    plan::{Job, Rows, Segment, Sink, Source},
};

const PATH: &str = "/model/per_layer_inputs";
const TABLE: &str = "/model/embed_tokens_per_layer";

impl Lowering<'_> {
    /// Makes the inputs, if the layers have any, from the ids and the first hidden state.
    pub(super) fn layer_inputs(&mut self, input_ids: Value, embedded: Value) -> Result<()> {
        let spec = self.spec;
        let Some(inputs) = &spec.layer_inputs else { return Ok(()) };
        let (layers, width) = (spec.layers.len(), inputs.width);
        let at = |part: &str| format!("{PATH}/{part}");

        let rows = self.layer_input_rows(inputs, input_ids, layers * width)?;
        let factor = self.scalar(inputs.table_scale)?;
        let rows = self.graph.add(&format!("{TABLE}/Mul"), &Mul(rows, factor))?;

        let embedded = self.in_activation_dtype(&at("embedding"), embedded)?;
        let path = "/model/per_layer_model_projection";
        let projected = self.linear(path, Role::LayerInput, embedded, &[&inputs.projection])?;
        let factor = self.scalar(inputs.projection_scale)?;
        let projected = self.graph.add(&format!("{path}/Mul"), &Mul(projected, factor))?;
        let apart = self.apart(&at("norm/Reshape_1"), projected, layers, width)?;
        let path = "/model/per_layer_projection_norm";
        let (scale, bias) = self.norm_weights(&inputs.norm, path, width, self.dtype)?;
        let normed = self.norm_node(&format!("{path}/LayerNorm"), path, apart, &inputs.norm, scale, bias)?;
        let normed = self.together(&at("norm/Reshape_2"), normed, layers * width)?;

        let sum = self.graph.add(&at("Add"), &Add(normed, rows))?;
        let factor = self.scalar(inputs.scale)?;
        let sum = self.graph.add(&at("Mul"), &Mul(sum, factor))?;
        let split = self.graph.constant(Constant::Int64s(vec![width as i64; layers]))?;
        let name = at("Split");
        let split = Split { input: sum, split, sizes: vec![width as u64; layers] };
        self.layer_inputs = self.graph.wire(&name, &name, &split)?;
        Ok(())
    }

    /// The rows of the table, `[batch, sequence, k]`, in the dtype of activations.
    fn layer_input_rows(&mut self, inputs: &LayerInputs, input_ids: Value, k: usize) -> Result<Value> {
        let (tensor, n) = (inputs.weight(), inputs.rows);
        let mut indices = input_ids;
        if n < self.spec.vocab_size {
            let (rows, first) = (self.whole_number(n as i64, input_ids)?, self.whole_number(0, input_ids)?);
            let condition = self.graph.add(&format!("{TABLE}/Greater"), &Greater(rows, input_ids))?;
            indices = self.graph.add(&format!("{TABLE}/Where"), &Where { condition, yes: input_ids, no: first })?;
        }
        self.tensors.whole(&tensor, &[n, k]);
        let segments = vec![Segment { source: Source::Rows { tensor, first: 0 }, rows: n }];
        let name = "model.embed_tokens_per_layer.weight";
        if let Some(scheme) = self.scheme(&format!("{TABLE}/Gather"), Role::LayerInputTable) {
            let matrix = self.quantized_as(name, segments, k, scheme, &[scheme.code_bytes_per_row(k)])?;
            return self.gather_quantized(TABLE, indices, matrix.codes, &matrix);
        }
        let (table, slot) = self.stored(name, self.dtype, &[n, k])?;
        self.count(n * k, n * k * self.dtype.bytes() as usize);
        let sink = Sink::Dense { slot, dtype: self.dtype };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k, sink });
        self.graph.add(&format!("{TABLE}/Gather"), &Gather { data: table, indices })
    }

    /// What layer `index` makes of its own input and of `x`, in the dtype of the stream.
    pub(super) fn layer_input(&mut self, path: &str, index: usize, input: &LayerInput, x: Value) -> Result<Value> {
        let Some(own) = self.layer_inputs.get(index).copied() else {
            return Err(crate::Error::graph(path, "the layers have no inputs of their own"));
        };
        let at = |part: &str| format!("{path}/{part}");
        let x = self.in_activation_dtype(&at("input"), x)?;
        let gate = self.linear(&at("gate"), Role::LayerInput, x, &[&input.gate])?;
        let gate = self.activation(&at("act_fn"), &input.activation, gate)?;
        let gated = self.graph.add(&at("Mul"), &Mul(gate, own))?;
        let projected = self.linear(&at("projection"), Role::LayerInput, gated, &[&input.projection])?;
        self.update_norm(projected, &input.norm, &at("norm"))
    }
}
