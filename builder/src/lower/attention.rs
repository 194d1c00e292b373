//! Attention over the cache.
//!
//! ```text
//! x ─► qkv_proj ─► (Clip) ─► GroupQueryAttention (rotates, attends, extends the cache) ─► o_proj
//!         └► heads: norms, rotation, … ─┘   where q and k need more than the op does
//! ```

use genai_architectures::{Attention, NormOrder, Position, RopeLayout};

use super::{Lowering, mask::Lengths};
use crate::{
    Result, Role,
    graph::{
        Value,
        ops::{Clip, GroupQueryAttention, Rotation},
    },
};

impl Lowering<'_> {
    /// Returns the output `[batch, sequence, hidden]`, and the present key and value.
    pub(super) fn attention(
        &mut self,
        path: &str,
        attention: &Attention,
        input: Value,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Value, (Value, Value))> {
        let &Attention { num_heads, num_kv_heads, .. } = attention;
        let Attention { q, k, v, .. } = attention;
        let mut qkv = self.linear(&format!("{path}/qkv_proj"), Role::QkvProj, input, &[q, k, v])?;
        if let Some(bound) = attention.clip_qkv {
            let (min, max) = (self.scalar(-bound)?, self.scalar(bound)?);
            qkv = self.graph.add(&format!("{path}/qkv_proj/Clip"), &Clip { input: qkv, min, max })?;
        }
        let rotation = self.rotation(attention, lengths)?;
        let (query, key_value) = match self.works_on_heads(attention) {
            false => (qkv, None),
            true => {
                let (query, key, value) = self.heads(path, attention, qkv, rotation)?;
                (query, Some((key, value)))
            }
        };
        let op = GroupQueryAttention {
            query,
            key_value,
            past_key: past.0,
            past_value: past.1,
            seqlens_k: lengths.seqlens_k,
            total_sequence_length: lengths.total_sequence_length,
            rotation: rotation.filter(|_| self.rotates_inside(attention)),
            attention_bias: self.attention_bias(attention, path)?,
            num_heads,
            num_kv_heads,
            head_dim: self.cache_head_dim(attention),
            scale: attention.scale,
            softcap: attention.softcap,
            window: attention.window,
        };
        let name = format!("{path}/GroupQueryAttention");
        let outputs = self.graph.wire(&name, &name, &op)?;
        let mixed = self.unpadded(&format!("{path}/unpad"), outputs[0], attention)?;
        let output = self.linear(&format!("{path}/o_proj"), Role::OProj, mixed, &[&attention.o])?;
        Ok((output, (outputs[1], outputs[2])))
    }

    /// What the layer adds to its scores: for the distance, or to hide blocks.
    fn attention_bias(&self, attention: &Attention, path: &str) -> Result<Option<Value>> {
        match (attention.position, attention.blocks) {
            (Position::Alibi(_), _) => self.alibi_bias_of(path).map(Some),
            (Position::Rope(_) | Position::None, Some(blocks)) => {
                self.block_bias_of(blocks, attention.num_heads, path).map(Some)
            }
            (Position::Rope(_) | Position::None, None) => Ok(None),
        }
    }

    /// Whether the attention op rotates these heads itself.
    pub(super) fn rotates_inside(&self, attention: &Attention) -> bool {
        let Position::Rope(rope) = attention.position else { return false };
        let multiple = self.settings.target.rotated_head_multiple;
        let norms_after = attention.norm_order == NormOrder::AfterRotation
            && (attention.q_norm.is_some() || attention.k_norm.is_some());
        !norms_after && attention.head_dim.is_multiple_of(multiple) && self.spec.rope(rope).dim.is_multiple_of(multiple)
    }

    /// Whether q and k are to be worked on between the linear and the attention op.
    fn works_on_heads(&self, attention: &Attention) -> bool {
        let rotates_outside = matches!(attention.position, Position::Rope(_)) && !self.rotates_inside(attention);
        attention.q_norm.is_some()
            || attention.k_norm.is_some()
            || attention.query_scaling.is_some()
            || rotates_outside
            || self.cache_head_dim(attention) != attention.head_dim
    }

    fn rotation(&mut self, attention: &Attention, lengths: &Lengths) -> Result<Option<Rotation>> {
        match attention.position {
            Position::Alibi(_) | Position::None => Ok(None),
            Position::Rope(id) => {
                let (cos, sin) = self.rotary_tables(id, lengths)?;
                let interleaved = match self.spec.rope(id).layout {
                    RopeLayout::Half => false,
                    RopeLayout::Interleaved => true,
                };
                Ok(Some(Rotation { cos, sin, interleaved }))
            }
        }
    }
}
