//! A typed ONNX graph under construction.
//!
//! A [`Value`] is an id; its dtype and symbolic shape live in the graph. Wiring an op asks it for the facts of its
//! outputs, so a misuse fails where it is written, with the name of the node. Names are unique or an error.

mod fact;
mod model;
pub mod ops;

use std::collections::{BTreeMap, HashSet};

pub use fact::{Dim, Dtype, Fact, dims};
pub use model::to_model;

use crate::{Error, Result};

/// A tensor of the graph: an input, an initializer or an output of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(u32);

/// A weight whose bytes lie in the data file.
#[derive(Debug, Clone)]
pub struct Initializer {
    pub value: Value,
    pub dims: Vec<u64>,
    /// Index of the stretch of the data file that holds the bytes; two initializers may share one.
    pub slot: usize,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub op_type: &'static str,
    pub domain: &'static str,
    pub inputs: Vec<Option<Value>>,
    pub outputs: Vec<Option<Value>>,
    pub attributes: Vec<(&'static str, Attribute)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Text(&'static str),
    Tensor(Constant),
}

/// A small tensor written into the graph itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    Int64(i64),
    Int64s(Vec<i64>),
    /// The int32 vector 0, 1, … below a number.
    Counted(u32),
    Float(f32),
    /// `dims` multiply to the number of values.
    Floats {
        values: Vec<f32>,
        dims: Vec<usize>,
    },
}

/// An operator: what it is called, what it reads, and what it makes of the facts of its inputs.
pub trait Op {
    const TYPE: &'static str;
    /// Empty is the standard domain.
    const DOMAIN: &'static str = "";

    /// In the operator's order; an absent optional input is `None`.
    fn inputs(&self) -> Vec<Option<Value>>;

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        Vec::new()
    }

    /// The facts of the outputs, in the operator's order; an unwanted optional output is `None`.
    ///
    /// # Errors
    /// What is wrong with the inputs, in words.
    fn outputs(&self, graph: &Graph) -> Result<Vec<Option<Fact>>, String>;
}

#[derive(Debug, Clone, Default)]
pub struct Graph {
    names: Vec<String>,
    facts: Vec<Fact>,
    node_names: HashSet<String>,
    value_names: HashSet<String>,
    constants: BTreeMap<String, Value>,
    pub nodes: Vec<Node>,
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
    pub initializers: Vec<Initializer>,
}

/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

impl Graph {
    pub fn fact(&self, value: Value) -> &Fact {
        &self.facts[value.0 as usize]
    }

    pub fn name(&self, value: Value) -> &str {
        &self.names[value.0 as usize]
    }

    pub fn input(&mut self, name: &str, fact: Fact) -> Result<Value> {
        let value = self.value(name.to_owned(), fact)?;
        self.inputs.push(value);
        Ok(value)
    }

    /// Makes a value an output of the graph, under a public name.
    pub fn output(&mut self, value: Value, name: &str) -> Result<()> {
        if !self.value_names.insert(name.to_owned()) {
            return Err(Error::graph(name, "a value of this name exists already"));
        }
        let slot = &mut self.names[value.0 as usize];
        self.value_names.remove(slot);
        name.clone_into(slot);
        self.outputs.push(value);
        Ok(())
    }

    pub fn initializer(&mut self, name: &str, dtype: Dtype, dims: &[u64], slot: usize) -> Result<Value> {
        let fact = Fact::new(dtype, dims.iter().map(|dim| Dim::Known(*dim)).collect());
        let value = self.value(name.to_owned(), fact)?;
        self.initializers.push(Initializer { value, dims: dims.to_vec(), slot });
        Ok(value)
    }

    /// An input that need not be given: `dims` are those of the initializer that stands in for it.
    pub fn optional_input(&mut self, name: &str, fact: Fact, dims: &[u64], slot: usize) -> Result<Value> {
        let value = self.input(name, fact)?;
        self.initializers.push(Initializer { value, dims: dims.to_vec(), slot });
        Ok(value)
    }

