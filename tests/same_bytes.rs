//! What must not change a package: threads, memory, vector instructions, shards, an earlier build at the same place.
//! And what a plan says of a package is so, and weights take no more memory than they were given.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use genai_quantize::Simd;
use serde_json::{Map, Value, json};

use crate::support::{
    Altered, Outcome, Tensors, build_arguments, contents, fixture, for_each, genai_build, genai_build_with,
    read_tensors, recorded, safetensors_bytes, without_record,
};

/// Every pair that has kernels.
const PAIRS: [(&str, &str); 8] = [
    ("fp32", "cpu"),
    ("fp16", "cpu"),
    ("int8", "cpu"),
    ("int4", "cpu"),
    ("fp16", "cuda"),
    ("bf16", "cuda"),
    ("int8", "cuda"),
    ("int4", "cuda"),
];

/// One tile of everything, and tiles of a few rows in an order that no one knows.
const LIMITS: [&[&str]; 3] = [&["-j", "1"], &["-j", "1", "--max-memory", "64K"], &["-j", "4", "--max-memory", "64K"]];

#[test]
fn threads_and_memory_do_not_change_a_byte() {
    for_each(&recorded(), String::clone, |name| {
        for (precision, provider) in [("fp32", "cpu"), ("int4", "cpu"), ("fp16", "cuda"), ("int8", "cuda")] {
            let plain = package(&fixture(name), precision, provider, &["-j", "4"])?;
            for limits in LIMITS {
                let limited = package(&fixture(name), precision, provider, limits)?;
                assert!(limited == plain, "{precision} {provider} {limits:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn vector_instructions_do_not_change_a_byte() {
    let levels: Vec<&str> = Simd::supported().into_iter().map(Simd::name).collect();
    for_each(&recorded(), String::clone, |name| {
        for (precision, provider) in [("int4", "cpu"), ("int8", "cuda"), ("fp16", "cuda"), ("bf16", "cuda")] {
            let packages = levels.iter().map(|level| {
                let output = tempfile::tempdir()?;
                let arguments = build_arguments(&fixture(name), precision, provider, output.path());
                genai_build_with(&[("GENAI_BUILD_SIMD", Path::new(level))], arguments).success()?;
                Ok(contents(output.path()))
            });
            let packages = packages.collect::<Outcome<Vec<_>>>()?;
            assert!(packages.windows(2).all(|pair| pair[0] == pair[1]), "{precision} {provider} {levels:?}");
        }
        Ok(())
    });
}

#[test]
fn vector_instructions_that_are_not_there_are_refused() -> Outcome {
    let arguments = build_arguments(&fixture("llama-default"), "int4", "cpu", Path::new("not-written"));
    let run = genai_build_with(&[("GENAI_BUILD_SIMD", Path::new("mmx"))], arguments);
    run.failed(2, &["GENAI_BUILD_SIMD", "\"mmx\"", "portable"])
}

#[test]
fn shards_do_not_change_a_byte() -> Outcome {
    const FILES: [&str; 3] =
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    let sharded = Altered::copy_of("llama-mha");
    let mut tensors = Tensors::new();
    for file in FILES {
        tensors.append(&mut read_tensors(&sharded.path().join(file)));
    }
    // The manifest tells the files that were read, and so the sums tell another manifest.
    let model = |folder: &Path| Ok::<_, Box<dyn Error>>(without_record(package(folder, "int4", "cpu", &[])?));
    let expected = model(sharded.path())?;

    let joined = safetensors_bytes(tensors.iter());
    let single = FILES.iter().fold(Altered::copy_of("llama-mha"), |folder, file| folder.without(file));
    let single = single.without("model.safetensors.index.json").with("model.safetensors", joined);
    assert!(model(single.path())? == expected);

    // Another number of shards, and neighbours apart.
    let of_shard =
        |shard: usize| tensors.iter().enumerate().filter(move |(at, _)| at % 5 == shard).map(|(_, tensor)| tensor);
    let mut scattered = FILES.iter().fold(Altered::copy_of("llama-mha"), |folder, file| folder.without(file));
    let mut map = Map::new();
    for shard in 0..5 {
        let file = format!("part-{shard}.safetensors");
        map.extend(of_shard(shard).map(|(name, _)| (name.clone(), json!(file))));
        scattered = scattered.with(&file, safetensors_bytes(of_shard(shard)));
    }
    let index = json!({"metadata": {}, "weight_map": map});
    let scattered = scattered.with("model.safetensors.index.json", index.to_string());
    assert!(model(scattered.path())? == expected);
    Ok(())
}

#[test]
fn a_build_over_an_earlier_one_is_the_same_and_keeps_other_files() -> Outcome {
    let place = tempfile::tempdir()?;
    let output = place.path().join("package");
    genai_build(build_arguments(&fixture("qwen3-default"), "fp32", "cpu", &output)).success()?;
    fs::write(output.join("notes.txt"), "mine")?;
    for _ in 0..2 {
        genai_build(build_arguments(&fixture("llama-default"), "int4", "cpu", &output)).success()?;
        let mut files = contents(&output);
        assert_eq!(files.remove("notes.txt").as_deref(), Some(&b"mine"[..]));
        assert!(files == package(&fixture("llama-default"), "int4", "cpu", &[])?);
    }
    assert_eq!(contents(place.path()).len(), contents(&output).len(), "something is left beside the output");
    Ok(())
}

#[test]
fn a_plan_tells_the_sizes_that_a_build_has() {
    for_each(&recorded(), String::clone, |name| {
        for (precision, provider) in PAIRS {
            let flags = ["--max-memory", "256K", "-j", "2"];
            let files = package(&fixture(name), precision, provider, &flags)?;
            let mut arguments = vec!["plan".to_owned()];
            arguments.extend(build_arguments(&fixture(name), precision, provider, Path::new("not-written")));
            arguments.extend(flags.iter().chain(&["--json"]).map(|flag| (*flag).to_owned()));
            let plan: Value = serde_json::from_str(&genai_build(arguments).success()?)?;
            let sizes = ["model.onnx", "model.onnx.data"].map(|file| json!(files[file].len()));
            assert_eq!([&plan["graph_bytes"], &plan["data_bytes"]], sizes.each_ref(), "{precision} {provider}");
            assert!(plan["tile_memory"].as_u64().is_some_and(|bytes| bytes > 0 && bytes <= 256 << 10), "{plan}");
        }
        Ok(())
    });
}

/// The process itself, its code and stacks, is well below this.
const WITHOUT_WEIGHTS: u64 = 24 << 20;

#[test]
fn weights_take_no_more_memory_than_they_are_given() {
    const BUDGET: u64 = 8 << 20;
    let folder = tempfile::tempdir().unwrap();
    let largest = write_wide_checkpoint(folder.path()).unwrap();
    assert!(largest > 3 * (BUDGET + WITHOUT_WEIGHTS), "holding a whole tensor would not be seen");
    for_each(
        &[("int4", "cpu"), ("fp16", "cuda")],
        |pair| format!("{pair:?}"),
        |(precision, provider)| {
            let output = tempfile::tempdir()?;
            let mut arguments = build_arguments(folder.path(), precision, provider, output.path());
            arguments.extend(["--max-memory", "8M", "-j", "2", "--json"].map(str::to_owned));
            let report: Value = serde_json::from_str(&genai_build(arguments).success()?)?;
            let Some(peak) = report["peak_memory"].as_u64() else {
                // Only Linux tells it.
                return if cfg!(target_os = "linux") { Err(report.to_string().into()) } else { Ok(()) };
            };
            assert!(peak < BUDGET + WITHOUT_WEIGHTS, "{peak} bytes");
            Ok(())
        },
    );
}

/// A model of one layer in f32, all zeros and so a sparse file. Returns the bytes of its largest tensor.
pub(crate) fn write_wide_checkpoint(folder: &Path) -> Outcome<u64> {
    const HIDDEN: u64 = 2048;
    const VOCAB: u64 = 12800;
    const INNER: u64 = 256;
    let attention = ["q", "k", "v", "o"].map(|part| (format!("layers.0.self_attn.{part}_proj"), vec![HIDDEN, HIDDEN]));
    let (wide, narrow) = (vec![INNER, HIDDEN], vec![HIDDEN, INNER]);
    let mlp = [("gate", &wide), ("up", &wide), ("down", &narrow)];
    let mlp = mlp.map(|(part, shape)| (format!("layers.0.mlp.{part}_proj"), shape.clone()));
    let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
    let norms = norms.map(|norm| (norm.to_owned(), vec![HIDDEN]));
    let table = [("embed_tokens".to_owned(), vec![VOCAB, HIDDEN])];
    let modules = attention.into_iter().chain(mlp).chain(norms).chain(table);
    let named = modules.map(|(module, shape)| (format!("model.{module}.weight"), shape));

    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in named.chain([("lm_head.weight".to_owned(), vec![VOCAB, HIDDEN])]) {
        let begin = end;
        end += 4 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}));
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = File::create(folder.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    file.set_len(8 + header.len() as u64 + end)?;

    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "vocab_size": VOCAB, "intermediate_size": INNER,
        "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 64,
        "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    fs::copy(fixture("llama-default").join("tokenizer.json"), folder.join("tokenizer.json"))?;
    Ok(4 * VOCAB * HIDDEN)
}

fn package(
    input: &Path,
    precision: &str,
    provider: &str,
    flags: &[&str],
) -> Outcome<std::collections::BTreeMap<String, Vec<u8>>> {
    let output = tempfile::tempdir()?;
    let mut arguments = build_arguments(input, precision, provider, output.path());
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    genai_build(arguments).success()?;
    Ok(contents(output.path()))
}
