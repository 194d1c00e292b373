//! Constant tensors of a graph: where their bytes lie, and their elements as numbers.

use genai_onnx::tensor_proto::{DataLocation, DataType};
use genai_onnx::{StringStringEntryProto, TensorProto};
use half::{bf16, f16};

/// A tensor whose values the graph holds: an initializer, or what a `Constant` node gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    pub name: String,
    pub dtype: DataType,
    pub shape: Vec<usize>,
    pub elements: u64,
    /// As stored: elements of fewer than 8 bits are packed.
    pub bytes: u64,
    pub stored: Stored,
    /// Whether a `Constant` node holds it.
    pub constant: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// In memory, little-endian.
    Here(Vec<u8>),
    /// In a file of the package. `file` is relative to the folder of the model.
    In { file: String, offset: u64 },
    /// What is wrong with it.
    Unreadable(String),
}

impl Initializer {
    /// Takes the bytes out of the message. `model` is the name of the ONNX file itself.
    pub(super) fn new(proto: &mut TensorProto, name: &str, constant: bool, model: &str) -> Self {
        let mut tensor = Self {
            name: name.to_owned(),
            dtype: DataType::try_from(proto.data_type.unwrap_or_default()).unwrap_or(DataType::Undefined),
            shape: Vec::new(),
            elements: 0,
            bytes: 0,
            stored: Stored::Here(Vec::new()),
            constant,
        };
        tensor.stored = tensor.locate(proto, model).unwrap_or_else(Stored::Unreadable);
        tensor
    }

    fn locate(&mut self, proto: &mut TensorProto, model: &str) -> Result<Stored, String> {
        let dims = || format!("has the shape {:?}", proto.dims);
        self.shape = proto
            .dims
            .iter()
            .map(|&dim| usize::try_from(dim))
            .collect::<Result<_, _>>()
            .map_err(|_| format!("{}, which has a negative size", dims()))?;
        let elements = self.shape.iter().try_fold(1_u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?));
        let bits = bits(self.dtype);
        let bytes = elements.and_then(|elements| elements.checked_mul(bits.unwrap_or(8)));
        let (Some(elements), Some(all_bits)) = (elements, bytes) else {
            return Err(format!("{}, which is more than 2^64 bits", dims()));
        };
        (self.elements, self.bytes) = (elements, all_bits.div_ceil(8));
        if bits.is_none() && self.dtype != DataType::String {
            return Err(format!("has the element type {}, which nobody reads", proto.data_type.unwrap_or_default()));
        }
        if proto.data_location() == DataLocation::External {
            if proto.raw_data.as_ref().is_some_and(|raw| !raw.is_empty()) || proto.segment.is_some() {
                return Err("has values in the graph and in a file beside it".to_owned());
            }
            return self.external(&proto.external_data);
        }
        if let Some(segment) = proto.segment {
            let (begin, end) = (segment.begin.unwrap_or_default(), segment.end.unwrap_or_default());
            let (begin, end) = (u64::try_from(begin).unwrap_or(0), u64::try_from(end).unwrap_or(0));
            self.expect_bytes(end.saturating_sub(begin))?;
            return Ok(Stored::In { file: model.to_owned(), offset: begin });
        }
        let bytes = match proto.raw_data.take() {
            Some(raw) if !raw.is_empty() || self.bytes == 0 => raw,
            _ if self.dtype == DataType::String => return Ok(Stored::Here(Vec::new())),
            _ => typed_bytes(self.dtype, proto),
        };
        self.expect_bytes(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        Ok(Stored::Here(bytes))
    }

    fn external(&self, entries: &[StringStringEntryProto]) -> Result<Stored, String> {
        let value = |key: &str| entries.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
        let number = |key: &str| match value(key) {
            None => Ok(None),
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Some).map_err(|_| format!("has {key} {text:?} in its external data"))
            }
            Some(text) => Err(format!("has {key} {text:?} in its external data, expected a count of bytes")),
        };
        let file = value("location").unwrap_or_default().to_owned();
        super::files::check_name(&file).map_err(|problem| format!("lies in {file:?}, which {problem}"))?;
        let (offset, length): (Option<u64>, Option<u64>) = (number("offset")?, number("length")?);
        if let Some(length) = length {
            self.expect_bytes(length)?;
        }
        Ok(Stored::In { file, offset: offset.unwrap_or(0) })
    }

    fn expect_bytes(&self, found: u64) -> Result<(), String> {
        if found == self.bytes {
            return Ok(());
        }
        Err(format!(
            "has {found} bytes, expected {}: {:?} elements of {}",
            self.bytes,
            self.shape,
            self.dtype.as_str_name()
        ))
    }

    /// Whether its elements are numbers with a point: what may be NaN.
    pub fn is_float(&self) -> bool {
        use DataType as T;
        matches!(self.dtype, T::Float | T::Float16 | T::Bfloat16 | T::Double | T::Float8e4m3fn | T::Float8e5m2)
    }
}

/// The number that a tensor of one element holds; `None` for larger ones and what is in other files.
pub(super) fn number(proto: &TensorProto) -> Option<f32> {
    if proto.dims.iter().any(|&dim| dim != 1) {
        return None;
    }
    let tensor = Initializer::new(&mut proto.clone(), "", false, "");
    let Stored::Here(bytes) = tensor.stored else { return None };
    let mut out = Vec::new();
    decode(tensor.dtype, &bytes, 0, 1, &mut out);
    out.first().copied()
}

