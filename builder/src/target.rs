//! What each execution provider can do: one row, data only. Lowering asks the row and never the name.

use genai_architectures::{Attention, DecoderSpec, Mixer, Position};

use crate::{CacheCode, Error, Precision, Result, graph::Dtype};

/// An execution provider and its kernels.
#[derive(Debug)]
pub struct Target {
    /// As typed after `-e`.
    pub provider: &'static str,
    /// Other spellings of it.
    pub aliases: &'static [&'static str],
    /// What it runs.
    pub cells: &'static [Cell],
    pub form: Form,
    pub cache: CacheForms,
    /// `MatMulNBits` accuracy level unless the user asks for another: 4 takes activations in int8, 0 leaves it open.
    pub accuracy_level: u8,
    /// What `genai_config.json` lists under `provider_options`.
    pub provider_options: &'static [(&'static str, &'static [(&'static str, &'static str)])],
    /// How it records a step and replays it.
    pub capture: Option<Capture>,
    /// Extra options for products with integer weights, and the session options that they set.
    pub product_options: &'static [(&'static str, &'static str)],
}

/// A precision that a provider has kernels for.
#[derive(Debug)]
pub struct Cell {
    pub precision: Precision,
    /// The dtype of activations, cache, norms and scales.
    pub activations: Dtype,
    /// The extra option that asks for another dtype, and that.
    pub alternative: Option<(&'static str, Dtype)>,
    pub attention: AttentionForm,
    /// The test that computes with such packages; `None` where the graph alone is checked.
    pub computed_by: Option<&'static str>,
}

/// How operators are spelled that have several spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    pub matrices: MatrixForm,
    /// RMS norms, norms of a residual sum.
    pub others: OperatorForm,
    /// The product with a float table that is the head, too, and so lies the other way round.
    pub tied_head: OperatorForm,
}

/// What a provider's attention can do with the cache besides keeping it in the dtype of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheForms {
    /// What it takes keys and values as.
    pub codes: &'static [CacheCode],
    /// How it is told that a cache keeps a window alone; `None` where it keeps every token.
    pub windowed: Option<WindowedCache>,
    /// Activations that its `PagedAttention` takes.
    pub paged: &'static [Dtype],
}

/// Who forgets what has left the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowedCache {
    /// The attention op, where its attribute `sliding_window_cache` says so.
    Operator,
    /// The provider, by the config of the package alone.
    Provider,
}

/// How attention is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionForm {
    /// `GroupQueryAttention`, which writes the cache in place.
    GroupQuery {
        /// Whether it takes q, k and v as one value.
        packed: bool,
        /// It rotates heads whose dimension is a multiple of this; others are rotated before it. `None`: all are.
        rotates: Option<usize>,
        /// It takes heads whose dimension is a multiple of this; others are padded with zeros.
        head_multiple: usize,
        /// Whether it can norm the heads of q and k itself.
        norms_heads: bool,
        heeds: Heeds,
    },
    /// Standard operators alone. The cache grows by a `Concat`.
    Standard,
    /// Standard operators alone, and no size is open: each run takes one token of one sequence, and the cache has room
    /// for the longest sequence from the start. The same buffer may be past and present.
    Fixed,
}

/// Which of its own settings a `GroupQueryAttention` has a part in: kernels pass over the others and say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heeds {
    /// `local_window_size`
    pub window: bool,
    /// `softcap`
    pub softcap: bool,
    /// The input `attention_bias`.
    pub bias: bool,
}

/// How a product with quantized weights is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixForm {
    /// `MatMulNBits`.
    NBits {
        /// Whether a symmetric matrix has zero points all the same.
        explicit_zero_points: bool,
    },
    /// `DequantizeLinear` with blocks, `Transpose`, `MatMul`.
    Qdq,
}

/// How operators are spelled that ONNX Runtime has one of its own for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorForm {
    /// `SimplifiedLayerNormalization`, `SkipSimplifiedLayerNormalization`, `SkipLayerNormalization`, `FusedMatMul`.
    Fused,
    /// Standard operators.
    Standard,
}

/// Recording of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    /// The extra option that asks for it.
    pub option: &'static str,
    /// The provider's own options for no and for yes.
    pub provider_options: [&'static [(&'static str, &'static str)]; 2],
    pub default: bool,
    /// Whether nothing may be computed from shapes then: those of recorded steps do not change.
    pub lengths_of_mask: bool,
}

