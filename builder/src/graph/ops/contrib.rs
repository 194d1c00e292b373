//! Operators of ONNX Runtime's own domain. Schemas: ONNX Runtime 1.31, `docs/ContribOperators.md`.

use genai_quantize::IntScheme;

use super::{Facts, expect_dtype, expect_last, expect_shape, one, same_dtype};
use crate::graph::{Attribute, Dim, Dtype, Fact, Graph, MICROSOFT, Op, Value, dims};

/// `a · bᵀ` with `b` stored `[n, k]`: the head that shares the embedding table.
#[derive(Debug, Clone, Copy)]
pub struct FusedMatMul {
    pub a: Value,
    pub b: Value,
}

impl Op for FusedMatMul {
    const TYPE: &'static str = "FusedMatMul";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.a), Some(self.b)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("transB", Attribute::Int(1))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.a, self.b)?;
        let [Dim::Known(n), Dim::Known(k)] = graph.fact(self.b).shape[..] else {
            return Err(format!("weight is {}, expected two known dimensions", graph.fact(self.b)));
        };
        expect_last(graph, self.a, k)?;
        one(graph.fact(self.a).with_last(n))
    }
}

/// The residual sum of two values and its RMS norm. Outputs: the norm, the sum.
#[derive(Debug, Clone, Copy)]
pub struct SkipSimplifiedLayerNormalization {
    pub input: Value,
    pub skip: Value,
    pub gamma: Value,
    pub epsilon: f32,
    /// Whether the sum is wanted; the last norm of a model has no use for it.
    pub sum: bool,
}

impl Op for SkipSimplifiedLayerNormalization {
    const TYPE: &'static str = "SkipSimplifiedLayerNormalization";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.skip), Some(self.gamma)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.input, self.gamma)?;
        let fact = graph.fact(self.input);
        if graph.fact(self.skip) != fact {
            return Err(format!("skip is {}, expected {fact}", graph.fact(self.skip)));
        }
        let width = fact.last().cloned().ok_or("input is a scalar")?;
        expect_shape(graph, self.gamma, &[width])?;
        // The mean and the inverse deviation between the two are outputs for training.
        Ok(vec![Some(fact.clone()), None, None, self.sum.then(|| fact.clone())])
    }
}

/// The residual sum of two values and its layer norm. Outputs: the norm, the sum.
#[derive(Debug, Clone, Copy)]
pub struct SkipLayerNormalization {
    pub input: Value,
    pub skip: Value,
    pub gamma: Value,
    pub beta: Option<Value>,
    pub epsilon: f32,
    /// Whether the sum is wanted.
    pub sum: bool,
}

impl Op for SkipLayerNormalization {
    const TYPE: &'static str = "SkipLayerNormalization";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.skip), Some(self.gamma), self.beta]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let fact = graph.fact(self.input);
        if graph.fact(self.skip) != fact {
            return Err(format!("skip is {}, expected {fact}", graph.fact(self.skip)));
        }
        let width = fact.last().cloned().ok_or("input is a scalar")?;
        for weight in std::iter::once(self.gamma).chain(self.beta) {
            same_dtype(graph, self.input, weight)?;
            expect_shape(graph, weight, std::slice::from_ref(&width))?;
        }
        Ok(vec![Some(fact.clone()), None, None, self.sum.then(|| fact.clone())])
    }
}

/// `a · dequantize(b)ᵀ`: codes uint8 `[n, blocks, bytes]`, scales `[n, blocks]`, zero points uint8 packed by rows.
#[derive(Debug, Clone, Copy)]
pub struct MatMulNBits {
    pub a: Value,
    pub b: Value,
    pub scales: Value,
    pub zero_points: Option<Value>,
    pub k: usize,
    pub n: usize,
    pub scheme: IntScheme,
    /// The least precision of the activations: 0 unset, 4 int8.
    pub accuracy_level: u8,
}

impl Op for MatMulNBits {
    const TYPE: &'static str = "MatMulNBits";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.a), Some(self.b), Some(self.scales), self.zero_points]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = vec![
            ("K", Attribute::Int(self.k as i64)),
            ("N", Attribute::Int(self.n as i64)),
            ("bits", Attribute::Int(self.scheme.bits() as i64)),
            ("block_size", Attribute::Int(self.scheme.block_size() as i64)),
        ];
        if self.accuracy_level != 0 {
            attributes.push(("accuracy_level", Attribute::Int(i64::from(self.accuracy_level))));
        }
        attributes
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.a, self.scales)?;
        expect_last(graph, self.a, self.k as u64)?;
        let blocks = self.scheme.blocks(self.k);
        expect_dtype(graph, self.b, Dtype::U8)?;
        expect_shape(graph, self.b, &dims([self.n, blocks, self.scheme.code_bytes_per_row(self.k) / blocks]))?;
        expect_shape(graph, self.scales, &dims([self.n, blocks]))?;
        if let Some(zero_points) = self.zero_points {
            expect_shape(graph, zero_points, &dims([self.n, (blocks * self.scheme.bits()).div_ceil(8)]))?;
        }
        one(graph.fact(self.a).with_last(self.n as u64))
    }
}

