//! Graphs without their weights: inputs and outputs, operators, attributes, and what is connected with what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::nodes::{Pairs, operator, role};
use super::weights::{Tensors, Weights, dtype_name, is_weight};
use super::{Pair, Reason, Sameness};
use crate::Result;
use crate::graph::{Attribute, Dimension, ElementType, Graph, Node, Value};

/// How numbers are stored and rounded, not what is computed from them.
const STORAGE: [&str; 6] = ["bits", "block_size", "accuracy_level", "stash_type", "to", "quantize_axis"];

/// A product or a look-up, and the same with a matrix of blocks, or one that is stored the other way round.
const QUANTIZED: [(&str, &str); 5] = [
    ("MatMul", "MatMulNBits"),
    ("FusedMatMul", "MatMulNBits"),
    ("FusedMatMul", "MatMul"),
    ("Gemm", "MatMulNBits"),
    ("Gather", "GatherBlockQuantized"),
];

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Structure {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<Pair<String>>,
    /// Domains whose versions differ.
    pub opsets: BTreeMap<String, Pair<i64>>,
    /// Inputs and outputs that differ, by role.
    pub interface: Vec<Interface>,
    /// Operators that one side has more of.
    pub operators: Vec<Operators>,
    pub replaced: Vec<Replaced>,
    /// Attributes that have other values, by role.
    pub attributes: Vec<Changed>,
    /// Inputs of nodes that come from elsewhere, by role.
    pub inputs: Vec<Changed>,
    /// Nodes without a counterpart, as `OPERATOR NAME`.
    pub only: Pair<Vec<String>>,
    /// What the packages can be with these.
    #[serde(skip)]
    alone: Sameness,
}

/// Inputs or outputs of the graph that differ in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// `input` or `output`.
    pub kind: &'static str,
    /// Their names, with `*` for numbers.
    pub role: String,
    pub values: usize,
    /// Type and dimensions, such as `float16 [batch_size, 2, 64]`.
    #[serde(flatten)]
    pub sides: Pair<String>,
    /// What the packages can be with it: a size that one side leaves open is spelling, a float type is rounding.
    pub at_best: Sameness,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operators {
    pub operator: String,
    pub a: usize,
    pub b: usize,
}

/// Nodes that another operator stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    pub a: String,
    pub b: String,
    /// Their names, with `*` for numbers.
    pub role: String,
    pub nodes: usize,
    /// Whether the two compute the same, from a matrix that is stored otherwise.
    pub quantized: bool,
}

/// Something of nodes that differs in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub operator: String,
    /// Their names, with `*` for numbers.
    pub role: String,
    /// An attribute, or `input` and its number.
    pub what: String,
    #[serde(flatten)]
    pub sides: Pair<String>,
    pub nodes: usize,
    /// The name of the first of them.
    pub first: String,
}

