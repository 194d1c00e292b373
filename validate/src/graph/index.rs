//! From the messages of a model to a [`Graph`]: lists, and who reads what.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use genai_onnx::tensor_proto::DataType;
use genai_onnx::tensor_shape_proto::dimension;
use genai_onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto, type_proto,
};

use super::{Branch, Dimension, Found, Graph, Initializer, Node, Problem, Stored, Value};

/// Indices by name.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) initializer: HashMap<String, usize>,
    pub(super) producer: HashMap<String, usize>,
    pub(super) consumers: HashMap<String, Vec<usize>>,
}

/// `file` is the name of the ONNX file. The graph has no files yet.
pub(super) fn read(mut model: ModelProto, file: &str) -> Graph {
    let producer = format!("{} {}", model.producer_name(), model.producer_version());
    let mut graph = Graph {
        folder: PathBuf::new(),
        path: PathBuf::new(),
        producer: producer.trim().to_owned(),
        ir_version: model.ir_version(),
        opsets: model.opset_import.iter().map(|opset| (domain(opset.domain()), opset.version())).collect(),
        functions: model.functions.iter().map(|f| (domain(f.domain()), f.name().to_owned())).collect(),
        metadata: metadata(&model.metadata_props),
        nodes: Vec::new(),
        inputs: Vec::new(),
        defaults: Vec::new(),
        outputs: Vec::new(),
        values: BTreeMap::new(),
        branches: Vec::new(),
        initializers: Vec::new(),
        problems: Vec::new(),
        names: Names::default(),
        files: BTreeMap::new(),
        read: AtomicU64::new(0),
    };
    let mut main = model.graph.take().unwrap_or_default();
    let (inputs, outputs) = take_values(&mut main);
    graph.add(main, None, file);
    for value in inputs {
        let known = graph.names.initializer.contains_key(&value.name);
        if known { graph.defaults.push(value) } else { graph.inputs.push(value) }
    }
    graph.outputs = outputs;
    graph.check_names();
    graph
}

fn domain(name: &str) -> String {
    if name == "ai.onnx" { String::new() } else { name.to_owned() }
}

fn metadata(entries: &[StringStringEntryProto]) -> BTreeMap<String, String> {
    entries.iter().map(|entry| (entry.key().to_owned(), entry.value().to_owned())).collect()
}

fn take_values(graph: &mut GraphProto) -> (Vec<Value>, Vec<Value>) {
    let values = |list: &mut Vec<ValueInfoProto>| std::mem::take(list).iter().map(Value::new).collect();
    (values(&mut graph.input), values(&mut graph.output))
}

impl Value {
    fn new(proto: &ValueInfoProto) -> Self {
        let tensor = match proto.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
            _ => None,
        };
        let dtype = tensor.and_then(|tensor| DataType::try_from(tensor.elem_type()).ok());
        let dimension = |dim: &genai_onnx::tensor_shape_proto::Dimension| match &dim.value {
            Some(dimension::Value::DimValue(size)) => u64::try_from(*size).map_or(Dimension::Unknown, Dimension::Fixed),
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dimension::Named(name.clone()),
            _ => Dimension::Unknown,
        };
        let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
        Self {
            name: proto.name().to_owned(),
            dtype: dtype.unwrap_or(DataType::Undefined),
            shape: shape.map(|shape| shape.dim.iter().map(dimension).collect()),
        }
    }
}

impl Graph {
    fn add(&mut self, graph: GraphProto, scope: Option<&str>, file: &str) {
        for value in graph.value_info.iter().map(Value::new) {
            self.values.insert(value.name.clone(), value);
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map(TensorProto::name).unwrap_or_default();
            self.problems.push(Problem::new(Found::Tensor, name, "is a sparse tensor, which is not read here"));
        }
        for mut tensor in graph.initializer {
            let name = tensor.name.take().unwrap_or_default();
            self.add_tensor(&mut tensor, &name, false, file);
        }
        for node in graph.node {
            self.add_node(node, scope, file);
        }
    }

