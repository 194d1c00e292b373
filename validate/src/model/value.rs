//! Tensors that a caller gives to a graph or gets from it.

use half::f16;
use ort::value::{DynTensor, DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType as Element};

use crate::{Error, Result};

/// A tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: TensorValues,
}

/// The element types that decoders have at their edges.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorValues {
    Float32(Vec<f32>),
    Float16(Vec<f16>),
    Int64(Vec<i64>),
    Int32(Vec<i32>),
    Int8(Vec<i8>),
    Uint8(Vec<u8>),
    Bool(Vec<bool>),
}

impl Tensor {
    pub fn float32(shape: &[usize], values: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), values: TensorValues::Float32(values) }
    }

    /// The values of a tensor of floats; none of another.
    pub fn floats(&self) -> Option<Vec<f32>> {
        match &self.values {
            TensorValues::Float32(values) => Some(values.clone()),
            TensorValues::Float16(values) => Some(values.iter().map(|value| value.to_f32()).collect()),
            _ => None,
        }
    }

    /// # Errors
    /// [`Error::Argument`] if there are not as many values as the shape says.
    pub(crate) fn to_ort(&self) -> Result<DynTensor> {
        let shape = self.shape.clone();
        match self.values.clone() {
            TensorValues::Float32(values) => made(shape, values),
            TensorValues::Float16(values) => made(shape, values),
            TensorValues::Int64(values) => made(shape, values),
            TensorValues::Int32(values) => made(shape, values),
            TensorValues::Int8(values) => made(shape, values),
            TensorValues::Uint8(values) => made(shape, values),
            TensorValues::Bool(values) => made(shape, values),
        }
    }

    /// # Errors
    /// [`Error::Unsupported`] for another element type.
    pub(crate) fn of(name: &str, value: &DynValue) -> Result<Self> {
        let (shape, values) = match value.dtype().tensor_type() {
            Some(Element::Float32) => extracted(value, TensorValues::Float32)?,
            Some(Element::Float16) => extracted(value, TensorValues::Float16)?,
            Some(Element::Int64) => extracted(value, TensorValues::Int64)?,
            Some(Element::Int32) => extracted(value, TensorValues::Int32)?,
            Some(Element::Int8) => extracted(value, TensorValues::Int8)?,
            Some(Element::Uint8) => extracted(value, TensorValues::Uint8)?,
            Some(Element::Bool) => extracted(value, TensorValues::Bool)?,
            _ => {
                let what = format!("reading `{name}`, which is {}", value.dtype());
                return Err(Error::unsupported(what, "float32, float16, int64, int32, int8, uint8, bool"));
            }
        };
        Ok(Self { shape, values })
    }

    /// Its element type.
    pub(crate) fn element(&self) -> Element {
        match self.values {
            TensorValues::Float32(_) => Element::Float32,
            TensorValues::Float16(_) => Element::Float16,
            TensorValues::Int64(_) => Element::Int64,
            TensorValues::Int32(_) => Element::Int32,
            TensorValues::Int8(_) => Element::Int8,
            TensorValues::Uint8(_) => Element::Uint8,
            TensorValues::Bool(_) => Element::Bool,
        }
    }
}

fn made<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    shape: Vec<usize>,
    values: Vec<T>,
) -> Result<DynTensor> {
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    if count != Some(values.len()) {
        return Err(Error::argument("the number of values", values.len(), format!("as many as the shape {shape:?}")));
    }
    Ok(OrtTensor::from_array((shape, values)).map_err(Error::execution("making a tensor"))?.upcast())
}

fn extracted<T: PrimitiveTensorElementType + Clone>(
    value: &DynValue,
    wrap: impl FnOnce(Vec<T>) -> TensorValues,
) -> Result<(Vec<usize>, TensorValues)> {
    let doing = "reading a tensor";
    let (shape, values) = value.try_extract_tensor::<T>().map_err(Error::execution(doing))?;
    let shape = shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    Ok((shape.map_err(Error::execution(doing))?, wrap(values.to_vec())))
}