/// Dequantized rows of a quantized table, whole blocks of them: uint8 `[rows, bytes]`.
#[derive(Debug, Clone, Copy)]
pub struct GatherBlockQuantized {
    pub data: Value,
    pub indices: Value,
    pub scales: Value,
    pub zero_points: Option<Value>,
    pub scheme: IntScheme,
}

impl Op for GatherBlockQuantized {
    const TYPE: &'static str = "GatherBlockQuantized";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.data), Some(self.indices), Some(self.scales), self.zero_points]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("bits", Attribute::Int(self.scheme.bits() as i64)),
            ("block_size", Attribute::Int(self.scheme.block_size() as i64)),
            ("gather_axis", Attribute::Int(0)),
            ("quantize_axis", Attribute::Int(1)),
        ]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let [Dim::Known(_), Dim::Known(bytes)] = graph.fact(self.data).shape[..] else {
            return Err(format!("data is {}, expected two known dimensions", graph.fact(self.data)));
        };
        let width = bytes * 8 / self.scheme.bits() as u64;
        let mut shape = graph.fact(self.indices).shape.clone();
        shape.push(Dim::Known(width));
        one(Fact::new(graph.fact(self.scales).dtype, shape))
    }
}

/// The tables of a rotation, and which dimensions it pairs.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// `[positions, rotated / 2]`
    pub cos: Value,
    /// `[positions, rotated / 2]`
    pub sin: Value,
    /// Pairs are neighbours; otherwise they lie half of the rotated dimensions apart.
    pub interleaved: bool,
}

/// Rotates heads: input `[batch, sequence, heads * head_dim]`, positions int64 `[batch, sequence]`.
#[derive(Debug, Clone, Copy)]
pub struct RotaryEmbedding {
    pub input: Value,
    pub position_ids: Value,
    pub rotation: Rotation,
    pub num_heads: usize,
    /// How many leading dimensions of a head are rotated, where it is not all of them.
    pub partial: Option<usize>,
}

impl Op for RotaryEmbedding {
    const TYPE: &'static str = "RotaryEmbedding";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.position_ids), Some(self.rotation.cos), Some(self.rotation.sin)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = vec![
            ("num_heads", Attribute::Int(self.num_heads as i64)),
            ("interleaved", Attribute::Int(i64::from(self.rotation.interleaved))),
        ];
        if let Some(dims) = self.partial {
            attributes.push(("rotary_embedding_dim", Attribute::Int(dims as i64)));
        }
        attributes
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.input, self.rotation.cos)?;
        same_dtype(graph, self.rotation.cos, self.rotation.sin)?;
        expect_dtype(graph, self.position_ids, Dtype::I64)?;
        one(graph.fact(self.input).clone())
    }
}

/// RMS norms of the heads of q and k, with weights `[head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms {
    pub q: Value,
    pub k: Value,
    pub epsilon: f32,
}
/// The length of a cache that keeps a window alone, before and after a run. Under one name for both kinds of caches they
/// would be taken to be of one length.
pub const PAST_SLIDING: &str = "past_sliding_length";
const TOTAL_SLIDING: &str = "total_sliding_length";

/// Causal attention over the cache. Outputs: `[batch, sequence, num_heads * head_dim]`, present key, present value.
#[derive(Debug, Clone, Copy)]
pub struct GroupQueryAttention {
    /// `[batch, sequence, num_heads * head_dim]`, or q, k and v side by side where `key` and `value` are absent.
    pub query: Value,
    /// Key and value, each `[batch, sequence, num_kv_heads * head_dim]`.
    pub key_value: Option<(Value, Value)>,
    /// `[batch, num_kv_heads, past, head_dim]`
    pub past_key: Value,
    pub past_value: Value,
    /// int32 `[batch]`: tokens of each row, less one.
    pub seqlens_k: Value,
    /// int32 scalar: the longest row's tokens.
    pub total_sequence_length: Value,
    /// Where the op rotates.
    pub rotation: Option<Rotation>,
    /// Added to the scores after the cap: `[batch or 1, num_heads or 1, sequence, total]`.
    pub attention_bias: Option<Value>,
    /// Where the op norms heads before it rotates them.
    pub head_norms: Option<HeadNorms>,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub window: Option<usize>,
    /// Where the cache holds codes.
    pub codes: Option<CacheCodes>,
    /// Whether the cache keeps no more than the window, and the op forgets what leaves it.
    pub windowed_cache: bool,
}

