//! Options that change what the graph takes, gives and computes together: the graph is as documented, and the numbers
//! are those of the whole model.

use std::fs;
use std::path::Path;

use genai_architectures::{LmHead, Mixer, Mlp, NormKind, NormWeight};
use genai_checkpoint::Checkpoint;
use genai_validate::{CacheMode, Matrix, Precision, Verdict, interpreter};
use serde_json::{Value, json};

use crate::parts::Parts;
use crate::raw::{Raw, Tokens};
use crate::reference::{WAYS, Way, expect_logits, expect_verdict, logits, recorded_logits};
use crate::support::{
    Outcome, build, build_arguments, contents, fixture, for_each, genai_build, load, recorded, runtime_arguments, spec,
};

/// What passes in the table of tolerances for fp32.
const FP32_LIMIT: f64 = 1e-4;

const AT_ONCE: Way = Way::AtOnce(CacheMode::Shared);

/// Models that differ in what an option meets: plain, norms of heads, one stored tensor for q, k and v, soft caps and
/// windows, learned positions and biases.
const FAMILIES: [&str; 5] = ["llama-default", "qwen3-default", "phi3-window", "gemma2-default", "gpt2-default"];

fn package(name: &str, options: &[&str]) -> Outcome<(tempfile::TempDir, Parts)> {
    let package = build(&fixture(name), "fp32", "cpu", options)?;
    let parts = Parts::read(package.path())?;
    Ok((package, parts))
}

fn expect_recorded_logits(name: &str, package: &Path, ways: &[Way]) -> Outcome {
    let (model, reference) = (load(package)?, recorded_logits(&fixture(name))?);
    ways.iter().try_for_each(|way| expect_logits(&model, &reference, *way, FP32_LIMIT))
}

#[test]
fn q_k_and_v_apart_meet_the_recorded_logits() {
    for_each(&recorded(), String::clone, |name| {
        let (package, parts) = package(name, &["fuse_qkv=false"])?;
        for (node, there) in [("q_proj/MatMul", true), ("qkv_proj/MatMul", false), ("qkv_proj/Split", false)] {
            let node = format!("/model/layers.0/attn/{node}");
            assert!(parts.nodes().any(|name| name == node) == there, "{node}");
        }
        let ways = if FAMILIES.contains(&name.as_str()) { &WAYS[..] } else { &[AT_ONCE] };
        expect_recorded_logits(name, package.path(), ways)
    });
}

#[test]
fn two_wishes_that_contradict_each_other_are_refused() {
    let output = tempfile::tempdir().unwrap();
    let mut arguments = build_arguments(&fixture("llama-default"), "fp32", "cpu", output.path());
    arguments.extend(["--extra_options", "fuse_qkv=true", "disable_qkv_fusion=true"].map(str::to_owned));
    genai_build(arguments).failed(2, &["fuse_qkv is true", "its opposite disable_qkv_fusion"]).unwrap();
}

#[test]
fn fuse_qkv_has_a_former_name_the_other_way_round() {
    for_each(&FAMILIES, ToString::to_string, |name| {
        let (former, now) = (package(name, &["disable_qkv_fusion=true"])?.1, package(name, &["fuse_qkv=false"])?.1);
        assert!(former == now, "the former name makes another package");
        assert!(package(name, &["fuse_qkv=true"])?.1 == package(name, &[])?.1);
        assert!(package(name, &["fuse_qkv=true"])?.1 != now);
        Ok(())
    });
}

/// What a fixture's checkpoint holds of a table or a vector, in f64.
fn tensor(name: &str, tensor: &str) -> Outcome<Vec<f64>> {
    let spec = spec(&fixture(name))?;
    let checkpoint = Checkpoint::open(&fixture(name))?.renamed(|stored| spec.name_of(stored))?;
    let tensor = checkpoint.tensor(tensor).ok_or_else(|| format!("no tensor {tensor}"))?;
    let mut values = vec![0.0; tensor.shape.iter().product::<u64>() as usize];
    checkpoint.read_f32(tensor, 0, &mut values)?;
    Ok(values.into_iter().map(f64::from).collect())
}

fn with_option(name: &str, provider: &str, options: &[&str]) -> Outcome<Raw> {
    Raw::open(build(&fixture(name), "fp32", provider, options)?.path())
}

