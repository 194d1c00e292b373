//! The f32 interpreter against logits recorded from transformers.
//!
//! Every folder of `fixtures/` with a `config.json` and a `reference.npz` is a case: `describe` and the interpreter
//! read it as a stranger would, so a wrong spec fails here too.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use genai_architectures::{Config, describe};
use genai_checkpoint::Checkpoint;
use genai_validate::{Reference, interpreter, metrics};

#[test]
fn recorded_logits_are_met() {
    let folders = folders_with_reference();
    assert!(!folders.is_empty(), "no folder of {} has a reference.npz", fixtures().display());
    let mut report = String::new();
    let mut failed = false;
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match check(&folder) {
            Ok(lines) => report += &lines.iter().fold(String::new(), |text, line| text + &format!("{name}: {line}\n")),
            Err(problem) => {
                failed = true;
                writeln!(report, "{name}: FAILED: {problem}").unwrap();
            }
        }
    }
    assert!(!failed, "\n{report}");
}

/// A line for each prompt, or what is wrong.
fn check(folder: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let json = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json"))?)?;
    let spec = describe(&Config::from_json(json)?)?;
    let checkpoint = Checkpoint::open(folder)?.renamed(|stored| spec.name_of(stored))?;
    let reference = Reference::read(&folder.join("reference.npz"))?;

    let sequences: Vec<&[u32]> = reference.prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let logits = interpreter::logits(&spec, &checkpoint, &sequences)?;
    let mut lines = Vec::new();
    for (prompt, logits) in reference.prompts.iter().zip(&logits) {
        let metrics = metrics::compare(&prompt.logits, logits)?;
        let limit = 1e-4 * metrics.reference_std.max(1.0);
        let finite = metrics.finite_positions == metrics.positions;
        let line = format!("{}: max abs {:.2e}, limit {limit:.2e}", prompt.name, metrics.max_abs);
        if !finite || metrics.max_abs > limit {
            return Err(format!("{line}; {metrics:?}").into());
        }
        lines.push(line);
    }

    // Prompts of unequal numbers of recorded steps run to the longest; the rest is cut off.
    let steps = reference.prompts.iter().map(|prompt| prompt.greedy.len()).max().unwrap_or(0);
    let continuations = interpreter::greedy(&spec, &checkpoint, &sequences, steps)?;
    for (prompt, continuation) in reference.prompts.iter().zip(&continuations) {
        if !continuation.starts_with(&prompt.greedy) {
            return Err(format!("{}: greedy {continuation:?}, recorded {:?}", prompt.name, prompt.greedy).into());
        }
    }
    Ok(lines)
}

fn folders_with_reference() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").is_file() && path.join("reference.npz").is_file())
        .collect();
    folders.sort();
    folders
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}
