//! Attention over the cache.
//!
//! ```text
//! x ─► qkv_proj ─► (Clip) ─► GroupQueryAttention (rotates, attends, extends the cache) ─► o_proj
//!         └► heads: norms, rotation, … ─┘   where q and k need more than the op does
//!
//! x ─► q_proj, k_proj, v_proj ─► (Clip) ─► heads ─► …   where the three are not one product
//! ```

use genai_architectures::{
    Attention, HeadNorm, KeyValue, Linear, Mixer, Norm, NormKind, NormOrder, NormSpan, NormWeight, Position, RopeLayout,
};

use super::{Lowering, mask::Lengths};
use crate::{
    Error, Result, Role,
    graph::{
        Value,
        ops::{Clip, GroupQueryAttention, HeadNorms, Rotation},
    },
    target::{AttentionForm, WindowedCache},
};

impl Lowering<'_> {
    /// Returns the output `[batch, sequence, hidden]`, and the present key and value, which are those of layer `index`
    /// where it has its own.
    pub(super) fn attention(
        &mut self,
        index: usize,
        path: &str,
        attention: &Attention,
        input: Value,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Value, (Value, Value))> {
        let mut projected = self.projections(path, attention, input)?;
        let rotation = self.rotation(attention, lengths)?;
        if projected.1.is_none() && self.takes_heads_apart(index, attention) {
            projected = self.split_heads(path, attention, projected.0)?;
        }
        let (query, key_value) = self.heads(index, path, attention, projected, rotation)?;
        let (key_value, past) = match (&attention.key_value, self.settings.attention) {
            (KeyValue::OfLayer(source), AttentionForm::GroupQuery { .. }) => (Some(self.keys_of(path, *source)?), past),
            (KeyValue::OfLayer(source), AttentionForm::Standard | AttentionForm::Fixed) => {
                (None, self.present_of(path, *source)?)
            }
            (KeyValue::Own { .. } | KeyValue::Same(_), _) => (key_value, past),
        };
        if let Some(key_value) = key_value {
            self.keys.insert(index, key_value);
        }
        let (mixed, present) = match (lengths, self.settings.attention) {
            (Lengths::Pages(pages), _) => {
                self.paged_attention(index, path, attention, (query, key_value), past, pages)?
            }
            (_, AttentionForm::Standard | AttentionForm::Fixed) => {
                self.standard_attention(path, attention, query, key_value, past, lengths.places())?
            }
            (_, AttentionForm::GroupQuery { .. }) => {
                self.group_query_attention((index, path), attention, (query, key_value), past, lengths)?
            }
        };
        self.presents.insert(index, present);
        let output = self.linear(&format!("{path}/o_proj"), Role::OProj, mixed, &[&attention.o])?;
        Ok((output, present))
    }

    /// Attention by the fused op; `past` and present are those of the layer's cache.
    fn group_query_attention(
        &mut self,
        (index, path): (usize, &str),
        attention: &Attention,
        (query, key_value): (Value, Option<(Value, Value)>),
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Value, (Value, Value))> {
        let &Attention { num_heads, num_kv_heads, .. } = attention;
        let rotation = self.rotation(attention, lengths)?;
        let op = GroupQueryAttention {
            query,
            key_value,
            past_key: past.0,
            past_value: past.1,
            seqlens_k: lengths.rows()?.seqlens_k,
            total_sequence_length: lengths.rows()?.total_sequence_length,
            rotation: rotation.filter(|_| self.rotates_inside(attention)),
            attention_bias: self.attention_bias(attention, path)?,
            head_norms: self.weights_inside(index, path, attention)?,
            num_heads,
            num_kv_heads,
            head_dim: self.cache_head_dim(attention),
            scale: attention.scale,
            softcap: attention.softcap,
            window: attention.window,
            codes: self.cache_codes(index, attention)?,
            windowed_cache: self.keeps_window(attention)
                && self.settings.target.cache.windowed == Some(WindowedCache::Operator),
        };
        let name = format!("{path}/GroupQueryAttention");
        let outputs = self.graph.wire(&name, &name, &op)?;
        let mixed = self.unpadded(&format!("{path}/unpad"), outputs[0], attention)?;
        Ok((mixed, (outputs[1], outputs[2])))
    }

    /// q, and k and v where the layer has its own, each `[batch, sequence, heads * head_dim]`; all of them side by side
    /// in place of q where one product makes them.
    fn projections(
        &mut self,
        path: &str,
        attention: &Attention,
        input: Value,
    ) -> Result<(Value, Option<(Value, Value)>)> {
        let mut modules = vec![&attention.q];
        modules.extend(attention.key_value.linears());
        if self.settings.fusion.qkv && modules.len() > 1 {
            let qkv = self.projection(&format!("{path}/qkv_proj"), Role::QkvProj, attention, input, &modules)?;
            return Ok((qkv, None));
        }
        let mut one =
            |name: &str, role, module| self.projection(&format!("{path}/{name}"), role, attention, input, &[module]);
        let query = one("q_proj", Role::QkProj, &attention.q)?;
        let key_value = match &attention.key_value {
            KeyValue::Own { k, v } => Some((one("k_proj", Role::QkProj, k)?, one("v_proj", Role::VProj, v)?)),
            KeyValue::Same(linear) => {
                let both = one("k_proj", Role::VProj, linear)?;
                Some((both, both))
            }
            KeyValue::OfLayer(_) => None,
        };
        Ok((query, key_value))
    }

    fn projection(
        &mut self,
        path: &str,
        role: Role,
        attention: &Attention,
        input: Value,
        modules: &[&Linear],
    ) -> Result<Value> {
        let product = self.linear(path, role, input, modules)?;
        let Some(bound) = attention.clip_qkv else { return Ok(product) };
        let (min, max) = (self.scalar(-bound)?, self.scalar(bound)?);
        self.graph.add(&format!("{path}/Clip"), &Clip { input: product, min, max })
    }

    /// The new keys and values of an earlier layer, as they go into its attention op. A second op that is given them and
    /// the same past sees what the first one's cache holds.
    fn keys_of(&self, path: &str, layer: usize) -> Result<(Value, Value)> {
        let keys = self.keys.get(&layer).copied();
        keys.ok_or_else(|| Error::graph(path, format!("layer {layer} has no keys of its own before this one")))
    }

    /// The cache of an earlier layer with what it has made new.
    fn present_of(&self, path: &str, layer: usize) -> Result<(Value, Value)> {
        let present = self.presents.get(&layer).copied();
        present.ok_or_else(|| Error::graph(path, format!("layer {layer} has no cache before this one")))
    }

    /// What the layer adds to its scores: for the distance, or to hide blocks.
    pub(super) fn attention_bias(&self, attention: &Attention, path: &str) -> Result<Option<Value>> {
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
        let AttentionForm::GroupQuery { rotates: Some(multiple), .. } = self.settings.attention else { return false };
        let norms_after = attention.norm_order == NormOrder::AfterRotation
            && (attention.q_norm.is_some() || attention.k_norm.is_some());
        !norms_after && attention.head_dim.is_multiple_of(multiple) && self.spec.rope(rope).dim.is_multiple_of(multiple)
    }

    /// Whether q, k and v are to stand on their own: for the attention op, or for what is done before it.
    fn takes_heads_apart(&self, index: usize, attention: &Attention) -> bool {
        let rotates_outside = matches!(attention.position, Position::Rope(_)) && !self.rotates_inside(attention);
        let packed = matches!(self.settings.attention, AttentionForm::GroupQuery { packed: true, .. });
        // Kernels that norm heads themselves refuse to where q, k and v are one value.
        let normed = [&attention.q_norm, &attention.k_norm, &attention.v_norm].into_iter().any(Option::is_some);
        !packed
            || normed
            || !matches!(attention.key_value, KeyValue::Own { .. })
            || self.spec.shares_keys(index)
            || attention.query_scaling.is_some()
            || rotates_outside
            || self.cache_head_dim(attention) != attention.head_dim
    }

    /// The norms of q and k that the attention op of layer `index` takes itself: of each head, by one weight for all,
    /// before any rotation, and with nothing in between.
    pub(super) fn norms_inside<'n>(&self, index: usize, attention: &'n Attention) -> Option<[&'n Norm; 2]> {
        // The op over pages takes no norms.
        if !self.settings.fusion.head_norms || self.settings.cache.paged.is_some() {
            return None;
        }
        let (Some(q), Some(k)) = (&attention.q_norm, &attention.k_norm) else { return None };
        let plain = |norm: &HeadNorm| {
            norm.span == NormSpan::Head
                && norm.norm.kind == NormKind::Rms
                && norm.norm.weight != NormWeight::None
                && !norm.norm.bias
        };
        let fits = plain(q)
            && plain(k)
            && q.norm.eps == k.norm.eps
            && attention.v_norm.is_none()
            && matches!(attention.key_value, KeyValue::Own { .. })
            && !self.spec.shares_keys(index)
            && attention.query_scaling.is_none()
            && (!matches!(attention.position, Position::Rope(_)) || self.rotates_inside(attention))
            && self.cache_head_dim(attention) == attention.head_dim;
        fits.then_some([&q.norm, &k.norm])
    }

    fn weights_inside(&mut self, index: usize, path: &str, attention: &Attention) -> Result<Option<HeadNorms>> {
        let Some([q, k]) = self.norms_inside(index, attention) else { return Ok(None) };
        let mut weight = |name: &str, norm: &Norm| {
            self.norm_weights(norm, &format!("{path}/{name}/layernorm"), attention.head_dim, self.dtype)
        };
        let ((q_weight, _), (k_weight, _)) = (weight("q_norm", q)?, weight("k_norm", k)?);
        Ok(Some(HeadNorms { q: q_weight, k: k_weight, epsilon: q.eps }))
    }

    /// # Errors
    /// `Unsupported` where attention is asked to norm heads and no layer has such norms.
    pub(super) fn check_norms_inside(&self) -> Result<()> {
        let mut layers = self.spec.layers.iter().enumerate();
        let normed = layers.any(|(index, layer)| {
            let Mixer::Attention(attention) = &layer.mixer;
            self.norms_inside(index, attention).is_some()
        });
        if normed || !self.settings.fusion.head_norms {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!(
                "fuse_qk_norm_gqa is true: {} has no norms that its attention could take",
                self.spec.architecture
            ),
            hint: "leave fuse_qk_norm_gqa out; it is about RMS norms of each head of q and k before they are rotated"
                .to_owned(),
        })
    }

    pub(super) fn rotation(&mut self, attention: &Attention, lengths: &Lengths) -> Result<Option<Rotation>> {
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