    fn add_tensor(&mut self, proto: &mut TensorProto, name: &str, constant: bool, file: &str) {
        let tensor = Initializer::new(proto, name, constant, file);
        if let Stored::Unreadable(problem) = &tensor.stored {
            let external = proto.data_location() == genai_onnx::tensor_proto::DataLocation::External;
            let found = if external { Found::ExternalData } else { Found::Tensor };
            self.problems.push(Problem::new(found, name, problem.as_str()));
        }
        let index = self.initializers.len();
        if self.names.initializer.insert(name.to_owned(), index).is_some() {
            self.problems.push(Problem::new(Found::Name, name, "names two constant tensors"));
        }
        self.initializers.push(tensor);
    }

    fn add_node(&mut self, mut proto: NodeProto, scope: Option<&str>, file: &str) {
        let node = Node::new(&mut proto, scope);
        let label = node.label().to_owned();
        if node.op_type == "Constant" && node.domain.is_empty() {
            let output = node.output(0).unwrap_or_default().to_owned();
            if let Some(mut tensor) = constant(&mut proto.attribute) {
                self.add_tensor(&mut tensor, &output, true, file);
            }
        }
        let index = self.nodes.len();
        for (name, count) in node.outputs.iter().filter(|name| !name.is_empty()).zip(1..) {
            if self.names.producer.insert(name.clone(), index).is_some() {
                let message = format!("is computed twice, by `{label}` too (output {count})");
                self.problems.push(Problem::new(Found::Name, name, message));
            }
        }
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            self.names.consumers.entry(name.clone()).or_default().push(index);
        }
        self.nodes.push(node);
        for attribute in proto.attribute {
            let scope = format!("{label}.{}", attribute.name());
            for mut graph in attribute.g.into_iter().chain(attribute.graphs) {
                let (inputs, outputs) = take_values(&mut graph);
                self.branches.push(Branch { scope: scope.clone(), inputs, outputs });
                self.add(graph, Some(&scope), file);
            }
        }
    }

    fn check_names(&mut self) {
        let both = self.names.initializer.iter().filter(|(name, index)| {
            let constant = self.initializers.get(**index).is_some_and(|tensor| tensor.constant);
            !constant && self.names.producer.contains_key(*name)
        });
        let mut both: Vec<String> = both.map(|(name, _)| name.clone()).collect();
        both.sort();
        for name in both {
            self.problems.push(Problem::new(Found::Name, name, "is an initializer, and a node computes it too"));
        }
        let mut known: std::collections::HashSet<&str> = self.names.initializer.keys().map(String::as_str).collect();
        known.extend(self.names.producer.keys().map(String::as_str));
        known.extend(self.inputs.iter().chain(&self.defaults).map(|value| value.name.as_str()));
        known.extend(self.branches.iter().flat_map(|branch| &branch.inputs).map(|value| value.name.as_str()));
        let mut lost = Vec::new();
        for node in &self.nodes {
            for name in node.inputs.iter().filter(|name| !name.is_empty() && !known.contains(name.as_str())) {
                let message = format!("is read by `{}`, and nothing gives it", node.label());
                lost.push(Problem::new(Found::Name, name, message));
            }
        }
        for value in self.outputs.iter().filter(|value| !known.contains(value.name.as_str())) {
            lost.push(Problem::new(Found::Name, &value.name, "is an output of the graph, and nothing computes it"));
        }
        self.problems.extend(lost);
    }
}

/// What a `Constant` node holds, whichever of its attributes has it; `None` for text.
fn constant(attributes: &mut [AttributeProto]) -> Option<TensorProto> {
    let attribute = attributes.first_mut()?;
    let count = |count: usize| i64::try_from(count).into_iter().collect::<Vec<_>>();
    let tensor = |kind: DataType, dims| TensorProto { data_type: Some(kind.into()), dims, ..TensorProto::default() };
    match attribute.name() {
        "value" => attribute.t.take(),
        "value_int" => Some(TensorProto { int64_data: vec![attribute.i()], ..tensor(DataType::Int64, Vec::new()) }),
        "value_ints" => Some(TensorProto {
            int64_data: attribute.ints.clone(),
            ..tensor(DataType::Int64, count(attribute.ints.len()))
        }),
        "value_float" => Some(TensorProto { float_data: vec![attribute.f()], ..tensor(DataType::Float, Vec::new()) }),
        "value_floats" => Some(TensorProto {
            float_data: attribute.floats.clone(),
            ..tensor(DataType::Float, count(attribute.floats.len()))
        }),
        _ => None,
    }
}
