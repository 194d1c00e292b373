//! Caches in pages: graphs of `PagedAttention`, which has no kernel on the CPU.
//!
//! The graph is computed with after a substitution: each `PagedAttention` becomes a `GroupQueryAttention` over the last of
//! two sequences. The first one is there to be told apart: its tokens lie in front of the others, and its past is longer.
//!
//! ```text
//! input_ids [1, n] ─► [3 other ids, ids] ─► the package's graph ─► rows from 3 on ─► logits [1, n, vocab]
//! attention_mask   ─► cumulative [0, 3, 3 + n], past [11, total - n]
//! ```

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use genai_architectures::{KeyValue, Mixer, Position, RopeScaling};
use genai_onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use genai_validate::{CacheMode, Model};
use prost::Message;
use serde_json::{Value, json};

use crate::cache::{channel_scales, quantized_with, scale_file};
use crate::reference::{Way, expect_logits, recorded_logits};
use crate::support::{Outcome, build, build_arguments, contents, fixture, for_each, genai_build, load, recorded, spec};

const PAGED: &str = "use_paged_attention=true";

/// Tokens of the sequence in front.
const OTHERS: i64 = 3;

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op_type.to_owned()),
        name: Some(format!("test/{output}")),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int.into()),
        ..Default::default()
    }
}