/// The first recorded prompt: ids, the mask of a row without padding, and the logits.
fn prompt(name: &str) -> Outcome<(Vec<i64>, Vec<Vec<i64>>, Matrix)> {
    let prompt = recorded_logits(&fixture(name))?.prompts.swap_remove(0);
    let ids: Vec<i64> = prompt.input_ids.iter().map(|id| i64::from(*id)).collect();
    let mask = vec![vec![1; ids.len()]];
    Ok((ids, mask, prompt.logits))
}

fn expect_close(what: &str, found: &[f32], expected: impl IntoIterator<Item = f64>, limit: f64) -> Outcome {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let off = found.iter().zip(&expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    let worst = off.fold(0.0, |worst: f64, off| if off.is_nan() { f64::INFINITY } else { worst.max(off) });
    if worst > limit { Err(format!("{what} is off by {worst:.2e}, limit {limit:.2e}").into()) } else { Ok(()) }
}

fn as_f64(values: &[f32]) -> impl Iterator<Item = f64> {
    values.iter().map(|value| f64::from(*value))
}

#[test]
fn hidden_states_times_the_head_are_the_logits() {
    for_each(&FAMILIES, ToString::to_string, |name| {
        let (ids, mask, recorded) = prompt(name)?;
        let (spec, rows) = (spec(&fixture(name))?, ids.len());
        let both =
            with_option(name, "cpu", &["include_hidden_states=true"])?.prefill(Tokens::Ids(ids.clone()), &mask)?;
        let alone = with_option(name, "cpu", &["exclude_lm_head=true"])?.prefill(Tokens::Ids(ids), &mask)?;
        assert!(both["hidden_states"] == alone["hidden_states"] && !alone.contains_key("logits"));
        let (shape, hidden) = &both["hidden_states"];
        assert_eq!(shape, &[1, rows, spec.hidden_size]);
        expect_close("logits", &both["logits"].1, as_f64(recorded.data()), FP32_LIMIT * 10.0)?;

        let head = match &spec.lm_head {
            LmHead::Own(linear) => linear.weight(),
            LmHead::Tied => spec.embedding.weight(),
        };
        let head = tensor(name, &head)?;
        let logits = hidden.chunks_exact(spec.hidden_size).flat_map(|row| {
            head.chunks_exact(spec.hidden_size).map(|weights| {
                let product: f64 = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum();
                let product = product * spec.logit_scale.map_or(1.0, f64::from);
                spec.logit_softcap.map_or(product, |cap| f64::from(cap) * (product / f64::from(cap)).tanh())
            })
        });
        expect_close("logits of the hidden states", &both["logits"].1, logits, FP32_LIMIT)
    });
}

#[test]
fn embeddings_in_place_of_ids_give_the_same_logits() {
    let families = FAMILIES.iter().chain(&["llama-tied", "granite-default", "bloom-default", "mpt-default"]);
    let cases: Vec<_> = families.flat_map(|name| [(*name, "cpu"), (name, "onnx")]).collect();
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(name, provider)| {
            let (ids, mask, recorded) = prompt(name)?;
            let spec = spec(&fixture(name))?;
            let mut package = with_option(name, provider, &["exclude_embeds=true"])?;
            assert!(!package.inputs().contains(&"input_ids"));
            let table = tensor(name, &spec.embedding.weight())?;
            let scale = spec.embedding.scale.unwrap_or(1.0);
            let row = |id: &i64| &table[*id as usize * spec.hidden_size..][..spec.hidden_size];
            let embeddings = ids.iter().flat_map(|id| row(id).iter().map(|value| *value as f32 * scale)).collect();
            let outputs = package.prefill(Tokens::Embeddings(embeddings), &mask)?;
            expect_close("logits", &outputs["logits"].1, as_f64(recorded.data()), FP32_LIMIT * 10.0)
        },
    );
}

#[test]
fn without_ids_and_head_neither_table_is_stored() -> Outcome {
    for (precision, provider) in [("fp32", "cpu"), ("int4", "cpu"), ("int4", "onnx")] {
        for (options, stored) in [
            (vec!["exclude_embeds=true"], true),
            (vec!["exclude_lm_head=true"], true),
            (vec!["exclude_embeds=true", "exclude_lm_head=true"], false),
        ] {
            let package = build(&fixture("llama-tied"), precision, provider, &options)?;
            let record: Value = serde_json::from_slice(&fs::read(package.path().join("genai-build.json"))?)?;
            let is = |list: &Value| {
                list.as_array().is_some_and(|names| names.iter().any(|name| name == "model.embed_tokens.weight"))
            };
            assert_eq!(
                is(&record["accounting"]["left_out"]),
                !stored,
                "{precision} {provider} {options:?}: {record:#}"
            );
            let makes = |weight: &Value| is(&weight["tensors"]);
            let made = record["weights"].as_array().ok_or("no weights")?.iter().filter(|weight| makes(weight)).count();
            assert_eq!(made, usize::from(stored), "{precision} {provider} {options:?}");
        }
    }
    Ok(())
}

