//! The stream that enters each layer, read from a copy of the graph in memory that gives it as a further output.
//!
//! It is found by structure, not by names: from the key cache that a layer gives, back to the matrix that its keys come
//! from; what that matrix multiplies is the stream, or a norm of it. The copy has the package's own weights. An output
//! more can keep ONNX Runtime from fusing nodes, so that numbers differ in the last digits.

use std::collections::{BTreeSet, VecDeque};

use genai_onnx::ValueInfoProto;
use prost::Message;

use super::load::Loaded;
use super::precision;
use crate::graph::{Graph, Node};
use crate::{Matrix, Model, Result};

/// Steps back from the cache at which the search ends.
const FARTHEST: usize = 64;

/// The stream that enters the layer of each cache, `[tokens, hidden_size]`, for tokens read at once; `None` where it is not
/// found.
pub(super) fn residuals(loaded: &Loaded, ids: &[u32]) -> Result<Vec<Option<Matrix>>> {
    let graph = precision::open(&loaded.package)?;
    let keys: Vec<String> = loaded.model.wiring.keys().map(str::to_owned).collect();
    let streams: Vec<Option<Stream>> = keys.iter().map(|present| stream(&graph, present)).collect();
    if streams.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let altered = tapped(&graph, streams.iter().flatten())?;
    let model = Model::load_altered(&loaded.package, loaded.runtime, loaded.options.clone(), &altered)?;
    let mut sequence = crate::Sequence::new(
        &std::sync::Arc::new(model),
        crate::SequenceOptions {
            max_length: ids.len(),
            cache: crate::CacheMode::plainest(&loaded.model),
            adapter: None,
        },
    )?;
    sequence.append(ids)?;
    let read = |stream: &Option<Stream>| -> Result<Option<Matrix>> {
        let Some(stream) = stream else { return Ok(None) };
        let tensor = sequence.output(&stream.output)?;
        let Some(values) = tensor.floats() else { return Ok(None) };
        let width = tensor.shape.last().copied().unwrap_or(0);
        let rows = values.len().checked_div(width).unwrap_or(0);
        Ok(if rows == ids.len() { Some(Matrix::new(rows, width, values)?) } else { None })
    };
    streams.iter().map(read).collect()
}

/// Where the stream that enters a layer can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stream {
    /// The name of the tensor.
    output: String,
    /// The norm whose output, at this place, has no name yet.
    unnamed: Option<(String, usize)>,
}

/// From a key cache back to the stream.
fn stream(graph: &Graph, present: &str) -> Option<Stream> {
    let entering = projected(graph, present)?;
    let node = through_casts(graph, &entering);
    let Some(node) = node else { return Some(Stream { output: entering, unnamed: None }) };
    match node.op_type.as_str() {
        // The sum that is normed is the fourth output.
        "SkipSimplifiedLayerNormalization" | "SkipLayerNormalization" => match node.output(3) {
            Some(sum) => Some(Stream { output: sum.to_owned(), unnamed: None }),
            None => Some(Stream {
                output: format!("{}.stream", node.output(0)?),
                unnamed: Some((node.output(0)?.to_owned(), 3)),
            }),
        },
        "SimplifiedLayerNormalization" | "LayerNormalization" | "RMSNormalization" => {
            let input = node.input(0)?;
            computed(graph, input).then(|| Stream { output: input.to_owned(), unnamed: None })
        }
        // A layer that norms behind its projections takes the stream as it is.
        "Add" | "Gather" | "GatherBlockQuantized" => Some(Stream { output: entering.clone(), unnamed: None }),
        // A norm in single operators ends in a product with its weight, and begins with the square of the stream.
        "Mul" => {
            let square = nearest(graph, &entering, |node| {
                matches!(node.op_type.as_str(), "Pow") || (node.op_type == "Mul" && node.input(0) == node.input(1))
            })?;
            let input = through_input(graph, square.input(0)?);
            computed(graph, &input).then_some(Stream { output: input, unnamed: None })
        }
        _ => None,
    }
}

/// What the matrix multiplies that the keys of a cache come from.
fn projected(graph: &Graph, present: &str) -> Option<String> {
    let is_projection = |node: &Node| {
        let weight = node.input(1);
        match node.op_type.as_str() {
            "MatMulNBits" => true,
            // What rotary embeddings multiply is a row, not a matrix.
            "MatMul" | "Gemm" | "MatMulInteger" => weight.is_some_and(|weight| is_matrix(graph, weight)),
            "FusedMatMul" => weight.is_some_and(|weight| is_matrix(graph, weight)),
            _ => false,
        }
    };
    nearest(graph, present, is_projection)?.input(0).map(str::to_owned)
}

/// Whether a tensor is a constant matrix, or codes that become one.
fn is_matrix(graph: &Graph, name: &str) -> bool {
    match graph.initializer(name) {
        Some(tensor) => tensor.shape.len() == 2 && tensor.shape.iter().all(|&size| size > 1),
        None => graph.producer(name).is_some_and(|node| {
            let inner = matches!(node.op_type.as_str(), "DequantizeLinear" | "Transpose" | "Cast" | "Reshape");
            inner && node.input(0).is_some_and(|input| is_matrix(graph, input))
        }),
    }
}