const ALL: Heeds = Heeds { window: true, softcap: true, bias: true };
const GROUP_QUERY: AttentionForm =
    AttentionForm::GroupQuery { packed: true, rotates: Some(16), head_multiple: 8, norms_heads: false, heeds: ALL };
/// The same where it can norm heads.
const GROUP_QUERY_AND_NORMS: AttentionForm =
    AttentionForm::GroupQuery { packed: true, rotates: Some(16), head_multiple: 8, norms_heads: true, heeds: ALL };
/// The same that caps no scores: contrib_ops/webgpu/bert/group_query_attention.cc, and seen on it.
const GROUP_QUERY_UNCAPPED: AttentionForm = AttentionForm::GroupQuery {
    packed: true,
    rotates: Some(16),
    head_multiple: 8,
    norms_heads: true,
    heeds: Heeds { softcap: false, ..ALL },
};
/// Queries, keys, values, the cache and the scale are all that DmlOperatorGroupQueryAttention.cpp reads.
const NOTHING: Heeds = Heeds { window: false, softcap: false, bias: false };
/// The same where it takes q, k and v apart and rotates none.
const GROUP_QUERY_OF_ROTATED: AttentionForm =
    AttentionForm::GroupQuery { packed: false, rotates: None, head_multiple: 8, norms_heads: false, heeds: NOTHING };
/// In the dtype of activations, and of every token.
const PLAIN_CACHE: CacheForms = CacheForms { codes: &[], windowed: None, paged: &[] };
const N_BITS: MatrixForm = MatrixForm::NBits { explicit_zero_points: false };

/// A cell of the table.
const fn cell(
    precision: Precision,
    activations: Dtype,
    attention: AttentionForm,
    computed_by: Option<&'static str>,
) -> Cell {
    Cell { precision, activations, alternative: None, attention, computed_by }
}

impl Cell {
    const fn or(mut self, option: &'static str, dtype: Dtype) -> Self {
        self.alternative = Some((option, dtype));
        self
    }
}

const FUSED: OperatorForm = OperatorForm::Fused;
const STANDARD: Form =
    Form { matrices: MatrixForm::Qdq, others: OperatorForm::Standard, tied_head: OperatorForm::Standard };

// Tests that compute with packages on the CPU provider, bf16 ones with fp32 in its place.
const FP32: Option<&str> = Some("fp32_packages_meet_the_recorded_logits");
const FP16: Option<&str> = Some("fp16_packages_meet_the_recorded_logits");
const BF16: Option<&str> = Some("bf16_packages_compute_as_fp32_ones_of_their_weights");
const QUANTIZED: Option<&str> = Some("quantized_packages_compute_with_the_rounded_weights");