/// The last token of each row of a batch, wherever it stands, and the steps that follow.
#[test]
fn pruned_logits_are_those_of_each_rows_last_token() {
    let cases: Vec<_> = FAMILIES.iter().flat_map(|name| [(*name, "cpu"), (name, "onnx")]).collect();
    for_each(
        &cases,
        |case| format!("{case:?}"),
        |(name, provider)| {
            let reference = recorded_logits(&fixture(name))?;
            let folder = build(&fixture(name), "fp32", provider, &["prune_lm_head=true"])?;
            let longest = reference.prompts.iter().map(|prompt| prompt.input_ids.len()).max().unwrap();
            // The fused attention knows rows that are padded on the right alone.
            let sides: &[bool] = if *provider == "onnx" { &[false, true] } else { &[false] };
            for on_the_left in sides {
                let padded = |values: Vec<i64>, pad: i64| {
                    let pads = vec![pad; longest - values.len()];
                    if *on_the_left { [pads, values].concat() } else { [values, pads].concat() }
                };
                let rows = reference.prompts.iter().map(|prompt| &prompt.input_ids);
                let ids =
                    rows.clone().flat_map(|ids| padded(ids.iter().map(|id| i64::from(*id)).collect(), 5)).collect();
                let mask: Vec<_> = rows.map(|ids| padded(vec![1; ids.len()], 0)).collect();
                assert!(mask.iter().any(|row| row.contains(&0)));
                let (shape, logits) =
                    Raw::open(folder.path())?.prefill(Tokens::Ids(ids), &mask)?.remove("logits").unwrap();
                assert_eq!(shape[..2], [reference.prompts.len(), 1]);
                let last =
                    reference.prompts.iter().flat_map(|prompt| as_f64(prompt.logits.row(prompt.logits.rows() - 1)));
                expect_close("logits", &logits, last, FP32_LIMIT * 10.0)?;
            }
            let parameters = spec(&fixture(name))?.num_parameters();
            expect_verdict(&load(folder.path())?, &reference, parameters, Precision::Fp32, Verdict::Pass)
        },
    );
}

/// What enters layer `i` is what leaves a model of `i` layers: normed as the end of that model is.
#[test]
fn residuals_are_those_that_enter_their_layers() {
    for_each(&FAMILIES, ToString::to_string, |name| {
        let (ids, mask, _) = prompt(name)?;
        let spec = spec(&fixture(name))?;
        let hidden = spec.hidden_size;
        // In an order of their own, where there are two.
        let layers: Vec<usize> = (1..spec.layers.len()).rev().step_by(2).collect();
        let named = layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let option = format!("aux_hidden_state_layers={named}");
        let outputs = with_option(name, "cpu", &[&option])?.prefill(Tokens::Ids(ids.clone()), &mask)?;
        let (shape, aux) = &outputs["aux_hidden_states"];
        assert_eq!(shape, &[1, ids.len(), layers.len() * hidden]);
        let whole = with_option(name, "cpu", &[])?.prefill(Tokens::Ids(ids.clone()), &mask)?;
        // Not to the bit: ONNX Runtime fuses other nodes where one of them has an output.
        expect_close("logits", &outputs["logits"].1, as_f64(&whole["logits"].1), FP32_LIMIT)?;

        let norm = &spec.final_norm;
        let plus = if norm.weight == NormWeight::OnePlus { 1.0 } else { 0.0 };
        let weight = tensor(name, &norm.weight())?;
        let bias = if norm.bias { tensor(name, &norm.bias_name())? } else { vec![0.0; hidden] };
        for (place, layer) in layers.iter().enumerate() {
            let options = [&format!("num_hidden_layers={layer}"), "exclude_lm_head=true"];
            let cut = with_option(name, "cpu", &options)?.prefill(Tokens::Ids(ids.clone()), &mask)?;
            let normed = aux.chunks_exact(layers.len() * hidden).flat_map(|row| {
                let row: Vec<f64> = as_f64(&row[place * hidden..][..hidden]).collect();
                let mean = if norm.kind == NormKind::Layer { row.iter().sum::<f64>() / hidden as f64 } else { 0.0 };
                let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / hidden as f64;
                let scale = (square + f64::from(norm.eps)).sqrt().recip();
                let weights = weight.iter().zip(&bias);
                row.into_iter()
                    .zip(weights)
                    .map(move |(x, (w, b))| (x - mean) * scale * (w + plus) + b)
                    .collect::<Vec<_>>()
            });
            expect_close(&format!("layer {layer}"), &cut["hidden_states"].1, normed, FP32_LIMIT)?;
        }
        Ok(())
    });
}

