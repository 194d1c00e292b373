//! Which nodes work with which matrices.

use genai_onnx::tensor_proto::DataType;

use super::origin::Origin;
use super::plane::Plane;
use super::{Source, Use, Weight, Weights};
use crate::graph::{Found, Graph, Initializer, Node, Problem, tensor};

/// Sizes past this are no matrix of a model, and would overflow what is computed with them.
const MAX_SIZE: i64 = 1 << 31;

/// `None` where a node has no matrix there; an error where what it has does not fit together.
type Read = Result<Option<Weight>, String>;

impl Graph {
    /// The matrices of all nodes that are known here; other nodes have none.
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for node in &self.nodes {
            for read in self.matrices(node) {
                match read {
                    Ok(weight) => weights.matrices.extend(weight),
                    Err(problem) => weights.problems.push(Problem::new(Found::Quantized, node.label(), problem)),
                }
            }
        }
        weights
    }

    fn matrices(&self, node: &Node) -> Vec<Read> {
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        match (node.op_type.as_str(), node.is_contrib()) {
            ("MatMul", false) => self.products(node, 1, true),
            ("Gemm", false) | ("FusedMatMul", true) => self.products(node, 1, !flag("transB")),
            // `[inputs, 3 · width]` of query, key and value.
            ("Attention", true) => self.products(node, 1, true),
            ("Gather", false) if node.int("axis").unwrap_or(0) == 0 => self.embedding(node),
            ("MatMulNBits", true) => vec![self.matmul_nbits(node)],
            ("GatherBlockQuantized", true) => vec![self.gather_block_quantized(node)],
            ("MoE", true) => [2, 4, 6].into_iter().flat_map(|slot| self.products(node, slot, false)).collect(),
            ("QMoE", true) => self.quantized_experts(node),
            _ => Vec::new(),
        }
    }

    /// Of a product: `transposed` is storage as `[k, n]`. More than two dimensions are a stack of matrices.
    fn products(&self, node: &Node, slot: usize, transposed: bool) -> Vec<Read> {
        let Some(origin) = node.input(slot).and_then(|name| self.origin(name)) else { return Vec::new() };
        let experts = node.op_type == "MoE";
        self.stack(
            node,
            slot,
            origin,
            transposed,
            |index, count| {
                if experts || count > 1 { Use::Expert(index) } else { Use::Product }
            },
        )
    }

    fn embedding(&self, node: &Node) -> Vec<Read> {
        let Some(origin) = node.input(0).and_then(|name| self.origin(name)) else { return Vec::new() };
        // Shapes and positions are gathered from too, but they are no table of numbers.
        let dequantized = origin.dequantize.is_some();
        if origin.tensor.shape.len() != 2 || !(origin.tensor.is_float() || dequantized) {
            return Vec::new();
        }
        self.stack(node, 0, origin, false, |_, _| Use::Embedding)
    }

    fn stack(
        &self,
        node: &Node,
        slot: usize,
        origin: Origin,
        transposed: bool,
        used: impl Fn(usize, usize) -> Use,
    ) -> Vec<Read> {
        let Some((outer, &[first, second])) = origin.tensor.shape.split_last_chunk::<2>() else { return Vec::new() };
        let count = outer.iter().fold(1_usize, |all, &dim| all.saturating_mul(dim));
        let transposed = transposed != origin.transposed;
        let (rows, columns) = match origin.cut {
            None => (first, second),
            Some((0, end)) if outer.is_empty() => (first.min(end), second),
            Some((_, end)) if outer.is_empty() => (first, second.min(end)),
            Some(_) => return Vec::new(),
        };
        let (n, k) = if transposed { (columns, rows) } else { (rows, columns) };
        if origin.dequantize.is_none() && !origin.tensor.is_float() {
            return Vec::new();
        }
        // What is not read is a tensor's own problem, told with the tensor.
        if n == 0 || k == 0 || count > 4096 {
            return Vec::new();
        }
        if let Some(dequantize) = origin.dequantize {
            let read = self.dequantized(dequantize, &origin.tensor.shape).map(|(scales, zeros, block, words)| {
                let values = whole(origin.tensor, 0, second);
                let source = Source { transposed, values, scales: Some(scales), zeros, zero: 0.0, groups: None };
                Some(self.weight(node, slot, used(0, 1), (n, k), block, words, source))
            });
            return vec![read];
        }
        let each = first.saturating_mul(second);
        let words = name_of(origin.tensor.dtype);
        let of = |index: usize| {
            let values = whole(origin.tensor, as_u64(index.saturating_mul(each)), second);
            let source = Source { transposed, values, scales: None, zeros: None, zero: 0.0, groups: None };
            Ok(Some(self.weight(node, slot, used(index, count), (n, k), None, words.clone(), source)))
        };
        (0..count).map(of).collect()
    }

    /// Scales, zero points, block and words of a `DequantizeLinear` of a matrix.
    fn dequantized(
        &self,
        node: &Node,
        shape: &[usize],
    ) -> Result<(Plane, Option<Plane>, Option<usize>, String), String> {
        let &[rows, columns] = shape else {
            return Err(format!("is dequantized from {} dimensions, expected a matrix", shape.len()));
        };
        let scales = self.constant_input(node, 1).ok_or("has no scales")?;
        let codes = self.constant_input(node, 0).ok_or("has no codes")?;
        let axis = node.int("axis").unwrap_or(1);
        let axis = if axis < 0 { axis.saturating_add(2) } else { axis };
        let block = usize::try_from(node.int("block_size").unwrap_or(0)).unwrap_or(0);
        let by_row = axis == 0;
        let along = if by_row { rows } else { columns };
        // Rows and columns that share a scale, and the distance of two.
        let (expected, (shared_rows, stride), (shared_columns, step), words) = if block > 0 {
            let blocks = along.div_ceil(block);
            let words = format!("blocks of {block}");
            if by_row {
                (vec![blocks, columns], (block, columns), (1, 1), words)
            } else {
                (vec![rows, blocks], (1, blocks), (block, 1), words)
            }
        } else if scales.elements == 1 {
            (scales.shape.clone(), (1, 0), (1, 0), "one scale".to_owned())
        } else if by_row {
            (vec![rows], (1, 1), (1, 0), "a scale per channel".to_owned())
        } else {
            (vec![columns], (1, 0), (1, 1), "a scale per channel".to_owned())
        };
        let fits = |tensor: &Initializer, what: &str| {
            if tensor.shape == expected {
                return Ok(());
            }
            Err(format!(
                "has {what} `{}` of shape {:?}, expected {expected:?} for codes {shape:?} on axis {axis}, {words}",
                tensor.name, tensor.shape
            ))
        };
        fits(scales, "scales")?;
        let plane = |tensor: &Initializer| Plane {
            tensor: tensor.name.clone(),
            packed: None,
            base: 0,
            rows: shared_rows,
            stride: as_u64(stride),
            columns: shared_columns,
            step: as_u64(step),
        };
        let zeros = self.constant_input(node, 2);
        if let Some(zeros) = zeros {
            fits(zeros, "zero points")?;
            if zeros.dtype != codes.dtype {
                return Err(format!(
                    "has zero points of {}, expected those of its codes: {}",
                    zeros.dtype.as_str_name(),
                    codes.dtype.as_str_name()
                ));
            }
        }
        let name = name_of(codes.dtype);
        let words = format!("{name}, {words}{}", if zeros.is_some() { ", zero points" } else { "" });
        Ok((plane(scales), zeros.map(plane), (block > 0).then_some(block), words))
    }

    fn matmul_nbits(&self, node: &Node) -> Read {
        let (k, n) = (size(node, "K")?, size(node, "N")?);
        let bits = code_bits(node.int("bits").unwrap_or(4))?;
        let block = block_size(node.int("block_size").unwrap_or(0))?;
        let blocks = k.div_ceil(block);
        let Some(codes) = self.constant_input(node, 1) else { return Ok(None) };
        let row_bytes = blocks.saturating_mul(block.saturating_mul(as_usize(bits)) / 8);
        let expected = vec![n, blocks, row_bytes.checked_div(blocks).unwrap_or(0)];
        if codes.shape != expected || codes.dtype != DataType::Uint8 {
            return Err(format!(
                "has codes `{}` of {} {:?}, expected UINT8 {expected:?} for N {n}, K {k}, {bits} bits, blocks of {block}",
                codes.name,
                codes.dtype.as_str_name(),
                codes.shape
            ));
        }
        let quantized = Quantized { node, bits, block, n, k, row_bytes };
        let groups = self.constant_input(node, 4);
        if let Some(groups) = groups.filter(|groups| groups.elements < as_u64(k) || groups.dtype != DataType::Int32) {
            return Err(format!(
                "has group indices `{}` of shape {:?}, expected INT32 [{k}]",
                groups.name, groups.shape
            ));
        }
        let scales = self.constant_input(node, 2).ok_or("has no scales")?;
        let mut weight = self.blocked(&quantized, 1, Use::Product, 0, codes, scales, self.constant_input(node, 3))?;
        weight.source.groups = groups.map(|groups| groups.name.clone());
        if groups.is_some() {
            weight.stored.push_str(", group indices");
        }
        Ok(Some(weight))
    }

    fn gather_block_quantized(&self, node: &Node) -> Read {
        if node.int("gather_axis").unwrap_or(0) != 0 {
            return Err("gathers from another axis than 0, which is not read here".to_owned());
        }
        let Some(data) = node.input(0) else { return Err("has no codes".to_owned()) };
        let block = block_size(node.int("block_size").unwrap_or(128))?;
        // Codes that a product shares come through a node that makes them two-dimensional.
        let reshaped = self.producer(data).filter(|producer| producer.op_type == "Reshape");
        let name = reshaped.and_then(|reshape| reshape.input(0)).unwrap_or(data);
        let Some(codes) = self.initializer(name) else { return Ok(None) };
        let scales = self.constant_input(node, 2).ok_or("has no scales")?;
        let &[n, blocks] = scales.shape.as_slice() else {
            return Err(format!("has scales `{}` of shape {:?}, expected two dimensions", scales.name, scales.shape));
        };
        let bits = match codes.dtype {
            DataType::Uint8 => code_bits(node.int("bits").unwrap_or(4))?,
            _ => u32::try_from(tensor::bits(codes.dtype).unwrap_or(8)).unwrap_or(8),
        };
        let row = codes.bytes.checked_div(as_u64(n)).unwrap_or(0);
        let k = usize::try_from(row.saturating_mul(8).checked_div(u64::from(bits)).unwrap_or(0)).unwrap_or(0);
        let quantize_axis = node.int("quantize_axis").unwrap_or(1);
        if n == 0 || k.div_ceil(block) != blocks || !matches!(quantize_axis, 1 | -1) {
            return Err(format!(
                "has codes `{}` of shape {:?} and scales of shape {:?}, which do not fit together in blocks of {block} \
                 along axis {quantize_axis}",
                codes.name, codes.shape, scales.shape
            ));
        }
        let zeros = self.constant_input(node, 3);
        let row_bytes = usize::try_from(row).unwrap_or(0);
        let quantized = Quantized { node, bits, block, n, k, row_bytes };
        self.blocked(&quantized, 0, Use::Embedding, 0, codes, scales, zeros).map(Some)
    }

    fn quantized_experts(&self, node: &Node) -> Vec<Read> {
        // Codes, scales, zero points; see the schema of QMoE.
        let slots = [(2, 3, 11, "fc1"), (5, 6, 12, "fc2"), (8, 9, 13, "fc3")];
        slots
            .into_iter()
            .flat_map(|(codes, scales, zeros, name)| match self.experts_of(node, codes, scales, zeros, name) {
                Ok(experts) => experts.into_iter().map(|weight| Ok(Some(weight))).collect(),
                Err(problem) => vec![Err(format!("{name} {problem}"))],
            })
            .collect()
    }

    fn experts_of(
        &self,
        node: &Node,
        slot: usize,
        scales: usize,
        zeros: usize,
        name: &str,
    ) -> Result<Vec<Weight>, String> {
        let Some(codes) = self.constant_input(node, slot) else { return Ok(Vec::new()) };
        if node.text("quant_type").is_some_and(|kind| kind != "int") {
            return Ok(Vec::new());
        }
        let scales = self.constant_input(node, scales).ok_or("has no scales")?;
        let own = node.int(&format!("{name}_expert_weight_bits")).filter(|&bits| bits > 0);
        let bits = code_bits(own.or_else(|| node.int("expert_weight_bits")).unwrap_or(4))?;
        let &[experts, n, row_bytes] = codes.shape.as_slice() else {
            return Err(format!("has codes `{}` of shape {:?}, expected three dimensions", codes.name, codes.shape));
        };
        let k = row_bytes.saturating_mul(8).checked_div(as_usize(bits)).unwrap_or(0);
        let block = match node.int("block_size").filter(|&block| block > 0) {
            Some(block) => usize::try_from(block).unwrap_or(usize::MAX),
            None => k.max(1),
        };
        // For one provider the codes are laid out for its kernels; their rows are the scales' columns then.
        if node.int("weights_prepacked") == Some(1) || experts == 0 || experts > 4096 || k == 0 {
            return Ok(Vec::new());
        }
        let expected = as_u64(experts.saturating_mul(n).saturating_mul(k.div_ceil(block)));
        if scales.elements != expected {
            return Err(format!(
                "has codes `{}` of shape {:?} and scales `{}` of shape {:?}, expected {expected} scales for {bits} bits, \
                 blocks of {block}",
                codes.name, codes.shape, scales.name, scales.shape
            ));
        }
        let zeros = self.constant_input(node, zeros);
        let quantized = Quantized { node, bits, block, n, k, row_bytes };
        (0..experts)
            .map(|expert| self.blocked(&quantized, slot, Use::Expert(expert), expert, codes, scales, zeros))
            .collect()
    }

    /// A matrix of codes in blocks along its rows, the `index`-th in its tensors.
    #[allow(clippy::too_many_arguments)] // Three tensors, and what is said of them.
    fn blocked(
        &self,
        quantized: &Quantized,
        slot: usize,
        used: Use,
        index: usize,
        codes: &Initializer,
        scales: &Initializer,
        zeros: Option<&Initializer>,
    ) -> Result<Weight, String> {
        let &Quantized { node, bits, block, n, k, row_bytes } = quantized;
        let blocks = k.div_ceil(block);
        let matrices = index.saturating_add(1);
        let holds = |tensor: &Initializer, row: usize| {
            tensor.elements >= as_u64(matrices.saturating_mul(n).saturating_mul(row))
        };
        let single = matches!(used, Use::Product | Use::Embedding);
        let exact = |tensor: &Initializer, row: usize| tensor.elements == as_u64(n.saturating_mul(row));
        let fits = |tensor: &Initializer, row: usize| if single { exact(tensor, row) } else { holds(tensor, row) };
        if !fits(scales, blocks) {
            return Err(format!(
                "has scales `{}` of shape {:?}, expected [{n}, {blocks}] for N {n}, K {k}, blocks of {block}",
                scales.name, scales.shape
            ));
        }
        let start = |row: usize| as_u64(index.saturating_mul(n).saturating_mul(row));
        let plane = |tensor: &Initializer, packed: Option<u32>, row: usize, columns: usize| Plane {
            tensor: tensor.name.clone(),
            packed,
            base: start(row),
            rows: 1,
            stride: as_u64(row),
            columns,
            step: 1,
        };
        let in_bytes = codes.dtype == DataType::Uint8;
        let per_row = row_bytes.saturating_mul(8).checked_div(as_usize(bits)).unwrap_or(0);
        let packed_zeros = blocks.saturating_mul(as_usize(bits)).div_ceil(8);
        let zeros_in_row = packed_zeros.saturating_mul(8).checked_div(as_usize(bits)).unwrap_or(0);
        let zeros = match zeros {
            None => None,
            Some(zeros) if zeros.dtype == DataType::Uint8 && in_bytes && fits(zeros, packed_zeros) => {
                Some(plane(zeros, Some(bits), zeros_in_row, block))
            }
            Some(zeros) if (zeros.is_float() || (!in_bytes && zeros.dtype == codes.dtype)) && fits(zeros, blocks) => {
                Some(plane(zeros, None, blocks, block))
            }
            Some(zeros) => {
                return Err(format!(
                    "has zero points `{}` of {} {:?}, expected UINT8 [{n}, {packed_zeros}] of {bits} bits each for {blocks} \
                     blocks",
                    zeros.name,
                    zeros.dtype.as_str_name(),
                    zeros.shape
                ));
            }
        };
        let zero = if in_bytes { f32::from(1_u16 << bits.saturating_sub(1)) } else { 0.0 };
        let how = if zeros.is_some() { ", zero points" } else { "" };
        let blocks_of = if block >= k && !single { "a scale per row".to_owned() } else { format!("blocks of {block}") };
        let words = format!("int{bits}, {blocks_of}{how}");
        let values = plane(codes, in_bytes.then_some(bits), per_row, 1);
        let source = Source {
            transposed: false,
            values,
            scales: Some(plane(scales, None, blocks, block)),
            zeros,
            zero,
            groups: None,
        };
        Ok(self.weight(node, slot, used, (n, k), Some(block), words, source))
    }

    #[allow(clippy::too_many_arguments)] // What a matrix is, once.
    fn weight(
        &self,
        node: &Node,
        slot: usize,
        used: Use,
        (n, k): (usize, usize),
        block: Option<usize>,
        stored: String,
        source: Source,
    ) -> Weight {
        let tensor = self.initializer(&source.values.tensor);
        let bits = tensor.and_then(|tensor| tensor::bits(tensor.dtype)).and_then(|bits| u32::try_from(bits).ok());
        let planes = [Some(&source.values), source.scales.as_ref(), source.zeros.as_ref()];
        let bytes = planes.iter().flatten().filter_map(|plane| self.initializer(&plane.tensor)).map(|t| t.bytes);
        let bytes = bytes.fold(0_u64, u64::saturating_add);
        // The tensors of experts hold all of them.
        let share = match used {
            Use::Expert(_) => tensor.and_then(|tensor| tensor.shape.first()).map_or(1, |&experts| as_u64(experts)),
            _ => 1,
        };
        Weight {
            node: node.label().to_owned(),
            op_type: node.op_type.clone(),
            tensor: source.values.tensor.clone(),
            slot,
            used,
            n,
            k,
            bits: source.values.packed.or(bits).unwrap_or(0),
            block,
            stored,
            bytes: bytes.checked_div(share).unwrap_or(bytes),
            scales: source.scales.as_ref().map(|plane| plane.tensor.clone()),
            zero_points: source.zeros.as_ref().map(|plane| plane.tensor.clone()),
            source,
        }
    }

    /// `None` where the input is left out or computed.
    fn constant_input(&self, node: &Node, slot: usize) -> Option<&Initializer> {
        node.input(slot).and_then(|name| self.initializer(name))
    }
}

