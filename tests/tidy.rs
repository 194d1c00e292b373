//! Rules of the workspace: what knows what, and how files are kept.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use genai_architectures::families::FAMILIES;
use genai_builder::TARGETS;

use source::{files_below, root, sources};

/// The crates, and what each may use of the workspace, in its tests too; those of the root use whatever they like.
const EDGES: &[(&str, &[&str])] = &[
    ("architectures", &[]),
    ("quantize", &[]),
    ("onnx", &[]),
    ("checkpoint", &[]),
    ("builder", &["genai-architectures", "genai-checkpoint", "genai-onnx", "genai-quantize"]),
    ("validate", &["genai-architectures", "genai-checkpoint", "genai-onnx", "genai-quantize"]),
    (".", &["genai-architectures", "genai-builder", "genai-checkpoint", "genai-quantize", "genai-validate"]),
];

/// Crates of others that only one of ours may use.
const OWNED: &[(&str, &str)] = &[
    ("ort", "validate"),
    ("tokenizers", "validate"),
    ("minijinja", "validate"),
    ("llguidance", "validate"),
    ("gemm", "validate"),
    ("ureq", "checkpoint"),
    ("clap", "."),
    ("indicatif", "."),
];

#[test]
fn crates_use_only_what_they_may_know() {
    for (krate, allowed) in EDGES {
        let mut tables = manifest(krate);
        let mut used: Vec<String> = tables.remove("dependencies").unwrap_or_default().into_keys().collect();
        if *krate != "." {
            used.extend(tables.remove("dev-dependencies").unwrap_or_default().into_keys());
        }
        let ours: Vec<_> = used.iter().filter(|name| name.starts_with("genai-")).collect();
        let strangers: Vec<_> = ours.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(strangers.is_empty(), "{krate} must not know {strangers:?}");
        for (owned, owner) in OWNED {
            assert!(
                krate == owner || !used.iter().any(|name| name == owned),
                "{krate} uses {owned}, as only {owner} may"
            );
        }
    }
    let members = &manifest(".")["workspace"]["members"];
    for (krate, _) in EDGES.iter().filter(|(krate, _)| *krate != ".") {
        assert!(members.contains(&format!("{krate:?}")), "{krate} is no member: {members}");
    }
    assert_eq!(members.matches('"').count() / 2, EDGES.len() - 1, "a crate has no rule here: {members}");
    let ort = &manifest(".")["workspace.dependencies"]["ort"];
    assert!(ort.contains("load-dynamic") && ort.contains("default-features = false"), "ONNX Runtime is linked: {ort}");
}

#[test]
fn architectures_and_quantize_do_no_io() {
    for source in sources("architectures/src").iter().chain(&sources("quantize/src")) {
        for module in ["fs", "net", "env", "process", "io", "thread", "time"] {
            let named = source.code.contains(&format!("std::{module}"));
            // `use std::{fs, path::Path};`
            let grouped = source.code.split(';').filter(|statement| statement.contains("use std::{"));
            let grouped =
                grouped.flat_map(|statement| statement.split(|c: char| !c.is_alphanumeric())).any(|w| w == module);
            assert!(!named && !grouped, "{} uses std::{module}", source.path);
        }
    }
}

#[test]
fn only_the_target_table_names_providers() {
    // What is for any runtime goes by the name of the format.
    let mut names: BTreeSet<&str> =
        TARGETS.iter().map(|target| target.provider).filter(|name| *name != "onnx").collect();
    names.extend([
        "cpu", "cuda", "dml", "webgpu", "rocm", "migraphx", "openvino", "qnn", "coreml", "tensorrt", "vitisai",
    ]);
    for source in sources("builder/src").iter().chain(&sources("architectures/src")) {
        if source.path == "builder/src/target.rs" {
            continue;
        }
        for literal in &source.literals {
            let mut words = literal.split(|c: char| !c.is_alphanumeric());
            let found = words.find(|word| names.contains(word.to_ascii_lowercase().as_str()));
            assert!(found.is_none(), "{} names a provider: {literal:?}", source.path);
        }
        let words = source.words().flat_map(humps);
        let found: Vec<_> = words.filter(|hump| names.contains(hump.as_str())).collect();
        assert!(found.is_empty(), "{} names a provider: {found:?}", source.path);
    }
}

#[test]
fn tests_that_the_target_table_names_exist() {
    let tests: BTreeSet<String> =
        sources("tests").iter().flat_map(|source| source.words().map(str::to_owned).collect::<Vec<_>>()).collect();
    for cell in TARGETS.iter().flat_map(|target| target.cells) {
        assert!(cell.computed_by.is_none_or(|test| tests.contains(test)), "{:?}", cell.computed_by);
    }
}

#[test]
fn one_file_knows_the_http_client() {
    for source in sources("checkpoint/src") {
        let named = source.words().any(|word| word == "ureq");
        assert!(!named || source.path == "checkpoint/src/hub/http.rs", "{} uses ureq", source.path);
    }
}

