//! What attention needs to know of the lengths of the rows, and the caches.
//!
//! ```text
//! attention_mask ─► ReduceSum ─► Sub 1 ─► Cast ─► seqlens_k int32 [batch]
//!                └► Shape ─► Gather 1 ─► Cast ─► total_sequence_length int32 scalar
//! ```

use std::collections::BTreeMap;

use genai_architectures::Mixer;

use super::{Lowering, standard_attention::Places};
use crate::{
    Result,
    graph::{
        Constant, Dim, Dtype, Fact, Value,
        ops::{Cast, Gather, ReduceSum, Shape, Sub},
    },
    target::AttentionForm,
};

pub(super) struct Lengths {
    /// int32 `[batch]`: tokens of each row, less one.
    pub(super) seqlens_k: Value,
    /// int32 scalar: columns of the mask.
    pub(super) total_sequence_length: Value,
    /// Where tokens stand, where attention is in standard operators.
    pub(super) places: Option<Places>,
}

impl Lowering<'_> {
    pub(super) fn lengths(&mut self, attention_mask: Value) -> Result<Lengths> {
        const PATH: &str = "/model/attn_mask_reformat/attn_mask_subgraph";
        let one = self.graph.constant(Constant::Int64s(vec![1]))?;
        let sum = self.graph.add(&format!("{PATH}/ReduceSum"), &ReduceSum { input: attention_mask, axes: one })?;
        let less_one = self.graph.add(&format!("{PATH}/Sub"), &Sub(sum, one))?;
        let seqlens_k = self.graph.add(&format!("{PATH}/Sub/Cast"), &Cast { input: less_one, to: Dtype::I32 })?;
        let shape = self.graph.add(&format!("{PATH}/Shape"), &Shape(attention_mask))?;
        let column = self.graph.constant(Constant::Int64(1))?;
        let total = self.graph.add(&format!("{PATH}/Gather"), &Gather { data: shape, indices: column })?;
        let total_sequence_length =
            self.graph.add(&format!("{PATH}/Gather/Cast"), &Cast { input: total, to: Dtype::I32 })?;
        let places = match self.settings.attention {
            AttentionForm::GroupQuery { .. } => None,
            AttentionForm::Standard => Some(self.places(attention_mask)?),
        };
        Ok(Lengths { seqlens_k, total_sequence_length, places })
    }

    /// The inputs `past_key_values.{i}.key` of all caches, then those of the values, by the layers that have one; `i`
    /// counts the caches.
    pub(super) fn past(&mut self) -> Result<BTreeMap<usize, (Value, Value)>> {
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
                let (heads, width) = (attention.num_kv_heads as u64, self.cache_head_dim(attention) as u64);
                let past = Dim::Symbol("past_sequence_length");
                let shape = vec![Dim::Symbol("batch_size"), Dim::Known(heads), past, Dim::Known(width)];
                Some((index, Fact::new(self.dtype, shape)))
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
