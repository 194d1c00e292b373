//! Packages in bf16, for which the CPU provider has no kernels: the graph with fp32 in the place of bf16, and nothing
//! else changed, computes what it should.

use std::fs;
use std::path::Path;

use genai_builder::{Precision, TARGETS, Target, graph::Dtype};
use genai_onnx::{ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType, type_proto};
use genai_quantize::{IntScheme, ScaleDtype};
use prost::Message;

use crate::parity::expect_in_every_way;
use crate::reference::{Tables, recorded_logits, rounded_logits};
use crate::support::{Outcome, build, fixture, for_each, load, recorded, spec};

/// How far a logit may be off, in units of the spread of the logits. Norms, factors and tables of cosines have 8 bits.
/// Right packages of the fixtures come to 0.42 (Gemma 3, which comes to 0.067 with the 11 bits of fp16), all but three
/// families to less than 0.1. The nodes are those of fp16 packages, which are held tighter; here it is dtypes that may be
/// wrong.
const LIMIT: f64 = 0.5;

#[test]
fn bf16_packages_compute_as_fp32_ones_of_their_weights() {
    let builds = builds();
    let cases: Vec<_> =
        recorded().into_iter().flat_map(|name| builds.iter().map(move |build| (name.clone(), build))).collect();
    for_each(
        &cases,
        |(name, (precision, target, _))| format!("{name} {} for {}", precision.name(), target.provider),
        |(name, (precision, target, options))| {
            let package = build(&fixture(name), precision.name(), target.provider, options)?;
            widen(&package.path().join("model.onnx"))?;
            let reference = match precision.bits() {
                None => recorded_logits(&fixture(name))?,
                Some(bits) => {
                    let scheme = IntScheme::new(bits, 32, true)?;
                    rounded_logits(&fixture(name), scheme, ScaleDtype::Bf16, Tables::of(target.form))?
                }
            };
            expect_in_every_way(&load(package.path())?, &spec(&fixture(name))?, &reference, LIMIT)
        },
    );
}

/// The ways to have a package in bf16, one of those whose graphs are alike.
fn builds() -> Vec<(Precision, &'static Target, Vec<&'static str>)> {
    let (mut seen, mut builds) = (Vec::new(), Vec::new());
    for (target, cell) in TARGETS.iter().flat_map(|target| target.cells.iter().map(move |cell| (target, cell))) {
        let options = match (cell.activations, cell.alternative) {
            (Dtype::Bf16, _) => vec![],
            (_, Some(("use_cuda_bf16", Dtype::Bf16))) => vec!["use_cuda_bf16=true"],
            _ => continue,
        };
        let spelling = (cell.precision, cell.attention, target.form);
        if !seen.contains(&spelling) {
            seen.push(spelling);
            builds.push((cell.precision, target, options));
        }
    }
    assert!(builds.len() > 3);
    builds
}

/// Rewrites a package: every bf16 becomes fp32, in the graph and in the file of the weights, but where a model rounds to
/// bf16 and back in whatever dtype it runs.
fn widen(path: &Path) -> Outcome {
    let mut model = ModelProto::decode(&*fs::read(path)?)?;
    let graph = model.graph.as_mut().ok_or("no graph")?;
    let file = path.with_extension("onnx.data");
    let mut data = fs::read(&file)?;
    for tensor in &mut graph.initializer {
        widen_tensor(tensor, &mut data)?;
    }
    let back: Vec<String> =
        graph.node.iter().filter_map(|node| node.name().strip_suffix("_1").map(str::to_owned)).collect();
    let mut kept = Vec::new();
    for node in graph.node.iter_mut().filter(|node| node.op_type() == "Cast") {
        if back.iter().any(|name| name == node.name()) {
            kept.extend(node.output.clone());
            continue;
        }
        for attribute in node.attribute.iter_mut().filter(|attribute| attribute.i == Some(i64::from(BF16))) {
            attribute.i = Some(i64::from(F32));
        }
    }
    let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    values.filter(|value| !kept.iter().any(|name| name == value.name())).for_each(widen_value);
    fs::write(&file, data)?;
    fs::write(path, model.encode_to_vec())?;
    Ok(())
}

const BF16: i32 = DataType::Bfloat16 as i32;
const F32: i32 = DataType::Float as i32;

fn widen_tensor(tensor: &mut TensorProto, data: &mut Vec<u8>) -> Outcome {
    if tensor.data_type != Some(BF16) {
        return Ok(());
    }
    let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
    let number = |key: &str| entry(key).and_then(|value| value.parse::<usize>().ok()).ok_or("a tensor without a place");
    let (offset, length) = (number("offset")?, number("length")?);
    let short = data[offset..offset + length].as_chunks::<2>().0.to_vec();
    let place = [("offset", data.len()), ("length", 2 * length)];
    data.extend(short.iter().flat_map(|bytes| [0, 0, bytes[0], bytes[1]]));
    for entry in &mut tensor.external_data {
        if let Some((_, value)) = place.iter().find(|(key, _)| *key == entry.key()) {
            entry.value = Some(value.to_string());
        }
    }
    tensor.data_type = Some(F32);
    Ok(())
}

fn widen_value(value: &mut ValueInfoProto) {
    if let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        && tensor.elem_type == Some(BF16)
    {
        tensor.elem_type = Some(F32);
    }
}
