//! Queries and keys between the linear and the attention op: what the op does not do to them itself.
//!
//! ```text
//! (qkv ─► Split ─►) q, k, v ─► q_norm, k_norm ─► RotaryEmbedding ─► query scale ─► Pad
//! ```

use genai_architectures::{Attention, HeadNorm, KeyValue, NormOrder, NormSpan, NormWeight, Position, QueryScaling};

use super::{Lowering, linear::dotted};
use crate::{
    Result,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{Add, Cast, Div, Floor, Log, Mul, Pad, Place, Reshape, RotaryEmbedding, Rotation, Split, Unsqueeze},
    },
};

impl Lowering<'_> {
    /// q, and k and v where the layer has its own, with everything done to them that the attention op does not do. All
    /// three in place of q stay as they are: the op does the rest.
    pub(super) fn heads(
        &mut self,
        index: usize,
        path: &str,
        attention: &Attention,
        (mut query, mut key_value): (Value, Option<(Value, Value)>),
        rotation: Option<Rotation>,
    ) -> Result<(Value, Option<(Value, Value)>)> {
        let &Attention { num_heads, num_kv_heads, norm_order, .. } = attention;
        if norm_order == NormOrder::BeforeRotation && self.norms_inside(index, attention).is_none() {
            (query, key_value) = self.head_norms(path, attention, query, key_value)?;
        }
        if let Some(rotation) = rotation.filter(|_| !self.rotates_inside(attention)) {
            query = self.rotate(&format!("{path}/q_rotary"), query, num_heads, attention, rotation)?;
            if let Some((key, _)) = &mut key_value {
                *key = self.rotate(&format!("{path}/k_rotary"), *key, num_kv_heads, attention, rotation)?;
            }
        }
        if norm_order == NormOrder::AfterRotation {
            (query, key_value) = self.head_norms(path, attention, query, key_value)?;
        }
        // A factor per position passes through a rotation, so it may come before one inside the op.
        if let Some(scaling) = attention.query_scaling {
            let scale = self.query_scale(scaling)?;
            query = self.graph.add(&format!("{path}/q_scale/Mul"), &Mul(query, scale))?;
        }
        let query = self.padded(&format!("{path}/q_pad"), query, num_heads, attention)?;
        if let Some((key, value)) = &mut key_value {
            *key = self.padded(&format!("{path}/k_pad"), *key, num_kv_heads, attention)?;
            *value = self.padded(&format!("{path}/v_pad"), *value, num_kv_heads, attention)?;
        }
        Ok((query, key_value))
    }

    /// q, k and v of what is side by side.
    pub(super) fn split_heads(
        &mut self,
        path: &str,
        attention: &Attention,
        qkv: Value,
    ) -> Result<(Value, Option<(Value, Value)>)> {
        let &Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        let heads = match attention.key_value {
            KeyValue::Own { .. } => vec![num_heads, num_kv_heads, num_kv_heads],
            KeyValue::Same(_) => vec![num_heads, num_kv_heads],
            KeyValue::OfLayer(_) => return Ok((qkv, None)),
        };
        let sizes: Vec<_> = heads.into_iter().map(|heads| (heads * head_dim) as u64).collect();
        let split = self.graph.constant(Constant::Int64s(sizes.iter().map(|size| *size as i64).collect()))?;
        let name = format!("{path}/qkv_proj/Split");
        let parts = self.graph.wire(&name, &name, &Split { input: qkv, split, sizes })?;
        // Of two parts the second is both.
        Ok((parts[0], Some((parts[1], parts[parts.len() - 1]))))
    }

    fn head_norms(
        &mut self,
        path: &str,
        attention: &Attention,
        query: Value,
        key_value: Option<(Value, Value)>,
    ) -> Result<(Value, Option<(Value, Value)>)> {
        let &Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        let mut normed = |name: &str, norm: &Option<HeadNorm>, input: Value, heads: usize| match norm {
            Some(norm) => self.head_norm(&format!("{path}/{name}"), norm, input, heads, head_dim),
            None => Ok(input),
        };
        let query = normed("q_norm", &attention.q_norm, query, num_heads)?;
        let Some((key, value)) = key_value else { return Ok((query, None)) };
        let key = normed("k_norm", &attention.k_norm, key, num_kv_heads)?;
        let value = normed("v_norm", &attention.v_norm, value, num_kv_heads)?;
        Ok((query, Some((key, value))))
    }

    /// The norm of heads `[batch, sequence, heads * head_dim]`, each on its own or all together.
    fn head_norm(
        &mut self,
        path: &str,
        head_norm: &HeadNorm,
        input: Value,
        heads: usize,
        head_dim: usize,
    ) -> Result<Value> {
        let norm = &head_norm.norm;
        let weights = format!("{path}/layernorm");
        let name = format!("{path}/SimplifiedLayerNormalization");
        if head_norm.span == NormSpan::Whole {
            let (scale, bias) = self.norm_weights(norm, &weights, heads * head_dim, self.dtype)?;
            return self.norm_node(&name, &name, input, norm, scale, bias);
        }
        let apart = self.apart(&format!("{path}/Reshape_1"), input, heads, head_dim)?;
        let normed = match head_norm.span {
            NormSpan::Head | NormSpan::Whole => {
                let (scale, bias) = self.norm_weights(norm, &weights, head_dim, self.dtype)?;
                self.norm_node(&name, &name, apart, norm, scale, bias)?
            }
            NormSpan::EachHead | NormSpan::EachHeadApart => {
                let scale =
                    self.constant_tensor(&format!("{}.ones", dotted(&weights)), 1.0, &[head_dim], self.dtype)?;
                let normed = self.norm_node(&name, &name, apart, norm, scale, None)?;
                self.each_head(path, &weights, head_norm, normed, [heads, head_dim])?
            }
        };
        self.together(&format!("{path}/Reshape_2"), normed, heads * head_dim)
    }

    /// Weights `[heads, head_dim]` on normed heads.
    fn each_head(
        &mut self,
        path: &str,
        weights: &str,
        head_norm: &HeadNorm,
        normed: Value,
        dims: [usize; 2],
    ) -> Result<Value> {
        let [heads, head_dim] = dims;
        let plus = match head_norm.norm.weight {
            NormWeight::None => None,
            NormWeight::Plain => Some(0.0),
            NormWeight::OnePlus => Some(1.0),
        };
        let mut value = normed;
        if let Some(plus) = plus {
            let tensors = head_norm.weights(heads, head_dim);
            let weight = self.stacked(&format!("{}.weight", dotted(weights)), tensors, &dims, plus)?;
            value = self.graph.add(&format!("{path}/Mul"), &Mul(value, weight))?;
        }
        if head_norm.norm.bias {
            let tensors = head_norm.biases(heads, head_dim);
            let bias = self.stacked(&format!("{}.bias", dotted(weights)), tensors, &dims, 0.0)?;
            value = self.graph.add(&format!("{path}/Add"), &Add(value, bias))?;
        }
        Ok(value)
    }

    fn rotate(
        &mut self,
        path: &str,
        input: Value,
        num_heads: usize,
        attention: &Attention,
        rotation: Rotation,
    ) -> Result<Value> {
        let Position::Rope(rope) = attention.position else { return Ok(input) };
        let dim = self.spec.rope(rope).dim;
        let partial = (dim != attention.head_dim).then_some(dim);
        if self.settings.attention.is_standard() {
            return self.standard_rotation(path, input, num_heads, attention, dim, rotation);
        }
        let op = RotaryEmbedding { input, position_ids: self.positions()?, rotation, num_heads, partial };
        self.graph.add(&format!("{path}/RotaryEmbedding"), &op)
    }

    /// `[batch, sequence, 1]`; made once for all layers that share a setting.
    fn query_scale(&mut self, scaling: QueryScaling) -> Result<Value> {
        const PATH: &str = "/model/query_scale";
        let key = (scaling.beta.to_bits(), scaling.context);
        if let Some(scale) = self.query_scales.get(&key) {
            return Ok(*scale);
        }
        let position_ids = self.positions()?;
        let path = format!("{PATH}_{}", self.query_scales.len());
        let at = |part: &str| format!("{path}/{part}");
        let graph = &mut self.graph;
        let positions = graph.add(&at("positions/Cast"), &Cast { input: position_ids, to: Dtype::F32 })?;
        let context = graph.constant(Constant::Float(scaling.context as f32))?;
        let (one, beta) = (graph.constant(Constant::Float(1.0))?, graph.constant(Constant::Float(scaling.beta))?);
        let contexts = graph.add(&at("Div"), &Div(positions, context))?;
        let whole = graph.add(&at("Floor"), &Floor(contexts))?;
        let counted = graph.add(&at("count/Add"), &Add(whole, one))?;
        let log = graph.add(&at("Log"), &Log(counted))?;
        let grown = graph.add(&at("Mul"), &Mul(log, beta))?;
        let scale = graph.add(&at("Add"), &Add(grown, one))?;
        let axes = graph.constant(Constant::Int64s(vec![2]))?;
        let scale = graph.add(&at("Unsqueeze"), &Unsqueeze { input: scale, axes, place: Place::End })?;
        let scale = self.in_activation_dtype(&path, scale)?;
        self.query_scales.insert(key, scale);
        Ok(scale)
    }

    /// The dimension of heads in the cache.
    pub(super) fn cache_head_dim(&self, attention: &Attention) -> usize {
        self.settings.attention.padded_head_dim(attention.head_dim)
    }

    /// Heads `[batch, sequence, heads * head_dim]` with zeros behind each, up to what the attention op takes. Zeros add
    /// nothing to the scores, and those of the values are cut off again.
    fn padded(&mut self, path: &str, input: Value, heads: usize, attention: &Attention) -> Result<Value> {
        let (head_dim, width) = (attention.head_dim, self.cache_head_dim(attention));
        if head_dim == width {
            return Ok(input);
        }
        let apart = self.apart(&format!("{path}/Reshape_1"), input, heads, head_dim)?;
        let pads = self.graph.constant(Constant::Int64s(vec![0, 0, 0, 0, 0, 0, 0, (width - head_dim) as i64]))?;
        let wide = self.graph.add(&format!("{path}/Pad"), &Pad { input: apart, pads, width: width as u64 })?;
        self.together(&format!("{path}/Reshape_2"), wide, heads * width)
    }

    /// What attention made of padded heads, without what it made of the zeros.
    pub(super) fn unpadded(&mut self, path: &str, input: Value, attention: &Attention) -> Result<Value> {
        let (heads, head_dim) = (attention.num_heads, attention.head_dim);
        let width = self.cache_head_dim(attention);
        if head_dim == width {
            return Ok(input);
        }
        let apart = self.apart(&format!("{path}/Reshape_1"), input, heads, width)?;
        let narrow = self.stretch(&format!("{path}/Slice"), apart, 3, 0..head_dim)?;
        self.together(&format!("{path}/Reshape_2"), narrow, heads * head_dim)
    }

    /// `[batch, sequence, heads * head_dim]` as `[batch, sequence, heads, head_dim]`.
    pub(super) fn apart(&mut self, name: &str, input: Value, heads: usize, head_dim: usize) -> Result<Value> {
        let mut shape = self.graph.fact(input).shape.clone();
        shape.pop();
        shape.extend([Dim::Known(heads as u64), Dim::Known(head_dim as u64)]);
        // Zero keeps a dimension.
        let target = self.graph.constant(Constant::Int64s(vec![0, 0, heads as i64, head_dim as i64]))?;
        self.graph.add(name, &Reshape { input, target, shape })
    }

    /// `[batch, sequence, heads, head_dim]` as `[batch, sequence, width]`.
    pub(super) fn together(&mut self, name: &str, input: Value, width: usize) -> Result<Value> {
        let mut shape = self.graph.fact(input).shape.clone();
        shape.truncate(2);
        shape.push(Dim::Known(width as u64));
        let target = self.graph.constant(Constant::Int64s(vec![0, 0, width as i64]))?;
        self.graph.add(name, &Reshape { input, target, shape })
    }
}