pub const TARGETS: &[Target] = &[
    Target {
        provider: "cpu",
        aliases: &[],
        cells: &[
            cell(Precision::Fp32, Dtype::F32, GROUP_QUERY, FP32),
            cell(Precision::Fp16, Dtype::F16, GROUP_QUERY, FP16),
            cell(Precision::Int8, Dtype::F32, GROUP_QUERY, QUANTIZED),
            cell(Precision::Int4, Dtype::F32, GROUP_QUERY, QUANTIZED),
        ],
        form: Form { matrices: N_BITS, others: FUSED, tied_head: FUSED },
        cache: CacheForms {
            codes: &[CacheCode::Int8, CacheCode::Int4],
            windowed: Some(WindowedCache::Operator),
            paged: &[],
        },
        accuracy_level: 4,
        provider_options: &[],
        capture: None,
        product_options: &[],
    },
    Target {
        provider: "cuda",
        aliases: &[],
        cells: &[
            // Its fused attention takes no fp32.
            cell(Precision::Fp32, Dtype::F32, AttentionForm::Standard, FP32),
            cell(Precision::Fp16, Dtype::F16, GROUP_QUERY_AND_NORMS, FP16),
            cell(Precision::Bf16, Dtype::Bf16, GROUP_QUERY_AND_NORMS, BF16),
            cell(Precision::Int8, Dtype::F16, GROUP_QUERY_AND_NORMS, QUANTIZED).or("use_cuda_bf16", Dtype::Bf16),
            cell(Precision::Int4, Dtype::F16, GROUP_QUERY_AND_NORMS, QUANTIZED).or("use_cuda_bf16", Dtype::Bf16),
        ],
        form: Form { matrices: N_BITS, others: FUSED, tied_head: FUSED },
        cache: CacheForms {
            codes: &[CacheCode::Int8, CacheCode::Int4, CacheCode::Fp8],
            windowed: Some(WindowedCache::Operator),
            paged: &[Dtype::F16, Dtype::Bf16],
        },
        accuracy_level: 0,
        provider_options: &[("cuda", &[])],
        capture: Some(Capture {
            option: "enable_cuda_graph",
            provider_options: [&[("enable_cuda_graph", "0")], &[("enable_cuda_graph", "1")]],
            default: false,
            lengths_of_mask: false,
        }),
        product_options: &[("enable_cuda_fpa_intb_gemm", "ep.cuda.fpa_intb_gemm")],
    },
    Target {
        provider: "dml",
        aliases: &[],
        cells: &[
            cell(Precision::Fp32, Dtype::F32, GROUP_QUERY_OF_ROTATED, FP32),
            cell(Precision::Fp16, Dtype::F16, GROUP_QUERY_OF_ROTATED, FP16),
            cell(Precision::Int8, Dtype::F16, GROUP_QUERY_OF_ROTATED, QUANTIZED),
            cell(Precision::Int4, Dtype::F16, GROUP_QUERY_OF_ROTATED, QUANTIZED),
        ],
        // Without zero points its kernel takes codes for numbers from zero on.
        form: Form { matrices: MatrixForm::NBits { explicit_zero_points: true }, others: FUSED, tied_head: FUSED },
        cache: PLAIN_CACHE,
        accuracy_level: 0,
        provider_options: &[("dml", &[])],
        capture: Some(Capture {
            option: "enable_dml_graph",
            provider_options: [&[("enable_graph_capture", "0")], &[("enable_graph_capture", "1")]],
            default: true,
            lengths_of_mask: false,
        }),
        product_options: &[],
    },
    Target {
        provider: "webgpu",
        aliases: &[],
        cells: &[
            cell(Precision::Fp32, Dtype::F32, GROUP_QUERY_UNCAPPED, FP32),
            cell(Precision::Fp16, Dtype::F16, GROUP_QUERY_UNCAPPED, FP16),
            cell(Precision::Int8, Dtype::F16, GROUP_QUERY_UNCAPPED, QUANTIZED).or("use_webgpu_fp32", Dtype::F32),
            cell(Precision::Int4, Dtype::F16, GROUP_QUERY_UNCAPPED, QUANTIZED).or("use_webgpu_fp32", Dtype::F32),
        ],
        // FusedMatMul has no kernel there.
        form: Form { matrices: N_BITS, others: FUSED, tied_head: OperatorForm::Standard },
        cache: CacheForms { paged: &[Dtype::F16], ..PLAIN_CACHE },
        accuracy_level: 4,
        provider_options: &[("webgpu", &[])],
        capture: Some(Capture {
            option: "enable_webgpu_graph",
            provider_options: [
                &[("enableGraphCapture", "0"), ("validationMode", "basic")],
                &[("enableGraphCapture", "1"), ("validationMode", "disabled")],
            ],
            default: false,
            lengths_of_mask: true,
        }),
        product_options: &[],
    },
    Target {
        provider: "NvTensorRtRtx",
        aliases: &["trt-rtx"],
        cells: &[
            cell(Precision::Fp16, Dtype::F16, GROUP_QUERY, FP16),
            cell(Precision::Bf16, Dtype::Bf16, GROUP_QUERY, BF16),
            cell(Precision::Int4, Dtype::F16, GROUP_QUERY, QUANTIZED).or("use_cuda_bf16", Dtype::Bf16),
        ],
        form: STANDARD,
        cache: CacheForms { codes: &[], windowed: Some(WindowedCache::Provider), paged: &[] },
        accuracy_level: 0,
        provider_options: &[("NvTensorRtRtx", &[])],
        capture: Some(Capture {
            option: "enable_cuda_graph",
            provider_options: [&[("enable_cuda_graph", "0")], &[("enable_cuda_graph", "1")]],
            default: true,
            lengths_of_mask: false,
        }),
        product_options: &[],
    },
    Target {
        provider: "openvino",
        aliases: &[],
        cells: STANDARD_CELLS,
        form: STANDARD,
        cache: PLAIN_CACHE,
        accuracy_level: 0,
        provider_options: &[("openvino", &[])],
        capture: None,
        product_options: &[],
    },
    // Its accelerator takes no open sizes and computes in fp16.
    Target {
        provider: "qnn",
        aliases: &[],
        cells: &[
            cell(Precision::Fp16, Dtype::F16, AttentionForm::Fixed, FP16),
            cell(Precision::Int8, Dtype::F16, AttentionForm::Fixed, QUANTIZED),
            cell(Precision::Int4, Dtype::F16, AttentionForm::Fixed, QUANTIZED),
        ],
        form: STANDARD,
        cache: PLAIN_CACHE,
        accuracy_level: 0,
        provider_options: &[("qnn", &[("backend_type", "htp")])],
        capture: None,
        product_options: &[],
    },
    // Any runtime that knows the standard's operators.
    Target {
        provider: "onnx",
        aliases: &[],
        cells: STANDARD_CELLS,
        form: STANDARD,
        cache: PLAIN_CACHE,
        accuracy_level: 0,
        provider_options: &[],
        capture: None,
        product_options: &[],
    },
];