fn vector(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![values.len() as i64],
        data_type: Some(DataType::Int64.into()),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn value(name: &str, element: i32, dims: &[Result<i64, &str>]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |dim: &Result<i64, &str>| Dimension {
        value: Some(match dim {
            Ok(size) => dimension::Value::DimValue(*size),
            Err(name) => dimension::Value::DimParam((*name).to_owned()),
        }),
        ..Default::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(element), shape };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn tensor_type(value: &ValueInfoProto) -> (i32, Vec<Result<i64, String>>) {
    use tensor_shape_proto::dimension::Value::{DimParam, DimValue};
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &value.r#type else {
        panic!("{} is no tensor", value.name())
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value.as_ref().unwrap() {
        DimValue(size) => Ok(*size),
        DimParam(name) => Err(name.clone()),
    });
    (tensor.elem_type.unwrap(), dims.collect())
}

/// A paged graph as one that the CPU computes; `past_of_other` is the past of the sequence in front.
fn substituted(graph: &mut GraphProto, past_of_other: i64) {
    let old_inputs = std::mem::take(&mut graph.input);
    let engine =
        ["input_ids", "block_table", "cumulative_sequence_lengths", "past_sequence_lengths", "attention_metadata"];
    let found: Vec<&str> = old_inputs.iter().map(ValueInfoProto::name).filter(|name| engine.contains(name)).collect();
    assert_eq!(found, engine);
    let int64 = DataType::Int64.into();
    graph.input.push(value("input_ids", int64, &[Err("batch_size"), Err("sequence_length")]));
    graph.input.push(value("attention_mask", int64, &[Err("batch_size"), Err("total_sequence_length")]));
    graph.value_info.clear();
    let contiguous = |cache: &ValueInfoProto, length: &str| {
        let (element, dims) = tensor_type(cache);
        let [Err(pages), Err(tokens), Ok(heads), Ok(width)] = &dims[..] else { panic!("{dims:?}") };
        assert_eq!((pages.as_str(), tokens.as_str()), ("num_blocks", "block_size"));
        value(cache.name(), element, &[Err("batch_size"), Ok(*heads), Err(length), Ok(*width)])
    };
    graph.input.extend(
        old_inputs
            .iter()
            .filter(|input| !engine.contains(&input.name()))
            .map(|cache| contiguous(cache, "past_sequence_length")),
    );
    for output in &mut graph.output {
        *output = if output.name() == "logits" {
            let (element, dims) = tensor_type(output);
            let [Err(tokens), Ok(vocab)] = &dims[..] else { panic!("{dims:?}") };
            assert_eq!(tokens, "num_tokens");
            value("logits", element, &[Err("batch_size"), Err("sequence_length"), Ok(*vocab)])
        } else {
            contiguous(output, "total_sequence_length")
        };
    }
    for (name, values) in [
        ("t.rest", &[-1][..]),
        ("t.zero", &[0]),
        ("t.one", &[1]),
        ("t.others", &[OTHERS]),
        ("t.all", &[i64::MAX]),
        ("t.front", &[OTHERS, 0, 0, 0]),
        ("t.other_ids", &[5, 6, 7]),
        ("t.other_past", &[past_of_other]),
    ] {
        graph.initializer.push(vector(name, values));
    }
    let cast = |input: &str, output: &str| {
        let mut cast = node("Cast", &[input], output);
        cast.attribute.push(int("to", i64::from(i32::from(DataType::Int32))));
        cast
    };
    let concat = |inputs: &[&str], output: &str| {
        let mut concat = node("Concat", inputs, output);
        concat.attribute.push(int("axis", 0));
        concat
    };
    let mut nodes = vec![
        node("Reshape", &["input_ids", "t.rest"], "t.ids"),
        concat(&["t.other_ids", "t.ids"], "t.packed_ids"),
        node("Shape", &["t.ids"], "t.new"),
        node("Shape", &["attention_mask"], "t.mask_shape"),
        node("Gather", &["t.mask_shape", "t.one"], "t.total"),
        node("Sub", &["t.total", "t.new"], "t.past"),
        node("Add", &["t.new", "t.others"], "t.end"),
        concat(&["t.zero", "t.others", "t.end"], "t.bounds"),
        cast("t.bounds", "cumulative_sequence_lengths"),
        concat(&["t.other_past", "t.past"], "t.pasts"),
        cast("t.pasts", "past_sequence_lengths"),
        node("Sub", &["t.total", "t.one"], "t.less_one"),
        cast("t.less_one", "t.seqlens_k"),
        node("Squeeze", &["t.total", "t.zero"], "t.total_scalar"),
        cast("t.total_scalar", "t.total_length"),
    ];
    for mut old in std::mem::take(&mut graph.node) {
        for input in old.input.iter_mut().filter(|input| *input == "input_ids") {
            "t.packed_ids".clone_into(input);
        }
        for output in old.output.iter_mut().filter(|output| *output == "logits") {
            "t.logits".clone_into(output);
        }
        if old.op_type() == "PagedAttention" {
            nodes.extend(over_the_last_sequence(&old));
        } else {
            nodes.push(old);
        }
    }
    nodes.push(node("Slice", &["t.logits", "t.others", "t.all", "t.zero"], "t.own_logits"));
    nodes.push(node("Unsqueeze", &["t.own_logits", "t.zero"], "logits"));
    graph.node = nodes;
}

/// `GroupQueryAttention` over the rows of the last sequence, with zeros in place of the others' rows.
fn over_the_last_sequence(paged: &NodeProto) -> Vec<NodeProto> {
    assert_eq!(paged.domain(), "com.microsoft");
    assert_eq!(paged.input.len(), 17, "{:?}", paged.input);
    for (place, name) in [
        (5, "cumulative_sequence_lengths"),
        (6, "past_sequence_lengths"),
        (7, "block_table"),
        (16, "attention_metadata"),
    ] {
        assert_eq!(paged.input[place], name);
    }
    let own = |part: &str| format!("t.{}.{part}", paged.name());
    let mut nodes = Vec::new();
    let mut inputs = Vec::new();
    for (place, part) in ["q", "k", "v"].into_iter().enumerate() {
        let whole = &paged.input[place];
        if whole.is_empty() {
            inputs.push(String::new());
            continue;
        }
        let (rows, row) = (own(&format!("{part}_rows")), own(part));
        nodes.push(node("Slice", &[whole, "t.others", "t.all", "t.zero"], &rows));
        nodes.push(node("Unsqueeze", &[&rows, "t.zero"], &row));
        inputs.push(row);
    }
    inputs.extend([&paged.input[3], &paged.input[4]].map(Clone::clone));
    inputs.extend(["t.seqlens_k", "t.total_length"].map(str::to_owned));
    inputs.extend([&paged.input[8], &paged.input[9]].map(Clone::clone));
    inputs.extend(std::iter::repeat_n(String::new(), 3));
    inputs.extend([&paged.input[14], &paged.input[15]].map(Clone::clone));
    let mut attributes = paged.attribute.clone();
    let bits = if attributes.iter().any(|attribute| attribute.name() == "k_cache_dtype") { 4 } else { 8 };
    let quantized = attributes.iter().any(|attribute| attribute.name() == "k_quant_type");
    attributes.retain(|attribute| !["k_cache_dtype", "v_cache_dtype"].contains(&attribute.name()));
    attributes.extend(quantized.then(|| int("kv_cache_bit_width", bits)));
    nodes.push(NodeProto {
        op_type: Some("GroupQueryAttention".to_owned()),
        name: paged.name.clone(),
        domain: paged.domain.clone(),
        input: inputs,
        output: vec![own("mixed"), paged.output[1].clone(), paged.output[2].clone()],
        attribute: attributes,
        ..Default::default()
    });
    nodes.push(node("Squeeze", &[&own("mixed"), "t.zero"], &own("rows")));
    nodes.push(node("Pad", &[&own("rows"), "t.front"], &paged.output[0]));
    nodes
}

/// The package with another attention op, loaded.
fn substitute(package: &Path, past_of_other: i64) -> Outcome<(tempfile::TempDir, Arc<Model>)> {
    let folder = tempfile::tempdir()?;
    let mut model = ModelProto::decode(fs::read(package.join("model.onnx"))?.as_slice())?;
    substituted(model.graph.as_mut().ok_or("no graph")?, past_of_other);
    fs::write(folder.path().join("model.onnx"), model.encode_to_vec())?;
    fs::copy(package.join("model.onnx.data"), folder.path().join("model.onnx.data"))?;
    let mut config = config(package)?;
    config["model"]["decoder"]["inputs"] = json!({});
    fs::write(folder.path().join("genai_config.json"), config.to_string())?;
    let model = load(folder.path())?;
    Ok((folder, model))
}

fn config(package: &Path) -> Outcome<Value> {
    Ok(serde_json::from_slice(&fs::read(package.join("genai_config.json"))?)?)
}

/// Why a checkpoint has no graph with pages.
fn reason(name: &str) -> Outcome<Option<&'static str>> {
    let spec = spec(&fixture(name))?;
    let mut shapes = std::collections::BTreeSet::new();
    for layer in &spec.layers {
        let Mixer::Attention(attention) = &layer.mixer;
        if matches!(attention.key_value, KeyValue::OfLayer(_)) {
            return Ok(Some("reads the cache of another layer"));
        }
        if attention.blocks.is_some() {
            return Ok(Some("hides blocks"));
        }
        let by_length = |scaling| match scaling {
            RopeScaling::Dynamic { .. } => true,
            RopeScaling::LongRope { original_context, .. } => original_context < spec.context_length,
            _ => false,
        };
        match attention.position {
            Position::Alibi(_) => return Ok(Some("biases its scores")),
            Position::Rope(rope) if by_length(spec.rope(rope).scaling.clone()) => {
                return Ok(Some("rotates by the length"));
            }
            _ => {}
        }
        shapes.insert((attention.num_kv_heads, attention.head_dim));
    }
    Ok((shapes.len() > 1).then_some("caches of several shapes"))
}

