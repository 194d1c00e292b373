//! Small models for tests, made message by message.

use std::fs;
use std::path::Path;

use genai_onnx::tensor_proto::{DataLocation, DataType};
use genai_onnx::tensor_shape_proto::{Dimension, dimension};
use genai_onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType, type_proto,
};
use prost::Message;

pub(crate) fn model(graph: GraphProto) -> ModelProto {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) };
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset("", 21), opset("com.microsoft", 1)],
        producer_name: Some("sample".to_owned()),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

pub(crate) fn write(folder: &Path, graph: GraphProto) {
    fs::write(folder.join("model.onnx"), model(graph).encode_to_vec()).unwrap();
}

pub(crate) fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let contrib = ["MatMulNBits", "GatherBlockQuantized", "QMoE", "MoE", "GroupQueryAttention"].contains(&op_type);
    NodeProto {
        name: Some(format!("{op_type}_{}", outputs[0])),
        op_type: Some(op_type.to_owned()),
        domain: Some(if contrib { "com.microsoft" } else { "" }.to_owned()),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.iter().map(|&name| name.to_owned()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..AttributeProto::default()
    }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Float.into()),
        f: Some(value),
        ..AttributeProto::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

pub(crate) fn tensor(name: &str, dtype: DataType, shape: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(dtype.into()),
        dims: shape.to_vec(),
        raw_data: Some(bytes),
        ..TensorProto::default()
    }
}

pub(crate) fn floats(name: &str, shape: &[i64], values: &[f32]) -> TensorProto {
    tensor(name, DataType::Float, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// A tensor in a file beside the model.
pub(crate) fn external(name: &str, shape: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    };
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Float.into()),
        dims: shape.to_vec(),
        data_location: Some(DataLocation::External.into()),
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

/// Sizes that are numbers are fixed, others are named.
pub(crate) fn value(name: &str, dtype: DataType, shape: &[&str]) -> ValueInfoProto {
    let dimension = |size: &&str| {
        let value = match size.parse() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*size).to_owned()),
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(dtype.into()),
        shape: Some(TensorShapeProto { dim: shape.iter().map(dimension).collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// Codes, the first one in the low bits.
pub(crate) fn packed(codes: &[u8], bits: usize) -> Vec<u8> {
    codes
        .chunks(8 / bits)
        .map(|codes| codes.iter().rev().fold(0, |byte, code| if bits == 8 { *code } else { byte << bits | code }))
        .collect()
}