const STANDARD_CELLS: &[Cell] = &[
    cell(Precision::Fp32, Dtype::F32, AttentionForm::Standard, FP32),
    cell(Precision::Fp16, Dtype::F16, AttentionForm::Standard, FP16),
    cell(Precision::Int8, Dtype::F32, AttentionForm::Standard, QUANTIZED),
    cell(Precision::Int4, Dtype::F32, AttentionForm::Standard, QUANTIZED),
];

impl Target {
    /// The row of a provider, by the name typed after `-e`.
    pub fn find(provider: &str) -> Result<&'static Self> {
        let named = |target: &&Self| target.provider == provider || target.aliases.contains(&provider);
        TARGETS.iter().find(named).ok_or_else(|| Error::Unsupported {
            what: format!("execution provider {provider:?} is not supported"),
            hint: format!("supported: {}", names(TARGETS.iter().map(|target| target.provider))),
        })
    }

    /// Whether onnxruntime-genai loads runtime profiles for it: choices by the memory of the device.
    pub fn takes_profiles(&self) -> bool {
        self.provider == "cuda"
    }

    /// What it runs at a precision.
    pub fn cell(&self, precision: Precision) -> Option<&'static Cell>
    where
        Self: 'static,
    {
        let cells: &'static [Cell] = self.cells;
        cells.iter().find(|cell| cell.precision == precision)
    }

    /// The same, or why not.
    pub fn expect_cell(&self, precision: Precision) -> Result<&'static Cell> {
        self.cell(precision).ok_or_else(|| {
            let here = names(self.cells.iter().map(|cell| cell.precision.name()));
            let elsewhere = TARGETS.iter().filter(|target| target.cell(precision).is_some());
            let elsewhere = names(elsewhere.map(|target| target.provider));
            Error::Unsupported {
                what: format!("{} has no {} kernels for a decoder", self.provider, precision.name()),
                hint: format!("{} runs {here}; {} runs on {elsewhere}", self.provider, precision.name()),
            }
        })
    }
}

impl AttentionForm {
    /// The dimension of heads as attention and cache see them.
    pub fn padded_head_dim(self, head_dim: usize) -> usize {
        match self {
            Self::GroupQuery { head_multiple, .. } => head_dim.next_multiple_of(head_multiple),
            Self::Standard | Self::Fixed => head_dim,
        }
    }

    /// How a model's attention is spelled: in standard operators throughout where the op would pass over something.
    pub fn of(self, spec: &DecoderSpec) -> Self {
        let Self::GroupQuery { heeds, .. } = self else { return self };
        let heeded = |attention: &Attention| {
            let window = attention.window.is_some_and(|window| window < spec.context_length);
            let bias = attention.blocks.is_some() || matches!(attention.position, Position::Alibi(_));
            (heeds.window || !window) && (heeds.softcap || attention.softcap.is_none()) && (heeds.bias || !bias)
        };
        let mut mixers = spec.layers.iter().map(|layer| &layer.mixer);
        if mixers.all(|Mixer::Attention(attention)| heeded(attention)) { self } else { Self::Standard }
    }

    /// Whether past and present may be one buffer.
    pub fn shares_buffer(self) -> bool {
        match self {
            Self::GroupQuery { .. } | Self::Fixed => true,
            Self::Standard => false,
        }
    }

    /// Whether it is spelled in standard operators.
    pub fn is_standard(self) -> bool {
        match self {
            Self::GroupQuery { .. } => false,
            Self::Standard | Self::Fixed => true,
        }
    }
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