#[test]
fn the_first_layers_alone_compute_what_they_should() {
    let families = FAMILIES.iter().chain(&["gemma3-listed", "gemma4-unified-default", "cohere2-default"]).copied();
    for_each(&families.collect::<Vec<_>>(), ToString::to_string, |name| {
        let mut spec = spec(&fixture(name))?;
        let all = spec.layers.len();
        let kept = all / 2;
        let package = build(&fixture(name), "fp32", "cpu", &[&format!("num_hidden_layers={kept}")])?;
        spec.layers.truncate(kept);
        let checkpoint = Checkpoint::open(&fixture(name))?.renamed(|stored| spec.name_of(stored))?;
        let mut reference = recorded_logits(&fixture(name))?;
        let prompts: Vec<&[u32]> = reference.prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
        let logits = interpreter::logits(&spec, &checkpoint, &prompts)?;
        for (prompt, logits) in reference.prompts.iter_mut().zip(logits) {
            prompt.logits = logits;
        }
        expect_logits(&load(package.path())?, &reference, AT_ONCE, FP32_LIMIT)?;

        let record: Value = serde_json::from_slice(&fs::read(package.path().join("genai-build.json"))?)?;
        assert_eq!(
            (&record["model"]["layers"], &record["options"]["interface"]["layers"]),
            (&json!(kept), &json!(kept))
        );
        let left_out = record["accounting"]["left_out"].as_array().ok_or("nothing is left out")?;
        let of_layer = |layer: usize| {
            left_out.iter().filter(move |name| {
                let name = name.as_str().unwrap_or_default();
                name.contains(&format!(".{layer}."))
            })
        };
        for layer in 0..all {
            assert_eq!(of_layer(layer).count() > 0, layer >= kept, "layer {layer} of {all}: {left_out:?}");
        }

        let every = build(&fixture(name), "fp32", "cpu", &[&format!("num_hidden_layers={all}")])?;
        assert!(Parts::read(every.path())? == Parts::read(build(&fixture(name), "fp32", "cpu", &[])?.path())?);
        Ok(())
    });
}

#[test]
fn gate_and_up_by_one_product_meet_the_recorded_logits() {
    let gated = |name: &String| {
        let spec = spec(&fixture(name)).unwrap();
        spec.layers.iter().any(|layer| matches!(layer.mlp, Mlp::Gated { .. }))
    };
    let names: Vec<_> = recorded().into_iter().filter(gated).collect();
    assert!(names.len() > 40);
    for_each(&names, String::clone, |name| {
        let (package, parts) = package(name, &["fuse_mlp_gate_up=true"])?;
        let has = |node: &str| parts.nodes().any(|name| name == format!("/model/layers.0/mlp/{node}"));
        assert!(has("gate_up_proj/MatMul") && has("gate_up_proj/Split") && !has("up_proj/MatMul"));
        expect_recorded_logits(name, package.path(), &[AT_ONCE])
    });
}

/// Rows of a quantized matrix are rounded on their own, so it does not matter which stand side by side.
#[test]
fn fusions_do_not_change_quantized_weights() {
    for_each(&["llama-default", "phi3-window"], ToString::to_string, |name| {
        let reference = recorded_logits(&fixture(name))?;
        let first = |options: &[&str]| -> Outcome<Vec<f32>> {
            let options = [options, &["accuracy_level=0"]].concat();
            let package = build(&fixture(name), "int4", "cpu", &options)?;
            Ok(logits(&load(package.path())?, &reference, AT_ONCE)?.swap_remove(0).data().to_vec())
        };
        let plain = first(&[])?;
        for options in [&["fuse_qkv=false"][..], &["fuse_mlp_gate_up=true"]] {
            expect_close(&options.join(" "), &first(options)?, as_f64(&plain), FP32_LIMIT)?;
        }
        Ok(())
    });
}

