//! The graph as an ONNX model.

use genai_onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataLocation,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};

use super::{Attribute, Constant, Dim, Dtype, Fact, Graph, MICROSOFT, Node, Value};
use crate::plan::Slot;

/// Lowest versions that have every operator and type used here; ONNX Runtime 1.24 reads both.
const IR_VERSION: i64 = 10;
const OPSET: i64 = 21;

/// `slots` are the stretches of the file `data_file` that initializers lie in.
pub fn to_model(graph: &Graph, slots: &[Slot], data_file: &str) -> ModelProto {
    let named = |value: &Option<Value>| value.map(|value| graph.name(value).to_owned()).unwrap_or_default();
    let initializers = graph.initializers.iter().map(|initializer| {
        let slot = &slots[initializer.slot];
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
        TensorProto {
            dims: initializer.dims.iter().map(|dim| *dim as i64).collect(),
            data_type: Some(data_type(graph.fact(initializer.value).dtype)),
            name: Some(graph.name(initializer.value).to_owned()),
            external_data: vec![
                entry("location", data_file.to_owned()),
                entry("offset", slot.offset.to_string()),
                entry("length", slot.length.to_string()),
            ],
            data_location: Some(DataLocation::External.into()),
            ..Default::default()
        }
    });
    let public = |values: &[Value]| values.iter().map(|value| value_info(graph, *value)).collect::<Vec<_>>();
    let inner = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten());
    let inner = inner.filter(|value| !graph.outputs.contains(value)).map(|value| value_info(graph, *value));
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    // A graph of standard operators alone loads where no others are known.
    let standard = graph.nodes.iter().all(|node| node.domain.is_empty());
    let opsets = std::iter::once(opset("", OPSET)).chain((!standard).then(|| opset(MICROSOFT, 1)));
    ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("genai-build".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        opset_import: opsets.collect(),
        graph: Some(GraphProto {
            name: Some("main_graph".to_owned()),
            node: graph.nodes.iter().map(|node| node_proto(node, &named)).collect(),
            initializer: initializers.collect(),
            input: public(&graph.inputs),
            output: public(&graph.outputs),
            value_info: inner.collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn node_proto(node: &Node, named: &impl Fn(&Option<Value>) -> String) -> NodeProto {
    let mut inputs: Vec<_> = node.inputs.iter().map(named).collect();
    let mut outputs: Vec<_> = node.outputs.iter().map(named).collect();
    // Absent trailing inputs are left out; those in between are empty names.
    for list in [&mut inputs, &mut outputs] {
        while list.last().is_some_and(String::is_empty) {
            list.pop();
        }
    }
    NodeProto {
        input: inputs,
        output: outputs,
        name: Some(node.name.clone()),
        op_type: Some(node.op_type.to_owned()),
        domain: Some(node.domain.to_owned()),
        attribute: node.attributes.iter().map(|(name, attribute)| attribute_proto(name, attribute)).collect(),
        ..Default::default()
    }
}

fn attribute_proto(name: &str, attribute: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
    let kind = match attribute {
        Attribute::Int(value) => {
            proto.i = Some(*value);
            AttributeType::Int
        }
        Attribute::Float(value) => {
            proto.f = Some(*value);
            AttributeType::Float
        }
        Attribute::Ints(values) => {
            proto.ints.clone_from(values);
            AttributeType::Ints
        }
        Attribute::Text(text) => {
            proto.s = Some(text.as_bytes().to_vec());
            AttributeType::String
        }
        Attribute::Tensor(constant) => {
            proto.t = Some(constant_proto(constant));
            AttributeType::Tensor
        }
    };
    proto.r#type = Some(kind.into());
    proto
}

fn constant_proto(constant: &Constant) -> TensorProto {
    let (dtype, shape, _) = constant.facts();
    let raw_data = match constant {
        Constant::Int64(value) => value.to_le_bytes().to_vec(),
        Constant::Int64s(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Constant::Counted(end) => (0..*end).flat_map(u32::to_le_bytes).collect(),
        Constant::Float(value) => value.to_le_bytes().to_vec(),
        Constant::Floats { values, .. } => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let dims = shape.iter().map(|dim| match dim {
        Dim::Known(size) => *size as i64,
        Dim::Symbol(_) | Dim::Numbered(..) => 0,
    });
    TensorProto {
        dims: dims.collect(),
        data_type: Some(data_type(dtype)),
        raw_data: Some(raw_data),
        ..Default::default()
    }
}

fn value_info(graph: &Graph, value: Value) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(graph.name(value).to_owned()),
        r#type: Some(type_proto(graph.fact(value))),
        ..Default::default()
    }
}

fn type_proto(fact: &Fact) -> TypeProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Known(size) => dimension::Value::DimValue(*size as i64),
            Dim::Symbol(name) => dimension::Value::DimParam((*name).to_owned()),
            Dim::Numbered(name, number) => dimension::Value::DimParam(format!("{name}_{number}")),
        }),
        ..Default::default()
    };
    TypeProto {
        value: Some(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(data_type(fact.dtype)),
            shape: Some(TensorShapeProto { dim: fact.shape.iter().map(dim).collect() }),
        })),
        ..Default::default()
    }
}

fn data_type(dtype: Dtype) -> i32 {
    let kind = match dtype {
        Dtype::F32 => DataType::Float,
        Dtype::F16 => DataType::Float16,
        Dtype::Bf16 => DataType::Bfloat16,
        Dtype::I64 => DataType::Int64,
        Dtype::I32 => DataType::Int32,
        Dtype::U8 => DataType::Uint8,
        Dtype::I8 => DataType::Int8,
        Dtype::U4 => DataType::Uint4,
        Dtype::I4 => DataType::Int4,
        Dtype::F8E4M3 => DataType::Float8e4m3fn,
        Dtype::Bool => DataType::Bool,
    };
    kind.into()
}
