//! Operators and versions, as ONNX Runtime 1.31 has them.
//!
//! Source: the schemas that its Python package lists (`get_all_operator_schema`), and what it says of models with one
//! version more.

use std::collections::BTreeMap;

use super::{Findings, Package, some_of};
use crate::graph::{Branch, Graph, Node};

const RUNTIME: &str = "ONNX Runtime 1.31";
/// The latest version of the format, and the opsets of each domain: oldest and latest.
const IR_VERSION: i64 = 13;
const OPSETS: [(&str, i64, i64); 3] = [("", 7, 26), ("com.microsoft", 1, 1), ("ai.onnx.ml", 1, 5)];

const ONNX: &str = "Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool \
BatchNormalization Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike \
CausalConvWithState Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv \
ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout \
DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm \
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow \
HardSigmoid HardSwish Hardmax Identity If ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization \
LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool \
MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg \
NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad \
Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform \
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd \
ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan \
Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert \
SequenceLength SequenceMap Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax \
SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat StringNormalizer \
StringSplit Sub Sum Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique \
Unsqueeze Upsample Where Xor";

const CONTRIB: &str = "Attention AttnLSTM BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu \
BifurcationDetector BitmaskBiasDropout BitmaskDropout BranchwiseRMSNorm CDist CausalConvWithState ComplexMul \
ComplexMulConj ConvTransposeWithDynamicPads CropAndResize DecoderAttention DecoderMaskedMultiHeadAttention \
DecoderMaskedSelfAttention DequantizeBFP DequantizeLinear DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul \
DynamicSparseAttention DynamicTimeWarping EPContext EmbedLayerNormalization EngramGate ExpandDims FastGelu FusedConv \
FusedGemm FusedMatMul FusedMatMulActivation GatedAdd GatedDeltaNet GatedRMSNorm GatedRelativePositionBias \
GatherBlockQuantized GatherND Gelu GemmFastGelu GemmFloat8 GreedySearch GridSample GroupNorm GroupQueryAttention \
HyperConnectionPostMix HyperConnectionPreMix Inverse Irfft IsAllFinite LinearAttention LinearAttentionGate \
LongformerAttention MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 MatMulInteger16 \
MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQkv MaxpoolWithMask MoE MulInteger MultiHeadAttention \
MurmurHash3 NGramHashMapping NGramRepeatBlock NhwcConv NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention \
PackedSparseAttentionIndexer Pad PagedAttention QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool \
QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid \
QLinearSoftmax QLinearWhere QMoE QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention \
QOrderedMatMul QuantizeBFP QuantizeLinear QuantizeWithOrder QuickGelu Range ReduceSumInteger RelativePositionBias \
RemovePadding RestorePadding Rfft SampleOp Sampling ScaledSiLU SkipGroupNorm SkipLayerNormalization \
SkipSimplifiedLayerNormalization Snpe SparseAttention SparseAttentionIndexer SparsePagedAttention SparseToDenseMatMul \
Tokenizer TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique VarlenCausalConvWithState VarlenNGramHashMapping \
WhisperBeamSearch WordConvEmbedding";

/// Domains whose operators come with ONNX Runtime, but are not listed here.
const OTHER_DOMAINS: [&str; 5] =
    ["ai.onnx.ml", "com.microsoft.nchwc", "com.ms.internal.nhwc", "com.microsoft.dml", "ai.onnx.preview"];

/// Names that stand for ONNX's own domain in messages.
fn spelled(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

pub(super) fn opsets(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let graph = &part.graph;
        if graph.ir_version > IR_VERSION || graph.ir_version < 3 {
            let message = format!("is of IR version {}, {RUNTIME} reads 3 to {IR_VERSION}", graph.ir_version);
            findings
                .error("opset", part.file.as_str(), message)
                .hint("export it with an older onnx, or use a newer runtime");
        }
        for (domain, version) in &graph.opsets {
            let Some((_, oldest, latest)) = OPSETS.iter().find(|(name, ..)| name == domain) else { continue };
            if version < oldest || version > latest {
                let name = spelled(domain);
                let message = format!("imports {name} {version}, {RUNTIME} has {oldest} to {latest}");
                findings.error("opset", part.file.as_str(), message);
            }
        }
        let lacks = graph.nodes.iter().find(|node| !graph.opsets.contains_key(&node.domain));
        if let Some(node) = lacks {
            let message = format!("is of the domain {}, whose version the file does not import", spelled(&node.domain));
            findings.error("opset", format!("{}: {}", part.file, node.label()), message);
        }
    }
}

pub(super) fn known(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let mut unknown: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for node in part.graph.nodes.iter().filter(|node| !is_known(&part.graph, node)) {
            unknown.entry((&node.domain, &node.op_type)).or_default().push(node.label());
        }
        for ((domain, op_type), nodes) in unknown {
            let own = domain.is_empty() || domain == "com.microsoft";
            let message = format!("{} nodes are {}.{op_type}: {}", nodes.len(), spelled(domain), some_of(&nodes));
            findings.error("operators", part.file.as_str(), message).hint(if own {
                format!("{RUNTIME} has no operator of this name: it is misspelled, or newer")
            } else {
                "operators of this domain come from a native library, which this tool does not load".to_owned()
            });
        }
    }
}

fn is_known(graph: &Graph, node: &Node) -> bool {
    let listed = |names: &str| names.split(' ').any(|name| name == node.op_type);
    let own = graph.functions.iter().any(|(domain, name)| *domain == node.domain && *name == node.op_type);
    own || match node.domain.as_str() {
        "" => listed(ONNX),
        "com.microsoft" => listed(CONTRIB) || node.op_type.ends_with("RotaryEmbedding"),
        other => OTHER_DOMAINS.contains(&other),
    }
}

/// Branches of one `If` give the same, and loops end.
pub(super) fn branches(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let graph = &part.graph;
        for node in graph.nodes.iter().filter(|node| node.domain.is_empty()) {
            let at = || format!("{}: {}", part.file, node.label());
            match node.op_type.as_str() {
                "If" => {
                    let branch = |name: &str| {
                        let scope = format!("{}.{name}", node.label());
                        graph.branches.iter().find(|branch| branch.scope == scope)
                    };
                    match (branch("then_branch"), branch("else_branch")) {
                        (Some(then), Some(otherwise)) => compare(node, then, otherwise, &at(), findings),
                        _ => {
                            findings.error("branches", at(), "has not both of its branches");
                        }
                    }
                }
                "Loop" => {
                    findings.info("branches", at(), "is a loop: its count is known when it runs");
                }
                _ => {}
            }
        }
    }
}

fn compare(node: &Node, then: &Branch, otherwise: &Branch, at: &str, findings: &mut Findings) {
    let (left, right) = (then.outputs.len(), otherwise.outputs.len());
    if left != right || left != node.outputs.len() {
        let message = format!("has {} outputs, its branches give {left} and {right}", node.outputs.len());
        findings.error("branches", at, message);
    }
    for (one, other) in then.outputs.iter().zip(&otherwise.outputs) {
        if one.dtype != other.dtype {
            let message = format!(
                "gives `{}` of {} or `{}` of {}, expected one type",
                one.name,
                one.dtype.as_str_name(),
                other.name,
                other.dtype.as_str_name()
            );
            findings.error("branches", at, message);
        }
    }
}
