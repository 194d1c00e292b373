//! How keys and values of past tokens are kept.

use std::path::PathBuf;

use genai_builder::CacheScheme;

use super::{Row, Wrong, boolean};
use crate::failure::Failure;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Cache {
    pub(crate) quant_scheme: Option<CacheScheme>,
    pub(crate) scale_file: Option<PathBuf>,
    pub(crate) windowed: Option<bool>,
    pub(crate) use_paged_attention: Option<bool>,
    pub(crate) paged_block_size: Option<u64>,
    pub(crate) paged_chunk_size: Option<u64>,
    pub(crate) gpu_utilization_factor: Option<f64>,
    pub(crate) num_blocks: Option<u64>,
    pub(crate) max_scheduled_tokens: Option<u64>,
    pub(crate) max_batch_size: Option<u64>,
}

/// The largest number that the runtime reads.
const LARGEST: u64 = i32::MAX as u64;

macro_rules! count {
    ($key:ident, $values:literal, $largest:expr, $default:literal, $about:literal) => {
        Row {
            key: stringify!($key),
            values: $values,
            default: $default,
            applies: "builds with use_paged_attention",
            about: $about,
            set: |options, value| {
                let count = value.parse().ok().filter(|count| (1..=$largest).contains(count));
                options.cache.$key = Some(count.ok_or(Wrong::Value)?);
                Ok(())
            },
        }
    };
}

/// A scale for each channel of a large model is some megabytes of text.
pub(crate) const LARGEST_SCALE_FILE: u64 = 256 << 20;

pub(super) const ROWS: &[Row] = &[
    Row {
        key: "windowed_kv_cache",
        values: "true or false",
        default: "false",
        applies: "models with layers that see a window; cpu, cuda and NvTensorRtRtx",
        about: "Whether such layers keep the keys and values of their window alone. onnxruntime-genai then makes their \
                caches so long, and needs a `max_length` of at least the window. The peer's default is true; here it is \
                false, since such a graph starts with no empty cache and so runs in onnxruntime-genai alone.",
        set: |options, value| {
            options.cache.windowed = Some(boolean(value)?);
            Ok(())
        },
    },
    Row {
        key: "kv_cache_quant_scheme",
        values: "none, int8_per_tensor, int8_per_channel, int4_per_tensor, int4_per_channel, fp8_per_tensor or \
                 fp8_per_channel",
        default: "none",
        applies: "cpu with int8 and int4 schemes, cuda with all",
        about: "What the cache holds: codes of 8 or 4 bits, each a multiple of a scale for the keys (or values) of a \
                layer, or for a dimension of one of its heads. The scales are read from `kv_cache_scale_file`. The \
                peer's per_token schemes are refused: ONNX Runtime 1.31 loads none.",
        set: |options, value| {
            options.cache.quant_scheme = match value {
                "none" => None,
                "int8_per_token" | "int4_per_token" => {
                    return Err(Wrong::Other(Failure::unsupported(
                        format!(
                            "extra option kv_cache_quant_scheme is {value}: the attention operators of ONNX Runtime 1.31 \
                             know scales per tensor and per channel alone"
                        ),
                        "per_channel with a scale file is the nearest",
                    )));
                }
                scheme => Some(CacheScheme::named(scheme).ok_or(Wrong::Value)?),
            };
            Ok(())
        },
    },
    Row {
        key: "kv_cache_scale_file",
        values: "a JSON file",
        default: "none",
        applies: "builds with a kv_cache_quant_scheme, which need one",
        about: "`{\"scales\": {\"k_scales\": [...], \"v_scales\": [...]}, \"layer_ids\": [...], \"qmax\": 128}`, if need be \
                under the name of the graph's file without its ending: for each layer with a cache one number, or for \
                per_channel schemes one for each dimension of each key head; `layer_ids` says for which layers, by \
                default the first ones. A scale is the largest magnitude to be kept divided by `qmax`, which is 128 for \
                int8, 8 for int4 and 448 for fp8; scales for another one are stretched. onnxruntime-genai's \
                `kv_cache_calibration` writes such files; this tool has no calibration of its own.",
        set: |options, value| {
            options.cache.scale_file = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
            if options.cache.scale_file.is_some() { Ok(()) } else { Err(Wrong::Value) }
        },
    },
    Row {
        key: "kv_cache_rotation",
        values: "none",
        default: "none",
        applies: "",
        about: "Whether heads are rotated before they are quantized. `hadamard` is refused: the attention operators of \
                ONNX Runtime 1.31 have no such attribute.",
        set: |_, value| match value {
            "none" => Ok(()),
            "hadamard" => Err(Wrong::Other(Failure::unsupported(
                "extra option kv_cache_rotation is hadamard: the attention operators of ONNX Runtime 1.31 have no \
                 rotation of the cache"
                    .to_owned(),
                "leave it out",
            ))),
            _ => Err(Wrong::Value),
        },
    },
    Row {
        key: "use_paged_attention",
        values: "true or false",
        default: "false",
        applies: "cuda with activations in fp16 or bf16, webgpu with fp16",
        about: "A cache in pages for the engine of onnxruntime-genai, which runs several sequences at once: \
                `PagedAttention` over sequences that lie one behind the other. Refused for models that rotate by the \
                length of a sequence, bias scores by distance, hide blocks, or share caches between layers. The graphs \
                are computed with in tests after another attention op is put in place of this one, which has no kernel \
                on the CPU.",
        set: |options, value| {
            options.cache.use_paged_attention = Some(boolean(value)?);
            Ok(())
        },
    },
    Row {
        key: "paged_block_size",
        values: "a power of two from 16 on",
        default: "256",
        applies: "builds with use_paged_attention",
        about: "Tokens of a page.",
        set: |options, value| {
            let size = value.parse::<u64>().ok().filter(|size| (16..=LARGEST).contains(size) && size.is_power_of_two());
            options.cache.paged_block_size = Some(size.ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    count!(
        paged_chunk_size,
        "a number from 1 on",
        LARGEST,
        "none",
        "Tokens of one prompt that are computed in a step; more are computed in the next ones."
    ),
    Row {
        key: "gpu_utilization_factor",
        values: "a number above 0, at most 1",
        default: "0.6",
        applies: "builds with use_paged_attention and without num_blocks",
        about: "The share of the device's free memory that pages may take up.",
        set: |options, value| {
            let share = value.parse::<f64>().ok().filter(|share| *share > 0.0 && *share <= 1.0);
            options.cache.gpu_utilization_factor = Some(share.ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    count!(num_blocks, "a number from 1 on", LARGEST, "none", "How many pages there are, whatever memory is free."),
    count!(
        max_scheduled_tokens,
        "a number from 1 on",
        LARGEST,
        "the runtime's own",
        "Tokens of all sequences that are computed in a step."
    ),
    count!(max_batch_size, "a number from 1 to 256", 256, "100", "Sequences that are computed in a step."),
];
