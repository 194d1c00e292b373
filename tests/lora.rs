//! LoRA adapters, baked in and swappable.
//!
//! | package | compared with |
//! | --- | --- |
//! | baked in, fp32 and fp16 | logits recorded from transformers with the adapter added to the weights |
//! | baked in, int4 and int8 | the f32 interpreter with rounded weights and the adapter's as they are |
//! | baked in, of every fixture, for each linear | the f32 interpreter |
//! | swappable, without an adapter and with each | the recorded logits of each |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use genai_architectures::{DecoderSpec, Linear, LmHead, Mixer, Mlp};
use genai_checkpoint::Checkpoint;
use genai_onnx::ModelProto;
use genai_quantize::{IntScheme, ScaleDtype};
use genai_validate::{CacheMode, Continued, Model, Reference};
use half::f16;
use prost::Message;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::reference::{WAYS, Way, expect_logits, recorded_logits, rounded_logits_of};
use crate::support::{
    Altered, Outcome, Stored, build, build_arguments, contents, fixture, for_each, genai_build, load, recorded,
    runtime_arguments, safetensors_bytes, spec, without_record,
};

/// Adapters with recorded logits, and their bases.
const RECORDED: [(&str, &str); 4] = [
    ("llama-attention", "llama-default"),
    ("llama-patterns", "llama-default"),
    ("phi3-fused", "phi3-window"),
    ("gpt2-columns", "gpt2-default"),
];

/// As in `parity`: for activations in fp32, and in fp16.
const FP32_LIMIT: f64 = 1e-4;
const FP16_LIMIT: f64 = 0.1;

fn adapter(name: &str) -> PathBuf {
    fixture("adapters").join(name)
}

fn baked_in(folder: &Path) -> String {
    format!("adapter_path={}", folder.display())
}

fn swappable(base: &str, precision: &str, adapters: &[(&str, &Path)]) -> Outcome<TempDir> {
    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture(base), precision, "cpu", output.path());
    for (name, folder) in adapters {
        arguments.extend(["--adapter".to_owned(), format!("{name}={}", folder.display())]);
    }
    if precision.starts_with("int") {
        arguments.extend(["--extra_options", "accuracy_level=0"].map(str::to_owned));
    }
    genai_build(arguments).success()?;
    Ok(output)
}

fn expect_in_every_way(model: &mut Model, reference: &Reference, limit: f64) -> Outcome {
    WAYS.iter().try_for_each(|way| expect_logits(model, reference, *way, limit))
}

/// Adapters come with runs whose cache grows.
fn expect_with_adapter(model: &mut Model, file: &Path, reference: &Reference, limit: f64) -> Outcome {
    model.set_adapter(Some(file))?;
    let ways = [Way::AtOnce(CacheMode::Growing), Way::InSteps(CacheMode::Growing), Way::InABatch];
    ways.into_iter().try_for_each(|way| expect_logits(model, reference, way, limit))
}

#[test]
fn baked_in_float_packages_meet_the_recorded_logits() {
    for_each(
        &RECORDED,
        |(name, _)| (*name).to_owned(),
        |(name, base)| {
            let reference = recorded_logits(&adapter(name))?;
            for (precision, provider, limit) in
                [("fp32", "cpu", FP32_LIMIT), ("fp16", "cpu", FP16_LIMIT), ("fp16", "cuda", FP16_LIMIT)]
            {
                let package = build(&fixture(base), precision, provider, &[&baked_in(&adapter(name))])?;
                expect_in_every_way(&mut load(package.path())?, &reference, limit)?;
            }
            // The limits tell an adapter from none.
            let package = build(&fixture(base), "fp32", "cpu", &[])?;
            let plain = expect_in_every_way(&mut load(package.path())?, &reference, FP16_LIMIT);
            assert!(plain.is_err());
            Ok(())
        },
    );
}

#[test]
fn baked_in_quantized_packages_compute_with_rounded_weights_and_the_adapter() {
    let cases: Vec<_> = RECORDED
        .iter()
        .flat_map(|case| [(*case, "int4", 4, "cpu"), (*case, "int8", 8, "cpu"), (*case, "int4", 4, "cuda")])
        .collect();
    for_each(
        &cases,
        |((name, _), precision, _, provider)| format!("{name} {precision} {provider}"),
        |((name, base), precision, bits, provider)| {
            let (scale_dtype, limit) = match *provider {
                "cpu" => (ScaleDtype::F32, FP32_LIMIT),
                _ => (ScaleDtype::F16, FP16_LIMIT),
            };
            let folder = adapter(name);
            let checkpoint = Checkpoint::open(&fixture(base))?.with_adapter("a", &folder)?;
            let scheme = IntScheme::new(*bits, 32, true)?;
            let reference = rounded_logits_of(&checkpoint, recorded_logits(&folder)?, scheme, scale_dtype)?;
            let package = build(&fixture(base), precision, provider, &[&baked_in(&folder), "accuracy_level=0"])?;
            expect_in_every_way(&mut load(package.path())?, &reference, limit)
        },
    );
}

