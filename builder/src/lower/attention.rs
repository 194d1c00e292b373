//! Attention over the cache.
//!
//! ```text
//! x ─► qkv_proj ─► GroupQueryAttention (rotates, attends, extends the cache) ─► o_proj
//!         └► Split ─► q_norm, k_norm ─► (RotaryEmbedding) ─┘   where heads have norms, or the op cannot rotate them
//! ```

use genai_architectures::{Attention, Norm, NormKind, Position};

use super::{Lowering, linear::dotted, mask::Lengths};
use crate::{
    Error, Result, Role,
    graph::{
        Constant, Dim, Value,
        ops::{GroupQueryAttention, Reshape, RotaryEmbedding, SimplifiedLayerNormalization, Split},
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
        let &Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        if !head_dim.is_multiple_of(self.settings.target.head_multiple) {
            return Err(Error::Unsupported {
                what: format!("attention heads of {head_dim} dimensions are not supported"),
                hint: format!("the kernels take multiples of {}", self.settings.target.head_multiple),
            });
        }
        let Attention { q, k, v, .. } = attention;
        let qkv = self.linear(&format!("{path}/qkv_proj"), Role::QkvProj, input, &[q, k, v])?;
        let Position::Rope(rope) = attention.position;
        let tables = self.rotary_tables(rope, lengths)?;
        let rotates_inside = self.rotates_inside_attention(attention);

        let (query, key_value) = if rotates_inside && attention.q_norm.is_none() && attention.k_norm.is_none() {
            (qkv, None)
        } else {
            let sizes = [num_heads, num_kv_heads, num_kv_heads].map(|heads| (heads * head_dim) as u64);
            let split = self.graph.constant(Constant::Int64s(sizes.map(|size| size as i64).to_vec()))?;
            let name = format!("{path}/qkv_proj/Split");
            let parts = self.graph.wire(&name, &name, &Split { input: qkv, split, sizes: sizes.to_vec() })?;
            let (mut query, mut key, value) = (parts[0], parts[1], parts[2]);
            if let Some(norm) = &attention.q_norm {
                query = self.head_norm(&format!("{path}/q_norm"), norm, query, num_heads, head_dim)?;
            }
            if let Some(norm) = &attention.k_norm {
                key = self.head_norm(&format!("{path}/k_norm"), norm, key, num_kv_heads, head_dim)?;
            }
            if !rotates_inside {
                query = self.rotate(&format!("{path}/q_rotary"), query, num_heads, tables)?;
                key = self.rotate(&format!("{path}/k_rotary"), key, num_kv_heads, tables)?;
            }
            (query, Some((key, value)))
        };
        let op = GroupQueryAttention {
            query,
            key_value,
            past_key: past.0,
            past_value: past.1,
            seqlens_k: lengths.seqlens_k,
            total_sequence_length: lengths.total_sequence_length,
            rotation: rotates_inside.then_some(tables),
            num_heads,
            num_kv_heads,
            head_dim,
            scale: attention.scale,
            window: attention.window,
        };
        let name = format!("{path}/GroupQueryAttention");
        let outputs = self.graph.wire(&name, &name, &op)?;
        let output = self.linear(&format!("{path}/o_proj"), Role::OProj, outputs[0], &[&attention.o])?;
        Ok((output, (outputs[1], outputs[2])))
    }

    /// Whether the attention op rotates heads of this size itself.
    pub(super) fn rotates_inside_attention(&self, attention: &Attention) -> bool {
        attention.head_dim.is_multiple_of(self.settings.target.rotated_head_multiple)
    }

    /// Each head of `[batch, sequence, heads * head_dim]` on its own.
    fn head_norm(&mut self, path: &str, norm: &Norm, input: Value, heads: usize, head_dim: usize) -> Result<Value> {
        let NormKind::Rms = norm.kind;
        let scale = self.vector(&format!("{}.layernorm.weight", dotted(path)), norm.weight(), head_dim)?;
        let flat = self.graph.fact(input).shape.clone();
        let [batch, sequence, _] = &flat[..] else { return Err(Error::graph(path, "expected rank 3")) };
        let split = vec![batch.clone(), sequence.clone(), Dim::Known(heads as u64), Dim::Known(head_dim as u64)];
        // Zero keeps a dimension.
        let target = self.graph.constant(Constant::Int64s(vec![0, 0, heads as i64, head_dim as i64]))?;
        let apart = self.graph.add(&format!("{path}/Reshape_1"), &Reshape { input, target, shape: split })?;
        let op = SimplifiedLayerNormalization { input: apart, scale, epsilon: norm.eps };
        let normed = self.graph.add(&format!("{path}/SimplifiedLayerNormalization"), &op)?;
        let target = self.graph.constant(Constant::Int64s(vec![0, 0, (heads * head_dim) as i64]))?;
        self.graph.add(&format!("{path}/Reshape_2"), &Reshape { input: normed, target, shape: flat })
    }

    fn rotate(&mut self, path: &str, input: Value, num_heads: usize, tables: (Value, Value)) -> Result<Value> {
        let position_ids = self.position_ids.ok_or_else(|| Error::graph(path, "there is no input position_ids"))?;
        let (cos_cache, sin_cache) = tables;
        let op = RotaryEmbedding { input, position_ids, cos_cache, sin_cache, num_heads };
        self.graph.add(&format!("{path}/RotaryEmbedding"), &op)
    }
}
