//! What a session of the runtime is opened with, and what decides the target's own variants.

use super::{Row, Wrong, boolean};
use crate::failure::Failure;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) enable_cuda_graph: Option<bool>,
    pub(crate) enable_dml_graph: Option<bool>,
    pub(crate) enable_webgpu_graph: Option<bool>,
    pub(crate) use_webgpu_fp32: Option<bool>,
    pub(crate) use_cuda_bf16: Option<bool>,
    pub(crate) use_qdq: Option<bool>,
    pub(crate) use_device_allocator_for_initializers: Option<bool>,
    pub(crate) enable_cuda_fpa_intb_gemm: Option<bool>,
    pub(crate) max_draft_tokens: Option<u8>,
}

pub(super) const ROWS: &[Row] = &[
    switch!(
        session.enable_cuda_graph,
        "false for cuda, true for NvTensorRtRtx",
        "cuda, NvTensorRtRtx",
        "Whether the provider records a step as a CUDA graph and replays it."
    ),
    switch!(
        session.enable_dml_graph,
        "true",
        "dml",
        "Whether the provider captures a step and replays it: its `enable_graph_capture`."
    ),
    switch!(
        session.enable_webgpu_graph,
        "false",
        "webgpu",
        "Whether the provider captures a step and replays it: its `enableGraphCapture`. The graph then has all that \
         depends on lengths as int32 computed from the mask, since nothing may run on the CPU."
    ),
    switch!(
        session.use_webgpu_fp32,
        "false",
        "webgpu with int4, int8",
        "Activations, cache and scales in fp32, for devices without fp16 shaders."
    ),
    switch!(
        session.use_cuda_bf16,
        "false",
        "cuda with int4, int8; NvTensorRtRtx with int4",
        "Activations, cache and scales in bf16 rather than fp16. Logits are fp32."
    ),
    switch!(
        session.use_qdq,
        "true for NvTensorRtRtx, qnn, openvino and onnx, which know no other form, else false",
        "int4, int8",
        "Quantized weights as DequantizeLinear and MatMul rather than MatMulNBits."
    ),
    switch!(
        session.use_device_allocator_for_initializers,
        "false",
        "",
        "The session option `session.use_device_allocator_for_initializers`: weights are allocated outside the \
         provider's arena."
    ),
    switch!(
        session.enable_cuda_fpa_intb_gemm,
        "false",
        "cuda with int4, int8",
        "The session option `ep.cuda.fpa_intb_gemm`: products of float activations and integer weights by CUTLASS."
    ),
    Row {
        key: "max_draft_tokens",
        values: "a number from 1 to 16",
        default: "that of the runtime, 4",
        applies: "",
        about: "How many tokens the runtime drafts at most before the model checks them: `speculative.max_draft_tokens` \
                of `genai_config.json`.",
        set: |options, value| {
            let tokens = value.parse().ok().filter(|tokens| (1..=16).contains(tokens));
            options.session.max_draft_tokens = Some(tokens.ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    Row {
        key: "matmulnbits_weights_prepacked",
        values: "0",
        default: "0",
        applies: "cuda with int4, int8",
        about: "The layout of integer weights: 0 is that of MatMulNBits, which every device takes and from which ONNX Runtime \
                makes its own. The layouts 1 and 2, made for one generation of devices each, are not written.",
        set: |_, value| match value {
            "0" => Ok(()),
            "1" | "2" => Err(Wrong::Other(Failure::unsupported(
                format!("extra option matmulnbits_weights_prepacked is {value}, a layout that is not written"),
                "leave it out: ONNX Runtime makes the layout of the device when it loads the model",
            ))),
            _ => Err(Wrong::Value),
        },
    },
];