/// An adapter of random updates of every linear of a model, fused ones as they are stored.
fn everywhere(spec: &DecoderSpec) -> TempDir {
    let mut shapes: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for linear in linears(spec) {
        shapes.insert(&linear.path, [linear.bias_length(), linear.in_features]);
    }
    let mut state = 1u32;
    let mut random = |size: f32| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
    };
    const RANK: usize = 3;
    let mut tensors = BTreeMap::new();
    for (path, [outputs, inputs]) in shapes {
        for (part, shape, size) in
            [("A", vec![RANK, inputs], 1.7), ("B", vec![outputs, RANK], 0.5 / (inputs as f32).sqrt())]
        {
            let data = (0..shape.iter().product()).flat_map(|_| random(size).to_le_bytes()).collect();
            let name = format!("base_model.model.{path}.lora_{part}.weight");
            tensors.insert(name, Stored { dtype: Dtype::F32, shape, data });
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 2.5});
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), safetensors_bytes(tensors.iter())).unwrap();
    folder
}

fn linears(spec: &DecoderSpec) -> Vec<&Linear> {
    let mut linears = Vec::new();
    for layer in &spec.layers {
        let Mixer::Attention(attention) = &layer.mixer;
        linears.extend([&attention.q, &attention.o]);
        linears.extend(attention.key_value.linears());
        match &layer.mlp {
            Mlp::Gated { gate, up, down, .. } => linears.extend([gate, up, down]),
            Mlp::Plain { up, down, .. } => linears.extend([up, down]),
            Mlp::ClampedGate { gate_up, down, .. } => linears.extend([gate_up, down]),
        }
    }
    if let LmHead::Own(head) = &spec.lm_head {
        linears.push(head);
    }
    linears
}

#[test]
fn every_linear_of_every_family_can_be_changed() {
    for_each(&recorded(), String::clone, |name| {
        if name.starts_with("tales-") {
            return Ok(());
        }
        let spec = spec(&fixture(name))?;
        let folder = everywhere(&spec);
        let plain = recorded_logits(&fixture(name))?;
        let checkpoint = Checkpoint::open(&fixture(name))?.with_adapter("a", folder.path())?;
        let continued = |prompt: &genai_validate::PromptReference| Continued {
            name: prompt.name.clone(),
            prompt: prompt.input_ids.clone(),
            continuation: Vec::new(),
        };
        let prompts: Vec<_> = plain.prompts.iter().take(2).map(continued).collect();
        let reference = Reference::interpret(&spec, &checkpoint, checkpoint.adapters().first(), &prompts)?;
        let package = build(&fixture(name), "fp32", "cpu", &[&baked_in(folder.path())])?;
        let mut model = load(package.path())?;
        expect_logits(&mut model, &reference, Way::AtOnce(CacheMode::Growing), FP32_LIMIT)?;
        // The adapter is heard.
        let plain = Reference { prompts: plain.prompts.into_iter().take(2).collect(), ..reference };
        assert!(expect_logits(&mut model, &plain, Way::AtOnce(CacheMode::Growing), 0.1).is_err());
        Ok(())
    });
}

#[test]
fn swappable_packages_meet_the_logits_of_each_adapter_and_of_none() -> Outcome {
    let (attention, patterns) = (adapter("llama-attention"), adapter("llama-patterns"));
    let package = swappable("llama-default", "fp32", &[("attention", &attention), ("patterns", &patterns)])?;
    let mut model = load(package.path())?;
    let plain = recorded_logits(&fixture("llama-default"))?;
    expect_in_every_way(&mut model, &plain, FP32_LIMIT)?;
    // Ranks differ from adapter to adapter and from linear to linear, and one adapter leaves most linears alone.
    for (name, folder) in [("attention", &attention), ("patterns", &patterns), ("attention", &attention)] {
        let file = package.path().join(format!("{name}.onnx_adapter"));
        expect_with_adapter(&mut model, &file, &recorded_logits(folder)?, FP32_LIMIT)?;
    }
    model.set_adapter(None)?;
    expect_in_every_way(&mut model, &plain, FP32_LIMIT)?;

    for (name, base) in [("phi3-fused", "phi3-window"), ("gpt2-columns", "gpt2-default")] {
        let package = swappable(base, "fp32", &[("one", &adapter(name))])?;
        let mut model = load(package.path())?;
        expect_in_every_way(&mut model, &recorded_logits(&fixture(base))?, FP32_LIMIT)?;
        let file = package.path().join("one.onnx_adapter");
        expect_with_adapter(&mut model, &file, &recorded_logits(&adapter(name))?, FP32_LIMIT)?;
    }
    Ok(())
}

