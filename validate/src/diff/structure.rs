//! Graphs without their weights: inputs and outputs, operators, attributes, and what is connected with what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::nodes::{Pairs, operator, role};
use super::weights::Tensors;
use super::{Pair, Reason, Sameness};
use crate::Result;
use crate::graph::{Attribute, Dimension, ElementType, Graph, Node, Value};

/// Constants of at most as many elements are values; larger ones are weights.
pub(super) const MOST_VALUES: u64 = 64;

/// How numbers are stored and rounded, not what is computed from them.
const STORAGE: [&str; 6] = ["bits", "block_size", "accuracy_level", "stash_type", "to", "quantize_axis"];

/// Operators that hand on what they are given, in another type or shape: where one side has them and the other has not,
/// one looks through them.
const HANDS_ON: [&str; 8] =
    ["Cast", "Identity", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "DequantizeLinear"];

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
    /// Of those, the ones that compute something.
    #[serde(skip)]
    computing: usize,
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
    /// Whether only the float type differs.
    pub precision_only: bool,
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
    pub(super) fn compare(a: &Graph, b: &Graph, pairs: &Pairs, tensors: &Tensors) -> Result<Self> {
        let wiring = Wiring { a: Side::of(a, &pairs.only_a), b: Side::of(b, &pairs.only_b), pairs, tensors };
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
        let computes = |graph: &Graph, only: &[usize]| {
            only.iter().filter(|&&index| !HANDS_ON.contains(&graph.nodes[index].op_type.as_str())).count()
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
            computing: computes(a, &pairs.only_a) + computes(b, &pairs.only_b),
        })
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for Interface { kind, role, sides, precision_only, .. } in &self.interface {
            let at_best = if *precision_only { Sameness::OtherQuantization } else { Sameness::Different };
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "missing".to_owned());
            reasons.push(Reason::new(at_best, format!("{kind} {role}: {} and {}", side(&sides.a), side(&sides.b))));
        }
        if self.computing > 0 {
            let all = [("A", &self.only.a), ("B", &self.only.b)];
            let only = all.iter().filter_map(|(side, names)| Some((*side, names.as_ref()?)));
            let only: Vec<String> = only.map(|(side, names)| format!("{} of {side} alone", names.len())).collect();
            reasons.push(Reason::new(Sameness::Different, format!("nodes without a counterpart: {}", only.join(", "))));
        } else if self.only.a.is_some() || self.only.b.is_some() {
            reasons.push(Reason::new(Sameness::OtherQuantization, "types and shapes are changed at other places"));
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

fn opsets(a: &Graph, b: &Graph) -> BTreeMap<String, Pair<i64>> {
    let domains: BTreeSet<&String> = a.opsets.keys().chain(b.opsets.keys()).collect();
    let versions = |domain: &String| Pair { a: a.opsets.get(domain).copied(), b: b.opsets.get(domain).copied() };
    let all = domains.into_iter().map(|domain| (domain.clone(), versions(domain)));
    all.filter(|(_, versions)| versions.a != versions.b).collect()
}

fn interface(kind: &'static str, a: &[Value], b: &[Value]) -> Vec<Interface> {
    let names: BTreeSet<&str> = a.iter().chain(b).map(|value| value.name.as_str()).collect();
    let find = |values: &[Value], name: &str| values.iter().find(|value| value.name == name).cloned();
    let mut groups: BTreeMap<(String, Option<String>, Option<String>), (usize, bool)> = BTreeMap::new();
    for name in names {
        let (left, right) = (find(a, name), find(b, name));
        let both = left.as_ref().zip(right.as_ref());
        let same_shape = both.is_some_and(|(a, b)| is_same_shape(a, b));
        if same_shape && both.is_some_and(|(a, b)| a.dtype == b.dtype) {
            continue;
        }
        let precision_only = same_shape && both.is_some_and(|(a, b)| is_float(a.dtype) && is_float(b.dtype));
        let key = (role(name), left.as_ref().map(described), right.as_ref().map(described));
        groups.entry(key).or_insert((0, precision_only)).0 += 1;
    }
    let grouped = groups.into_iter().map(|((role, a, b), (values, precision_only))| Interface {
        kind,
        role,
        values,
        sides: Pair { a, b },
        precision_only,
    });
    grouped.collect()
}

/// Names of dimensions are spelling.
fn is_same_shape(a: &Value, b: &Value) -> bool {
    let fixed = |value: &Value| {
        let sizes = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) => Some(*size),
            Dimension::Named(_) | Dimension::Unknown => None,
        };
        value.shape.as_ref().map(|shape| shape.iter().map(sizes).collect::<Vec<_>>())
    };
    fixed(a) == fixed(b)
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

pub(super) fn dtype_name(dtype: ElementType) -> String {
    dtype.as_str_name().to_ascii_lowercase()
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
struct Groups(BTreeMap<(String, String, String, Option<String>, Option<String>), (usize, String)>);

impl Groups {
    fn add(&mut self, node: &Node, what: String, a: Option<String>, b: Option<String>) {
        let key = (operator(node), role(node.label()), what, a, b);
        self.0.entry(key).or_insert_with(|| (0, node.label().to_owned())).0 += 1;
    }

    fn sorted(self) -> Vec<Changed> {
        let changed = self.0.into_iter().map(|((operator, role, what, a, b), (nodes, first))| Changed {
            operator,
            role,
            what,
            sides: Pair { a, b },
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
                if tensor.elements > MOST_VALUES || (!tensor.constant && tensor.elements > 1) {
                    return Ok(Source::Tensor(name));
                }
                return Ok(Source::Values(tensor.dtype, self.graph.values_of(name)?));
            }
            let Some(&(index, output)) = self.producer.get(name) else { return Ok(Source::Given(name)) };
            let node = &self.graph.nodes[index];
            match node.inputs.first() {
                Some(input) if self.only.contains(&index) && HANDS_ON.contains(&node.op_type.as_str()) => name = input,
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
            (Source::Tensor(a), Source::Tensor(b)) => self.tensors.belong_together(a, b),
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
