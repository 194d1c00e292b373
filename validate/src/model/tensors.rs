//! Between Rust values and ONNX Runtime tensors.

use half::f16;
use ort::memory::Allocator;
use ort::value::{
    DynTensor, PrimitiveTensorElementType, Tensor, TensorElementType as Element, TensorValueTypeMarker, Value,
};

use crate::{Error, Result};

/// An int32 or int64 tensor.
pub(super) fn integers(element: Element, shape: &[usize], values: Vec<i64>) -> Result<DynTensor> {
    let doing = "making an input tensor";
    if element == Element::Int64 {
        let tensor = Tensor::from_array((shape.to_vec(), values)).map_err(Error::execution(doing))?;
        return Ok(tensor.upcast());
    }
    let values: Vec<i32> =
        values.into_iter().map(i32::try_from).collect::<Result<_, _>>().map_err(Error::execution(doing))?;
    Ok(Tensor::from_array((shape.to_vec(), values)).map_err(Error::execution(doing))?.upcast())
}

/// A tensor in ONNX Runtime's own memory, zeroed if that is the CPU's: only such a tensor can be bound as input and
/// output at once.
pub(super) fn allocated(memory: &Allocator, element: Element, shape: &[usize]) -> Result<DynTensor> {
    let fits =
        shape.iter().try_fold(4usize, |bytes, &dim| bytes.checked_mul(dim)).is_some_and(|b| i64::try_from(b).is_ok());
    if !fits {
        return Err(Error::argument("the shape of a cache tensor", format!("{shape:?}"), "less than 2^63 bytes"));
    }
    DynTensor::new(memory, element, shape)
        .map_err(Error::execution(format!("allocating a cache tensor {shape:?} of {element}")))
}

pub(super) fn shape(tensor: &DynTensor) -> Result<Vec<usize>> {
    let shape = tensor.shape().iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    shape.map_err(Error::execution("reading the shape of a tensor"))
}

/// Changes one size of a shape.
pub(super) fn set(shape: &mut [usize], axis: usize, size: usize) {
    if let Some(dim) = shape.get_mut(axis) {
        *dim = size;
    }
}

/// Shape and values of a float32 or float16 tensor.
pub(super) fn floats<T: TensorValueTypeMarker + ?Sized>(value: &Value<T>) -> Result<(Vec<usize>, Vec<f32>)> {
    let doing = "reading an output tensor";
    let (shape, values) = match value.dtype().tensor_type() {
        Some(Element::Float16) => {
            let (shape, values) = value.try_extract_tensor::<f16>().map_err(Error::execution(doing))?;
            (shape, values.iter().map(|value| value.to_f32()).collect())
        }
        _ => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(Error::execution(doing))?;
            (shape, values.to_vec())
        }
    };
    let shape = shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    Ok((shape.map_err(Error::execution(doing))?, values))
}

/// A tensor of that shape with those indices of an axis, in their order.
pub(super) fn gathered(
    memory: &Allocator,
    from: &DynTensor,
    shape: &[usize],
    axis: usize,
    indices: &[usize],
) -> Result<DynTensor> {
    let mut to = allocated(memory, *from.data_type(), shape)?;
    match from.data_type() {
        Element::Float16 => copy::<f16>(from, &mut to, axis, indices)?,
        Element::Int8 => copy::<i8>(from, &mut to, axis, indices)?,
        Element::Uint8 => copy::<u8>(from, &mut to, axis, indices)?,
        _ => copy::<f32>(from, &mut to, axis, indices)?,
    }
    Ok(to)
}

fn copy<T>(from: &DynTensor, to: &mut DynTensor, axis: usize, indices: &[usize]) -> Result<()>
where
    T: PrimitiveTensorElementType + Copy,
{
    let doing = "copying the cache";
    let sizes = shape(from)?;
    let inner: usize = sizes.iter().skip(axis + 1).product();
    let block = sizes.get(axis).copied().unwrap_or(1) * inner;
    let (_, source) = from.try_extract_tensor::<T>().map_err(Error::execution(doing))?;
    let (_, target) = to.try_extract_tensor_mut::<T>().map_err(Error::execution(doing))?;
    if block == 0 || target.is_empty() {
        return Ok(());
    }
    let lacks = || Error::execution(doing)("it is shorter than what is wanted of it");
    for (source, target) in source.chunks_exact(block).zip(target.chunks_exact_mut(indices.len() * inner)) {
        // The usual cases, a beginning and one's own place, are one run of memory.
        if indices.iter().copied().eq(0..indices.len()) {
            target.copy_from_slice(source.get(..target.len()).ok_or_else(lacks)?);
            continue;
        }
        for (&index, target) in indices.iter().zip(target.chunks_exact_mut(inner)) {
            target.copy_from_slice(source.get(index * inner..(index + 1) * inner).ok_or_else(lacks)?);
        }
    }
    Ok(())
}