impl Structure {
    /// `weights` are those of the two graphs, where they were read.
    pub(super) fn compare(
        a: &Graph,
        b: &Graph,
        pairs: &Pairs,
        tensors: &Tensors,
        weights: Option<&Weights>,
    ) -> Result<Self> {
        let (left, right) = (Side::of(a, &pairs.only_a), Side::of(b, &pairs.only_b));
        let near = weights.map_or_else(HashSet::new, Weights::near);
        let wiring = Wiring { a: left, b: right, pairs, tensors, near };
        let (mut attributes, mut inputs, mut replaced) = (Groups::default(), Groups::default(), BTreeMap::new());
        for &(left, right) in &pairs.pairs {
            let (left, right) = (&a.nodes[left], &b.nodes[right]);
            if (&left.domain, &left.op_type) == (&right.domain, &right.op_type) {
                changed_attributes(left, right, &mut attributes);
                wiring.changed_inputs(left, right, true, &mut inputs)?;
            } else {
                let key = (operator(left), operator(right), role(left.label()));
                *replaced.entry(key).or_insert(0) += 1;
                wiring.changed_inputs(left, right, false, &mut inputs)?;
            }
        }
        let replaced = replaced.into_iter().map(|((a, b, role), nodes)| {
            let known = |x: &str, y: &str| QUANTIZED.contains(&(x, y));
            Replaced { quantized: known(&a, &b) || known(&b, &a), a, b, role, nodes }
        });
        let names = |graph: &Graph, only: &[usize]| {
            let names =
                only.iter().map(|&index| format!("{} {}", operator(&graph.nodes[index]), graph.nodes[index].label()));
            Some(names.collect::<Vec<_>>()).filter(|names| !names.is_empty())
        };
        let at_best = |graph: &Graph, only: &[usize]| {
            let of_node = |node: &Node| match node.op_type.as_str() {
                _ if !hands_on(graph, node) => Sameness::Different,
                "Cast" | "DequantizeLinear" | "Slice" => Sameness::OtherQuantization,
                _ => Sameness::OtherSpelling,
            };
            only.iter().map(|&index| of_node(&graph.nodes[index])).max().unwrap_or(Sameness::Identical)
        };
        Ok(Self {
            producer: (a.producer != b.producer)
                .then(|| Pair { a: Some(a.producer.clone()), b: Some(b.producer.clone()) }),
            opsets: opsets(a, b),
            interface: [interface("input", &a.inputs, &b.inputs), interface("output", &a.outputs, &b.outputs)].concat(),
            operators: operators(a, b),
            replaced: replaced.collect(),
            attributes: attributes.sorted(),
            inputs: inputs.sorted(),
            only: Pair { a: names(a, &pairs.only_a), b: names(b, &pairs.only_b) },
            alone: at_best(a, &pairs.only_a).max(at_best(b, &pairs.only_b)),
        })
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for Interface { kind, role, sides, at_best, .. } in &self.interface {
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "missing".to_owned());
            reasons.push(Reason::new(*at_best, format!("{kind} {role}: {} and {}", side(&sides.a), side(&sides.b))));
        }
        if self.alone > Sameness::Identical {
            let all = [("A", &self.only.a), ("B", &self.only.b)];
            let only = all.iter().filter_map(|(side, names)| Some((*side, names.as_ref()?)));
            let only: Vec<String> = only.map(|(side, names)| format!("{} of {side} alone", names.len())).collect();
            reasons.push(Reason::new(self.alone, format!("nodes without a counterpart: {}", only.join(", "))));
        }
        for Replaced { a, b, role, nodes, quantized } in &self.replaced {
            let at_best = if *quantized { Sameness::OtherQuantization } else { Sameness::Different };
            reasons.push(Reason::new(at_best, format!("{role}: {a} and {b} ({nodes})")));
        }
        for change in self.attributes.iter().chain(&self.inputs) {
            let is_storage = STORAGE.contains(&change.what.as_str());
            let at_best = if is_storage { Sameness::OtherQuantization } else { Sameness::Different };
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            let Changed { operator, role, what, sides, nodes, .. } = change;
            let message = format!("{operator} {role}: {what} is {} and {} ({nodes})", side(&sides.a), side(&sides.b));
            reasons.push(Reason::new(at_best, message));
        }
        if self.producer.is_some() || !self.opsets.is_empty() {
            reasons.push(Reason::new(Sameness::OtherSpelling, "another producer or version of operators"));
        }
        reasons
    }
}

/// Whether a node gives the numbers that it is given, in another type or layout: where one side has it and the other has
/// not, one looks through it. What changes the shape of activations is no such node.
fn hands_on(graph: &Graph, node: &Node) -> bool {
    let first = node.input(0);
    match node.op_type.as_str() {
        "Cast" | "Identity" => true,
        "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose" | "DequantizeLinear" => {
            first.is_some_and(|name| graph.initializer(name).is_some())
        }
        // Rows of a table in blocks are as wide as whole blocks; this takes what is too much.
        "Slice" => {
            first.and_then(|name| graph.producer(name)).is_some_and(|node| node.op_type == "GatherBlockQuantized")
        }
        _ => false,
    }
}

fn opsets(a: &Graph, b: &Graph) -> BTreeMap<String, Pair<i64>> {
    let domains: BTreeSet<&String> = a.opsets.keys().chain(b.opsets.keys()).collect();
    let versions = |domain: &String| Pair { a: a.opsets.get(domain).copied(), b: b.opsets.get(domain).copied() };
    let all = domains.into_iter().map(|domain| (domain.clone(), versions(domain)));
    all.filter(|(_, versions)| versions.a != versions.b).collect()
}

