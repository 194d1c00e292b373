//! Packages taken apart, to be damaged and put together again.

use std::fs;
use std::path::Path;

use genai_onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use prost::Message;
use serde_json::{Map, Value};

use crate::support::{Outcome, set};

/// The graph, the weights and the configuration of a package.
#[derive(Clone, PartialEq)]
pub(crate) struct Parts {
    model: ModelProto,
    pub(crate) data: Vec<u8>,
    config: Map<String, Value>,
}

impl Parts {
    pub(crate) fn read(package: &Path) -> Outcome<Self> {
        Ok(Self {
            model: ModelProto::decode(fs::read(package.join("model.onnx"))?.as_slice())?,
            data: fs::read(package.join("model.onnx.data"))?,
            config: serde_json::from_slice(&fs::read(package.join("genai_config.json"))?)?,
        })
    }

    pub(crate) fn write(&self, folder: &Path) -> Outcome {
        fs::write(folder.join("model.onnx"), self.model.encode_to_vec())?;
        fs::write(folder.join("model.onnx.data"), &self.data)?;
        fs::write(folder.join("genai_config.json"), serde_json::to_vec(&self.config)?)?;
        Ok(())
    }

    /// The names of the nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &str> {
        self.model.graph.iter().flat_map(|graph| graph.node.iter().map(NodeProto::name))
    }

    pub(crate) fn whole_nodes(&self) -> &[NodeProto] {
        &self.model.graph.as_ref().unwrap().node
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut NodeProto {
        let nodes = &mut self.model.graph.as_mut().unwrap().node;
        nodes.iter_mut().find(|node| node.name() == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    pub(crate) fn model(&mut self) -> &mut ModelProto {
        &mut self.model
    }

    pub(crate) fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    /// Adds a node before all others.
    pub(crate) fn insert(&mut self, node: NodeProto) {
        self.graph().node.insert(0, node);
    }

    pub(crate) fn attribute(&mut self, node: &str, name: &str) -> &mut AttributeProto {
        let attributes = &mut self.node(node).attribute;
        attributes
            .iter_mut()
            .find(|attribute| attribute.name() == name)
            .unwrap_or_else(|| panic!("{node} has no {name}"))
    }

    pub(crate) fn int(&mut self, node: &str, name: &str) -> &mut i64 {
        self.attribute(node, name).i.as_mut().unwrap()
    }

    pub(crate) fn float(&mut self, node: &str, name: &str) -> &mut f32 {
        self.attribute(node, name).f.as_mut().unwrap()
    }

    pub(crate) fn initializer(&mut self, name: &str) -> &mut TensorProto {
        let initializers = &mut self.model.graph.as_mut().unwrap().initializer;
        initializers.iter_mut().find(|tensor| tensor.name() == name).unwrap_or_else(|| panic!("no initializer {name}"))
    }

    /// The bytes of an initializer.
    pub(crate) fn data(&mut self, name: &str) -> &mut [u8] {
        let tensor = self.initializer(name);
        let entry = |key: &str| -> usize {
            let entry = tensor.external_data.iter().find(|entry| entry.key() == key).unwrap();
            entry.value().parse().unwrap()
        };
        let (offset, length) = (entry("offset"), entry("length"));
        &mut self.data[offset..][..length]
    }

    /// Two initializers of one shape take each other's bytes.
    pub(crate) fn exchange(&mut self, a: &str, b: &str) {
        let bytes = self.data(a).to_vec();
        let others = self.data(b).to_vec();
        self.data(a).copy_from_slice(&others);
        self.data(b).copy_from_slice(&bytes);
    }

    pub(crate) fn remove_add(&mut self, name: &str) {
        let add = self.node(name);
        assert_eq!(add.op_type(), "Add");
        "Identity".clone_into(add.op_type.as_mut().unwrap());
        add.input.truncate(1);
    }

    /// The first output is known by the other's name, too.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let copy = NodeProto {
            op_type: Some("Identity".to_owned()),
            input: vec![from.to_owned()],
            output: vec![to.to_owned()],
            ..Default::default()
        };
        self.model.graph.as_mut().unwrap().node.push(copy);
    }

    /// Sets a value of `genai_config.json`; the key is dotted.
    pub(crate) fn configure(&mut self, key: &str, value: impl Into<Value>) {
        set(&mut self.config, key, value.into());
    }
}