#[test]
fn swappable_packages_of_other_precisions_run_their_adapters() -> Outcome {
    let folder = adapter("llama-patterns");
    let fp16 = swappable("llama-default", "fp16", &[("a", &folder)])?;
    let file = |package: &TempDir| package.path().join("a.onnx_adapter");
    expect_with_adapter(&mut load(fp16.path())?, &file(&fp16), &recorded_logits(&folder)?, FP16_LIMIT)?;
    expect_in_every_way(&mut load(fp16.path())?, &recorded_logits(&fixture("llama-default"))?, FP16_LIMIT)?;
    for (precision, bits) in [("int4", 4), ("int8", 8)] {
        let package = swappable("llama-default", precision, &[("a", &folder)])?;
        let checkpoint = Checkpoint::open(&fixture("llama-default"))?.with_adapter("a", &folder)?;
        let scheme = IntScheme::new(bits, 32, true)?;
        let reference = rounded_logits_of(&checkpoint, recorded_logits(&folder)?, scheme, ScaleDtype::F32)?;
        expect_with_adapter(&mut load(package.path())?, &file(&package), &reference, FP32_LIMIT)?;
    }
    Ok(())
}

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
    let shape = |graph: &genai_onnx::GraphProto, name: &str| {
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
fn validation_knows_of_the_adapter() -> Outcome {
    // Without recorded logits, so that the interpreter has to know of the adapter too.
    let base = Altered::copy_of("llama-default").without("reference.npz");
    let folder = Altered::copy_of("adapters/llama-patterns").without("reference.npz");
    let validated = |options: &[String]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(base.path(), "fp32", "cpu", &output.path().join("package"));
        arguments.extend(["--validate".to_owned(), "--json".to_owned()]);
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().cloned());
        let report: Value = serde_json::from_str(&genai_build(arguments).success().unwrap()).unwrap();
        (output, report)
    };
    let (output, report) = validated(&["--extra_options".to_owned(), baked_in(folder.path())]);
    assert_eq!(report["parity"]["verdict"], "pass", "{report:#}");
    let (swappable, report) = validated(&["--adapter".to_owned(), format!("tales={}", folder.path().display())]);
    assert_eq!(report["parity"]["verdict"], "pass", "{report:#}");
    let prompts = report["parity"]["prompts"].as_array().unwrap();
    let of_adapter = prompts.iter().filter(|prompt| prompt["name"].as_str().unwrap().starts_with("tales/")).count();
    assert_eq!((of_adapter, prompts.len()), (3, 6), "{report:#}");

    let check = |package: &TempDir, options: &[&str]| {
        let package = package.path().join("package");
        let mut arguments = vec!["validate".to_owned(), package.display().to_string(), "-p".into(), "fp32".into()];
        arguments.extend(["--checkpoint".to_owned(), base.path().display().to_string()]);
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        genai_build(arguments).code
    };
    let dir = folder.path().display().to_string();
    assert_eq!(check(&output, &["--adapter-path", &dir]), 0);
    assert_eq!(check(&output, &[]), 10, "a package with an adapter is not that of the base");
    assert_eq!(check(&swappable, &[]), 0);
    assert_eq!(check(&swappable, &["--adapter", &format!("tales={dir}")]), 0);
    let other = adapter("llama-attention").display().to_string();
    assert_eq!(check(&swappable, &["--adapter", &format!("tales={other}")]), 10, "another adapter than this");
    Ok(())
}