fn interface(kind: &'static str, a: &[Value], b: &[Value]) -> Vec<Interface> {
    let names: BTreeSet<&str> = a.iter().chain(b).map(|value| value.name.as_str()).collect();
    let find = |values: &[Value], name: &str| values.iter().find(|value| value.name == name).cloned();
    let mut groups: BTreeMap<(String, Pair<String>), (usize, Sameness)> = BTreeMap::new();
    for name in names {
        let (left, right) = (find(a, name), find(b, name));
        let both = left.as_ref().zip(right.as_ref());
        let at_best = both.map_or(Sameness::Different, |(a, b)| alike(a, b));
        if at_best == Sameness::Identical {
            continue;
        }
        let sides = Pair { a: left.as_ref().map(described), b: right.as_ref().map(described) };
        groups.entry((role(name), sides)).or_insert((0, at_best)).0 += 1;
    }
    let grouped =
        groups.into_iter().map(|((role, sides), (values, at_best))| Interface { kind, role, values, sides, at_best });
    grouped.collect()
}

/// Names of dimensions do not matter, types and sizes do.
fn alike(a: &Value, b: &Value) -> Sameness {
    let (Some(left), Some(right)) = (&a.shape, &b.shape) else { return Sameness::OtherSpelling };
    let other_size = |(a, b): (&Dimension, &Dimension)| match (a, b) {
        (Dimension::Fixed(a), Dimension::Fixed(b)) => a != b,
        _ => false,
    };
    let is_open = |dimension: &Dimension| !matches!(dimension, Dimension::Fixed(_));
    let dimensions = || left.iter().zip(right);
    if left.len() != right.len() || dimensions().any(other_size) {
        Sameness::Different
    } else if a.dtype != b.dtype {
        if is_float(a.dtype) && is_float(b.dtype) { Sameness::OtherQuantization } else { Sameness::Different }
    } else if dimensions().any(|(a, b)| is_open(a) != is_open(b)) {
        Sameness::OtherSpelling
    } else {
        Sameness::Identical
    }
}

fn is_float(dtype: ElementType) -> bool {
    matches!(dtype, ElementType::Float | ElementType::Float16 | ElementType::Bfloat16 | ElementType::Double)
}

fn described(value: &Value) -> String {
    let dtype = dtype_name(value.dtype);
    let Some(shape) = &value.shape else { return dtype };
    let dimensions = shape.iter().map(|dimension| match dimension {
        Dimension::Fixed(size) => size.to_string(),
        Dimension::Named(name) => name.clone(),
        Dimension::Unknown => "?".to_owned(),
    });
    format!("{dtype} [{}]", dimensions.collect::<Vec<_>>().join(", "))
}

fn operators(a: &Graph, b: &Graph) -> Vec<Operators> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for node in &a.nodes {
        counts.entry(operator(node)).or_default().0 += 1;
    }
    for node in &b.nodes {
        counts.entry(operator(node)).or_default().1 += 1;
    }
    let differing = counts.into_iter().filter(|(_, (a, b))| a != b);
    differing.map(|(operator, (a, b))| Operators { operator, a, b }).collect()
}

/// Changes of one kind, and at how many nodes.
#[derive(Default)]
struct Groups(BTreeMap<Change, (usize, String)>);

/// Operator, role, what has changed, and both sides of it.
type Change = (String, String, String, Pair<String>);

impl Groups {
    fn add(&mut self, node: &Node, what: String, a: Option<String>, b: Option<String>) {
        let key = (operator(node), role(node.label()), what, Pair { a, b });
        self.0.entry(key).or_insert_with(|| (0, node.label().to_owned())).0 += 1;
    }

    fn sorted(self) -> Vec<Changed> {
        let changed = self.0.into_iter().map(|((operator, role, what, sides), (nodes, first))| Changed {
            operator,
            role,
            what,
            sides,
            nodes,
            first,
        });
        changed.collect()
    }
}