#[test]
fn a_package_of_configuration_alone() -> Outcome {
    let whole = contents(build(&fixture("llama-default"), "int4", "cpu", &[])?.path());
    let package = build(&fixture("llama-default"), "int4", "cpu", &["config_only=true"])?;
    let alone = contents(package.path());
    let model = ["model.onnx", "model.onnx.data"];
    let others: Vec<_> = whole.keys().filter(|name| !model.contains(&name.as_str())).collect();
    assert_eq!(alone.keys().collect::<Vec<_>>(), others);
    for name in others.into_iter().filter(|name| !["genai-build.json", "SHA256SUMS"].contains(&name.as_str())) {
        assert!(alone[name] == whole[name], "{name}");
    }
    let record: Value = serde_json::from_slice(&alone["genai-build.json"])?;
    assert_eq!(record["options"]["config_only"], json!(true));
    assert_eq!((&record["weights"], &record["accounting"]["used"]), (&json!([]), &json!(0)));
    genai_build(["verify", package.path().to_str().unwrap(), "--strict"]).success()?;

    let all_the_same = build(&fixture("llama-default"), "int4", "cpu", &["config_only=false"])?;
    assert!(contents(all_the_same.path()) == whole);
    Ok(())
}

#[test]
fn what_has_no_meaning_is_refused() {
    // (fixture, options, exit code, what is said), for cpu
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        ("qwen3-default", &["fuse_qk_norm_gqa=true"], 2, &["fuse_qk_norm_gqa has no meaning for -p fp32 -e cpu"]),
        ("llama-default", &["num_hidden_layers=0"], 2, &["num_hidden_layers is \"0\"", "from 1 to"]),
        ("llama-default", &["num_hidden_layers=-1"], 2, &["num_hidden_layers is \"-1\""]),
        ("llama-default", &["num_hidden_layers=99"], 3, &["num_hidden_layers is 99", "1 to 3 layers"]),
        ("gemma3n-default", &["num_hidden_layers=2"], 3, &["num_hidden_layers is 2", "one table"]),
        ("gemma4-shared", &["exclude_embeds=true"], 3, &["exclude_embeds is true", "token ids of their own"]),
        ("llama-default", &["exclude_embeds=maybe"], 2, &["exclude_embeds is \"maybe\"", "true or false"]),
        (
            "llama-default",
            &["exclude_lm_head=true", "include_hidden_states=true"],
            2,
            &["exclude_lm_head and include_hidden_states are both true"],
        ),
        (
            "llama-default",
            &["exclude_lm_head=true", "prune_lm_head=true"],
            2,
            &["exclude_lm_head and prune_lm_head are both true"],
        ),
        ("llama-default", &["aux_hidden_state_layers=0"], 2, &["aux_hidden_state_layers is \"0\"", "at least 1"]),
        ("llama-default", &["aux_hidden_state_layers=1,1"], 2, &["each once"]),
        ("llama-default", &["aux_hidden_state_layers=1,"], 2, &["aux_hidden_state_layers is \"1,\""]),
        ("llama-default", &["aux_hidden_state_layers=3"], 3, &["names layer 3", "has 3 layers"]),
        ("llama-default", &["num_hidden_layers=2", "aux_hidden_state_layers=2"], 3, &["names layer 2", "has 2 layers"]),
        ("gemma3n-default", &["aux_hidden_state_layers=1"], 3, &["several residuals"]),
        ("gpt2-default", &["fuse_mlp_gate_up=true"], 3, &["fuse_mlp_gate_up is true", "no gate"]),
    ];
    for_each(
        cases,
        |(name, options, ..)| format!("{name} {options:?}"),
        |(name, options, code, says)| {
            let output = tempfile::tempdir()?;
            let mut arguments = build_arguments(&fixture(name), "fp32", "cpu", output.path());
            arguments.push("--extra_options".to_owned());
            arguments.extend(options.iter().map(|option| (*option).to_owned()));
            genai_build(arguments).failed(*code, says)
        },
    );
    // Without norms, or with norms over all heads together.
    for name in ["llama-default", "olmo2-default"] {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture(name), "fp16", "webgpu", output.path());
        arguments.extend(["--extra_options", "fuse_qk_norm_gqa=true"].map(str::to_owned));
        genai_build(arguments).failed(3, &["fuse_qk_norm_gqa is true", "no norms that its attention"]).unwrap();
    }
}

