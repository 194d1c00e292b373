//! Attention over a growing cache in standard operators, for providers without a fused one.
//!
//! ```text
//! q ─► heads ─► scale ───────────────────────► MatMul ─► (cap) ─► Add bias ─► Softmax ─► MatMul ─► o_proj's input
//! k ─► heads ─► Concat past ─► present.key ──────┘                                          │
//! v ─► heads ─► Concat past ─► present.value ───────────────────────────────────────────────┘
//!
//! key position[b, t]  = CumSum(attention_mask)[b, t] - 1
//! visible[b, 0, s, t] = mask[b, t] and 0 <= query position[b, s] - key position[b, t] < window
//! bias                = visible ? 0 : lowest
//! ```
//!
//! Query heads that share a key head are rows of one matrix, so that no key is repeated. Positions are counted in
//! tokens, not in columns: rows of a batch may be padded on either side.

use genai_architectures::Attention;

use super::Lowering;
use crate::{
    Error, Result,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{
            Add, And, Cast, Concat, CumSum, Div, Greater, MatMul, Mul, Place, Reshape, Softmax, Sub, Tanh, Transpose,
            Unsqueeze, Where,
        },
    },
};

const PATH: &str = "/model/attention_bias";

/// Where tokens stand: int64, or int32 where no size is open.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// `[batch, 1, 1, total]`, or `[total]`
    pub(super) keys: Value,
    /// `[batch, 1, sequence, 1]`
    pub(super) queries: Value,
    pub(super) columns: Columns,
}

/// How the new tokens come to the columns of the cache.
#[derive(Clone, Copy)]
pub(super) enum Columns {
    /// Behind those that are there. Columns that hold a token, bool `[batch, 1, 1, total]`.
    Appended(Value),
    /// Into the one column of the token's position, bool `[1, 1, total, 1]`.
    Written(Value),
}