fn changed_attributes(a: &Node, b: &Node, changed: &mut Groups) {
    let names: BTreeSet<&String> = a.attributes.keys().chain(b.attributes.keys()).collect();
    for name in names {
        let of = |node: &Node| {
            let default = || default(&node.op_type, name);
            node.attributes.get(name).cloned().or_else(default)
        };
        let (left, right) = (of(a), of(b));
        if left != right {
            let shown = |attribute: Option<Attribute>| attribute.as_ref().map(shown);
            changed.add(a, name.clone(), shown(left), shown(right));
        }
    }
}

fn shown(attribute: &Attribute) -> String {
    match attribute {
        Attribute::Int(value) => value.to_string(),
        Attribute::Float(value) => value.to_string(),
        Attribute::Text(text) => format!("{text:?}"),
        Attribute::Ints(values) => format!("{values:?}"),
        Attribute::Floats(values) => format!("{values:?}"),
        Attribute::Texts(texts) => format!("{texts:?}"),
        Attribute::Number(value) => value.to_string(),
        Attribute::Tensor => "a tensor".to_owned(),
        Attribute::Graph => "a graph".to_owned(),
        Attribute::Other => "something".to_owned(),
    }
}

/// What an attribute is where it is left out, of those that exporters leave out: ONNX's `Operators.md` and ONNX
/// Runtime's `ContribOperators.md`.
fn default(op_type: &str, attribute: &str) -> Option<Attribute> {
    let value = match (op_type, attribute) {
        ("GroupQueryAttention", "softcap" | "scale") => Attribute::Float(0.0),
        ("GroupQueryAttention", "local_window_size") => Attribute::Int(-1),
        ("GroupQueryAttention", "do_rotary" | "rotary_interleaved" | "smooth_softmax") => Attribute::Int(0),
        ("MatMulNBits", "accuracy_level") => Attribute::Int(0),
        ("MatMulNBits" | "GatherBlockQuantized", "bits") => Attribute::Int(4),
        ("GatherBlockQuantized", "block_size") => Attribute::Int(128),
        ("GatherBlockQuantized", "gather_axis") => Attribute::Int(0),
        ("GatherBlockQuantized", "quantize_axis") => Attribute::Int(1),
        ("SimplifiedLayerNormalization" | "LayerNormalization" | "RMSNormalization", "epsilon") => {
            Attribute::Float(1e-5)
        }
        ("SimplifiedLayerNormalization" | "LayerNormalization" | "RMSNormalization" | "Softmax", "axis") => {
            Attribute::Int(-1)
        }
        ("SimplifiedLayerNormalization" | "LayerNormalization" | "RMSNormalization", "stash_type") => Attribute::Int(1),
        ("SkipSimplifiedLayerNormalization" | "SkipLayerNormalization", "epsilon") => Attribute::Float(1e-12),
        ("Gelu", "approximate") => Attribute::Text("none".to_owned()),
        ("Gather", "axis") => Attribute::Int(0),
        ("Gemm", "alpha" | "beta") => Attribute::Float(1.0),
        ("Gemm", "transA" | "transB") => Attribute::Int(0),
        ("ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin", "keepdims") => Attribute::Int(1),
        _ => return None,
    };
    Some(value)
}

/// Where values of a graph come from.
struct Side<'g> {
    graph: &'g Graph,
    /// Node and output that give a value.
    producer: HashMap<&'g str, (usize, usize)>,
    inputs: HashSet<&'g str>,
    only: HashSet<usize>,
}

