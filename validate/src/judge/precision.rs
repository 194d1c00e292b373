//! Which precision's tolerances a package is judged by, where nobody says.

use std::collections::BTreeMap;

use crate::graph::{ElementType, Graph};
use crate::{Config, Error, Precision, Result};

/// The decoder's ONNX file.
pub(super) fn open(package: &Config) -> Result<Graph> {
    let model = &package.decoder.model;
    let file = model.strip_prefix(&package.folder).unwrap_or(model);
    let name = file.to_str().ok_or_else(|| Error::package(model, "is a path that is not Unicode"))?;
    Graph::open(&package.folder, name)
}

/// The coarsest kind of which matrices hold at least a tenth of the elements: a head of 8 bits beside layers of 4 makes
/// no package of 8 bits, and one odd matrix of 4 bits no package of 4.
pub(super) fn of_graph(package: &Config) -> Result<Precision> {
    let graph = open(package)?;
    let mut elements: BTreeMap<u8, usize> = BTreeMap::new();
    for weight in graph.weights().matrices {
        let kind = match (weight.bits, graph.initializer(&weight.tensor).map(|tensor| tensor.dtype)) {
            (..=4, _) => 0,
            (8, _) => 1,
            (_, Some(ElementType::Bfloat16)) => 2,
            (_, Some(ElementType::Float16)) => 3,
            _ => 4,
        };
        let count = elements.entry(kind).or_default();
        *count = count.saturating_add(weight.n.saturating_mul(weight.k));
    }
    let all = elements.values().fold(0, |all: usize, count| all.saturating_add(*count));
    let coarsest = elements.iter().find(|(_, count)| count.saturating_mul(10) >= all).map(|(kind, _)| *kind);
    Ok(match coarsest {
        Some(0) => Precision::Int4,
        Some(1) => Precision::Int8,
        Some(2) => Precision::Bf16,
        Some(3) => Precision::Fp16,
        _ => Precision::Fp32,
    })
}

/// Of weights and cache that which loses more.
pub(super) fn coarser(weights: Precision, cache: Option<Precision>) -> Precision {
    match (weights, cache) {
        (Precision::Int4, _) | (_, Some(Precision::Int4)) => Precision::Int4,
        (_, Some(cache)) => cache,
        (weights, None) => weights,
    }
}
