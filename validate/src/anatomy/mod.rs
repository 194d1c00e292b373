//! A package against the checkpoint that it should come from: the graph against the [`DecoderSpec`], the weights against
//! the checkpoint's tensors, value by value. ONNX Runtime has no part in it.
//!
//! ```text
//!  logits ◄─ softcap ◄─ head ◄─ norm ◄─ + ◄─ mlp ◄─ norm ◄─ + ◄─ attention ◄─ norm ◄─ … ◄─ embedding ◄─ input_ids
//!     the graph is walked from its end to its beginning, and each step held against what the spec says of it
//!
//!  matrix of a node, as f32 ──┐
//!                             ├─► error per row and per block ─► is it the rounding? if not: what else is it?
//!  tensor of the checkpoint ──┘
//! ```
//!
//! What a node does is told by its operator and its place, not by its name. A graph that is spelled in a way that is
//! not known here is no error: how far the walk came is said, and what lies behind it is not checked.
//!
//! Weights are read in stretches of [`expected::NUMBERS`] numbers, and small samples of other tensors where one is not
//! what it should be. The package of a checkpoint with a LoRA adapter baked in differs from the checkpoint by the
//! adapter, and is told to differ.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)
)]

mod attention;
mod caches;
mod expected;
mod matrices;
mod mlp;
mod norms;
mod rotation;
mod scores;
mod small;
mod stream;
mod suspects;
mod tally;
mod trail;

use std::collections::BTreeMap;
use std::path::Path;

use genai_architectures::DecoderSpec;
use genai_checkpoint::Checkpoint;

use crate::graph::{Graph, Weight};
use crate::interpreter::Weights;
use crate::report::{Finding, Module, Severity, Stage, StageReport};
use crate::{Config, Result, Template};
use expected::Part;
use scores::Runs;
use trail::{Factor, Trail};

/// Compares the package in `folder` with what `spec` and `checkpoint` say, and gives the error of each module's weights.
///
/// `checkpoint` has its tensors under the names of the spec ([`DecoderSpec::name_of`]).
///
/// What cannot be read is told in the report, never an error: the stage is then not run.
pub fn check(folder: &Path, spec: &DecoderSpec, checkpoint: &Checkpoint) -> (StageReport, Vec<Module>) {
    match Examination::open(folder) {
        Ok((graph, names)) => {
            let matrices = graph.weights().matrices;
            let mut examination = Examination::new(&graph, &matrices, names, spec, checkpoint);
            examination.walk();
            let modules = examination.compare_matrices();
            examination.tell_rounded();
            (StageReport::judged(Stage::Anatomy, examination.checks, examination.findings), modules)
        }
        Err(error) => (StageReport::not_run(Stage::Anatomy, error.to_string()), Vec::new()),
    }
}

/// What the package calls the inputs and outputs that matter here.
struct Names {
    input_ids: String,
    attention_mask: String,
    position_ids: String,
    /// Keys, then values.
    past: [Template; 2],
    present: [Template; 2],
    logits: String,
}

#[cfg(test)]
impl Names {
    /// As packages are wired that say nothing else.
    fn usual() -> Self {
        let template = |text: &str| Template::parse(text).unwrap();
        Self {
            input_ids: "input_ids".to_owned(),
            attention_mask: "attention_mask".to_owned(),
            position_ids: "position_ids".to_owned(),
            past: [template("past.%d.key"), template("past.%d.value")],
            present: [template("present.%d.key"), template("present.%d.value")],
            logits: "logits".to_owned(),
        }
    }
}

/// Findings as they come.
struct Examination<'a> {
    graph: &'a Graph,
    trail: Trail<'a>,
    runs: Runs<'a>,
    matrices: &'a [Weight],
    names: Names,
    spec: &'a DecoderSpec,
    weights: &'a dyn Weights,
    /// Which matrix does what, by its index.
    parts: BTreeMap<usize, Part>,
    /// Rotary tables that were compared already: cosines, sines and the rope.
    tables: Vec<(String, String, usize)>,
    /// Vectors that are less exact than they could be, and how.
    rounded: Vec<(String, String)>,
    /// Values that give the lengths and positions, which all layers share and one tells about.
    told: Vec<String>,
    findings: Vec<Finding>,
    checks: usize,
}

