//! The table of hostile and broken inputs that a build must survive: what each is, and the exit code and words that it
//! ends with. Every case starts over an earlier package; afterwards that package is the same, byte for byte, nothing
//! lies beside it, and nothing else was touched.
//!
//! Rows without an input here are covered by the test that they name, or say why they do not apply yet.

mod hostile;

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::{Altered, Outcome, build, build_arguments, contents, fixture, for_each, genai_build, set, tell};
use hostile::*;

/// What a row expects.
enum Row {
    /// The build of this checkpoint fails with the code, and says these words.
    Fails(fn() -> Altered, i32, &'static [&'static str]),
    /// The same with these words on the command line.
    FailsWith(fn() -> Altered, &'static [&'static str], i32, &'static [&'static str]),
    /// The package is built, and these words are on stderr.
    Builds(fn() -> Altered, &'static [&'static str]),
    /// Another test has it: a file, and the name of the test in it.
    In(&'static str, &'static str),
    /// Why there is nothing to test, or what is not kept yet.
    NotYet(&'static str),
}

use Row::{Builds, Fails, FailsWith, In, NotYet};

const SHARDS: &str = "checkpoint/tests/checkpoint/shards.rs";
const LINKS: &str = "checkpoint/tests/checkpoint/links.rs";
const FAULTS: &str = "tests/faults.rs";
const CRASHES: &str = "tests/crash_matrix.rs";
const DOWNLOADS: &str = "checkpoint/tests/checkpoint/download.rs";
const NETWORK: &str = "checkpoint/tests/checkpoint/download_faults.rs";
const STATIC: &str = "no static checks of foreign ONNX files yet";