/// How a cache of codes is read and written: `value = code * scale`.
#[derive(Debug, Clone, Copy)]
pub struct CacheCodes {
    /// Float: `[1]`, or one for each dimension of each key head.
    pub key_scale: Value,
    pub value_scale: Value,
    /// Whether a dimension of a head has a scale of its own.
    pub per_channel: bool,
    /// Of a code; two of 4 are a byte.
    pub bits: usize,
}

impl CacheCodes {
    /// `PER_TENSOR` or `PER_CHANNEL`, as the attention ops call it.
    pub(super) fn quant_type(&self) -> &'static str {
        if self.per_channel { "PER_CHANNEL" } else { "PER_TENSOR" }
    }
}

impl Op for GroupQueryAttention {
    const TYPE: &'static str = "GroupQueryAttention";
    const DOMAIN: &'static str = MICROSOFT;

    fn inputs(&self) -> Vec<Option<Value>> {
        let mut inputs = vec![
            Some(self.query),
            self.key_value.map(|(key, _)| key),
            self.key_value.map(|(_, value)| value),
            Some(self.past_key),
            Some(self.past_value),
            Some(self.seqlens_k),
            Some(self.total_sequence_length),
            self.rotation.map(|rotation| rotation.cos),
            self.rotation.map(|rotation| rotation.sin),
            None,
            self.attention_bias,
        ];
        if self.codes.is_some() || self.head_norms.is_some() {
            let (codes, norms) = (self.codes, self.head_norms);
            // Between are sinks.
            inputs.push(None);
            inputs.extend([codes.map(|codes| codes.key_scale), codes.map(|codes| codes.value_scale)]);
            inputs.extend([norms.map(|norms| norms.q), norms.map(|norms| norms.k)]);
        }
        inputs
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = vec![
            ("num_heads", Attribute::Int(self.num_heads as i64)),
            ("kv_num_heads", Attribute::Int(self.num_kv_heads as i64)),
            ("scale", Attribute::Float(self.scale)),
            ("local_window_size", Attribute::Int(self.window.map_or(-1, |window| window as i64))),
            ("softcap", Attribute::Float(self.softcap.unwrap_or(0.0))),
            ("do_rotary", Attribute::Int(i64::from(self.rotation.is_some()))),
            (
                "rotary_interleaved",
                Attribute::Int(i64::from(self.rotation.is_some_and(|rotation| rotation.interleaved))),
            ),
        ];
        attributes.extend(self.head_norms.map(|norms| ("qk_norm_epsilon", Attribute::Float(norms.epsilon))));
        if let Some(codes) = self.codes {
            attributes.extend([
                ("k_quant_type", Attribute::Text(codes.quant_type())),
                ("v_quant_type", Attribute::Text(codes.quant_type())),
                ("kv_cache_bit_width", Attribute::Int(codes.bits as i64)),
            ]);
        }
        if self.windowed_cache {
            attributes.push(("sliding_window_cache", Attribute::Int(1)));
        }
        attributes
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let (heads, kv_heads) = (self.num_heads as u64, self.num_kv_heads as u64);
        let head_dim = self.head_dim as u64;
        match self.key_value {
            None => expect_last(graph, self.query, (heads + 2 * kv_heads) * head_dim)?,
            Some((key, value)) => {
                expect_last(graph, self.query, heads * head_dim)?;
                expect_last(graph, key, kv_heads * head_dim)?;
                expect_last(graph, value, kv_heads * head_dim)?;
            }
        }
        match self.codes {
            None => drop(same_dtype(graph, self.query, self.past_key)?),
            Some(codes) => {
                for scale in [codes.key_scale, codes.value_scale] {
                    expect_dtype(graph, scale, Dtype::F32)?;
                }
                expect_last(graph, self.past_key, head_dim * codes.bits as u64 / 8)?;
            }
        }
        for value in self.rotation.iter().flat_map(|rotation| [rotation.cos, rotation.sin]).chain(self.attention_bias) {
            same_dtype(graph, self.query, value)?;
        }
        for weight in self.head_norms.iter().flat_map(|norms| [norms.q, norms.k]) {
            same_dtype(graph, self.query, weight)?;
            expect_shape(graph, weight, &[Dim::Known(head_dim)])?;
        }
        expect_dtype(graph, self.seqlens_k, Dtype::I32)?;
        expect_dtype(graph, self.total_sequence_length, Dtype::I32)?;
        let past = graph.fact(self.past_key);
        let [batch, kv, length, width] = &past.shape[..] else {
            return Err(format!("past key is {past}, expected rank 4"));
        };
        let total = if *length == Dim::Symbol(PAST_SLIDING) { TOTAL_SLIDING } else { "total_sequence_length" };
        let present = vec![batch.clone(), kv.clone(), Dim::Symbol(total), width.clone()];
        let present = Fact::new(past.dtype, present);
        Ok(vec![Some(graph.fact(self.query).with_last(heads * head_dim)), Some(present.clone()), Some(present)])
    }
}
