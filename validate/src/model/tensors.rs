//! Between Rust values and ONNX Runtime tensors.

use half::f16;
use ort::memory::Allocator;
use ort::value::{DynTensor, Tensor, TensorElementType as Element, TensorValueTypeMarker, Value};

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

/// Copies the first `count` elements of each head. `from` and `to` are `[1, heads, …, …]` of one element type, and a
/// head of either holds at least `count` elements.
pub(super) fn copy_head_rows(from: &DynTensor, to: &mut DynTensor, heads: usize, count: usize) -> Result<()> {
    match from.data_type() {
        Element::Float16 => copy_typed::<f16>(from, to, heads, count),
        Element::Int8 => copy_typed::<i8>(from, to, heads, count),
        Element::Uint8 => copy_typed::<u8>(from, to, heads, count),
        _ => copy_typed::<f32>(from, to, heads, count),
    }
}

fn copy_typed<T>(from: &DynTensor, to: &mut DynTensor, heads: usize, count: usize) -> Result<()>
where
    T: ort::value::PrimitiveTensorElementType + Copy,
{
    let doing = "shortening the cache";
    let (_, source) = from.try_extract_tensor::<T>().map_err(Error::execution(doing))?;
    let (_, target) = to.try_extract_tensor_mut::<T>().map_err(Error::execution(doing))?;
    if heads == 0 || count == 0 {
        return Ok(());
    }
    let sources = source.chunks_exact((source.len() / heads).max(1));
    let targets = target.chunks_exact_mut(count);
    for (source, target) in sources.zip(targets) {
        let kept =
            source.get(..count).ok_or_else(|| Error::execution(doing)("the cache is shorter than its rewind"))?;
        target.copy_from_slice(kept);
    }
    Ok(())
}
