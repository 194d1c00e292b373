//! Every published `config.json` of a supported architecture is understood as it stands, and gives the parameter count
//! that its publisher states.
//!
//! The files are other people's, so they are not in this repository: they are read from `configs/` under the folder
//! that `GENAI_BUILD_SHARED` names, or `shared/` beside the checkout.
#![expect(clippy::print_stderr, reason = "says what was not checked")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use genai_architectures::{Config, DecoderSpec, describe, families::FAMILIES};

/// The stated counts are rounded, and some leave out norms or count a tied head twice.
const TOLERANCE: f64 = 0.02;

/// Of multimodal models the README states the whole. Their text parts are the size of the text models that they were
/// made from (Qwen2 1.5B, Qwen2.5 3B and 7B, Qwen3 4B), or as their model cards say; that of Gemma 4 E2B is the count of
/// transformers' text model.
const TEXT_PARTS: [(&str, f64); 7] = [
    ("Qwen__Qwen2-VL-2B-Instruct", 1.54e9),
    ("Qwen__Qwen2.5-VL-3B-Instruct", 3.09e9),
    ("Qwen__Qwen2.5-VL-7B-Instruct", 7.62e9),
    ("Qwen__Qwen3-VL-4B-Instruct", 4.02e9),
    ("google__gemma-3-4b-it", 3.88e9),
    ("google__gemma-4-E2B-it", 4.63e9),
    ("mistralai__Ministral-3-3B-Instruct-2512", 3.4e9),
];

/// What they ask for that their architecture has and this tool does not.
const REFUSED: [(&str, &str); 1] = [("google__gemma-4-26B-A4B", "enable_moe_block")];

#[test]
fn published_configs_of_supported_architectures_are_understood() {
    let folder = configs();
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("no published configs in {}: nothing checked", folder.display());
        return;
    };
    let mut published = published_counts(&folder.join("README.md"));
    published.extend(TEXT_PARTS.map(|(name, count)| (name.to_owned(), vec![count])));
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let (mut described, mut problems) = (0, Vec::new());
    for name in names {
        let Ok(text) = fs::read_to_string(folder.join(&name).join("config.json")) else { continue };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let architecture = value["architectures"][0].as_str().unwrap_or_default().to_owned();
        if !FAMILIES.iter().any(|family| family.architecture == architecture) {
            continue;
        }
        described += 1;
        match Config::from_json(value).and_then(|config| describe(&config)) {
            Err(error) if REFUSED.iter().any(|(refused, key)| name == *refused && error.to_string().contains(key)) => {}
            Err(error) => problems.push(format!("{name} ({architecture}): {error}")),
            Ok(spec) => problems.extend(count_problem(&name, &spec, published.get(&name))),
        }
    }
    assert!(described > 0, "{} has no config of a supported architecture", folder.display());
    assert!(problems.is_empty(), "of {described} configs:\n{}", problems.join("\n"));
}

fn configs() -> PathBuf {
    let shared = std::env::var_os("GENAI_BUILD_SHARED").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    shared.unwrap_or_else(beside).join("configs")
}

fn count_problem(name: &str, spec: &DecoderSpec, published: Option<&Vec<f64>>) -> Option<String> {
    let counted = spec.num_parameters() as f64;
    let Some(stated) = published else { return Some(format!("{name}: README.md states no parameter count")) };
    let right = stated.iter().any(|stated| (counted / stated - 1.0).abs() <= TOLERANCE);
    (!right).then(|| format!("{name}: {counted:.4e} parameters, published {stated:?}"))
}

/// Parameter counts from the table of the folder's README, by folder name: the column `parameters` of
/// `| org/name | architecture | model_type | shape | rope | parameters | ...`, such as `6.92B` or `7.22B (6.92B with the
/// head tied)`.
fn published_counts(readme: &Path) -> BTreeMap<String, Vec<f64>> {
    let text = fs::read_to_string(readme).unwrap_or_default();
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let words = cells.get(6)?.split([' ', '(']);
        let counts = words.filter_map(|word| Some(word.strip_suffix('B')?.parse::<f64>().ok()? * 1e9));
        Some((cells.get(1)?.replace('/', "__"), counts.collect::<Vec<_>>())).filter(|(_, counts)| !counts.is_empty())
    };
    text.lines().filter_map(row).collect()
}
