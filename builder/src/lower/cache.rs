//! The cache as the settings want it: dtypes, shapes, scales.

use genai_architectures::{Attention, KeyValue, Mixer};

use super::Lowering;
use crate::{
    CacheCode, CacheQuantization, Error, Result, ScaleSpan,
    cache::WindowedCaches,
    graph::{
        Dim, Dtype, Fact, Value,
        ops::{CacheCodes, PAST_SLIDING},
    },
    plan::{Job, Rows, Segment, Sink, Source},
};

impl Lowering<'_> {
    /// Fails where the model has no such cache as is asked for.
    pub(super) fn check_cache(&self) -> Result<()> {
        let cache = &self.settings.cache;
        let windowed = WindowedCaches::of(self.spec, cache)?;
        if cache.paged.is_some() {
            self.check_paged()?;
        }
        if self.settings.attention.is_standard() && (windowed.is_some() || cache.quantization.is_some()) {
            let asked = if windowed.is_some() { "a window alone" } else { "codes" };
            return Err(Error::Unsupported {
                what: format!("attention in standard operators has no cache of {asked}"),
                hint: "leave out windowed_kv_cache and kv_cache_quant_scheme, or take a precision whose attention is fused"
                    .to_owned(),
            });
        }
        let Some(CacheQuantization { scheme, scales }) = &cache.quantization else { return Ok(()) };
        if let (Some(_), CacheCode::Int4) = (windowed, scheme.code) {
            self.check_window_of_int4()?;
        }
        scales.expect_fit(self.spec, scheme.span)
    }

    /// Operators forget int4 by whole words.
    fn check_window_of_int4(&self) -> Result<()> {
        const MULTIPLE: usize = 32;
        for layer in &self.spec.layers {
            let Mixer::Attention(attention) = &layer.mixer;
            let width = self.cache_head_dim(attention);
            if attention.window.is_some() && !width.is_multiple_of(MULTIPLE) {
                return Err(Error::Unsupported {
                    what: format!(
                        "windowed_kv_cache=true with a cache of int4 takes heads of a multiple of {MULTIPLE} dimensions, \
                         and these have {width}"
                    ),
                    hint: "give one of the two up, or take int8".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether a layer keeps no more than its window.
    pub(super) fn keeps_window(&self, attention: &Attention) -> bool {
        self.settings.cache.windowed && attention.window.is_some()
    }

    /// The past keys, or values, of a layer.
    pub(super) fn cache_fact(&self, attention: &Attention) -> Fact {
        let (heads, width) = (attention.num_kv_heads as u64, self.settings.cache_width(attention.head_dim) as u64);
        let past = Dim::Symbol(if self.keeps_window(attention) { PAST_SLIDING } else { "past_sequence_length" });
        let dtype = self.settings.cache.quantization.as_ref().map_or(self.dtype, |codes| codes.scheme.code.dtype());
        let (heads, width) = (Dim::Known(heads), Dim::Known(width));
        let shape = match self.settings.cache.paged {
            None if self.settings.is_fixed() => {
                let tokens = Dim::Known(self.settings.context_length(self.spec) as u64);
                vec![Dim::Known(1), heads, tokens, width]
            }
            None => vec![Dim::Symbol("batch_size"), heads, past, width],
            Some(_) => vec![Dim::Symbol("num_blocks"), Dim::Symbol("block_size"), heads, width],
        };
        Fact::new(dtype, shape)
    }

    /// How the cache that a layer reads and writes holds codes; `None` where it holds values.
    pub(super) fn cache_codes(&mut self, index: usize, attention: &Attention) -> Result<Option<CacheCodes>> {
        let settings = self.settings;
        let Some(CacheQuantization { scheme, scales }) = &settings.cache.quantization else { return Ok(None) };
        let owner = if let KeyValue::OfLayer(source) = attention.key_value { source } else { index };
        if let Some(codes) = self.cache_codes.get(&owner) {
            return Ok(Some(*codes));
        }
        let path = format!("model.layers.{owner}.attn");
        let layer = scales.layer(owner).ok_or_else(|| Error::graph(&path, "the layer has no scales"))?;
        let per_channel = scheme.span == ScaleSpan::Channel;
        let codes = CacheCodes {
            key_scale: self.cache_scale(&format!("{path}.k_scale"), &layer.key, attention)?,
            value_scale: self.cache_scale(&format!("{path}.v_scale"), &layer.value, attention)?,
            per_channel,
            bits: scheme.code.bits(),
        };
        self.cache_codes.insert(owner, codes);
        Ok(Some(codes))
    }

    /// Scales as they were given, with ones for the zeros that pad heads.
    fn cache_scale(&mut self, name: &str, scales: &[f32], attention: &Attention) -> Result<Value> {
        let padding = self.cache_head_dim(attention) - attention.head_dim;
        let padded: Vec<f32> = match scales {
            [one] => vec![*one],
            scales => {
                let head =
                    |head: &[f32]| head.iter().copied().chain(std::iter::repeat_n(1.0, padding)).collect::<Vec<_>>();
                scales.chunks(attention.head_dim).flat_map(head).collect()
            }
        };
        let n = padded.len();
        let dims = match (self.settings.cache.paged, n) {
            (Some(_), 2..) => vec![attention.num_kv_heads, 1, self.cache_head_dim(attention)],
            _ => vec![n],
        };
        let (value, slot) = self.stored(name, Dtype::F32, &dims)?;
        let segment = |scale| Segment { source: Source::Constant(scale), rows: 1 };
        let rows = Rows::Checkpoint { segments: padded.into_iter().map(segment).collect(), plus: 0.0 };
        self.jobs.push(Job { rows, n, k: 1, sink: Sink::Dense { slot, dtype: Dtype::F32 } });
        Ok(value)
    }
}