impl<'a> Examination<'a> {
    fn open(folder: &Path) -> Result<(Graph, Names)> {
        let config = Config::open(folder)?;
        let decoder = &config.decoder;
        let file = decoder.model.strip_prefix(&config.folder).unwrap_or(&decoder.model);
        let graph = Graph::open(folder, &file.to_string_lossy())?;
        let (inputs, outputs) = (&decoder.inputs, &decoder.outputs);
        let names = Names {
            input_ids: inputs.input_ids.clone(),
            attention_mask: inputs.attention_mask.clone(),
            position_ids: inputs.position_ids.clone(),
            past: [inputs.past_key.clone(), inputs.past_value.clone()],
            present: [outputs.present_key.clone(), outputs.present_value.clone()],
            logits: outputs.logits.clone(),
        };
        Ok((graph, names))
    }

    fn new(
        graph: &'a Graph,
        matrices: &'a [Weight],
        names: Names,
        spec: &'a DecoderSpec,
        weights: &'a dyn Weights,
    ) -> Self {
        Self {
            graph,
            trail: Trail::new(graph, matrices),
            runs: Runs::new(graph, &names, spec.context_length),
            matrices,
            names,
            spec,
            weights,
            parts: BTreeMap::new(),
            tables: Vec::new(),
            rounded: Vec::new(),
            told: Vec::new(),
            findings: Vec::new(),
            checks: 0,
        }
    }

    /// Counts a check, and whether it holds; the message is made where it does not.
    fn expect(&mut self, holds: bool, check: &'static str, at: &str, message: impl FnOnce() -> String) -> bool {
        self.checks += 1;
        if !holds {
            self.findings.push(Finding::new(Severity::Error, check, at, message()));
        }
        holds
    }

    fn tell(&mut self, severity: Severity, check: &'static str, at: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(severity, check, at, message));
    }

    /// One mistake of an exporter concerns many vectors, and is told once.
    fn tell_rounded(&mut self) {
        let count = self.rounded.len();
        let Some((tensor, message)) = self.rounded.pop() else { return };
        let more = if count > 1 { format!(" (as {} others are)", count - 1) } else { String::new() };
        let hint = "a bf16 weight was changed before it was widened: add the 1 of such norms in f32";
        let finding = Finding::new(Severity::Warning, "norm", tensor, format!("{message}{more}"));
        self.findings.push(finding.with_hint(hint));
    }

    /// Counts a check of two numbers that should be the same up to f32.
    fn expect_number(&mut self, check: &'static str, at: &str, what: &str, found: f64, expected: f64) -> bool {
        self.expect_rounded(check, at, what, Factor::of(found), expected)
    }

    /// The same of a factor whose constants were rounded.
    fn expect_rounded(&mut self, check: &'static str, at: &str, what: &str, found: Factor, expected: f64) -> bool {
        let Factor { by: found, grain } = found;
        let off = (found - expected).abs();
        let close = off <= 2e-3 * expected.abs();
        let same = off <= 1e-6 + (1e-5 + grain) * expected.abs();
        // Constants of fp16 and of bf16 graphs are rounded.
        let severity = if close { Severity::Warning } else { Severity::Error };
        self.checks += 1;
        if !same {
            self.tell(severity, check, at, format!("{what} is {found}, expected {expected}"));
        }
        same
    }

    /// Whether this was not told before.
    fn first_time(&mut self, what: String) -> bool {
        let new = !self.told.contains(&what);
        if new {
            self.told.push(what);
        }
        new
    }
}

/// `layer 3`
fn layer_name(layer: usize) -> String {
    format!("layer {layer}")
}
