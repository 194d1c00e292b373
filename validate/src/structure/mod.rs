//! Is a package what it says, as far as that can be seen without running it? Files, configuration, graph, weights and
//! tokenizer, held against each other. No ONNX Runtime is needed, so that a package can be reviewed where it cannot run.
//!
//! ```text
//!  folder ─► Package: document, graphs ─► each check by itself ─► findings: what, where, expected and found
//! ```
//!
//! Any package for onnxruntime-genai is looked at, whoever made it; one of another layout, without
//! `genai_config.json`, is read by the names that exporters commonly use. Nothing in a package can make a check panic,
//! and none depends on another having passed. Weights are read in pieces, once; some rows of quantized ones, and the
//! tables of positions, a second time.
//!
//! | check | looks at |
//! | --- | --- |
//! | `model-file` | the ONNX file: protobuf, bounds, names that nothing gives |
//! | `opset` | versions that ONNX Runtime 1.31 reads |
//! | `operators` | operators and domains that it has |
//! | `names` | names in `genai_config.json` against those of the graph |
//! | `layers` | pairs of caches against `num_hidden_layers` |
//! | `cache` | heads, sizes and types of the caches |
//! | `sizes` | fixed batch and sequence |
//! | `shared-cache` | whether one buffer may be past and present |
//! | `integer-inputs` | types of ids, mask and positions |
//! | `vocabulary` | width of the logits against tokenizer and special ids |
//! | `logits` | rows of logits that a run gives |
//! | `context` | context length against the tables of positions |
//! | `cache-memory` | bytes of the caches at full length |
//! | `rope-table` | tables of cosines and sines: angle 0 first, a circle, even steps |
//! | `external-data` | files of weights: places, bounds, overlaps, alignment |
//! | `paths` | all other names of files |
//! | `weights` | NaN, infinity, zeros, absurd values |
//! | `quantized` | shapes of codes, scales and zero points; their values |
//! | `unused`, `duplicates` | bytes that need not be there |
//! | `attention`, `norms` | attributes of layers against weights, caches and each other |
//! | `tokenizer`, `special-ids`, `chat-template` | files of text |
//! | `pad` | a pad id that the peer mistakes |
//! | `config` | `genai_config.json` by itself |
//! | `branches` | graphs inside of nodes |
//! | `licence` | files of licence and model card |

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)
)]

mod attention;
mod cache;
mod files;
mod inputs;
mod layout;
mod names;
mod operators;
mod package;
mod positions;
mod size;
mod tokenizer;
mod weights;

use std::path::Path;

use crate::report::{Finding, Severity, Stage, StageReport, bytes};
use package::Package;

/// One look at a package.
type Check = fn(&Package, &mut Findings);

/// In the order of reading. Those that stand for several say so in their file.
const CHECKS: [Check; 28] = [
    files::libraries,
    files::paths,
    files::model_file,
    files::external_data,
    files::licence,
    operators::opsets,
    operators::known,
    operators::branches,
    names::named_in_config,
    names::claimed_inputs,
    inputs::integer_types,
    inputs::sizes,
    inputs::logits,
    cache::layers,
    cache::shapes,
    cache::pairs,
    cache::shared,
    cache::memory,
    positions::context,
    positions::tables,
    attention::heads,
    attention::alike,
    attention::norms,
    weights::quantized,
    weights::values,
    size::unused,
    size::duplicates,
    tokenizer::all,
];

/// Looks at everything that can be seen without ONNX Runtime.
///
/// Never fails: a folder that cannot be read is a finding.
pub fn check(folder: &Path) -> StageReport {
    let mut findings = Findings::default();
    let package = Package::open(folder, &mut findings);
    for check in CHECKS {
        check(&package, &mut findings);
    }
    let read: u64 = package.parts.iter().map(|part| part.graph.bytes_read()).sum();
    let parts = package.parts.len();
    findings.info("weights", ".", format!("{} of tensors read from {parts} ONNX files", bytes(read)));
    StageReport::judged(Stage::Structure, CHECKS.len(), findings.list)
}

/// What the checks have to say.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn error(&mut self, check: &'static str, at: impl Into<String>, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Error, check, at, message)
    }

    fn doubt(&mut self, check: &'static str, at: impl Into<String>, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Doubt, check, at, message)
    }

    fn warning(&mut self, check: &'static str, at: impl Into<String>, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Warning, check, at, message)
    }

    fn info(&mut self, check: &'static str, at: impl Into<String>, message: impl Into<String>) -> &mut Self {
        self.add(Severity::Info, check, at, message)
    }

    fn add(
        &mut self,
        severity: Severity,
        check: &'static str,
        at: impl Into<String>,
        message: impl Into<String>,
    ) -> &mut Self {
        self.list.push(Finding::new(severity, check, at, message));
        self
    }

    /// Of the finding added last.
    fn hint(&mut self, hint: impl Into<String>) {
        if let Some(finding) = self.list.last_mut() {
            finding.hint = Some(hint.into());
        }
    }
}

/// Up to three names, and how many more there are.
fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    let first: Vec<String> = names.iter().take(3).map(|name| format!("`{}`", name.as_ref())).collect();
    match names.len() {
        0..=3 => first.join(", "),
        count => format!("{} and {} more", first.join(", "), count - 3),
    }
}

#[cfg(test)]
mod tests;
