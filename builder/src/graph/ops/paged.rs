//! Attention over a cache in pages. Schema: ONNX Runtime 1.31, `docs/ContribOperators.md`, 17 inputs.

use super::{CacheCodes, Facts, Rotation, expect_dtype, expect_last, same_dtype};
use crate::graph::{Attribute, Dim, Dtype, Graph, MICROSOFT, Op, Value};

/// Causal attention of sequences that lie one behind the other. Outputs: `[tokens, num_heads * head_dim]`, and both caches,
/// which are the buffers of the inputs.
#[derive(Debug, Clone, Copy)]
pub struct PagedAttention {
    /// `[tokens, num_heads * head_dim]`, or q, k and v side by side where `key_value` is absent.
    pub query: Value,
    /// Key and value, each `[tokens, num_kv_heads * head_dim]`.
    pub key_value: Option<(Value, Value)>,
    /// `[pages, tokens of a page, num_kv_heads, head_dim]`
    pub key_cache: Value,
    pub value_cache: Value,
    /// int32 `[batch + 1]`: where each sequence begins, and where the last one ends.
    pub cumulative_sequence_lengths: Value,
    /// int32 `[batch]`: tokens of each that are in the cache already.
    pub past_sequence_lengths: Value,
    /// int32 `[batch, pages of a sequence]`
    pub block_table: Value,
    /// int32 `[3]`, in memory of the CPU: bounds of the lengths.
    pub attention_metadata: Value,
    /// Where the op rotates.
    pub rotation: Option<Rotation>,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
    /// Where the cache holds codes.
    pub codes: Option<CacheCodes>,
}

impl Op for PagedAttention {
    const TYPE: &'static str = "PagedAttention";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![
            Some(self.query),
            self.key_value.map(|(key, _)| key),
            self.key_value.map(|(_, value)| value),
            Some(self.key_cache),
            Some(self.value_cache),
            Some(self.cumulative_sequence_lengths),
            Some(self.past_sequence_lengths),
            Some(self.block_table),
            self.rotation.map(|rotation| rotation.cos),
            self.rotation.map(|rotation| rotation.sin),
            None,
            None,
            None,
            None,
            self.codes.map(|codes| codes.key_scale),
            self.codes.map(|codes| codes.value_scale),
            Some(self.attention_metadata),
        ]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let interleaved = self.rotation.is_some_and(|rotation| rotation.interleaved);
        let mut attributes = vec![
            ("num_heads", Attribute::Int(self.num_heads as i64)),
            ("kv_num_heads", Attribute::Int(self.num_kv_heads as i64)),
            ("scale", Attribute::Float(self.scale)),
            ("local_window_size", Attribute::Int(self.window.map_or(-1, |window| window as i64))),
            ("softcap", Attribute::Float(self.softcap.unwrap_or(0.0))),
            ("do_rotary", Attribute::Int(i64::from(self.rotation.is_some()))),
            ("rotary_interleaved", Attribute::Int(i64::from(interleaved))),
        ];
        if let Some(codes) = self.codes {
            attributes.extend([
                ("k_quant_type", Attribute::Text(codes.quant_type())),
                ("v_quant_type", Attribute::Text(codes.quant_type())),
            ]);
            if codes.bits == 4 {
                attributes
                    .extend([("k_cache_dtype", Attribute::Text("int4")), ("v_cache_dtype", Attribute::Text("int4"))]);
            }
        }
        attributes
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let (heads, kv_heads, head_dim) = (self.num_heads as u64, self.num_kv_heads as u64, self.head_dim as u64);
        match self.key_value {
            None => expect_last(graph, self.query, (heads + 2 * kv_heads) * head_dim)?,
            Some((key, value)) => {
                expect_last(graph, self.query, heads * head_dim)?;
                expect_last(graph, key, kv_heads * head_dim)?;
                expect_last(graph, value, kv_heads * head_dim)?;
            }
        }
        let query = graph.fact(self.query);
        if query.shape.len() != 2 || !matches!(query.dtype, Dtype::F16 | Dtype::Bf16) {
            return Err(format!("query is {query}, expected rank 2 in FLOAT16 or BFLOAT16"));
        }
        let width = match self.codes {
            None => {
                same_dtype(graph, self.query, self.key_cache)?;
                head_dim
            }
            Some(codes) => head_dim * codes.bits as u64 / 8,
        };
        let cache = graph.fact(self.key_cache);
        match &cache.shape[..] {
            [_, _, found, last] if *found == Dim::Known(kv_heads) && *last == Dim::Known(width) => {}
            _ => return Err(format!("key cache is {cache}, expected [pages, tokens, {kv_heads}, {width}]")),
        }
        for value in self.rotation.iter().flat_map(|rotation| [rotation.cos, rotation.sin]) {
            same_dtype(graph, self.query, value)?;
        }
        for lengths in
            [self.cumulative_sequence_lengths, self.past_sequence_lengths, self.block_table, self.attention_metadata]
        {
            expect_dtype(graph, lengths, Dtype::I32)?;
        }
        Ok(vec![Some(query.with_last(heads * head_dim)), Some(cache.clone()), Some(cache.clone())])
    }
}
