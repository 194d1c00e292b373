//! Events of a run: what the graph was given, and what it returned.

use std::fmt::Write;

use half::f16;
use ort::value::{DynTensor, DynValue, TensorElementType as Element};
use tracing::{Level, enabled, trace};

use crate::log;

/// Values of a tensor that are told.
const MOST: usize = 16;

/// Nothing is computed for events that no subscriber takes.
pub(super) fn tell_run(inputs: &[(String, DynTensor)], outputs: &[(String, DynValue)], logits: &str) {
    if enabled!(target: log::MODEL_INPUT, Level::TRACE) {
        for (name, tensor) in inputs {
            trace!(target: log::MODEL_INPUT, name, shape = ?tensor.shape(), values = integers(tensor));
        }
    }
    if enabled!(target: log::MODEL_OUTPUT, Level::TRACE) {
        for (name, value) in outputs {
            trace!(target: log::MODEL_OUTPUT, name, r#type = %value.dtype());
        }
    }
    if enabled!(target: log::MODEL_LOGITS, Level::TRACE)
        && let Some((name, value)) = outputs.iter().find(|(name, _)| name == logits)
        && let Some(Range { least, greatest, not_finite }) = range(value)
    {
        trace!(target: log::MODEL_LOGITS, name, least, greatest, not_finite);
    }
}

/// The first values of a tensor of integers; of others none.
fn integers(tensor: &DynTensor) -> String {
    let mut text = String::new();
    let values: Vec<i64> = match tensor.data_type() {
        Element::Int32 => tensor
            .try_extract_tensor::<i32>()
            .map(|(_, values)| values.iter().take(MOST + 1).map(|value| i64::from(*value)).collect())
            .unwrap_or_default(),
        Element::Int64 => tensor
            .try_extract_tensor::<i64>()
            .map(|(_, values)| values.iter().take(MOST + 1).copied().collect())
            .unwrap_or_default(),
        _ => return text,
    };
    for value in values.iter().take(MOST) {
        // Writing to a String does not fail.
        let _ = write!(text, "{value} ");
    }
    text.push_str(if values.len() > MOST { "…" } else { "" });
    text.truncate(text.trim_end().len());
    text
}

struct Range {
    least: f32,
    greatest: f32,
    /// How many are NaN or infinite.
    not_finite: usize,
}

/// Of a tensor of floats.
fn range(value: &DynValue) -> Option<Range> {
    let mut range = Range { least: f32::INFINITY, greatest: f32::NEG_INFINITY, not_finite: 0 };
    let mut add = |value: f32| {
        range.not_finite += usize::from(!value.is_finite());
        range.least = range.least.min(value);
        range.greatest = range.greatest.max(value);
    };
    match value.dtype().tensor_type()? {
        Element::Float16 => value.try_extract_tensor::<f16>().ok()?.1.iter().for_each(|value| add(value.to_f32())),
        Element::Float32 => value.try_extract_tensor::<f32>().ok()?.1.iter().for_each(|value| add(*value)),
        _ => return None,
    }
    Some(range)
}