#[test]
fn packages_without_an_end_cannot_be_run_and_say_why() {
    let package = |options: &[&str]| build(&fixture("llama-default"), "fp32", "cpu", options).unwrap();
    let run = |package: &Path| {
        let arguments = ["run", package.to_str().unwrap(), "--prompt", "a"].map(str::to_owned);
        genai_build(arguments.into_iter().chain(runtime_arguments()))
    };
    let without_ids = package(&["exclude_embeds=true"]);
    run(without_ids.path())
        .failed(13, &["`inputs_embeds`, embeddings in place of token ids", "exclude_embeds"])
        .unwrap();
    let without_head = package(&["exclude_lm_head=true"]);
    run(without_head.path()).failed(13, &["gives `hidden_states` and no `logits`", "exclude_lm_head"]).unwrap();
    run(package(&["include_hidden_states=true", "aux_hidden_state_layers=1"]).path()).success().unwrap();

    for key in ["exclude_embeds", "exclude_lm_head", "config_only"] {
        let output = tempfile::tempdir().unwrap();
        let mut arguments = build_arguments(&fixture("llama-default"), "fp32", "cpu", output.path());
        arguments.extend(["--validate".to_owned(), "--extra_options".to_owned(), format!("{key}=true")]);
        genai_build(arguments).failed(2, &["--validate needs a whole model", key]).unwrap();
    }
}

#[test]
fn other_packages_pass_their_validation() {
    let cases = [
        "include_hidden_states=true",
        "aux_hidden_state_layers=1,2",
        "prune_lm_head=true",
        "num_hidden_layers=2",
        "fuse_qkv=false",
        "fuse_mlp_gate_up=true",
    ];
    for_each(&cases, ToString::to_string, |option| {
        let (checkpoint, output) = (fixture("llama-default"), tempfile::tempdir()?);
        let mut arguments = build_arguments(&checkpoint, "fp32", "cpu", output.path());
        arguments.extend(["--validate".to_owned(), "--extra_options".to_owned(), (*option).to_owned()]);
        genai_build(arguments.into_iter().chain(runtime_arguments())).success()?;
        let arguments = ["validate", output.path().to_str().unwrap(), "--checkpoint", checkpoint.to_str().unwrap()];
        let arguments = arguments.into_iter().map(str::to_owned).chain(["-p".to_owned(), "fp32".to_owned()]);
        genai_build(arguments.chain(runtime_arguments())).success()?;
        Ok(())
    });
}

/// No provider on the CPU norms heads in its attention, so the graph is looked at: the weights are where the operator's
/// schema has them, with the bytes that the norms have elsewhere.
#[test]
fn attention_that_norms_heads_takes_their_weights() {
    for_each(&["qwen3-default", "gemma3-listed"], ToString::to_string, |name| {
        let parts = |fused: bool| {
            let option = format!("fuse_qk_norm_gqa={fused}");
            Parts::read(build(&fixture(name), "fp16", "webgpu", &[&option])?.path())
        };
        let (mut inside, mut outside) = (parts(true)?, parts(false)?);
        assert!(outside == Parts::read(build(&fixture(name), "fp16", "webgpu", &[])?.path())?);
        let spec = spec(&fixture(name))?;
        for (index, layer) in spec.layers.iter().enumerate() {
            let Mixer::Attention(attention) = &layer.mixer;
            let path = format!("model.layers.{index}.attn");
            let op = format!("/model/layers.{index}/attn/GroupQueryAttention");
            let weights = ["q_norm", "k_norm"].map(|norm| format!("{path}.{norm}.layernorm.weight"));
            assert_eq!(inside.node(&op).input[14..], weights);
            assert!(!inside.node(&op).input[1].is_empty(), "kernels refuse norms of q, k and v in one value");
            assert_eq!(*inside.float(&op, "qk_norm_epsilon"), attention.q_norm.as_ref().unwrap().norm.eps);
            assert!(outside.node(&op).input.len() < 14);
            for weight in &weights {
                assert!(inside.data(weight) == outside.data(weight), "{weight}");
            }
        }
        assert!(!inside.nodes().any(|node| node.contains("/q_norm/") || node.contains("/k_norm/")));
        Ok(())
    });
}