    /// A constant node; equal constants are one node.
    pub fn constant(&mut self, constant: Constant) -> Result<Value> {
        // Past this a literal is a table, and a number names it better.
        const LONGEST_LITERAL: usize = 40;
        let (dtype, dims, literal) = constant.facts();
        let key = format!("{}/{literal}", dtype.name());
        if let Some(value) = self.constants.get(&key) {
            return Ok(*value);
        }
        let path = if literal.len() <= LONGEST_LITERAL {
            key.clone()
        } else {
            format!("{}/table_{}", dtype.name(), self.constants.len())
        };
        let value = self.value(format!("/model/constants/{path}"), Fact::new(dtype, dims))?;
        self.push(Node {
            name: format!("/model/constant_nodes/{path}"),
            op_type: "Constant",
            domain: "",
            inputs: Vec::new(),
            outputs: vec![Some(value)],
            attributes: vec![("value", Attribute::Tensor(constant))],
        })?;
        self.constants.insert(key, value);
        Ok(value)
    }

    /// Wires an op with one output.
    pub fn add(&mut self, name: &str, op: &impl Op) -> Result<Value> {
        let outputs = self.wire(name, name, op)?;
        match outputs.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::graph(name, format!("{} outputs where one is wanted", outputs.len()))),
        }
    }

    /// Wires an op and returns the outputs that it has, in order.
    ///
    /// Outputs are named `{output_path}/output_{i}` by their place in the operator's list.
    pub fn wire<O: Op>(&mut self, name: &str, output_path: &str, op: &O) -> Result<Vec<Value>> {
        let facts = op.outputs(self).map_err(|reason| Error::graph(name, format!("{}: {reason}", O::TYPE)))?;
        let mut outputs = Vec::with_capacity(facts.len());
        for (index, fact) in facts.into_iter().enumerate() {
            let value = fact.map(|fact| self.value(format!("{output_path}/output_{index}"), fact)).transpose()?;
            outputs.push(value);
        }
        let present = outputs.iter().flatten().copied().collect();
        self.push(Node {
            name: name.to_owned(),
            op_type: O::TYPE,
            domain: O::DOMAIN,
            inputs: op.inputs(),
            outputs,
            attributes: op.attributes(),
        })?;
        Ok(present)
    }

    /// How often each operator occurs, by name.
    pub fn histogram(&self) -> BTreeMap<&'static str, usize> {
        let mut histogram = BTreeMap::new();
        for node in &self.nodes {
            *histogram.entry(node.op_type).or_default() += 1;
        }
        histogram
    }

    fn value(&mut self, name: String, fact: Fact) -> Result<Value> {
        if !self.value_names.insert(name.clone()) {
            return Err(Error::graph(&name, "a value of this name exists already"));
        }
        let id = u32::try_from(self.names.len()).map_err(|_| Error::graph(&name, "too many values"))?;
        self.names.push(name);
        self.facts.push(fact);
        Ok(Value(id))
    }

    fn push(&mut self, node: Node) -> Result<()> {
        if !self.node_names.insert(node.name.clone()) {
            return Err(Error::graph(&node.name, "a node of this name exists already"));
        }
        self.nodes.push(node);
        Ok(())
    }
}

impl Constant {
    fn facts(&self) -> (Dtype, Vec<Dim>, String) {
        match self {
            Self::Int64(value) => (Dtype::I64, vec![], value.to_string()),
            Self::Int64s(values) => (Dtype::I64, dims([values.len()]), format!("{values:?}")),
            Self::Counted(end) => (Dtype::I32, vec![Dim::Known((*end).into())], format!("0..{end}")),
            Self::Float(value) => (Dtype::F32, vec![], value.to_string()),
            Self::Floats { values, dims } => {
                let shape = dims.iter().map(|dim| Dim::Known(*dim as u64)).collect();
                (Dtype::F32, shape, format!("{values:?}{dims:?}"))
            }
        }
    }
}
