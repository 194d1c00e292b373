//! Operators of a graph, as plain values.

use std::collections::BTreeMap;

use genai_onnx::{AttributeProto, NodeProto, attribute_proto::AttributeType};

/// One operator. Those of branches and loop bodies stand behind the one that owns them.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    pub op_type: String,
    /// Empty for ONNX's own.
    pub domain: String,
    /// An optional input that is left out is empty.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: BTreeMap<String, Attribute>,
    /// The node and attribute whose graph this node belongs to, such as `If_3.then_branch`; `None` for the main graph.
    pub scope: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// A tensor of one element.
    Number(f32),
    /// Kept in the graph under the name of the node's first output where the node is a `Constant`.
    Tensor,
    /// Its nodes are in the graph's list with this node and attribute as their scope.
    Graph,
    /// Of a kind that no decoder uses.
    Other,
}

impl Node {
    pub(super) fn new(proto: &mut NodeProto, scope: Option<&str>) -> Self {
        let text = |text: &mut Option<String>| text.take().unwrap_or_default();
        Self {
            name: text(&mut proto.name),
            op_type: text(&mut proto.op_type),
            // Both spellings stand for ONNX's own operators.
            domain: Some(text(&mut proto.domain)).filter(|domain| domain != "ai.onnx").unwrap_or_default(),
            inputs: std::mem::take(&mut proto.input),
            outputs: std::mem::take(&mut proto.output),
            attributes: proto.attribute.iter().map(|a| (a.name().to_owned(), Attribute::new(a))).collect(),
            scope: scope.map(str::to_owned),
        }
    }

    /// The name, or where there is none, that of the first output.
    pub fn label(&self) -> &str {
        match (self.name.as_str(), self.outputs.iter().find(|output| !output.is_empty())) {
            ("", Some(output)) => output,
            ("", None) => &self.op_type,
            (name, _) => name,
        }
    }

    /// Whether this is an operator of ONNX Runtime's own domain.
    pub fn is_contrib(&self) -> bool {
        self.domain == "com.microsoft"
    }

    /// `None` where the input is left out.
    pub fn input(&self, index: usize) -> Option<&str> {
        self.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// `None` where the output is left out.
    pub fn output(&self, index: usize) -> Option<&str> {
        self.outputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::Text(value)) => Some(value),
            _ => None,
        }
    }
}

impl Attribute {
    fn new(proto: &AttributeProto) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match proto.r#type() {
            AttributeType::Int => Self::Int(proto.i()),
            AttributeType::Float => Self::Float(proto.f()),
            AttributeType::String => Self::Text(text(proto.s())),
            AttributeType::Ints => Self::Ints(proto.ints.clone()),
            AttributeType::Floats => Self::Floats(proto.floats.clone()),
            AttributeType::Strings => Self::Texts(proto.strings.iter().map(|bytes| text(bytes)).collect()),
            AttributeType::Tensor => {
                proto.t.as_ref().and_then(super::tensor::number).map_or(Self::Tensor, Self::Number)
            }
            AttributeType::Graph | AttributeType::Graphs => Self::Graph,
            _ => Self::Other,
        }
    }
}
