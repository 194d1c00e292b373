//! Sequences one behind the other, with a cache in pages.
//!
//! ```text
//! input_ids [tokens] ─► Unsqueeze [1, tokens] ─► embedding ─► layers ─► head ─► Reshape [tokens, vocab]
//!                          q, k, v ─► Reshape [tokens, …] ─► PagedAttention ─► Reshape [1, tokens, …]
//! ```
//!
//! All else sees a batch of one long row. Positions, where something other than the op needs them, are computed:
//!
//! ```text
//! sequence = number of ends that are not past the token;  position = token - start[sequence] + past[sequence]
//! ```

use std::collections::BTreeMap;

use genai_architectures::{Attention, Mixer, Position, RopeScaling};

use super::{
    Lowering,
    mask::{Caches, Lengths, Pages},
};
use crate::{
    Error, Interface, Logits, Result,
    graph::{
        Constant, Dim, Dtype, Fact, Value,
        ops::{
            Add, Cast, Gather, Greater, PagedAttention, Place, Range, ReduceSum, Reshape, Shape, Slice, Sub, Unsqueeze,
        },
    },
};

const TOKENS: &str = "num_tokens";

impl Lowering<'_> {
    /// Fails where the model cannot be computed with a cache in pages.
    pub(super) fn check_paged(&self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::Unsupported {
                what,
                hint: "use_paged_attention=false has a buffer for each sequence".to_owned(),
            })
        };
        let target = self.settings.target;
        if !target.cache.paged.contains(&self.dtype) || self.settings.attention.is_standard() {
            let (dtype, provider) = (self.dtype.name().to_lowercase(), target.provider);
            return refuse(format!("{provider} has no paged attention for activations in {dtype}"));
        }
        if self.settings.cache.windowed {
            return refuse("windowed_kv_cache=true: a cache in pages keeps every token".to_owned());
        }
        if self.settings.takes_lengths_of_mask() {
            return refuse(format!("{} records no steps over pages", target.provider));
        }
        let Interface { inputs_embeds, ref logits, hidden_states, ref aux_hidden_states, .. } = self.settings.interface;
        if inputs_embeds || *logits != Logits::All || hidden_states || !aux_hidden_states.is_empty() {
            return refuse(
                "use_paged_attention=true with other inputs or outputs than token ids and logits".to_owned(),
            );
        }
        let mut shapes = BTreeMap::new();
        for (index, layer) in self.spec.layers.iter().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer;
            let reason = match attention.position {
                _ if !attention.key_value.is_own() => Some("reads the cache of another layer"),
                _ if attention.blocks.is_some() => Some("hides blocks of positions, for which the op has no input"),
                Position::Alibi(_) => Some("biases its scores by distance, for which the op has no input"),
                Position::Rope(rope) => match self.spec.rope(rope).scaling {
                    RopeScaling::Dynamic { .. } => Some("rotates by the length of the sequence, and here are several"),
                    RopeScaling::LongRope { original_context, .. } if original_context < self.spec.context_length => {
                        Some("rotates by the length of the sequence, and here are several")
                    }
                    _ => None,
                },
                Position::None => None,
            };
            if let Some(reason) = reason {
                return refuse(format!("{}: layer {index} {reason}", self.spec.architecture));
            }
            shapes.insert((attention.num_kv_heads, attention.head_dim), index);
        }
        if shapes.len() > 1 {
            return refuse(format!(
                "{}: layers have caches of several shapes, and pages have one",
                self.spec.architecture
            ));
        }
        Ok(())
    }

    /// Token ids `[1, tokens]`, the caches and the lengths of sequences that lie one behind the other.
    pub(super) fn packed_inputs(&mut self) -> Result<(Value, Caches, Lengths)> {
        let input_ids = self.graph.input("input_ids", Fact::new(Dtype::I64, vec![Dim::Symbol(TOKENS)]))?;
        let caches = self.past()?;
        let mut input = |name: &str, shape: Vec<Dim>| self.graph.input(name, Fact::new(Dtype::I32, shape));
        let batch = || Dim::Symbol("batch_size");
        let pages = Pages {
            block_table: input("block_table", vec![batch(), Dim::Symbol("max_num_blocks")])?,
            cumulative_sequence_lengths: input("cumulative_sequence_lengths", vec![Dim::Symbol("batch_size + 1")])?,
            past_sequence_lengths: input("past_sequence_lengths", vec![batch()])?,
            attention_metadata: input("attention_metadata", vec![Dim::Known(3)])?,
        };
        if self.needs_positions() {
            self.position_ids = Some(self.packed_positions(input_ids, &pages)?);
        }
        let row = self.as_row("/model/input_ids/Unsqueeze", input_ids)?;
        Ok((row, caches, Lengths::Pages(pages)))
    }

    /// Positions `[1, tokens]` within the sequences.
    fn packed_positions(&mut self, input_ids: Value, pages: &Pages) -> Result<Value> {
        let at = |part: &str| format!("/model/positions/{part}");
        let graph = &mut self.graph;
        let wide = |value: Value| Cast { input: value, to: Dtype::I64 };
        let bounds = graph.add(&at("bounds/Cast"), &wide(pages.cumulative_sequence_lengths))?;
        let past = graph.add(&at("past/Cast"), &wide(pages.past_sequence_lengths))?;
        let (zero, one) = (graph.constant(Constant::Int64(0))?, graph.constant(Constant::Int64(1))?);
        let front = graph.constant(Constant::Int64s(vec![0]))?;
        let second = graph.constant(Constant::Int64s(vec![1]))?;
        let last = graph.constant(Constant::Int64s(vec![-1]))?;
        let all = graph.constant(Constant::Int64s(vec![i64::MAX]))?;
        let shape = vec![Dim::Symbol("batch_size")];
        let starts = Slice { data: bounds, starts: front, ends: last, axes: front, shape: shape.clone() };
        let starts = graph.add(&at("starts/Slice"), &starts)?;
        let ends = Slice { data: bounds, starts: second, ends: all, axes: front, shape };
        let ends = graph.add(&at("ends/Slice"), &ends)?;
        let ends = graph.add(&at("ends/Unsqueeze"), &Unsqueeze { input: ends, axes: front, place: Place::Front })?;

        let count = graph.add(&at("Shape"), &Shape(input_ids))?;
        let count = graph.add(&at("Gather"), &Gather { data: count, indices: zero })?;
        let tokens = graph.add(&at("Range"), &Range { start: zero, limit: count, delta: one, length: TOKENS })?;
        let after = graph.add(&at("after/Add"), &Add(tokens, one))?;
        let after = graph.add(&at("after/Unsqueeze"), &Unsqueeze { input: after, axes: second, place: Place::End })?;
        let is_past = graph.add(&at("Greater"), &Greater(after, ends))?;
        let is_past = graph.add(&at("Greater/Cast"), &wide(is_past))?;
        let sequence = graph.add(&at("ReduceSum"), &ReduceSum { input: is_past, axes: second })?;
        let shift = graph.add(&at("shift/Sub"), &Sub(past, starts))?;
        let shift = graph.add(&at("shift/Gather"), &Gather { data: shift, indices: sequence })?;
        let positions = graph.add(&at("Add"), &Add(tokens, shift))?;
        self.as_row(&at("Unsqueeze"), positions)
    }

    /// Attention by the op that reads pages; the caches are written in place.
    pub(super) fn paged_attention(
        &mut self,
        index: usize,
        path: &str,
        attention: &Attention,
        (query, key_value): (Value, Option<(Value, Value)>),
        past: (Value, Value),
        pages: &Pages,
    ) -> Result<(Value, (Value, Value))> {
        let &Attention { num_heads, num_kv_heads, .. } = attention;
        let query = self.flat(&format!("{path}/q_flat/Reshape"), query)?;
        let key_value = match key_value {
            None => None,
            Some((key, value)) => {
                let key = self.flat(&format!("{path}/k_flat/Reshape"), key)?;
                Some((key, self.flat(&format!("{path}/v_flat/Reshape"), value)?))
            }
        };
        let rotation = self.rotation(attention, &Lengths::Pages(*pages))?;
        let op = PagedAttention {
            query,
            key_value,
            key_cache: past.0,
            value_cache: past.1,
            cumulative_sequence_lengths: pages.cumulative_sequence_lengths,
            past_sequence_lengths: pages.past_sequence_lengths,
            block_table: pages.block_table,
            attention_metadata: pages.attention_metadata,
            rotation: rotation.filter(|_| self.rotates_inside(attention)),
            num_heads,
            num_kv_heads,
            head_dim: self.cache_head_dim(attention),
            scale: attention.scale,
            softcap: attention.softcap,
            window: attention.window,
            codes: self.cache_codes(index, attention)?,
        };
        let name = format!("{path}/PagedAttention");
        let outputs = self.graph.wire(&name, &name, &op)?;
        let mixed = self.as_row(&format!("{path}/row/Unsqueeze"), outputs[0])?;
        let mixed = self.unpadded(&format!("{path}/unpad"), mixed, attention)?;
        Ok((mixed, (outputs[1], outputs[2])))
    }

    /// `[tokens, …]` as `[1, tokens, …]`.
    fn as_row(&mut self, name: &str, input: Value) -> Result<Value> {
        let axes = self.graph.constant(Constant::Int64s(vec![0]))?;
        self.graph.add(name, &Unsqueeze { input, axes, place: Place::Front })
    }

    /// `[1, tokens, width]` as `[tokens, width]`.
    pub(super) fn flat(&mut self, name: &str, input: Value) -> Result<Value> {
        let Some(Dim::Known(width)) = self.graph.fact(input).last().cloned() else {
            return Err(Error::graph(name, "the last dimension is not known"));
        };
        let target = self.graph.constant(Constant::Int64s(vec![-1, width as i64]))?;
        let shape = vec![Dim::Symbol(TOKENS), Dim::Known(width)];
        self.graph.add(name, &Reshape { input, target, shape })
    }
}
