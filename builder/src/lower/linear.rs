//! Linears: one node over the weights of one or several modules that read the same input.
//!
//! ```text
//! x ─► MatMul (float [k, n]) or MatMulNBits (codes, scales, zero points) ─► updates ─► Add bias, where there is one
//!
//! codes [n, k] ─► DequantizeLinear ─► (Slice) ─► Transpose ─► MatMul          in standard operators
//! ```

use std::ops::Range;

use genai_architectures::{Linear, View};
use genai_quantize::IntScheme;

use super::Lowering;
use crate::{
    Result, Role,
    graph::{
        Dtype, Value,
        ops::{Add, DequantizeLinear, MatMul, MatMulNBits, Transpose},
    },
    plan::{CodeLayout, Job, Rows, Segment, Sink, Source},
    target::MatrixForm,
};

/// A quantized matrix in the graph.
#[derive(Clone, Copy)]
pub(super) struct QuantizedMatrix {
    pub(super) codes: Value,
    pub(super) codes_slot: usize,
    pub(super) scales: Value,
    pub(super) zero_points: Option<Value>,
    pub(super) scheme: IntScheme,
    pub(super) n: usize,
    pub(super) k: usize,
}

impl Lowering<'_> {
    /// `modules` side by side: their outputs one after another in the last dimension.
    pub(super) fn linear(&mut self, path: &str, role: Role, input: Value, modules: &[&Linear]) -> Result<Value> {
        let k = modules.first().map_or(0, |module| module.in_features);
        let segments = modules.iter().flat_map(|module| self.weight_segments(module)).collect();
        let scheme = self.scheme(&format!("{path}/MatMul"), role);
        let product = self.product(path, input, segments, k, scheme)?;
        let product = self.updated(path, product, input, modules)?;
        if modules.iter().any(|module| module.bias) { self.bias(path, product, modules) } else { Ok(product) }
    }

    /// `input` times rows of `k` weights, which are stored in a scheme or stay float.
    pub(super) fn product(
        &mut self,
        path: &str,
        input: Value,
        segments: Vec<Segment>,
        k: usize,
        scheme: Option<IntScheme>,
    ) -> Result<Value> {
        match scheme {
            None => self.float_matmul(path, input, segments, k),
            Some(scheme) => match self.settings.form.matrices {
                MatrixForm::NBits { .. } => {
                    let matrix = self.quantized(path, segments, k, scheme)?;
                    self.quantized_matmul(path, input, &matrix)
                }
                MatrixForm::Qdq => self.dequantized_matmul(path, input, segments, k, scheme),
            },
        }
    }

    /// The rows of a linear's weight, noted as taken.
    fn weight_segments(&mut self, module: &Linear) -> Vec<Segment> {
        let (tensor, ranges) = (module.weight(), module.ranges());
        let axis = match module.view {
            View::Whole | View::Rows { .. } => 0,
            View::Columns { .. } => 1,
        };
        self.tensors.part(&tensor, &module.weight_shape(), axis, ranges.iter().cloned());
        let segment = |range: &Range<usize>| Segment {
            source: match module.view {
                View::Whole | View::Rows { .. } => Source::Rows { tensor: tensor.clone(), first: range.start },
                View::Columns { total, .. } => Source::Columns { tensor: tensor.clone(), first: range.start, total },
            },
            rows: range.len(),
        };
        ranges.iter().map(segment).collect()
    }

    pub(super) fn float_matmul(&mut self, path: &str, input: Value, segments: Vec<Segment>, k: usize) -> Result<Value> {
        let weight = self.float_weight(path, segments, k)?;
        self.graph.add(&format!("{path}/MatMul"), &MatMul { a: input, b: weight })
    }

    /// The weight of a linear that several nodes use, `[in, out]` in the dtype of activations.
    pub(super) fn shared_weight(&mut self, path: &str, module: &Linear) -> Result<Value> {
        let segments = self.weight_segments(module);
        self.float_weight(path, segments, module.in_features)
    }

    fn float_weight(&mut self, path: &str, segments: Vec<Segment>, k: usize) -> Result<Value> {
        let n = segments.iter().map(|segment| segment.rows).sum();
        let (weight, slot) = self.stored(&format!("{}.MatMul.weight", dotted(path)), self.dtype, &[k, n])?;
        self.count(n * k, n * k * self.dtype.bytes() as usize);
        let sink = Sink::Transposed { slot, dtype: self.dtype };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k, sink });
        Ok(weight)
    }

    /// Reserves codes as `MatMulNBits` takes them, scales and zero points, and the job that makes them.
    pub(super) fn quantized(
        &mut self,
        path: &str,
        segments: Vec<Segment>,
        k: usize,
        scheme: IntScheme,
    ) -> Result<QuantizedMatrix> {
        let name = format!("{}.MatMul.weight", dotted(path));
        self.quantized_as(&name, segments, k, scheme, &[scheme.blocks(k), scheme.code_bytes_per_block()])
    }

    /// The same with codes of another shape for each row.
    pub(super) fn quantized_as(
        &mut self,
        name: &str,
        segments: Vec<Segment>,
        k: usize,
        scheme: IntScheme,
        row: &[usize],
    ) -> Result<QuantizedMatrix> {
        let n: usize = segments.iter().map(|segment| segment.rows).sum();
        let (blocks, block_bytes) = (scheme.blocks(k), scheme.code_bytes_per_block());
        let codes_name = format!("{name}_Q{}", scheme.bits());
        let (codes, codes_slot) = self.stored(&codes_name, Dtype::U8, &[&[n], row].concat())?;
        let (scales, scales_slot) = self.stored(&format!("{name}_scales"), self.dtype, &[n, blocks])?;
        let layout = match self.settings.form.matrices {
            MatrixForm::NBits { explicit_zero_points: true } => CodeLayout::BlocksWithZeroPoints,
            MatrixForm::NBits { explicit_zero_points: false } | MatrixForm::Qdq => CodeLayout::Blocks,
        };
        let [_, zero_point_bytes] = layout.bytes_of_rows(scheme, k, 1);
        let zero_points = match zero_point_bytes {
            0 => None,
            bytes => Some(self.stored(&format!("{name}_zero_points"), Dtype::U8, &[n, bytes])?),
        };
        let scale_dtype = self.scale_dtype()?;
        let row_bytes = blocks * (block_bytes + scale_dtype.size()) + zero_point_bytes;
        self.count(n * k, n * row_bytes);
        let sink = Sink::Blocks {
            scheme,
            layout,
            scale_dtype,
            codes: codes_slot,
            scales: scales_slot,
            zero_points: zero_points.map(|(_, slot)| slot),
        };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k, sink });
        let zero_points = zero_points.map(|(value, _)| value);
        Ok(QuantizedMatrix { codes, codes_slot, scales, zero_points, scheme, n, k })
    }

    pub(super) fn quantized_matmul(&mut self, path: &str, input: Value, matrix: &QuantizedMatrix) -> Result<Value> {
        let op = MatMulNBits {
            a: input,
            b: matrix.codes,
            scales: matrix.scales,
            zero_points: matrix.zero_points,
            k: matrix.k,
            n: matrix.n,
            scheme: matrix.scheme,
            accuracy_level: self.settings.accuracy_level,
        };
        // The node says its width; the value keeps the name that it has in a float package.
        let name = format!("{path}/MatMul_Q{}", matrix.scheme.bits());
        let outputs = self.graph.wire(&name, &format!("{path}/MatMul"), &op)?;
        Ok(outputs[0])
    }

    /// The product with a matrix whose codes are a tensor like any other.
    fn dequantized_matmul(
        &mut self,
        path: &str,
        input: Value,
        segments: Vec<Segment>,
        k: usize,
        scheme: IntScheme,
    ) -> Result<Value> {
        let name = format!("{}.MatMul.weight", dotted(path));
        let (n, blocks) = (segments.iter().map(|segment| segment.rows).sum(), scheme.blocks(k));
        let width = blocks * scheme.block_size();
        let dtype = match (scheme.bits(), scheme.is_symmetric()) {
            (4, true) => Dtype::I4,
            (4, false) => Dtype::U4,
            (_, true) => Dtype::I8,
            (_, false) => Dtype::U8,
        };
        let (codes, codes_slot) = self.stored(&format!("{name}_DQ_Q{}", scheme.bits()), dtype, &[n, width])?;
        let (scales, scales_slot) = self.stored(&format!("{name}_DQ_scales"), self.dtype, &[n, blocks])?;
        let zero_points = match scheme.is_symmetric() {
            true => None,
            false => Some(self.stored(&format!("{name}_DQ_zero_points"), dtype, &[n, blocks])?),
        };
        let (layout, scale_dtype) = (CodeLayout::Flat, self.scale_dtype()?);
        let [code_bytes, zero_point_bytes] = layout.bytes_of_rows(scheme, k, n);
        self.count(n * k, code_bytes + zero_point_bytes + n * blocks * scale_dtype.size());
        let sink = Sink::Blocks {
            scheme,
            layout,
            scale_dtype,
            codes: codes_slot,
            scales: scales_slot,
            zero_points: zero_points.map(|(_, slot)| slot),
        };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k, sink });
        let zero_points = zero_points.map(|(value, _)| value);
        let op = DequantizeLinear { codes, scales, zero_points, block_size: scheme.block_size() };
        let mut weight = self.graph.add(&format!("{path}/DequantizeLinear"), &op)?;
        if width > k {
            // Not every runtime takes a last block that is shorter than the others.
            weight = self.stretch(&format!("{path}/blocks/Slice"), weight, 1, 0..k)?;
        }
        let weight = Transpose { input: weight, order: vec![1, 0] };
        let weight = self.graph.add(&format!("{path}/Transpose"), &weight)?;
        self.graph.add(&format!("{path}/MatMul"), &MatMul { a: input, b: weight })
    }

    /// Biases side by side, zeros for a module that has none.
    fn bias(&mut self, path: &str, product: Value, modules: &[&Linear]) -> Result<Value> {
        let n: usize = modules.iter().map(|module| module.out_features).sum();
        let (bias, slot) = self.stored(&format!("{}.Add.bias", dotted(path)), self.dtype, &[n])?;
        let mut segments = Vec::with_capacity(modules.len());
        for module in modules {
            if !module.bias {
                segments.push(Segment { source: Source::Constant(0.0), rows: module.out_features });
                continue;
            }
            let (tensor, ranges) = (module.bias_name(), module.ranges());
            self.tensors.part(&tensor, &[module.bias_length()], 0, ranges.iter().cloned());
            segments.extend(ranges.into_iter().map(|range| Segment {
                source: Source::Rows { tensor: tensor.clone(), first: range.start },
                rows: range.len(),
            }));
        }
        let sink = Sink::Dense { slot, dtype: self.dtype };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k: 1, sink });
        self.graph.add(&format!("{path}/Add"), &Add(product, bias))
    }

    /// Counts weights and the bytes that they take up.
    pub(super) fn count(&mut self, weights: usize, bytes: usize) {
        self.weights += weights as u64;
        self.weight_bytes += bytes as u64;
    }
}

/// `/model/layers.0/mlp` as initializers spell it: `model.layers.0.mlp`.
pub(super) fn dotted(path: &str) -> String {
    path.trim_start_matches('/').replace('/', ".")
}
