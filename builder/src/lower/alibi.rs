//! Attention with linear biases: a bias on the scores in place of positions.
//!
//! ```text
//! bias[0, h, s, t] = scale * (slope(h) * t - slope(h) * (total - sequence + s))
//!                             └ rounded where the model rounds it
//! ```
//!
//! What a query takes off is the same for all its keys and only keeps the numbers small, so it is never rounded.
//! A row of a batch that is shorter than the longest one has its queries elsewhere; that shifts all its biases alike,
//! which the softmax does not see.

use genai_architectures::{Alibi, AlibiRounding, Mixer, Position, alibi_slopes};

use super::{Lowering, mask::Lengths};
use crate::{
    Error, Result,
    graph::{
        Constant, Dtype, Value,
        ops::{Cast, Gather, Mul, Place, Range, Shape, Sub, Unsqueeze},
    },
};

const PATH: &str = "/model/alibi";

impl Lowering<'_> {
    /// Makes the bias, if any layer uses it.
    pub(super) fn alibi_bias(&mut self, input_ids: Value, lengths: &Lengths) -> Result<()> {
        let mut biased = self.spec.layers.iter().filter_map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            let Position::Alibi(alibi) = attention.position else { return None };
            Some((alibi, attention.num_heads))
        });
        let Some(first @ (alibi, num_heads)) = biased.next() else { return Ok(()) };
        if biased.any(|other| other != first) {
            return Err(Error::graph(PATH, "layers differ in the biases of their heads"));
        }
        let at = |part: &str| format!("{PATH}/{part}");
        let (keys, queries) = match lengths.places() {
            Some(places) => self.float_places(PATH, places)?,
            None => self.columns(input_ids, lengths)?,
        };
        let graph = &mut self.graph;
        let slopes = graph.constant(Constant::Floats {
            values: alibi_slopes(num_heads).iter().map(|slope| alibi.scale * slope).collect(),
            dims: vec![1, num_heads, 1, 1],
        })?;
        let bias = match alibi.rounding {
            AlibiRounding::None => {
                let distances = graph.add(&at("distances/Sub"), &Sub(keys, queries))?;
                graph.add(&at("Mul"), &Mul(slopes, distances))?
            }
            AlibiRounding::Bfloat16 => {
                let lowered = graph.add(&at("queries/Mul"), &Mul(slopes, queries))?;
                let raised = self.rounded_key_bias(&at("keys"), alibi, num_heads, keys)?;
                self.graph.add(&at("Sub"), &Sub(raised, lowered))?
            }
        };
        self.alibi = Some(self.in_activation_dtype(PATH, bias)?);
        Ok(())
    }

    /// Columns of the keys, f32 `[total]`, and of the queries, `[sequence, 1]`.
    fn columns(&mut self, input_ids: Value, lengths: &Lengths) -> Result<(Value, Value)> {
        let graph = &mut self.graph;
        let at = |part: &str| format!("{PATH}/{part}");
        let total = Cast { input: lengths.rows()?.total_sequence_length, to: Dtype::F32 };
        let total = graph.add(&at("total/Cast"), &total)?;
        let shape = graph.add(&at("sequence/Shape"), &Shape(input_ids))?;
        let column = graph.constant(Constant::Int64(1))?;
        let sequence = graph.add(&at("sequence/Gather"), &Gather { data: shape, indices: column })?;
        let sequence = graph.add(&at("sequence/Cast"), &Cast { input: sequence, to: Dtype::F32 })?;
        let past = graph.add(&at("past/Sub"), &Sub(total, sequence))?;

        let (zero, one) = (graph.constant(Constant::Float(0.0))?, graph.constant(Constant::Float(1.0))?);
        let keys = Range { start: zero, limit: total, delta: one, length: "total_sequence_length" };
        let keys = graph.add(&at("keys/Range"), &keys)?;
        let queries = Range { start: past, limit: total, delta: one, length: "sequence_length" };
        let queries = graph.add(&at("queries/Range"), &queries)?;
        let axes = graph.constant(Constant::Int64s(vec![1]))?;
        let queries = Unsqueeze { input: queries, axes, place: Place::End };
        let queries = graph.add(&at("queries/Unsqueeze"), &queries)?;
        Ok((keys, queries))
    }

    /// `scale * bf16(bf16(slope) * bf16(key))`, f32 `[1, heads, 1, keys]`.
    fn rounded_key_bias(&mut self, path: &str, alibi: Alibi, num_heads: usize, keys: Value) -> Result<Value> {
        let keys = self.rounded(&format!("{path}/position"), keys)?;
        let slopes = Constant::Floats { values: alibi_slopes(num_heads), dims: vec![1, num_heads, 1, 1] };
        let slopes = self.graph.constant(slopes)?;
        let slopes = self.rounded(&format!("{path}/slope"), slopes)?;
        let bias = self.graph.add(&format!("{path}/Mul"), &Mul(slopes, keys))?;
        let bias = self.rounded(&format!("{path}/bias"), bias)?;
        let scale = self.graph.constant(Constant::Float(alibi.scale))?;
        self.graph.add(&format!("{path}/scale/Mul"), &Mul(bias, scale))
    }

    /// To bfloat16 and back.
    fn rounded(&mut self, path: &str, input: Value) -> Result<Value> {
        let short = self.graph.add(&format!("{path}/Cast"), &Cast { input, to: Dtype::Bf16 })?;
        self.graph.add(&format!("{path}/Cast_1"), &Cast { input: short, to: Dtype::F32 })
    }

    /// The bias of a layer whose heads have one.
    pub(super) fn alibi_bias_of(&self, path: &str) -> Result<Value> {
        self.alibi.ok_or_else(|| Error::graph(path, "the bias of the heads was not made"))
    }
}