const STEPS: [Way; 4] = [
    Way::AtOnce(CacheMode::Growing),
    Way::AtOnce(CacheMode::Shared),
    Way::InSteps(CacheMode::Growing),
    Way::InSteps(CacheMode::Shared),
];

/// In fp16, as far as `parity` allows.
const LIMIT: f64 = 0.1;

#[test]
fn paged_graphs_compute_the_recorded_logits_with_another_op() {
    let built = AtomicUsize::new(0);
    for_each(&recorded(), String::clone, |name| {
        if let Some(reason) = reason(name)? {
            return refused(&[PAGED], name, "fp16", "cuda", 3, &[reason]);
        }
        built.fetch_add(1, Ordering::Relaxed);
        let package = build(&fixture(name), "fp16", "cuda", &[PAGED])?;
        let (_folder, model) = substitute(package.path(), 11)?;
        let reference = recorded_logits(&fixture(name))?;
        STEPS.into_iter().try_for_each(|way| expect_logits(&model, &reference, way, LIMIT))
    });
    assert!(built.into_inner() >= 70);
}

/// Sequences are told apart where positions are computed: another past of the one in front changes nothing, and without
/// one the positions of the own tokens would be wrong by three.
#[test]
fn positions_are_those_within_a_sequence() {
    for name in ["gpt2-default", "opt-default", "hunyuan-bias"] {
        let package = build(&fixture(name), "fp16", "cuda", &[PAGED]).unwrap();
        let reference = recorded_logits(&fixture(name)).unwrap();
        for past in [0, 3, 200] {
            let (_folder, model) = substitute(package.path(), past).unwrap();
            expect_logits(&model, &reference, Way::InSteps(CacheMode::Growing), LIMIT).unwrap();
        }
        let mut graph = ModelProto::decode(fs::read(package.path().join("model.onnx")).unwrap().as_slice()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let nodes = &mut graph.graph.as_mut().unwrap().node;
        // Every token taken for one of the first sequence.
        let shift = nodes.iter_mut().find(|node| node.name() == "/model/positions/Add").unwrap();
        shift.input[1] = shift.input[0].clone();
        for (file, bytes) in contents(package.path()) {
            fs::write(folder.path().join(file), bytes).unwrap();
        }
        fs::write(folder.path().join("model.onnx"), graph.encode_to_vec()).unwrap();
        let (_folder, model) = substitute(folder.path(), 11).unwrap();
        assert!(expect_logits(&model, &reference, Way::AtOnce(CacheMode::Growing), LIMIT).is_err(), "{name}");
    }
}

#[test]
fn pages_of_codes_say_so_and_compute() {
    let scales = channel_scales("llama-default").unwrap();
    for (scheme, element, width, limit) in [
        ("int8_per_channel", DataType::Int8, 16, Some(0.3)),
        ("int8_per_tensor", DataType::Int8, 16, Some(0.3)),
        ("int4_per_channel", DataType::Uint8, 8, None),
        ("fp8_per_channel", DataType::Float8e4m3fn, 16, None),
    ] {
        let per_channel = scheme.ends_with("channel");
        let text = scale_file(&scales, per_channel);
        let package = quantized_with("llama-default", "fp16", "cuda", scheme, &text, &[PAGED]).unwrap();
        let model = ModelProto::decode(fs::read(package.path().join("model.onnx")).unwrap().as_slice()).unwrap();
        let graph = model.graph.unwrap();
        let cache = graph.input.iter().find(|value| value.name() == "past_key_values.0.key").unwrap();
        let (found, dims) = tensor_type(cache);
        assert_eq!((found, &dims[2..]), (element.into(), &[Ok(2), Ok(width)][..]), "{scheme}");
        let paged = graph.node.iter().find(|node| node.op_type() == "PagedAttention").unwrap();
        let scale = graph.initializer.iter().find(|tensor| tensor.name() == paged.input[14]).unwrap();
        assert_eq!(scale.dims, if per_channel { vec![2, 1, 16] } else { vec![1] });
        let packed = paged.attribute.iter().find(|attribute| attribute.name() == "v_cache_dtype");
        assert_eq!(packed.map(|attribute| attribute.s()), scheme.starts_with("int4").then_some(&b"int4"[..]));
        let Some(limit) = limit else { continue };
        let (_folder, model) = substitute(package.path(), 11).unwrap();
        let reference = recorded_logits(&fixture("llama-default")).unwrap();
        for way in STEPS {
            expect_logits(&model, &reference, way, limit).unwrap();
        }
    }
}

/// ONNX Runtime reads the graph and finds nothing wrong with it but that this one op has no kernel.
#[test]
fn the_cpu_lacks_that_kernel_alone() {
    for (precision, provider) in [("fp16", "cuda"), ("int4", "cuda"), ("fp16", "webgpu")] {
        let package = build(&fixture("qwen3-default"), precision, provider, &[PAGED]).unwrap();
        let error = load(package.path()).err().expect("it loads").to_string();
        // Casts to f32, which is what it tries where there is no kernel for f16.
        assert!(error.contains("'tensor(float)' of input parameter (InsertedPrecisionFreeCast_"), "{error}");
        assert!(error.contains("of operator (PagedAttention)"), "{error}");
    }
}

#[test]
fn the_engine_is_told_of_its_pages() {
    let cases: [(&[&str], Value, Value); 3] = [
        (&[], json!({"block_size": 256, "max_batch_size": 100, "gpu_utilization_factor": 0.6}), Value::Null),
        (
            &["paged_block_size=16", "num_blocks=99", "max_batch_size=7", "max_scheduled_tokens=512"],
            json!({"block_size": 16, "max_batch_size": 7, "num_blocks": 99, "max_scheduled_tokens": 512}),
            Value::Null,
        ),
        (
            &["gpu_utilization_factor=0.25", "paged_chunk_size=64"],
            json!({"block_size": 256, "max_batch_size": 100, "gpu_utilization_factor": 0.25}),
            json!(64),
        ),
    ];
    for (options, engine, chunk) in cases {
        let package = build(&fixture("llama-default"), "fp16", "cuda", &[&[PAGED], options].concat()).unwrap();
        let config = config(package.path()).unwrap();
        assert_eq!(config["engine"]["dynamic_batching"], engine);
        assert_eq!(config["search"]["chunk_size"], chunk);
        assert_eq!(config["search"]["past_present_share_buffer"], true);
        assert_eq!(config["model"]["decoder"]["state_groups"], json!([{"kind": "paged_kv", "layer_ids": [0, 1, 2]}]));
        let inputs: Vec<&String> = config["model"]["decoder"]["inputs"].as_object().unwrap().keys().collect();
        let expected =
            ["attention_metadata", "block_table", "cumulative_sequence_lengths", "input_ids", "past_key_names"];
        assert_eq!(inputs[..5], expected);
        assert_eq!(inputs[5..], ["past_sequence_lengths", "past_value_names"]);
    }
}

#[test]
fn pages_that_nobody_lends_are_refused() {
    type Case = (&'static [&'static str], &'static str, &'static str, i32, &'static [&'static str]);
    let cases: [Case; 12] = [
        (&[PAGED], "fp32", "cpu", 3, &["cpu has no paged attention for activations in float"]),
        (&[PAGED], "fp16", "dml", 3, &["dml has no paged attention"]),
        (&[PAGED], "fp32", "webgpu", 3, &["webgpu has no paged attention for activations in float"]),
        (&[PAGED], "fp32", "cuda", 3, &["cuda has no paged attention for activations in float"]),
        (&[PAGED, "windowed_kv_cache=true"], "fp16", "cuda", 3, &["windowed_kv_cache=true"]),
        (&["num_blocks=5"], "fp16", "cuda", 2, &["num_blocks has no meaning for a cache without pages"]),
        (&["use_paged_attention=false", "max_batch_size=5"], "fp16", "cuda", 2, &["max_batch_size has no meaning"]),
        (
            &[PAGED, "num_blocks=5", "gpu_utilization_factor=0.5"],
            "fp16",
            "cuda",
            2,
            &["num_blocks and gpu_utilization_factor"],
        ),
        (&[PAGED, "paged_block_size=24"], "fp16", "cuda", 2, &["paged_block_size", "a power of two from 16 on"]),
        (&[PAGED, "max_batch_size=257"], "fp16", "cuda", 2, &["max_batch_size", "1 to 256"]),
        (&[PAGED, "gpu_utilization_factor=nan"], "fp16", "cuda", 2, &["gpu_utilization_factor"]),
        (&[PAGED, "paged_chunk_size=0"], "fp16", "cuda", 2, &["paged_chunk_size"]),
    ];
    for_each(
        &cases,
        |(options, precision, provider, ..)| format!("{options:?} {precision} {provider}"),
        |(options, precision, provider, code, says)| {
            refused(options, "mistral-window", precision, provider, *code, says)
        },
    );
}

fn refused(options: &[&str], name: &str, precision: &str, provider: &str, code: i32, says: &[&str]) -> Outcome {
    let place = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture(name), precision, provider, &place.path().join("package"));
    arguments.push("--extra_options".to_owned());
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    genai_build(arguments).failed(code, says)?;
    assert_eq!(contents(place.path()).len(), 0);
    Ok(())
}