impl Lowering<'_> {
    /// Counts the tokens of each row.
    pub(super) fn places(&mut self, attention_mask: Value) -> Result<Places> {
        let position_ids = self.positions()?;
        let at = |part: &str| format!("{PATH}/{part}");
        let graph = &mut self.graph;
        let (zero, one) = (graph.constant(Constant::Int64(0))?, graph.constant(Constant::Int64(1))?);
        let heads_and_rows = graph.constant(Constant::Int64s(vec![1, 2]))?;
        let columns = |graph: &mut crate::graph::Graph, name: String, input: Value| {
            graph.add(&name, &Unsqueeze { input, axes: heads_and_rows, place: Place::Axes(&[1, 2]) })
        };
        let count = graph.add(&at("keys/CumSum"), &CumSum { input: attention_mask, axis: one })?;
        let keys = graph.add(&at("keys/Sub"), &Sub(count, one))?;
        let keys = columns(graph, at("keys/Unsqueeze"), keys)?;
        let present = graph.add(&at("present/Greater"), &Greater(attention_mask, zero))?;
        let present = columns(graph, at("present/Unsqueeze"), present)?;
        let axes = graph.constant(Constant::Int64s(vec![1, 3]))?;
        let queries = Unsqueeze { input: position_ids, axes, place: Place::Axes(&[1, 3]) };
        let queries = graph.add(&at("queries/Unsqueeze"), &queries)?;
        Ok(Places { keys, queries, columns: Columns::Appended(present) })
    }

    /// The bias that hides what is not seen, `[batch, 1, sequence, total]`; made once for each window.
    fn visibility(&mut self, window: Option<usize>, places: Places) -> Result<Value> {
        if let Some(bias) = self.visibilities.get(&window) {
            return Ok(*bias);
        }
        let path = match window {
            None => PATH.to_owned(),
            Some(window) => format!("{PATH}/window_{window}"),
        };
        let at = |part: &str| format!("{path}/{part}");
        let (seen, hidden) = (self.scalar(0.0)?, self.lowest()?);
        let distance = self.graph.add(&at("Sub"), &Sub(places.queries, places.keys))?;
        let before = self.whole_number(-1, distance)?;
        let mut visible = self.graph.add(&at("past/Greater"), &Greater(distance, before))?;
        if let Columns::Appended(present) = places.columns {
            visible = self.graph.add(&at("past/And"), &And(visible, present))?;
        }
        if let Some(window) = window {
            let window = self.whole_number(window as i64, distance)?;
            let near = self.graph.add(&at("near/Greater"), &Greater(window, distance))?;
            visible = self.graph.add(&at("near/And"), &And(visible, near))?;
        }
        let bias = self.graph.add(&at("Where"), &Where { condition: visible, yes: seen, no: hidden })?;
        self.visibilities.insert(window, bias);
        Ok(bias)
    }

    /// The lowest finite number of the activations' dtype.
    fn lowest(&mut self) -> Result<Value> {
        let lowest = match self.dtype {
            Dtype::F16 => -65504.0,
            // The lowest f32 would round to an infinity.
            Dtype::Bf16 => -3.0e38,
            _ => f32::MIN,
        };
        self.scalar(lowest)
    }

    /// Attention of `query` `[batch, sequence, heads * head_dim]` to the cache. `key_value` are the new ones, each
    /// `[batch, sequence, kv heads * head_dim]`; without them `past` is another layer's present, and is read as it is.
    /// Returns `[batch, sequence, heads * head_dim]`, and the present key and value.
    pub(super) fn standard_attention(
        &mut self,
        path: &str,
        attention: &Attention,
        query: Value,
        key_value: Option<(Value, Value)>,
        past: (Value, Value),
        places: Option<Places>,
    ) -> Result<(Value, (Value, Value))> {
        let &Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        let places = places.ok_or_else(|| Error::graph(path, "the places of tokens were not counted"))?;
        let at = |part: &str| format!("{path}/{part}");
        let (key, value) = match key_value {
            None => past,
            Some((key, value)) => {
                let key = self.in_heads(&at("k_heads"), key, num_kv_heads, head_dim)?;
                let value = self.in_heads(&at("v_heads"), value, num_kv_heads, head_dim)?;
                let mut cached = |part: &str, past: Value, new: Value| match places.columns {
                    Columns::Appended(_) => self.appended(&at(part), past, new),
                    Columns::Written(here) => self.written(&at(part), here, past, new),
                };
                (cached("k_cache", past.0, key)?, cached("v_cache", past.1, value)?)
            }
        };
        let query = self.in_heads(&at("q_heads"), query, num_heads, head_dim)?;
        let scale = self.scalar(attention.scale)?;
        let query = self.graph.add(&at("q_heads/Mul"), &Mul(query, scale))?;
        let query = self.grouped(&at("q_groups"), query, num_heads, num_kv_heads, true)?;
        let turned = Transpose { input: key, order: vec![0, 1, 3, 2] };
        let turned = self.graph.add(&at("k_cache/Transpose"), &turned)?;
        let scores = self.graph.add(&at("scores/MatMul"), &MatMul { a: query, b: turned })?;
        let mut scores = self.grouped(&at("scores"), scores, num_heads, num_kv_heads, false)?;
        if let Some(cap) = attention.softcap {
            let cap = self.scalar(cap)?;
            let divided = self.graph.add(&at("softcap/Div"), &Div(scores, cap))?;
            let bent = self.graph.add(&at("softcap/Tanh"), &Tanh(divided))?;
            scores = self.graph.add(&at("softcap/Mul"), &Mul(bent, cap))?;
        }
        if let Some(bias) = self.attention_bias(attention, path)? {
            scores = self.graph.add(&at("bias/Add"), &Add(scores, bias))?;
        }
        let bias = self.visibility(attention.window, places)?;
        let scores = self.graph.add(&at("visible/Add"), &Add(scores, bias))?;
        let shares = self.graph.add(&at("Softmax"), &Softmax(scores))?;
        let shares = self.grouped(&at("shares"), shares, num_heads, num_kv_heads, true)?;
        let mixed = self.graph.add(&at("mixed/MatMul"), &MatMul { a: shares, b: value })?;
        let mixed = self.grouped(&at("mixed"), mixed, num_heads, num_kv_heads, false)?;
        let mixed = Transpose { input: mixed, order: vec![0, 2, 1, 3] };
        let mixed = self.graph.add(&at("mixed/Transpose"), &mixed)?;
        Ok((self.together(&at("mixed/heads/Reshape"), mixed, num_heads * head_dim)?, (key, value)))
    }

    /// `[batch, sequence, heads * head_dim]` as `[batch, heads, sequence, head_dim]`.
    fn in_heads(&mut self, path: &str, input: Value, heads: usize, head_dim: usize) -> Result<Value> {
        let apart = self.apart(&format!("{path}/Reshape"), input, heads, head_dim)?;
        self.graph.add(&format!("{path}/Transpose"), &Transpose { input: apart, order: vec![0, 2, 1, 3] })
    }

    /// What the cache held and what is new.
    fn appended(&mut self, path: &str, past: Value, new: Value) -> Result<Value> {
        let whole = Concat { inputs: vec![past, new], axis: 2, total: Some("total_sequence_length") };
        self.graph.add(&format!("{path}/Concat"), &whole)
    }

    /// `[batch, heads, sequence, width]` as `[batch, kv heads, rows, width]`, where the rows are those of all heads that
    /// share a key head; and back.
    fn grouped(&mut self, path: &str, input: Value, heads: usize, kv_heads: usize, group: bool) -> Result<Value> {
        if heads == kv_heads {
            return Ok(input);
        }
        let (count, rows) = if group { (kv_heads, "group_rows") } else { (heads, "sequence_length") };
        let mut shape = self.graph.fact(input).shape.clone();
        shape[2] = match shape[1..3] {
            [Dim::Known(before), Dim::Known(each)] => Dim::Known(before * each / count as u64),
            _ => Dim::Symbol(rows),
        };
        shape[1] = Dim::Known(count as u64);
        let target = self.graph.constant(Constant::Int64s(vec![0, count as i64, -1, 0]))?;
        self.graph.add(&format!("{path}/Reshape"), &Reshape { input, target, shape })
    }

    /// Keys and queries in f32, as the biases of the heads take them.
    pub(super) fn float_places(&mut self, path: &str, places: Places) -> Result<(Value, Value)> {
        let keys = Cast { input: places.keys, to: Dtype::F32 };
        let keys = self.graph.add(&format!("{path}/keys/Cast"), &keys)?;
        let queries = Cast { input: places.queries, to: Dtype::F32 };
        Ok((keys, self.graph.add(&format!("{path}/queries/Cast"), &queries)?))
    }
}