#[test]
fn an_adapter_can_be_run_and_planned() -> Outcome {
    let folder = adapter("llama-attention");
    let package = swappable("llama-default", "fp32", &[("tales", &folder)])?;
    let run = |options: &[&str]| {
        let mut arguments = vec!["run".to_owned(), package.path().display().to_string()];
        arguments.extend(["--prompt", "Once upon a time", "-n", "12"].map(str::to_owned));
        arguments.extend(runtime_arguments());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        genai_build(arguments)
    };
    let baked = build(&fixture("llama-default"), "fp32", "cpu", &[&baked_in(&folder)])?;
    let with = run(&["--adapter", "tales"]).success()?;
    assert_ne!(with, run(&[]).success()?);
    let baked = ["run", baked.path().to_str().unwrap(), "--prompt", "Once upon a time", "-n", "12"].map(str::to_owned);
    assert_eq!(with, genai_build(baked.into_iter().chain(runtime_arguments())).success()?);
    run(&["--adapter", "../tales"]).failed(2, &["the package has no adapter", "--adapter NAME=DIR"])?;

    let input = fixture("llama-default").display().to_string();
    let typed = format!("tales={}", folder.display());
    let plan = ["plan", "-i", &input, "-p", "fp32", "-e", "cpu", "--json", "--adapter", &typed];
    let plan: Value = serde_json::from_str(&genai_build(plan).success()?)?;
    let length = fs::metadata(package.path().join("tales.onnx_adapter"))?.len();
    assert_eq!(plan["adapters"], json!({"tales.onnx_adapter": length}));
    Ok(())
}

#[test]
fn numbers_that_cannot_be_stored_are_named() -> Outcome {
    // Times this, B is past the largest number of fp16.
    let huge = Altered::copy_of("adapters/llama-attention")
        .json("adapter_config.json", |config| drop(config.insert("lora_alpha".to_owned(), json!(1u64 << 30))));
    let nan = Altered::copy_of("adapters/llama-attention");
    let file = nan.path().join("adapter_model.safetensors");
    let mut tensors = crate::support::read_tensors(&file);
    let name = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight";
    tensors.get_mut(name).unwrap().data[4 * 4 * 5..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, safetensors_bytes(tensors.iter()))?;
    for swappable in [false, true] {
        let run = |folder: &Path| {
            let output = tempfile::tempdir().unwrap();
            let mut arguments = build_arguments(&fixture("llama-default"), "fp16", "cpu", output.path());
            arguments.extend(match swappable {
                true => ["--adapter".to_owned(), format!("adapter={}", folder.display())],
                false => ["--extra_options".to_owned(), baked_in(folder)],
            });
            genai_build(arguments)
        };
        run(huge.path())
            .failed(5, &["adapter/base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "overflows"])?;
        run(nan.path()).failed(5, &[&format!("adapter/{name}"), "row 5", "column 0 is NaN"])?;
    }
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

#[test]
fn adapters_that_do_not_fit_are_refused() -> Outcome {
    let run = |base: &str, options: &[&str]| {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(base), "fp32", "cpu", &output.path().join("package"));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let run = genai_build(arguments);
        assert!(!output.path().join("package").exists());
        run
    };
    let attention = baked_in(&adapter("llama-attention"));
    // Layer 2 is one that the base lacks, and all of them have other names.
    run("phi3-window", &["--extra_options", &attention])
        .failed(5, &["\"model.layers.2.self_attn.v_proj\", which is no linear of this model", "adapter \"adapter\""])?;
    run("qwen3-tied", &["--extra_options", &attention]).failed(5, &["model.layers.2", "no linear of this model"])?;
    // The same names in another size.
    run("llama-mha", &["--extra_options", &baked_in(&adapter("llama-patterns"))])
        .failed(5, &["no linear of this model"])?;
    run("smollm3-window", &["--extra_options", &attention]).failed(5, &["lora_B.weight", "has shape", "expected"])?;
    run("llama-tied", &["--extra_options", &baked_in(&adapter("llama-patterns"))])
        .failed(5, &["\"lm_head\", which is the embedding table of this model"])?;

    let twice = format!("a={}", adapter("llama-attention").display());
    run("llama-default", &["--adapter", &twice, "--extra_options", &attention]).failed(2, &["both given"])?;
    run("llama-default", &["--adapter", "a=does-not-exist"]).failed(5, &["no such folder", "hf download"])?;
    run("llama-default", &["--adapter", "nameless"]).failed(2, &["expected NAME=DIR"])?;
    run("llama-default", &["--extra_options", "adapter_path="]).failed(2, &["extra option adapter_path is"])?;

    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(&fixture("llama-default"), "fp16", "cuda", output.path());
    arguments.extend(["--adapter", &twice, "--extra_options", "enable_cuda_graph=true"].map(str::to_owned));
    genai_build(arguments).failed(3, &["enable_cuda_graph", "a recorded step keeps its adapter"])
}
