//! What a package with adapters holds: nodes, inputs, the adapters' own files, the record.

use std::collections::BTreeSet;
use std::fs;

use genai_checkpoint::Checkpoint;
use genai_onnx::{GraphProto, ModelProto};
use half::f16;
use prost::Message;
use serde_json::{Value, json};

use super::{adapter, baked_in, swappable};
use crate::support::{Outcome, build, build_arguments, contents, fixture, genai_build, without_record};

#[test]
fn nodes_and_inputs_have_the_names_of_the_peer() -> Outcome {
    let folder = adapter("llama-patterns");
    let baked = build(&fixture("llama-default"), "int4", "cpu", &[&baked_in(&folder)])?;
    let baked = ModelProto::decode(fs::read(baked.path().join("model.onnx"))?.as_slice())?.graph.unwrap();
    let nodes: BTreeSet<_> = baked.node.iter().filter_map(|node| node.name.as_deref()).collect();
    for module in ["attn/qkv_proj", "attn/o_proj", "mlp/gate_proj", "mlp/up_proj", "mlp/down_proj"] {
        for node in ["lora_A/MatMul", "lora_B/MatMul", "lora/Add", "MatMul_Q4"] {
            let node = format!("/model/layers.1/{module}/{node}");
            assert!(nodes.contains(node.as_str()), "{node} is not among {nodes:#?}");
        }
    }
    let shape = |graph: &GraphProto, name: &str| {
        graph.initializer.iter().find(|tensor| tensor.name() == name).map(|tensor| tensor.dims.clone())
    };
    // Ranks 3, 3 and 5 of q, k and v side by side.
    let (a, b) =
        ("model.layers.1.attn.qkv_proj.lora_A.MatMul.weight", "model.layers.1.attn.qkv_proj.lora_B.MatMul.weight");
    assert_eq!((shape(&baked, a), shape(&baked, b)), (Some(vec![72, 11]), Some(vec![11, 128])));
    assert!(baked.input.iter().all(|input| !input.name().contains("lora")));

    let package = swappable("llama-default", "int4", &[("a", &folder)])?;
    let graph = ModelProto::decode(fs::read(package.path().join("model.onnx"))?.as_slice())?.graph.unwrap();
    let inputs: Vec<_> = graph.input.iter().map(|input| input.name()).filter(|name| name.contains("lora")).collect();
    assert_eq!(inputs.len(), 2 * (3 * 5 + 1));
    assert!(inputs.contains(&a) && inputs.contains(&"lm_head.lora_B.MatMul.weight"), "{inputs:?}");
    assert_eq!((shape(&graph, a), shape(&graph, b)), (Some(vec![72, 1]), Some(vec![1, 128])));
    Ok(())
}

#[test]
fn modules_of_a_fused_tensor_share_its_first_factor() -> Outcome {
    let package = build(&fixture("phi3-window"), "fp32", "cpu", &[&baked_in(&adapter("phi3-fused"))])?;
    let graph = ModelProto::decode(fs::read(package.path().join("model.onnx"))?.as_slice())?.graph.unwrap();
    let nodes: Vec<_> = graph.node.iter().filter_map(|node| node.name.as_deref()).collect();
    let count = |part: &str| {
        nodes.iter().filter(|node| node.starts_with("/model/layers.0/mlp/") && node.contains(part)).count()
    };
    assert_eq!((count("lora_A"), count("lora_B")), (2, 3), "{nodes:#?}");
    Ok(())
}

#[test]
fn limits_do_not_change_a_byte_of_an_adapter() {
    let (attention, patterns) = (adapter("llama-attention"), adapter("llama-patterns"));
    let built = |limits: &[&str]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture("llama-default"), "fp16", "cpu", output.path());
        arguments.extend(
            [&attention, &patterns]
                .iter()
                .enumerate()
                .flat_map(|(index, folder)| ["--adapter".to_owned(), format!("a{index}={}", folder.display())]),
        );
        arguments.extend(limits.iter().map(|limit| (*limit).to_owned()));
        genai_build(arguments).success().unwrap();
        contents(output.path())
    };
    let plain = built(&["-j", "1"]);
    assert!(plain.contains_key("a0.onnx_adapter") && plain.contains_key("a1.onnx_adapter"));
    for limits in [["-j", "4", "--max-memory", "64K"], ["-j", "1", "--max-memory", "16K"]] {
        assert!(built(&limits) == plain, "{limits:?}");
    }
    // The base is as it is without adapters, but for the defaults of the inputs.
    let alone = build(&fixture("llama-default"), "fp16", "cpu", &[]).unwrap();
    assert_eq!(plain["genai_config.json"], contents(alone.path())["genai_config.json"]);
}