#[test]
fn only_family_files_name_families() {
    let mut names: BTreeSet<String> = FAMILIES.iter().map(|family| family_name(family.architecture)).collect();
    // Also what is optional.
    names.remove("opt");
    assert!(names.contains("llama") && names.contains("qwen"), "{names:?}");
    let folders =
        ["architectures/src", "builder/src", "checkpoint/src", "onnx/src", "quantize/src", "validate/src", "src"];
    for source in folders.iter().flat_map(|folder| sources(folder)) {
        if source.path.starts_with("architectures/src/families/") {
            continue;
        }
        let texts = source.literals.iter().flat_map(|literal| literal.split(|c: char| !c.is_alphanumeric()));
        for word in source.words().chain(texts) {
            // A kind of rope and the classes of tokenizers are called after models, whatever model uses them.
            if word.eq_ignore_ascii_case("llama3") || word.contains("Tokenizer") {
                continue;
            }
            let humps: Vec<String> = humps(word).collect();
            let run = |from: usize| (from..humps.len()).map(move |to| (from, to));
            let named = (0..humps.len()).flat_map(run).any(|(from, to)| names.contains(&humps[from..=to].concat()));
            // Help texts show how a command is typed.
            assert!(!named || source.path == "src/args.rs", "{} names a family: {word}", source.path);
        }
    }
}

#[test]
fn inner_types_are_no_wire_formats() {
    let edges = ["builder/src/genai_config.rs", "builder/src/manifest.rs", "builder/src/sidecar.rs"];
    let folders = ["architectures/src", "quantize/src", "checkpoint/src", "builder/src"];
    for source in folders.iter().flat_map(|folder| sources(folder)) {
        let derives = source.words().any(|word| word == "Serialize");
        assert!(!derives || edges.contains(&source.path.as_str()), "{} derives Serialize", source.path);
    }
}

#[test]
fn weights_are_read_only_when_materialized() {
    for source in sources("builder/src").iter().chain(&sources("src")) {
        let reads =
            ["checkpoint.read(", "checkpoint.read_f32(", ".read_f32("].iter().any(|call| source.code.contains(call));
        assert!(!reads || source.path.starts_with("builder/src/materialize/"), "{} reads weights", source.path);
    }
}

#[test]
fn source_files_stay_small_and_finished() {
    for source in sources("") {
        assert!(source.lines <= 500, "{} has {} lines; past 500 it wants splitting", source.path, source.lines);
        for unfinished in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
            assert!(!source.code_and_tests.contains(unfinished), "{} has {unfinished}", source.path);
        }
    }
}

#[test]
fn dependencies_have_one_exact_version() {
    for (name, value) in &manifest(".")["workspace.dependencies"] {
        let exact = value.contains("\"=") || value.contains("path = ");
        assert!(exact, "{name} = {value}, expected an exact version such as \"=1.2.3\"");
    }
    for (krate, _) in EDGES {
        let tables = manifest(krate);
        let uses =
            tables.iter().filter(|(table, _)| table.ends_with("dependencies") && *table != "workspace.dependencies");
        for (name, value) in uses.flat_map(|(_, entries)| entries) {
            assert!(value.contains("workspace = true"), "{krate}: {name} = {value}, expected {name}.workspace = true");
        }
    }
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    // In halves, so that this file does not find itself.
    let places = [["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["C:", "\\Users"]]
        .map(|halves| halves.concat());
    for file in files_below(&root()) {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        let found = places.iter().find(|place| text.contains(place.as_str()));
        assert!(found.is_none(), "{file} names {found:?}");
    }
}

/// `Qwen3MoeForCausalLM` is of the family `qwen`.
fn family_name(architecture: &str) -> String {
    let end = architecture.find(|c: char| c.is_ascii_digit()).unwrap_or(architecture.len());
    let end = end.min(architecture.find("For").unwrap_or(end)).min(architecture.find("Moe").unwrap_or(end));
    architecture[..end].to_ascii_lowercase()
}

/// The parts of a name, in lower case: `GroupQueryAttention`, `group_query_attention`.
fn humps(word: &str) -> impl Iterator<Item = String> {
    let mut humps = vec![String::new()];
    let mut before = '_';
    for c in word.chars() {
        let new = c == '_' || (c.is_uppercase() && !before.is_uppercase()) || (c.is_numeric() != before.is_numeric());
        if new && humps.last().is_some_and(|hump| !hump.is_empty()) {
            humps.push(String::new());
        }
        if c != '_' {
            humps.last_mut().unwrap().extend(c.to_lowercase());
        }
        before = c;
    }
    humps.into_iter().filter(|hump| !hump.is_empty())
}

/// Tables of a `Cargo.toml` and their entries, as text; `name.workspace = true` is an entry `name`.
fn manifest(krate: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let text = fs::read_to_string(root().join(krate).join("Cargo.toml")).unwrap();
    let mut tables = BTreeMap::new();
    let mut table = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_matches(&['[', ']'][..]).clone_into(&mut table);
        } else if let Some((key, value)) = line.split_once('=') {
            let (name, rest) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
            let entries: &mut BTreeMap<String, String> = tables.entry(table.clone()).or_default();
            entries.insert(name.to_owned(), format!("{rest} = {}", value.trim()).trim_start_matches(" = ").to_owned());
        }
    }
    // A dependency on some platforms only is a dependency.
    let platforms: Vec<String> = tables.keys().filter(|name| name.starts_with("target.")).cloned().collect();
    for name in platforms {
        let entries = tables.remove(&name).unwrap_or_default();
        let kind = name.rsplit('.').next().unwrap_or_default().to_owned();
        tables.entry(kind).or_default().extend(entries);
    }
    tables
}
