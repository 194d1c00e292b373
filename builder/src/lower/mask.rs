//! What attention needs to know of the lengths of the rows, and the caches.
//!
//! ```text
//! attention_mask ─► ReduceSum ─► Sub 1 ─► Cast ─► seqlens_k int32 [batch]
//!                └► Shape ─► Gather 1 ─► Cast ─► total_sequence_length int32 scalar
//!
//! attention_mask ─► Cast ─► ReduceSum ─┬► Sub 1 ─► seqlens_k                        where steps are recorded and shapes
//!                                      └► ReduceMax ─► total_sequence_length        stay as they are
//! ```

use std::collections::BTreeMap;

use genai_architectures::{Layer, Mixer, Position, Rope, RopeScaling};

use super::{Lowering, standard_attention::Places};
use crate::{
    Error, Logits, Result,
    graph::{
        Constant, Dtype, Fact, Value,
        ops::{Cast, Gather, ReduceMax, ReduceSum, Shape, Sub},
    },
};

const PATH: &str = "/model/attn_mask_reformat/attn_mask_subgraph";

/// What attention needs to know of the lengths of the sequences.
pub(super) enum Lengths {
    /// Rows of a batch, padded.
    Rows(RowLengths),
    /// One behind the other, without padding.
    Pages(Pages),
    /// One token, in a cache of fixed length.
    Fixed(Places),
}

impl Lengths {
    /// Those of the rows; [`Lowering::check_paged`] refuses what needs them where there are none.
    pub(super) fn rows(&self) -> Result<&RowLengths> {
        match self {
            Self::Rows(lengths) => Ok(lengths),
            Self::Pages(_) | Self::Fixed(_) => Err(Error::graph("attention_mask", "the graph has no such input")),
        }
    }

    /// Where tokens stand, where attention is in standard operators.
    pub(super) fn places(&self) -> Option<Places> {
        match self {
            Self::Rows(lengths) => lengths.places,
            Self::Fixed(places) => Some(*places),
            Self::Pages(_) => None,
        }
    }
}

/// Past keys and values, by the layers that have a cache of their own.
pub(super) type Caches = BTreeMap<usize, (Value, Value)>;

/// What the engine says of the sequences, int32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    /// `[batch, pages of a sequence]`
    pub(super) block_table: Value,
    /// `[batch + 1]`
    pub(super) cumulative_sequence_lengths: Value,
    /// `[batch]`
    pub(super) past_sequence_lengths: Value,
    /// `[3]`
    pub(super) attention_metadata: Value,
}

pub(super) struct RowLengths {
    /// int32 `[batch]`: tokens of each row, less one.
    pub(super) seqlens_k: Value,
    /// int32 scalar: columns of the mask.
    pub(super) total_sequence_length: Value,
    /// Where tokens stand, where attention is in standard operators.
    pub(super) places: Option<Places>,
}

impl Lowering<'_> {
    pub(super) fn row_lengths(&mut self, attention_mask: Value) -> Result<RowLengths> {
        if self.settings.session.capture == Some(true) {
            self.check_recorded()?;
        }
        if self.settings.takes_lengths_of_mask() {
            return self.lengths_of_mask(attention_mask);
        }
        let one = self.graph.constant(Constant::Int64s(vec![1]))?;
        let sum = self.graph.add(&format!("{PATH}/ReduceSum"), &ReduceSum { input: attention_mask, axes: one })?;
        let less_one = self.graph.add(&format!("{PATH}/Sub"), &Sub(sum, one))?;
        let seqlens_k = self.graph.add(&format!("{PATH}/Sub/Cast"), &Cast { input: less_one, to: Dtype::I32 })?;
        let shape = self.graph.add(&format!("{PATH}/Shape"), &Shape(attention_mask))?;
        let column = self.graph.constant(Constant::Int64(1))?;
        let total = self.graph.add(&format!("{PATH}/Gather"), &Gather { data: shape, indices: column })?;
        let total_sequence_length =
            self.graph.add(&format!("{PATH}/Gather/Cast"), &Cast { input: total, to: Dtype::I32 })?;
        let places = match self.settings.attention.is_standard() {
            false => None,
            true => Some(self.places(attention_mask)?),
        };
        Ok(RowLengths { seqlens_k, total_sequence_length, places })
    }

    fn lengths_of_mask(&mut self, attention_mask: Value) -> Result<RowLengths> {
        let axes = self.graph.constant(Constant::Int64s(vec![1]))?;
        let one = self.cast(&format!("{PATH}/one"), axes, Dtype::I32)?;
        let mask = self.cast(&format!("{PATH}/mask"), attention_mask, Dtype::I32)?;
        let sum = self.graph.add(&format!("{PATH}/ReduceSum"), &ReduceSum { input: mask, axes })?;
        let seqlens_k = self.graph.add(&format!("{PATH}/Sub"), &Sub(sum, one))?;
        let rows = self.graph.constant(Constant::Int64s(vec![0]))?;
        let total_sequence_length =
            self.graph.add(&format!("{PATH}/ReduceMax"), &ReduceMax { input: sum, axes: rows })?;
        Ok(RowLengths { seqlens_k, total_sequence_length, places: None })
    }

    /// Fails where a part of the model is computed from lengths, and these are not known outside of a recorded step.
    fn check_recorded(&self) -> Result<()> {
        let spec = self.spec;
        let by_length = |rope: &Rope| match rope.scaling {
            RopeScaling::Dynamic { .. } => true,
            RopeScaling::LongRope { original_context, .. } => original_context < spec.context_length,
            _ => false,
        };
        let attentions = || spec.layers.iter().map(|Layer { mixer: Mixer::Attention(attention), .. }| attention);
        let what = if self.settings.attention.is_standard() {
            "a cache that grows, which attention in standard operators has,"
        } else if !self.settings.takes_lengths_of_mask() {
            return Ok(());
        } else if spec.ropes.iter().any(by_length) {
            "a rope that depends on the length"
        } else if attentions().any(|attention| matches!(attention.position, Position::Alibi(_))) {
            "a bias for the distance"
        } else if attentions().any(|attention| attention.blocks.is_some()) {
            "attention to blocks"
        } else if self.settings.interface.logits == Logits::Last {
            "prune_lm_head"
        } else {
            return Ok(());
        };
        let (provider, option) = (self.settings.target.provider, self.settings.target.capture.as_ref());
        let option = option.map_or("", |capture| capture.option);
        Err(Error::Unsupported {
            what: format!("{what} is not supported where {provider} records steps ({option}=true)"),
            hint: format!("leave {option} out"),
        })
    }

    /// The inputs `past_key_values.{i}.key` of all caches, then those of the values, by the layers that have one; `i`
    /// counts the caches.
    pub(super) fn past(&mut self) -> Result<Caches> {
        let caches: Vec<(usize, Fact)> = self
            .spec
            .layers
            .iter()
            .enumerate()
            .filter_map(|(index, layer)| {
                let Mixer::Attention(attention) = &layer.mixer;
                if !attention.key_value.is_own() {
                    return None;
                }
                Some((index, self.cache_fact(attention)))
            })
            .collect();
        let mut inputs = |part: &str| -> Result<Vec<Value>> {
            let facts = caches.iter().map(|(_, fact)| fact.clone()).enumerate();
            facts.map(|(i, fact)| self.graph.input(&format!("past_key_values.{i}.{part}"), fact)).collect()
        };
        let (keys, values) = (inputs("key")?, inputs("value")?);
        Ok(caches.iter().map(|(index, _)| *index).zip(keys.into_iter().zip(values)).collect())
    }
}
