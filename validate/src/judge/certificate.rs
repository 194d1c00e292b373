//! The result of a validation, written into the package's own record, `genai-build.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::integrity::{MANIFEST, SUMS, sha256, verify};
use crate::report::{Outcome, Report, Severity};
use crate::{Error, Result};

/// Writes `validation` into `genai-build.json` and the new hash of that into `SHA256SUMS`; a package of another tool, which
/// has neither, gets both, with the files of its folder. The same result gives the same bytes: no time and nothing of the
/// machine but the version of ONNX Runtime. Returns the hashes by the names of the files.
///
/// # Errors
/// [`Error::Package`] if the files are not those that the record lists: what was validated would not be what it
/// certifies; [`Error::Io`].
pub fn certify(folder: &Path, report: &Report) -> Result<BTreeMap<String, String>> {
    let (manifest, sums) = (folder.join(MANIFEST), folder.join(SUMS));
    let recorded = manifest.exists() || sums.exists();
    let mut record = if recorded {
        let integrity = verify(folder)?;
        if !integrity.is_intact() {
            let mut wrong: Vec<String> = integrity.damaged.keys().cloned().collect();
            wrong.extend(integrity.missing);
            let problem = format!("cannot be certified: not as they were written are {}", wrong.join(", "));
            return Err(Error::package(folder, problem));
        }
        let bytes = fs::read(&manifest).map_err(Error::io(&manifest))?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| Error::package(&manifest, error.to_string()))?;
        match value {
            Value::Object(record) => record,
            _ => return Err(Error::package(&manifest, "is not a JSON object")),
        }
    } else {
        record_of(folder)?
    };
    record.insert("validation".to_owned(), certificate(report));
    let mut text = serde_json::to_vec_pretty(&Value::Object(record))
        .map_err(|error| Error::package(&manifest, error.to_string()))?;
    text.push(b'\n');
    replace(&manifest, &text)?;
    let mut hashes = BTreeMap::new();
    for name in files(folder)? {
        if let Some((hash, _)) = sha256(&folder.join(&name))? {
            hashes.insert(name, hash);
        }
    }
    if recorded {
        // What the record did not list stays unlisted.
        let listed = fs::read_to_string(&sums).map_err(Error::io(&sums))?;
        let listed: Vec<&str> = listed.lines().filter_map(|line| Some(line.split_once("  ")?.1)).collect();
        hashes.retain(|name, _| listed.contains(&name.as_str()));
    }
    let lines: String = hashes.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    replace(&sums, lines.as_bytes())?;
    Ok(hashes)
}

/// The record of a package that has none: its files.
fn record_of(folder: &Path) -> Result<Map<String, Value>> {
    let mut listed = Vec::new();
    for name in files(folder)? {
        if let Some((hash, bytes)) = sha256(&folder.join(&name))? {
            listed.push(json!({"name": name, "bytes": bytes, "sha256": hash}));
        }
    }
    let mut record = Map::new();
    record.insert("format".to_owned(), json!(1));
    record.insert("files".to_owned(), Value::Array(listed));
    Ok(record)
}

/// Names of the regular files of a folder but the list of hashes, sorted.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != SUMS && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// All at once: a reader sees the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(Error::io(&new))?;
    fs::rename(&new, path).map_err(Error::io(path))
}

fn certificate(report: &Report) -> Value {
    let measured = &report.measured;
    let stages = report.stages.iter().map(|stage| {
        let outcome = match &stage.outcome {
            Outcome::Judged { verdict } => json!(verdict),
            Outcome::NotRun { .. } => json!("not run"),
        };
        let count = |severity| stage.findings.iter().filter(|finding| finding.severity == severity).count();
        json!({
            "stage": stage.stage, "outcome": outcome,
            "errors": count(Severity::Error), "doubts": count(Severity::Doubt), "warnings": count(Severity::Warning),
        })
    });
    let parity = measured.parity.as_ref().map(|parity| {
        let prompts = parity.prompts.iter().map(|prompt| {
            json!({
                "name": prompt.name,
                "positions": prompt.logits.positions,
                "max_abs": figure(prompt.logits.max_abs),
                "kl_mean": figure(prompt.logits.kl_mean),
                "top1_equal": prompt.logits.top1_equal,
                "greedy_equal": prompt.greedy.as_ref().map(|greedy| greedy.equal),
            })
        });
        json!({
            "precision": parity.precision, "reference": parity.reference, "verdict": parity.verdict,
            "prompts": prompts.collect::<Vec<_>>(),
        })
    });
    json!({
        "verdict": report.verdict,
        "tool": {"name": "genai-build", "version": env!("CARGO_PKG_VERSION")},
        "runtime": report.package.runtime,
        "provider": report.package.provider,
        "stages": stages.collect::<Vec<_>>(),
        "parity": parity,
        "roads": measured.roads.iter().map(|road| json!({
            "name": road.name, "max_abs": figure(road.max_abs), "kl_mean": figure(road.kl_mean), "within": road.within,
        })).collect::<Vec<_>>(),
        "worst_layer": measured.layers.iter().max_by(|a, b| a.relative_rms.total_cmp(&b.relative_rms)).map(|layer| json!({
            "layer": layer.layer, "tap": layer.tap, "relative_rms": figure(layer.relative_rms), "beyond": layer.beyond,
        })),
    })
}

/// Three digits: more would change with the machine.
fn figure(value: f64) -> Value {
    format!("{value:.2e}").parse::<f64>().map_or(Value::Null, |rounded| json!(rounded))
}