const ROWS: &[(&str, Row)] = &[
    // Safetensors files.
    ("S01", Fails(|| cut(4096), 4, &[WEIGHTS, "truncated download?"])),
    ("S02", Fails(|| weights(b""), 4, &[WEIGHTS, "is empty"])),
    ("S03", Fails(|| weights(b"1234567"), 4, &[WEIGHTS, "7 bytes"])),
    ("S04", Fails(|| weights(&length(1 << 63)), 4, &["9223372036854775808", "limit"])),
    ("S05", Fails(|| sparse(100_000_001), 4, &["100000001", "limit is 100000000"])),
    ("S06", Fails(|| weights(&length(3)), 4, &["header of 3 bytes"])),
    ("S07", Fails(|| weights(&small_file(b"{\"a\xff\":0}", 0)), 4, &["not UTF-8 at byte 11"])),
    ("S08", Fails(|| header("[]"), 4, &["begins with `[`"])),
    ("S08", Fails(|| header("null"), 4, &["begins with `n`"])),
    ("S08", Fails(|| header("{"), 4, &["EOF"])),
    ("S08", Fails(|| header(" {}"), 4, &["begins with ` `"])),
    ("S09", Fails(|| header(&format!("{{\"a\":{{\"x\":{}", "[".repeat(200_000))), 4, &["recursion limit"])),
    ("S09", Fails(|| header(&"[".repeat(200_000)), 4, &["begins with `[`"])),
    ("S10", Fails(|| header(&doubled("F32", "F32")), 4, &["duplicate tensor"])),
    ("S11", Fails(|| header(&doubled("F32", "I32")), 4, &["duplicate tensor"])),
    ("S12", Fails(|| header(&pair([0, 8], [4, 12])), 4, &["`b`", "`a`", "overlap"])),
    ("S12", Fails(|| header(&pair([0, 8], [0, 8])), 4, &["`b`", "`a`", "overlap"])),
    ("S13", Fails(|| header(&pair([0, 8], [16, 24])), 4, &["bytes 8 to 16", "belong to none"])),
    ("S13", Fails(|| weights(&small_file(shaped("[2]").as_bytes(), 12)), 4, &["4 bytes after the last tensor"])),
    ("S14", Fails(|| header(&shaped("[4294967296,4294967296]")), 4, &["overflows"])),
    ("S14", Fails(|| header(&shaped("[1152921504606846976]")), 4, &["overflows"])),
    ("S15", Fails(|| header(&shaped("[3]")), 4, &["need 12 bytes", "hold 8"])),
    ("S16", Fails(|| header(&shaped("[-2]")), 4, &["`-2`"])),
    ("S16", Fails(|| header(&shaped("[2.0]")), 4, &["floating point"])),
    ("S16", Fails(|| header(&shaped("[\"2\"]")), 4, &["string"])),
    ("S17", Fails(|| header(&shaped("[2]").replace("F32", "F5")), 4, &["unknown dtype `F5`"])),
    (
        "S17",
        Fails(
            || default().tensors(|t| t.get_mut("model.norm.weight").unwrap().dtype = safetensors::Dtype::I16),
            5,
            &["is I16, expected BF16, F16 or F32"],
        ),
    ),
    ("S18", Fails(|| weights(&many_tensors(400_000)), 5, &["used by no part of the model", "more tensors"])),
    ("S19", Fails(|| renamed("../\0a\u{1b}[31m\u{202e}"), 5, &["used by no part", "\\0a\\u{1b}[31m\\u{202e}"])),
    (
        "S20",
        Fails(
            || weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
            4,
            &["Git LFS", "hint: "],
        ),
    ),
    ("S21", Fails(|| weights(b"<!DOCTYPE html><html>Sign in</html>"), 4, &["web page", "hint: "])),
    ("S22", In("tests/reliability.rs", "a_checkpoint_that_changes_during_a_build_is_told")),
    ("S23", In(SHARDS, "s23_shards_that_are_not_regular_files")),
    ("S24", Builds(padded, &[])),
    // The index and its shards.
    ("X01", Fails(|| sharded().without(SHARD), 5, &[SHARD, "missing"])),
    ("X02", Fails(|| mapped_to("../outside.safetensors"), 12, &["../outside.safetensors", "not a plain file name"])),
    ("X03", Fails(|| mapped_to("C:\\x"), 12, &["not a plain file name"])),
    ("X03", Fails(|| mapped_to("/etc/passwd"), 12, &["not a plain file name"])),
    ("X03", Fails(|| mapped_to("a/../../b"), 12, &["not a plain file name"])),
    ("X03", Fails(|| mapped_to("\\\\srv\\x"), 12, &["not a plain file name"])),
    ("X03", Fails(|| mapped_to("a\0b"), 12, &["not a plain file name", "a\\0b"])),
    ("X04", Fails(|| mapped_to("model-00003-of-00003.safetensors"), 5, &["is not in", "where the index says"])),
    (
        "X05",
        Builds(
            || sharded().json(INDEX, |index| drop(map(index).remove("model.norm.weight"))),
            &["warning: ", "does not list 1 tensors"],
        ),
    ),
    ("X06", Fails(doubled_in_shards, 5, &["tensor `lm_head.weight`", "is in two files"])),
    ("X07", Fails(|| sharded().with(INDEX, r#"{"weight_map":{"a":"x","a":"y"}}"#), 4, &["duplicate key `a`"])),
    (
        "X08",
        Builds(
            || sharded().json(INDEX, |index| set(index, "metadata.total_size", json!(1))),
            &["declares total_size 1"],
        ),
    ),
    ("X09", Fails(|| sharded().with(WEIGHTS, small_file(shaped("[2]").as_bytes(), 8)), 5, &["two models", "hint: "])),
    (
        "X10",
        Fails(|| default().without(WEIGHTS).with("pytorch_model.bin", "PK"), 12, &["pickle is not read", "hint: "]),
    ),
    ("X11", In(LINKS, "x11_a_snapshot_links_into_its_blobs")),
    ("X12", In(LINKS, "x12_links_that_leave_are_refused")),
    ("X13", In(LINKS, "x13_loops_and_dangling_links")),
    // config.json and its like.
    ("C01", Fails(|| default().with("config.json", "{\n  \"a\": "), 4, &["config.json", "line 2"])),
    (
        "C02",
        Fails(
            || default().config("architectures", json!(["LlamaForCausaLM"])),
            3,
            &["closest supported: LlamaForCausalLM"],
        ),
    ),
    ("C02", Fails(|| default().config("architectures", json!([])), 5, &["architectures"])),
    ("C02", Fails(|| default().config("architectures", json!(["\u{1b}[2JOracle"])), 3, &["\\u{1b}[2JOracle"])),
    ("C03", Fails(|| default().config("num_attention_heads", json!(0)), 5, &["`num_attention_heads` is 0"])),
    (
        "C04",
        Fails(
            || default().config("num_hidden_layers", json!(1_000_000_000)),
            5,
            &["`num_hidden_layers`", "at most 4096 layers"],
        ),
    ),
    ("C04", Fails(|| default().config("num_hidden_layers", json!(-1)), 5, &["`num_hidden_layers` is -1"])),
    ("C04", Fails(|| default().config("num_hidden_layers", json!(0)), 5, &["`num_hidden_layers` is 0"])),
    ("C04", Fails(|| default().config("num_hidden_layers", json!("2")), 5, &["`num_hidden_layers` is \"2\""])),
    ("C05", Fails(|| default().config("num_hidden_layers", json!(2)), 5, &["\"model.layers.2.", "used by no part"])),
    ("C06", Fails(|| default().config("num_hidden_layers", json!(4)), 5, &["\"model.layers.3.", "is missing"])),
    ("C07", Fails(|| default().config("num_key_value_heads", json!(3)), 5, &["`num_key_value_heads` is 3"])),
    ("C08", Fails(|| default().config("head_dim", json!(12)), 5, &["q_proj.weight", "expected"])),
    ("C09", Fails(|| default().config("vocab_size", json!(2_147_483_647)), 5, &["embed_tokens.weight", "2147483647"])),
    ("C10", Fails(|| default().config("max_position_embeddings", json!(0)), 5, &["`max_position_embeddings` is 0"])),
    (
        "C10",
        Fails(
            || default().config("max_position_embeddings", json!(1u64 << 40)),
            5,
            &["`max_position_embeddings` is 1099511627776"],
        ),
    ),
    ("C11", Fails(|| default().config("rms_norm_eps", json!("tiny")), 5, &["`rms_norm_eps`"])),
    ("C11", Fails(|| default().config("rms_norm_eps", json!(-1.0)), 5, &["`rms_norm_eps`"])),
    ("C12", Fails(|| default().config("hidden_act", json!("relu6")), 3, &["relu6", "silu"])),
    ("C13", Fails(|| Altered::copy_of("llama-linear").config("rope_scaling.factor", json!(0)), 5, &["factor"])),
    ("C14", Fails(|| default().config("tie_word_embeddings", json!(true)), 5, &["differs from"])),
    ("C15", Fails(|| default().tensors(|t| drop(t.remove("lm_head.weight"))), 5, &["\"lm_head.weight\" is missing"])),
    (
        "C16",
        Builds(|| default().config("auto_map", json!({"AutoConfig": "evil.Config"})).with("evil.py", "raise"), &[]),
    ),
    (
        "C17",
        Fails(
            || default().config("quantization_config", json!({"quant_method": "gptq", "bits": 3})),
            3,
            &["gptq", "hint: "],
        ),
    ),
    ("C18", Fails(|| default().with("config.json", vec![b' '; 17 << 20]), 4, &["config.json", "limit"])),
    ("C18", Fails(|| default().with("config.json", "[".repeat(100_000)), 4, &["config.json", "recursion limit"])),
    (
        "C18",
        Fails(
            || default().with("generation_config.json", format!("{{\"a\":{}", "{\"a\":".repeat(10_000))),
            4,
            &["generation_config.json", "recursion limit"],
        ),
    ),
    (
        "C19",
        Fails(
            || default().json("generation_config.json", |c| set(c, "eos_token_id", json!([2, -1]))),
            5,
            &["eos_token_id"],
        ),
    ),
    (
        "C19",
        Fails(
            || default().json("generation_config.json", |c| set(c, "eos_token_id", json!(331))),
            5,
            &["eos_token_id", "331"],
        ),
    ),
    (
        "C19",
        Fails(
            || default().json("generation_config.json", |c| set(c, "eos_token_id", json!(2.5))),
            5,
            &["eos_token_id"],
        ),
    ),
    (
        "C20",
        Fails(
            || Altered::copy_of("qwen3-window").config("layer_types", json!(["full_attention"])),
            5,
            &["layer_types"],
        ),
    ),
    // The values of weights.
    ("W01", Fails(|| poisoned(0x7fc0), 5, &["mlp.down_proj.weight\", row 0: column 2 is NaN", "hint: "])),
    ("W02", Fails(|| poisoned(0xff80), 5, &["mlp.down_proj.weight\", row 0: column 2 is -inf"])),
    ("W03", Builds(zeroed, &[])),
    ("W04", In("quantize/tests/ort_vectors.rs", "bytes_equal_those_of_onnx_runtime")),
    ("W05", In("quantize/tests/ort_vectors.rs", "bytes_equal_those_of_onnx_runtime")),
    (
        "W06",
        Fails(
            || default().tensors(|t| t.get_mut("model.layers.0.mlp.down_proj.weight").unwrap().shape.reverse()),
            5,
            &["has shape [104, 72], expected [72, 104]"],
        ),
    ),
    (
        "W07",
        Fails(|| default().tensors(|t| drop(t.remove("model.norm.weight"))), 5, &["\"model.norm.weight\" is missing"]),
    ),
    (
        "W08",
        Fails(
            || default().tensors(|t| add(t, "model.layers.99.mlp.up_proj.weight")),
            5,
            &["\"model.layers.99.", "used by no part"],
        ),
    ),
    ("W09", In("tests/reliability.rs", "mixed_float_dtypes_are_taken_tensor_by_tensor")),
    // Tokenizers and templates.
    ("T01", Fails(|| default().without("tokenizer.json"), 5, &["tokenizer.json", "hint: "])),
    ("T02", Fails(|| default().with("tokenizer.json", "{"), 4, &["tokenizer.json", "not a JSON object"])),
    (
        "T02",
        Fails(|| default().with("tokenizer_config.json", "[]"), 4, &["tokenizer_config.json", "not a JSON object"]),
    ),
    ("T03", NotYet("a validation has no time limit of its own")),
    (
        "T04",
        Builds(
            || default().with("chat_template.jinja", "{% for x in range(10**9) %}{{ ''.__class__ }}{% endfor %}"),
            &[],
        ),
    ),
    ("T05", NotYet("a tokenizer may know fewer or more tokens than the model has rows: published ones do")),
    ("T06", Builds(|| default().json("tokenizer.json", |t| added(t, "\0\n\u{202e}")), &[])),
    // The output.
    ("O01", In(FAULTS, "kills_at_random_times_leave_an_old_or_a_new_package")),
    ("O02", In(FAULTS, "a_full_disk_leaves_what_was_there")),
    ("O03", In(CRASHES, "wherever_a_build_is_cut_off_the_output_is_old_or_new")),
    ("O04", In(FAULTS, "a_limit_on_the_size_of_files_is_an_error_and_no_death")),
    ("O05", In(CRASHES, "wherever_a_build_is_cut_off_the_output_is_old_or_new")),
    ("O06", In(FAULTS, "signals_end_a_build_and_leave_nothing")),
    ("O07", In(FAULTS, "an_output_that_cannot_be_written_is_told_first")),
    ("O08", In(FAULTS, "files_folders_and_links_at_the_output")),
    ("O09", In(FAULTS, "files_folders_and_links_at_the_output")),
    ("O10", In(FAULTS, "a_second_build_into_one_place_is_told_to_wait")),
    ("O11", In("tests/reliability.rs", "two_builds_that_both_hold_the_lock_do_not_mix")),
    ("O12", In("tests/same_bytes.rs", "a_build_over_an_earlier_one_is_the_same_and_keeps_other_files")),
    ("O13", FailsWith(default, &["--extra_options", "filename=../escaped.onnx"], 2, &["filename"])),
    ("O13", FailsWith(default, &["--extra_options", "filename=a/b.onnx"], 2, &["filename"])),
    ("O13", FailsWith(default, &["--extra_options", "filename=CON.onnx"], 2, &["filename"])),
    ("O13", FailsWith(default, &["--extra_options", "filename=model"], 2, &["filename"])),
    ("O14", In("tests/command_line.rs", "mistakes_are_named_and_touch_nothing")),
    ("O15", In(FAULTS, "odd_names_are_fine")),
    ("O16", In(FAULTS, "modes_come_from_the_umask_and_the_folder_that_was_there")),
    ("O17", In(FAULTS, "a_closed_or_full_stdout_does_not_cost_the_package")),
    ("O18", In("tests/same_bytes.rs", "weights_take_no_more_memory_than_they_are_given")),
    ("O19", NotYet("weight files stay open: 500 shards under a hard limit of 32 files fail with exit code 8")),
    ("O20", In(FAULTS, "the_environment_does_not_change_a_byte")),
    ("O21", In(CRASHES, "nothing_is_put_in_place_before_it_is_on_the_disk")),
    ("O22", NotYet("a build starts over; it does not resume")),
    ("O23", NotYet("there is no cache of built tensors")),
    ("O24", NotYet("constants in the graph are a few bytes each; weights are always external")),
    // The Hub.
    ("N01", In(DOWNLOADS, "offline_asks_nobody")),
    ("N02", In(NETWORK, "refusals_say_what_to_do")),
    ("N03", In(NETWORK, "a_cut_connection_is_resumed_where_it_was_cut")),
    ("N04", In(NETWORK, "a_server_that_ignores_ranges_is_never_appended")),
    ("N05", In(DOWNLOADS, "revisions_are_resolved_once_and_noted")),
    ("N06", In(DOWNLOADS, "revisions_are_resolved_once_and_noted")),
    ("N07", In(DOWNLOADS, "what_is_read_is_fetched_and_nothing_else")),
    ("N08", In(NETWORK, "silence_and_dripping_end")),
    ("N09", In(NETWORK, "hostile_answers_write_nothing_outside_the_cache")),
    ("N10", In("tests/hub.rs", "a_proxy_is_asked_without_the_token")),
    // Packages of others.
    ("V01", NotYet(STATIC)),
    ("V02", NotYet(STATIC)),
    ("V03", NotYet(STATIC)),
    ("V04", In("tests/verify.rs", "a_flipped_bit_is_seen_in_any_file")),
    ("V05", NotYet(STATIC)),
    ("V06", NotYet(STATIC)),
    ("V07", NotYet(STATIC)),
    ("V08", In("validate/src/config/tests.rs", "a_missing_required_field_is_named_by_its_path")),
    ("V09", In("validate/src/config/tests.rs", "paths_stay_inside_the_package")),
    ("V10", NotYet(STATIC)),
    ("V11", NotYet(STATIC)),
    ("V12", In("tests/refusals.rs", "a_package_that_fails_validation_is_not_put_in_place")),
    ("V13", NotYet(STATIC)),
    ("V14", NotYet(STATIC)),
    ("V15", NotYet(STATIC)),
    // GGUF, and how the command is used.
    ("G01", NotYet("GGUF is not read")),
    ("G02", NotYet("GGUF is not read")),
    ("G03", NotYet("GGUF is not read")),
    ("G04", NotYet("GGUF is not read")),
    ("U01", FailsWith(default, &["--extra_options", "blok_size=64"], 2, &["did you mean block_size?"])),
    ("U02", FailsWith(default, &["--extra_options", "block_size=17"], 2, &["block_size is \"17\""])),
    ("U02", FailsWith(default, &["--extra_options", "is_symmetric=maybe"], 2, &["is_symmetric is \"maybe\""])),
    ("U03", In("tests/command_line.rs", "mistakes_are_named_and_touch_nothing")),
    ("U04", In("tests/command_line.rs", "mistakes_are_named_and_touch_nothing")),
    ("U05", In("tests/reliability.rs", "a_token_on_the_command_line_is_never_shown")),
];

#[test]
fn every_row_ends_as_it_should() {
    let run: Vec<_> = ROWS.iter().filter(|(_, row)| !matches!(row, In(..) | NotYet(_))).collect();
    let covered = ROWS.iter().filter(|(_, row)| matches!(row, In(..))).count();
    let reason = |(id, row): &(&'static str, Row)| if let NotYet(reason) = row { Some((*id, *reason)) } else { None };
    let later: Vec<_> = ROWS.iter().filter_map(reason).collect();
    tell(&format!("{} rows run here, {covered} in other tests, {} do not apply yet:", run.len(), later.len()));
    later.iter().for_each(|(id, reason)| tell(&format!("  {id} {reason}")));
    assert!(run.len() + covered >= 60);
    for_each(&run, |(id, _)| (*id).to_owned(), |(_, row)| check(row));
}

fn check(row: &Row) -> Outcome {
    let (checkpoint, extra, code, says) = match *row {
        Fails(checkpoint, code, says) => (checkpoint(), &[][..], code, says),
        FailsWith(checkpoint, extra, code, says) => (checkpoint(), extra, code, says),
        Builds(checkpoint, says) => (checkpoint(), &[][..], 0, says),
        In(..) | NotYet(_) => return Ok(()),
    };
    let place = tempfile::tempdir()?;
    let output = place.path().join("package");
    fs::create_dir(&output)?;
    fs::write(output.join("genai_config.json"), "of an earlier build")?;
    let (before, source) = (contents(place.path()), contents(checkpoint.path()));
    let mut arguments = build_arguments(checkpoint.path(), "int4", "cpu", &output);
    arguments.extend(extra.iter().map(|word| (*word).to_owned()));
    let run = genai_build(arguments);
    assert!(contents(checkpoint.path()) == source, "the checkpoint was changed");
    assert_eq!(fs::read_dir(place.path())?.count(), 1, "something lies beside the output");
    let controls = run.stderr.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    assert!(!controls, "{:?}", run.stderr);
    if code != 0 {
        run.failed(code, says)?;
        assert!(contents(place.path()) == before, "the output was changed");
        return Ok(());
    }
    let missing = says.iter().find(|part| !run.stderr.contains(**part));
    assert!(missing.is_none(), "{missing:?}: {}", run.stderr);
    run.success()?;
    genai_build(["verify", output.to_str().unwrap(), "--strict"]).success()?;
    let package = contents(&output);
    for name in ["tokenizer.json", "chat_template.jinja"] {
        assert!(package.get(name) == source.get(name), "{name} is not what it was");
    }
    assert!(!package.keys().any(|name| name.ends_with(".py")), "code of the model is carried along");
    Ok(())
}

#[test]
fn the_table_is_whole_and_names_tests_that_exist() {
    let sections =
        [("S", 24), ("X", 13), ("C", 20), ("W", 9), ("T", 6), ("O", 24), ("N", 10), ("V", 15), ("G", 4), ("U", 5)];
    let expected = sections.iter().flat_map(|(letter, count)| (1..=*count).map(move |row| format!("{letter}{row:02}")));
    let mut ids: Vec<&str> = ROWS.iter().map(|(id, _)| *id).collect();
    // Some are of several cases.
    ids.dedup();
    assert_eq!(ids, expected.collect::<Vec<_>>());
    for (id, row) in ROWS {
        if let In(file, test) = row {
            let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            assert!(text.contains(&format!("fn {test}()")), "{id}: no test {test} in {file}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_checkpoint_that_changes_during_a_build_is_told() -> Outcome {
    use crate::faults::{start, wait_for_staging};

    let changes: [fn(&Path) -> std::io::Result<()>; 3] = [
        |file| fs::OpenOptions::new().write(true).open(file)?.set_len(1 << 20),
        |file| fs::OpenOptions::new().append(true).open(file)?.set_len(fs::metadata(file)?.len() + 1),
        |file| fs::rename(file.with_file_name("config.json"), file),
    ];
    for change in changes {
        let (checkpoint, place) = (tempfile::tempdir()?, tempfile::tempdir()?);
        crate::same_bytes::write_wide_checkpoint(checkpoint.path())?;
        let building = start(checkpoint.path(), &place.path().join("package"));
        wait_for_staging(place.path());
        change(&checkpoint.path().join(WEIGHTS))?;
        let (status, said) = building.finish()?;
        assert_eq!(status.code(), Some(4), "{said}");
        assert!(said.contains("changed while reading"), "{said}");
        assert_eq!(fs::read_dir(place.path())?.count(), 0);
    }
    Ok(())
}

/// As on a file system whose locks do nothing: here the lock of the first is gone.
#[cfg(unix)]
#[test]
fn two_builds_that_both_hold_the_lock_do_not_mix() -> Outcome {
    use crate::faults::{start, wait_for_staging};

    let (checkpoint, place) = (tempfile::tempdir()?, tempfile::tempdir()?);
    crate::same_bytes::write_wide_checkpoint(checkpoint.path())?;
    let output = place.path().join("package");
    let first = start(checkpoint.path(), &output);
    wait_for_staging(place.path());
    fs::remove_file(place.path().join(".package.genai-build.lock"))?;
    genai_build(build_arguments(&fixture("llama-default"), "int8", "cpu", &output)).success()?;
    // Its folder was taken for that of a build that is no more.
    let (status, said) = first.finish()?;
    assert_eq!(status.code(), Some(8), "{said}");
    genai_build(["verify", output.to_str().unwrap(), "--strict"]).success()?;
    assert!(contents(&output) == contents(build(&fixture("llama-default"), "int8", "cpu", &[])?.path()));
    assert_eq!(fs::read_dir(place.path())?.count(), 1);
    Ok(())
}

/// A model of many files under the limit that systems set for a start, and that a program may raise.
#[cfg(unix)]
#[test]
fn many_shards_need_no_higher_limit_of_open_files() -> Outcome {
    let scattered = scattered();
    let place = tempfile::tempdir()?;
    let output = place.path().join("package");
    let arguments = build_arguments(scattered.path(), "int4", "cpu", &output);
    let line = "ulimit -S -n 20; exec \"$0\" \"$@\"";
    let run = std::process::Command::new("bash")
        .args(["-c", line, env!("CARGO_BIN_EXE_genai-build")])
        .args(arguments)
        .output()?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let plain = build(&fixture("llama-default"), "int4", "cpu", &[])?;
    assert!(contents(&output)["model.onnx.data"] == contents(plain.path())["model.onnx.data"]);
    Ok(())
}

#[test]
fn mixed_float_dtypes_are_taken_tensor_by_tensor() -> Outcome {
    let mixed = default().tensors(|tensors| {
        for name in ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"] {
            let tensor = tensors.get_mut(name).unwrap();
            let wide = tensor.data.as_chunks::<2>().0.iter().flat_map(|pair| [0, 0, pair[0], pair[1]]);
            tensor.data = wide.collect();
            tensor.dtype = safetensors::Dtype::F32;
        }
    });
    let [plain, mixed] = [fixture("llama-default").as_path(), mixed.path()]
        .map(|input| contents(build(input, "int4", "cpu", &[]).unwrap().path()).remove("model.onnx.data").unwrap());
    assert!(plain == mixed);
    Ok(())
}

#[test]
fn a_token_on_the_command_line_is_never_shown() -> Outcome {
    const TOKEN: &str = "hf_aVerySecretToken";
    for (input, code) in [(fixture("llama-default"), 0), (fixture("no-such-model"), 5)] {
        let place = tempfile::tempdir()?;
        let mut arguments = build_arguments(&input, "int4", "cpu", &place.path().join("package"));
        let option = format!("hf_token={TOKEN}");
        arguments.extend(["--json", "--progress", "json", "--extra_options", &option].map(str::to_owned));
        let run = genai_build(arguments);
        assert_eq!(run.code, code);
        assert!(!run.stdout.contains(TOKEN) && !run.stderr.contains(TOKEN), "{run:?}");
        for (name, bytes) in contents(place.path()) {
            assert!(!String::from_utf8_lossy(&bytes).contains(TOKEN), "{name}");
        }
    }
    Ok(())
}
