//! How keys and values of past tokens are kept.

mod scales;

use std::collections::BTreeSet;

use genai_architectures::{DecoderSpec, KeyValue, Mixer, Position};

pub use scales::CacheScales;

use crate::{Error, Result, graph::Dtype};

/// What is asked of the cache.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Integers or small floats in place of activations; `None` keeps the dtype of activations.
    pub quantization: Option<CacheQuantization>,
    /// Whether layers that see a window alone keep no more than that.
    pub windowed: bool,
    /// Pages of a pool that several sequences share, in place of a buffer for each.
    pub paged: Option<Paged>,
}

/// A cache in pages, and the engine of onnxruntime-genai that lends them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paged {
    /// Tokens of a page.
    pub block_size: u64,
    pub pool: Pool,
    /// Sequences in a step.
    pub max_batch_size: u64,
    /// Tokens in a step; `None` leaves it to the runtime.
    pub max_scheduled_tokens: Option<u64>,
    /// Tokens of one prompt in a step; `None` does not cut it.
    pub chunk_size: Option<u64>,
}

/// How large the pool is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pool {
    Pages(u64),
    /// This share of the memory that is free on the device.
    ShareOfFree(f64),
}

/// The caches that keep a window alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WindowedCaches {
    /// In tokens.
    pub(crate) window: usize,
    /// Which caches, counted as the graph counts them.
    pub(crate) caches: Vec<usize>,
}

impl WindowedCaches {
    /// Those of a model; `None` where they are not asked for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that has no such layers, or for which the runtime has no such cache.
    pub(crate) fn of(spec: &DecoderSpec, cache: &Cache) -> Result<Option<Self>> {
        if !cache.windowed {
            return Ok(None);
        }
        let refuse = |what: String| Error::Unsupported {
            what: format!("{}: {what}", spec.architecture),
            hint: "windowed_kv_cache=false keeps every token".to_owned(),
        };
        let attentions = spec.layers.iter().map(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention
        });
        let windows: BTreeSet<usize> = attentions.clone().filter_map(|attention| attention.window).collect();
        let window = match windows.iter().collect::<Vec<_>>()[..] {
            [] => return Err(refuse("no layer has a window, so no cache can be kept to one".to_owned())),
            [window] => *window,
            _ => return Err(refuse(format!("layers with windows of {windows:?}, where one cache size is known"))),
        };
        if window > spec.context_length {
            return Err(refuse(format!(
                "a window of {window} tokens is more than the context of {}",
                spec.context_length
            )));
        }
        for (index, attention) in attentions.clone().enumerate().filter(|(_, attention)| attention.window.is_some()) {
            if let KeyValue::OfLayer(source) = attention.key_value {
                return Err(refuse(format!(
                    "layer {index} reads the cache of layer {source}, which is overwritten by then"
                )));
            }
            if matches!(attention.position, Position::Alibi(_)) || attention.blocks.is_some() {
                return Err(refuse(format!(
                    "layer {index} biases its scores by position, which a window's cache moves"
                )));
            }
        }
        let owners = attentions.filter(|attention| attention.key_value.is_own());
        let caches = owners.enumerate().filter(|(_, attention)| attention.window.is_some()).map(|(cache, _)| cache);
        Ok(Some(Self { window, caches: caches.collect() }))
    }
}

/// Keys and values as codes, each a multiple of a scale that is known beforehand.
#[derive(Debug, Clone)]
pub struct CacheQuantization {
    pub scheme: CacheScheme,
    pub scales: CacheScales,
}

/// One of the schemes of `GroupQueryAttention` and `PagedAttention` in ONNX Runtime 1.31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheScheme {
    pub code: CacheCode,
    pub span: ScaleSpan,
}

/// What a key or a value is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheCode {
    Int8,
    /// Two to a byte, the first in the low half, each raised by 8.
    Int4,
    /// E4M3 without infinities.
    Fp8,
}

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleSpan {
    /// All keys, or all values, of a layer.
    Tensor,
    /// A dimension of a head.
    Channel,
}

impl CacheScheme {
    /// The schemes that a scale file is needed for, by the names of the peer's builder.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("int8_per_tensor", Self { code: CacheCode::Int8, span: ScaleSpan::Tensor }),
        ("int8_per_channel", Self { code: CacheCode::Int8, span: ScaleSpan::Channel }),
        ("int4_per_tensor", Self { code: CacheCode::Int4, span: ScaleSpan::Tensor }),
        ("int4_per_channel", Self { code: CacheCode::Int4, span: ScaleSpan::Channel }),
        ("fp8_per_tensor", Self { code: CacheCode::Fp8, span: ScaleSpan::Tensor }),
        ("fp8_per_channel", Self { code: CacheCode::Fp8, span: ScaleSpan::Channel }),
    ];

    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|(_, scheme)| *scheme)
    }

    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }
}

impl CacheCode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Fp8 => "fp8",
        }
    }

    pub fn dtype(self) -> Dtype {
        match self {
            Self::Int8 => Dtype::I8,
            Self::Int4 => Dtype::U8,
            Self::Fp8 => Dtype::F8E4M3,
        }
    }

    pub fn bits(self) -> usize {
        match self {
            Self::Int8 | Self::Fp8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Elements of the cache for a head of `head_dim`.
    pub fn width(self, head_dim: usize) -> usize {
        (head_dim * self.bits()).div_ceil(8)
    }

    /// The code that a scale maps the largest magnitude to, as calibrations count: `scale = largest / qmax`.
    fn qmax(self) -> f64 {
        match self {
            Self::Int8 => 128.0,
            Self::Int4 => 8.0,
            Self::Fp8 => 448.0,
        }
    }
}