/// Where an input of a node comes from.
enum Source<'g> {
    Absent,
    /// An input of the graph, or of one of its branches.
    Given(&'g str),
    Values(ElementType, Vec<f32>),
    Tensor(&'g str),
    Node(usize, usize),
}

impl<'g> Side<'g> {
    fn of(graph: &'g Graph, only: &[usize]) -> Self {
        let outputs = graph.nodes.iter().enumerate().flat_map(|(index, node)| {
            node.outputs.iter().enumerate().map(move |(output, name)| (name.as_str(), (index, output)))
        });
        Self {
            graph,
            producer: outputs.filter(|(name, _)| !name.is_empty()).collect(),
            inputs: graph.inputs.iter().map(|value| value.name.as_str()).collect(),
            only: only.iter().copied().collect(),
        }
    }

    /// Looks through nodes that hand on what they are given and that only this side has.
    fn source(&self, name: &'g str) -> Result<Source<'g>> {
        let mut name = name;
        // As many steps as there are nodes; a circle ends, too.
        for _ in 0..=self.graph.nodes.len() {
            if name.is_empty() {
                return Ok(Source::Absent);
            }
            if self.inputs.contains(name) {
                return Ok(Source::Given(name));
            }
            if let Some(tensor) = self.graph.initializer(name) {
                if is_weight(tensor) {
                    return Ok(Source::Tensor(name));
                }
                return Ok(Source::Values(tensor.dtype, self.graph.values_of(name)?));
            }
            let Some(&(index, output)) = self.producer.get(name) else { return Ok(Source::Given(name)) };
            let node = &self.graph.nodes[index];
            match node.inputs.first() {
                Some(input) if self.only.contains(&index) && hands_on(self.graph, node) => name = input,
                _ => return Ok(Source::Node(index, output)),
            }
        }
        Ok(Source::Given(name))
    }

    /// In words; `by_role` without the numbers of layers.
    fn shown(&self, source: &Source<'_>, by_role: bool) -> Option<String> {
        let role = |name: &str| if by_role { role(name) } else { name.to_owned() };
        Some(match source {
            Source::Absent => return None,
            Source::Given(name) => (*name).to_owned(),
            Source::Values(dtype, values) => format!("{} {values:?}", dtype_name(*dtype)),
            Source::Tensor(name) => role(name),
            Source::Node(index, 0) => role(self.graph.nodes[*index].label()),
            Source::Node(index, output) => format!("{} output {output}", role(self.graph.nodes[*index].label())),
        })
    }
}

struct Wiring<'g> {
    a: Side<'g>,
    b: Side<'g>,
    pairs: &'g Pairs,
    tensors: &'g Tensors,
    /// Tensors of the two in which one matrix is stored.
    near: HashSet<(&'g str, &'g str)>,
}

impl<'g> Wiring<'g> {
    /// `all` is whether tensors count too, as they do between nodes of one operator.
    fn changed_inputs(&self, a: &'g Node, b: &'g Node, all: bool, changed: &mut Groups) -> Result<()> {
        for index in 0..a.inputs.len().max(b.inputs.len()) {
            let name = |node: &'g Node| node.inputs.get(index).map_or("", String::as_str);
            let (left, right) = (self.a.source(name(a))?, self.b.source(name(b))?);
            let is_weight = |source: &Source<'_>| matches!(source, Source::Tensor(_));
            if !all && (is_weight(&left) || is_weight(&right) || index >= a.inputs.len().min(b.inputs.len())) {
                continue;
            }
            if !self.is_same(&left, &right) {
                // Where the role is the same, it is another layer or another output: by its own name then.
                let (mut from_a, mut from_b) = (self.a.shown(&left, true), self.b.shown(&right, true));
                if from_a == from_b {
                    (from_a, from_b) = (self.a.shown(&left, false), self.b.shown(&right, false));
                }
                changed.add(a, format!("input {index}"), from_a, from_b);
            }
        }
        Ok(())
    }

    fn is_same(&self, a: &Source<'_>, b: &Source<'_>) -> bool {
        match (a, b) {
            (Source::Absent, Source::Absent) => true,
            (Source::Given(a), Source::Given(b)) => a == b,
            (Source::Values(a_type, a), Source::Values(b_type, b)) => is_same_value((*a_type, a), (*b_type, b)),
            (Source::Tensor(a), Source::Tensor(b)) => {
                self.tensors.belong_together(a, b) || self.near.contains(&(*a, *b))
            }
            (Source::Node(a, a_output), Source::Node(b, b_output)) => {
                self.pairs.b_of_a.get(a) == Some(b) && a_output == b_output
            }
            _ => false,
        }
    }
}

/// The same numbers, or as near as the coarser of two float types has them.
fn is_same_value(a: (ElementType, &[f32]), b: (ElementType, &[f32])) -> bool {
    let ((a_type, a), (b_type, b)) = (a, b);
    let near = |(a, b): (&f32, &f32)| {
        let rounded = a_type != b_type && is_float(a_type) && is_float(b_type);
        a.to_bits() == b.to_bits() || a == b || (rounded && (a - b).abs() <= a.abs().max(b.abs()) / 128.0)
    };
    a.len() == b.len() && a.iter().zip(b).all(near)
}