/// Width of an element; `None` for what has no fixed one, or none that is used.
pub(super) fn bits(dtype: DataType) -> Option<u64> {
    use DataType as T;
    Some(match dtype {
        T::Uint2 | T::Int2 => 2,
        T::Uint4 | T::Int4 | T::Float4e2m1 => 4,
        T::Bool | T::Uint8 | T::Int8 => 8,
        T::Float8e4m3fn | T::Float8e4m3fnuz | T::Float8e5m2 | T::Float8e5m2fnuz | T::Float8e8m0 => 8,
        T::Uint16 | T::Int16 | T::Float16 | T::Bfloat16 => 16,
        T::Uint32 | T::Int32 | T::Float => 32,
        T::Uint64 | T::Int64 | T::Double => 64,
        T::Undefined | T::String | T::Complex64 | T::Complex128 | T::Float6e2m3 | T::Float6e3m2 => return None,
    })
}

/// Of what stands in the fields for numbers, as `onnx.proto` says which type goes where.
fn typed_bytes(dtype: DataType, proto: &TensorProto) -> Vec<u8> {
    use DataType as T;
    let integers = proto.int32_data.iter().map(|value| value.to_le_bytes());
    match dtype {
        T::Float => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        T::Double => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        T::Int64 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        T::Uint64 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        T::Uint32 => proto.uint64_data.iter().flat_map(|value| value.to_le_bytes().into_iter().take(4)).collect(),
        T::Int32 => integers.flatten().collect(),
        T::Uint16 | T::Int16 | T::Float16 | T::Bfloat16 => {
            integers.flat_map(|bytes| bytes.into_iter().take(2)).collect()
        }
        // One byte each; what has fewer bits is packed into it.
        _ => integers.flat_map(|bytes| bytes.into_iter().take(1)).collect(),
    }
}

/// Decodes `count` elements whose first one begins `skipped` elements into `bytes`; fewer where the bytes end.
///
/// Integers of more than 24 bits and doubles are rounded.
#[allow(clippy::as_conversions)] // To the nearest f32: there is no other way to say it.
pub(super) fn decode(dtype: DataType, bytes: &[u8], skipped: usize, count: usize, out: &mut Vec<f32>) {
    use DataType as T;
    fn chunks<const N: usize>(bytes: &[u8], skip: usize, count: usize, out: &mut Vec<f32>, f: impl Fn([u8; N]) -> f32) {
        let elements = bytes.as_chunks::<N>().0;
        out.extend(elements.iter().skip(skip).take(count).map(|element| f(*element)));
    }
    match dtype {
        T::Float => chunks(bytes, skipped, count, out, f32::from_le_bytes),
        T::Float16 => chunks(bytes, skipped, count, out, |b| f16::from_le_bytes(b).to_f32()),
        T::Bfloat16 => chunks(bytes, skipped, count, out, |b| bf16::from_le_bytes(b).to_f32()),
        T::Double => chunks(bytes, skipped, count, out, |b| f64::from_le_bytes(b) as f32),
        T::Int64 => chunks(bytes, skipped, count, out, |b| i64::from_le_bytes(b) as f32),
        T::Uint64 => chunks(bytes, skipped, count, out, |b| u64::from_le_bytes(b) as f32),
        T::Int32 => chunks(bytes, skipped, count, out, |b| i32::from_le_bytes(b) as f32),
        T::Uint32 => chunks(bytes, skipped, count, out, |b| u32::from_le_bytes(b) as f32),
        T::Int16 => chunks(bytes, skipped, count, out, |b| f32::from(i16::from_le_bytes(b))),
        T::Uint16 => chunks(bytes, skipped, count, out, |b| f32::from(u16::from_le_bytes(b))),
        T::Int8 => chunks(bytes, skipped, count, out, |[b]| f32::from(b.cast_signed())),
        T::Uint8 | T::Bool => chunks(bytes, skipped, count, out, |[b]| f32::from(b)),
        T::Float8e4m3fn => chunks(bytes, skipped, count, out, |[b]| e4m3(b)),
        // The upper half of an f16.
        T::Float8e5m2 => chunks(bytes, skipped, count, out, |[b]| f16::from_le_bytes([0, b]).to_f32()),
        T::Uint4 => packed::<4>(bytes, skipped, count, out, f32::from),
        T::Uint2 => packed::<2>(bytes, skipped, count, out, f32::from),
        T::Int4 => packed::<4>(bytes, skipped, count, out, |code| f32::from((code << 4).cast_signed() >> 4)),
        T::Int2 => packed::<2>(bytes, skipped, count, out, |code| f32::from((code << 6).cast_signed() >> 6)),
        _ => {}
    }
}

/// The first element of a byte is in its low bits.
pub(super) fn packed<const BITS: usize>(
    bytes: &[u8],
    skipped: usize,
    count: usize,
    out: &mut Vec<f32>,
    value: impl Fn(u8) -> f32,
) {
    let mask = u8::MAX.checked_shr(8_u32.saturating_sub(u32::try_from(BITS).unwrap_or(8))).unwrap_or(0);
    let codes = bytes.iter().flat_map(|byte| (0..8).step_by(BITS).map(move |shift| (byte >> shift) & mask));
    out.extend(codes.skip(skipped).take(count).map(value));
}

/// IEEE-like with 4 bits of exponent and 3 of mantissa, no infinity, one NaN per sign (OCP 8-bit floating point).
fn e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => sign * mantissa * 2_f32.powi(-9),
        _ => sign * (8.0 + mantissa) * 2_f32.powi(exponent.saturating_sub(10)),
    }
}