/// The nearest node before a value for which `wanted` holds.
fn nearest<'g>(graph: &'g Graph, value: &str, wanted: impl Fn(&Node) -> bool) -> Option<&'g Node> {
    let mut seen = BTreeSet::from([value.to_owned()]);
    let mut queue = VecDeque::from([(value.to_owned(), 0)]);
    while let Some((name, distance)) = queue.pop_front() {
        let Some(node) = graph.producer(&name).filter(|_| distance < FARTHEST) else { continue };
        if wanted(node) {
            return Some(node);
        }
        for input in node.inputs.iter().filter(|input| !input.is_empty()) {
            if seen.insert(input.clone()) {
                queue.push_back((input.clone(), distance.saturating_add(1)));
            }
        }
    }
    None
}

/// The node that computes a value, past changes of the element type.
fn through_casts<'g>(graph: &'g Graph, value: &str) -> Option<&'g Node> {
    let mut node = graph.producer(value)?;
    while node.op_type == "Cast" {
        node = graph.producer(node.input(0)?)?;
    }
    Some(node)
}

/// What is cast to give a value.
fn through_input(graph: &Graph, value: &str) -> String {
    match graph.producer(value) {
        Some(node) if node.op_type == "Cast" => node.input(0).unwrap_or(value).to_owned(),
        _ => value.to_owned(),
    }
}

fn computed(graph: &Graph, value: &str) -> bool {
    graph.producer(value).is_some()
}

/// A copy of the graph that gives the streams as outputs.
fn tapped<'s>(graph: &Graph, streams: impl Iterator<Item = &'s Stream>) -> Result<Vec<u8>> {
    let mut model = graph.model()?;
    if let Some(main) = &mut model.graph {
        for stream in streams {
            if main.output.iter().any(|output| output.name() == stream.output) {
                continue;
            }
            if let Some((norm, place)) = &stream.unnamed {
                let node = main.node.iter_mut().find(|node| node.output.first() == Some(norm));
                if let Some(node) = node {
                    node.output.resize(node.output.len().max(place.saturating_add(1)), String::new());
                    if let Some(output) = node.output.get_mut(*place) {
                        output.clone_from(&stream.output);
                    }
                }
            }
            // Without a type: ONNX Runtime infers it.
            main.output.push(ValueInfoProto { name: Some(stream.output.clone()), ..ValueInfoProto::default() });
        }
    }
    Ok(model.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use genai_onnx::tensor_proto::DataType;
    use genai_onnx::{GraphProto, NodeProto};

    use super::*;
    use crate::graph::sample::{floats, node, value, write};

    /// The graph, and the folder in which it lies.
    fn opened(node: Vec<NodeProto>) -> (Graph, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let graph = GraphProto {
            node,
            initializer: vec![
                floats("w", &[2, 2], &[1.0; 4]),
                floats("table", &[1, 2], &[1.0; 2]),
                floats("norm", &[2], &[1.0; 2]),
            ],
            input: vec![value("x", DataType::Float, &["1", "2"])],
            ..GraphProto::default()
        };
        write(folder.path(), graph);
        (Graph::open(folder.path(), "model.onnx").unwrap(), folder)
    }

    #[test]
    fn the_stream_is_found_behind_rotation_and_norm() {
        let keys = vec![
            node("Add", &["x", "x"], &["stream"], vec![]),
            node("LayerNormalization", &["stream", "norm"], &["normed"], vec![]),
            node("MatMul", &["normed", "w"], &["k"], vec![]),
            // As rotary embeddings multiply: by a row.
            node("MatMul", &["k", "table"], &["turned"], vec![]),
            node("Concat", &["past", "turned"], &["present.0.key"], vec![]),
        ];
        let found = stream(&opened(keys).0, "present.0.key").unwrap();
        assert_eq!(found, Stream { output: "stream".to_owned(), unnamed: None });
    }

    #[test]
    fn a_sum_inside_of_a_norm_gets_a_name() {
        let (graph, _folder) = opened(vec![
            node("SkipLayerNormalization", &["x", "x", "norm"], &["normed"], vec![]),
            node("Cast", &["normed"], &["cast"], vec![]),
            node("MatMul", &["cast", "w"], &["present.0.key"], vec![]),
        ]);
        let found = stream(&graph, "present.0.key").unwrap();
        assert_eq!(found.unnamed, Some(("normed".to_owned(), 3)));
        let copy = genai_onnx::ModelProto::decode(tapped(&graph, [&found].into_iter()).unwrap().as_slice()).unwrap();
        let copy = copy.graph.unwrap();
        assert_eq!(copy.node[0].output, ["normed", "", "", "normed.stream"]);
        assert_eq!(copy.output.last().unwrap().name(), "normed.stream");
    }

    #[test]
    fn a_cache_that_comes_from_no_matrix_has_no_stream() {
        let circle = vec![node("Add", &["b", "x"], &["a"], vec![]), node("Add", &["a", "x"], &["b"], vec![])];
        assert_eq!(stream(&opened(circle).0, "a"), None);
        assert_eq!(stream(&opened(vec![node("Add", &["x", "past"], &["p"], vec![])]).0, "p"), None);
    }
}