/// What a node says of its codes.
struct Quantized<'a> {
    node: &'a Node,
    bits: u32,
    block: usize,
    n: usize,
    k: usize,
    /// Bytes of a row of codes.
    row_bytes: usize,
}

fn whole(tensor: &Initializer, base: u64, columns: usize) -> Plane {
    let tensor = tensor.name.clone();
    Plane { tensor, packed: None, base, rows: 1, stride: as_u64(columns), columns: 1, step: 1 }
}

fn size(node: &Node, name: &str) -> Result<usize, String> {
    let value = node.int(name).ok_or_else(|| format!("lacks the attribute {name}"))?;
    let size = usize::try_from(value).ok().filter(|_| (1..MAX_SIZE).contains(&value));
    size.ok_or_else(|| format!("has {name} = {value}, expected a size"))
}

fn code_bits(bits: i64) -> Result<u32, String> {
    match bits {
        2 | 4 | 8 => u32::try_from(bits).map_err(|error| error.to_string()),
        _ => Err(format!("has {bits} bits per code, expected 2, 4 or 8")),
    }
}

fn block_size(block: i64) -> Result<usize, String> {
    let size = usize::try_from(block).ok().filter(|size| size.is_power_of_two() && (16..=1 << 20).contains(size));
    size.ok_or_else(|| format!("has blocks of {block}, expected a power of two from 16 on"))
}

fn name_of(dtype: DataType) -> String {
    match dtype {
        DataType::Float => "fp32".to_owned(),
        DataType::Float16 => "fp16".to_owned(),
        DataType::Bfloat16 => "bf16".to_owned(),
        DataType::Double => "fp64".to_owned(),
        other => other.as_str_name().to_ascii_lowercase(),
    }
}

fn as_u64(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn as_usize(bits: u32) -> usize {
    usize::try_from(bits).unwrap_or(usize::MAX)
}