/// Follows the offsets of the file, as a reader that knows the schema alone would.
#[test]
fn an_adapter_file_holds_each_factor_scaled_and_aligned() -> Outcome {
    let package = swappable("llama-default", "fp16", &[("a", &adapter("llama-attention"))])?;
    let bytes = fs::read(package.path().join("a.onnx_adapter"))?;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let half = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()) as usize;
    let field = |table: usize, index: usize| {
        let vtable = table - word(table);
        assert!(4 + 2 * index < half(vtable));
        table + half(vtable + 4 + 2 * index)
    };
    let target = |at: usize| at + word(at);
    assert_eq!(&bytes[4..8], b"TORT");
    let root = word(0);
    assert_eq!(word(field(root, 0)), 1, "the version of the format");
    let list = target(field(root, 3));
    assert_eq!(word(list), 4);

    let checkpoint = Checkpoint::open(&fixture("llama-default"))?.with_adapter("a", &adapter("llama-attention"))?;
    let mut names = Vec::new();
    for index in 0..word(list) {
        let table = target(list + 4 + 4 * index);
        let text = target(field(table, 0));
        let name = std::str::from_utf8(&bytes[text + 4..text + 4 + word(text)])?;
        let dims = target(field(table, 1));
        let dim = |index: usize| u64::from_le_bytes(bytes[dims + 4 + 8 * index..][..8].try_into().unwrap()) as usize;
        assert_eq!(((dims + 4) % 8, word(dims)), (0, 2));
        assert_eq!(word(field(table, 2)), 10, "fp16");
        let data = target(field(table, 3));
        assert_eq!(((data + 4) % 64, word(data)), (0, 2 * dim(0) * dim(1)));
        let at = |row: usize, column: usize| {
            let start = data + 4 + 2 * (row * dim(1) + column);
            f16::from_le_bytes(bytes[start..start + 2].try_into().unwrap())
        };
        let layer = &name["model.layers.".len()..][..1];
        let read = |module: &str, part: &str, shape: [usize; 2]| {
            let tensor = format!("a/base_model.model.model.layers.{layer}.self_attn.{module}.lora_{part}.weight");
            let mut values = vec![0.0; shape[0] * shape[1]];
            checkpoint.read_f32(checkpoint.tensor(&tensor).unwrap(), 0, &mut values).unwrap();
            values
        };
        // 64 outputs of q, 32 of k, which no adapter changes, 32 of v; rank 4 each, scale 2.
        if name.ends_with("lora_A.MatMul.weight") {
            assert_eq!((dim(0), dim(1)), (72, 8));
            for (module, first) in [("q_proj", 0), ("v_proj", 4)] {
                for (index, value) in read(module, "A", [4, 72]).into_iter().enumerate() {
                    assert_eq!(at(index % 72, first + index / 72), f16::from_f32(value), "{name} {module} {index}");
                }
            }
        } else {
            assert_eq!((dim(0), dim(1)), (8, 128));
            let (q, v) = (read("q_proj", "B", [64, 4]), read("v_proj", "B", [32, 4]));
            for output in 0..128 {
                for rank in 0..8 {
                    let expected = match (output, rank) {
                        (0..64, 0..4) => 2.0 * q[output * 4 + rank],
                        (96.., 4..) => 2.0 * v[(output - 96) * 4 + rank - 4],
                        _ => 0.0,
                    };
                    assert_eq!(at(rank, output), f16::from_f32(expected), "{name} {output} {rank}");
                }
            }
        }
        names.push(name.to_owned());
    }
    let expected = ["0", "2"]
        .map(|layer| ["A", "B"].map(|part| format!("model.layers.{layer}.attn.qkv_proj.lora_{part}.MatMul.weight")));
    assert_eq!(names, expected.concat());
    Ok(())
}

#[test]
fn the_record_names_adapters_and_what_they_were_made_from() -> Outcome {
    let folder = adapter("llama-attention");
    let package = swappable("llama-default", "int4", &[("tales", &folder)])?;
    let record: Value = serde_json::from_slice(&fs::read(package.path().join("genai-build.json"))?)?;
    assert_eq!(record["options"]["adapters"], json!({"tales": "swappable"}));
    let inputs = record["inputs"].as_array().unwrap();
    for file in ["tales/adapter_config.json", "tales/adapter_model.safetensors"] {
        let input = inputs.iter().find(|input| input["name"] == file).unwrap_or_else(|| panic!("{file}: {record:#}"));
        assert_eq!(input["sha256"].as_str().map(str::len), Some(64), "{input}");
    }
    assert!(record["files"].as_array().unwrap().iter().any(|file| file["name"] == "tales.onnx_adapter"), "{record:#}");
    let weights = record["weights"].as_array().unwrap();
    let of_adapter = |weight: &&Value| weight["tensors"].to_string().contains("q_proj.lora_B");
    assert_eq!(weights.iter().filter(of_adapter).count(), 2);
    genai_build(["verify", package.path().to_str().unwrap()]).success()?;

    let baked = build(&fixture("llama-default"), "int4", "cpu", &[&baked_in(&folder)])?;
    let record: Value = serde_json::from_slice(&fs::read(baked.path().join("genai-build.json"))?)?;
    assert_eq!(record["options"]["adapters"], json!({"adapter": "baked in"}));
    // Nothing but the two options tells such packages apart.
    let plain = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    let (baked, plain) = (without_record(contents(baked.path())), without_record(contents(plain.path())));
    let changed: Vec<_> = plain.keys().filter(|name| baked[*name] != plain[*name]).collect();
    assert_eq!(changed, ["model.onnx", "model.onnx.data"]);
    Ok(())
}
