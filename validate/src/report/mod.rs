//! What was looked at in a package, and what was found. Facts and findings of all stages in one value, which the
//! pages of [`crate::report`] show: as text, JSON, JUnit, a GitHub summary and HTML.

mod escape;
pub(crate) mod figures;
mod github;
mod html;
mod junit;
mod layers;
pub(crate) mod layout;
mod lines;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::metrics::{GreedyMatch, Predictions};
use crate::{ParityReport, Verdict};
pub use figures::bytes;
pub use github::{annotations, github};
pub use html::html;
pub use junit::junit;
pub use text::text;

/// Everything that one validation looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub package: Identity,
    /// In the order in which they ran; a stage that was not asked for is not here.
    pub stages: Vec<StageReport>,
    pub measured: Measured,
    /// The worst of all stages.
    pub verdict: Verdict,
}

/// What was validated, so that two reports can be compared. Holds no path and no time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The folder's own name.
    pub name: String,
    pub model_type: String,
    /// As the graph says: name and version.
    pub producer: String,
    /// Operator domain to version.
    pub opsets: BTreeMap<String, i64>,
    /// SHA-256 of each file, where it was asked for.
    pub files: BTreeMap<String, String>,
    /// Version of ONNX Runtime, where it was loaded.
    pub runtime: Option<String>,
    pub provider: Option<String>,
    pub threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Files, configuration and graph, read without ONNX Runtime.
    Structure,
    /// The graph and its weights against the checkpoint that they should come from, read without ONNX Runtime.
    Anatomy,
    /// A session on the provider, and where the nodes run.
    Load,
    /// The same text by different roads gives the same logits.
    Consistency,
    /// Both sides of the comparison read the text as the same tokens.
    Alignment,
    /// Logits against the reference.
    Logits,
    /// Where, from layer to layer, the difference begins.
    Layers,
    /// Greedy search against the reference's.
    Generation,
    /// Speed and memory.
    Bench,
}

impl Stage {
    pub const ALL: [Self; 9] = [
        Self::Structure,
        Self::Anatomy,
        Self::Load,
        Self::Consistency,
        Self::Alignment,
        Self::Logits,
        Self::Layers,
        Self::Generation,
        Self::Bench,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Anatomy => "anatomy",
            Self::Load => "load",
            Self::Consistency => "consistency",
            Self::Alignment => "alignment",
            Self::Logits => "logits",
            Self::Layers => "layers",
            Self::Generation => "generation",
            Self::Bench => "bench",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    pub stage: Stage,
    pub outcome: Outcome,
    /// The gravest first.
    pub findings: Vec<Finding>,
    /// Checks that were made, whether they found anything or not.
    pub checks: usize,
}

/// "Not run" is never a pass: a reader must see the difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Outcome {
    Judged { verdict: Verdict },
    NotRun { why: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Works, but will surprise somebody.
    Warning,
    /// Neither right nor wrong for certain: makes the verdict ambiguous.
    Doubt,
    /// Wrong: makes the verdict a failure.
    Error,
}

impl Severity {
    /// From the gravest on.
    pub const ALL: [Self; 4] = [Self::Error, Self::Doubt, Self::Warning, Self::Info];

    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Doubt => "doubt",
            Self::Error => "error",
        }
    }

    /// The word for people, which is used in the plural too.
    fn called(self) -> &'static str {
        match self {
            Self::Info => "note",
            Self::Warning | Self::Doubt | Self::Error => self.name(),
        }
    }

    /// What a finding of this severity makes of its stage.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Info | Self::Warning => Verdict::Pass,
            Self::Doubt => Verdict::Ambiguous,
            Self::Error => Verdict::Fail,
        }
    }
}

/// One thing that a person should know about the package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Which check found it: a stable word such as `external-data`.
    pub check: &'static str,
    /// A file, JSON path, node, tensor or layer of the package.
    pub at: String,
    /// What is wrong: expected and found.
    pub message: String,
    /// What to do about it, or what it usually comes from.
    pub hint: Option<String>,
}

impl Finding {
    pub fn new(severity: Severity, check: &'static str, at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, check, at: at.into(), message: message.into(), hint: None }
    }

    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Numbers of the stages that ran; what was not measured is absent or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    pub parity: Option<ParityReport>,
    /// Over all texts of `parity` together.
    pub predictions: Option<Predictions>,
    /// Along each text: what the tables of `parity` sum up.
    pub texts: Vec<TextTrace>,
    /// In the order of computation.
    pub layers: Vec<LayerError>,
    /// The same text by two roads.
    pub roads: Vec<Road>,
    pub bench: Option<Bench>,
    /// Nodes per provider and operator.
    pub placement: Vec<Placed>,
    /// Weights by module.
    pub modules: Vec<Module>,
}

/// A text, token by token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextTrace {
    pub name: String,
    /// Text of each token, prompt and continuation.
    pub tokens: Vec<String>,
    /// KL divergence of the prediction behind each token of the prompt, in nats.
    pub kl: Vec<f64>,
    /// Positions at which the two sides prefer another token.
    pub disagreements: Vec<usize>,
    /// Where the prompt ends.
    pub prompt_tokens: usize,
    /// Greedy search from the prompt on: what the reference says, and what the package says.
    pub expected: Vec<String>,
    pub found: Vec<String>,
    pub greedy: Option<GreedyMatch>,
}

/// One tensor that can be seen between the layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerError {
    /// `None` for what belongs to no layer, such as the final norm.
    pub layer: Option<usize>,
    /// Such as `present.3.key`, or `residual` for the stream that enters the layer.
    pub tap: String,
    pub max_abs: f64,
    /// Root of the mean squared error, over that of the reference.
    pub relative_rms: f64,
    pub cosine: f64,
    /// Whether this is more than the precision explains.
    pub beyond: bool,
}

/// The same text by another road, such as token by token in place of at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Road {
    pub name: String,
    pub max_abs: f64,
    pub kl_mean: f64,
    /// The limit for `max_abs`, or for `kl_mean` where that is what is judged.
    pub within: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Bench {
    pub load_seconds: f64,
    /// Prompt lengths and what they gave. Here and below, a time or a rate is the median of the runs, and a spread the
    /// least and the greatest of them.
    pub prefill: Vec<Rate>,
    /// Time to the first token of the first prompt of `prefill`, in seconds.
    pub first_token_seconds: f64,
    pub first_token_spread: [f64; 2],
    pub decode_tokens_per_second: f64,
    pub decode_spread: [f64; 2],
    /// Between tokens, in milliseconds: 50, 90 and 99 of 100.
    pub between_tokens_ms: [f64; 3],
    /// Drawing a token with top-k 50 and top-p 0.95, in microseconds; of all that are decoded.
    pub sampling_us: f64,
    /// Of the process, in bytes; `None` where the system does not tell.
    pub peak_memory: Option<u64>,
    pub cache_bytes_per_token: u64,
    pub runs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Rate {
    pub tokens: usize,
    pub tokens_per_second: f64,
    pub spread: [f64; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Placed {
    pub provider: String,
    pub op_type: String,
    pub nodes: usize,
}

/// Weights of one module, such as `model.layers.3.mlp.down_proj`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Module {
    pub name: String,
    /// Such as `int4 k_quant, blocks of 32`, or `fp16`.
    pub stored: String,
    pub bytes: u64,
    /// Root of the mean squared error against the checkpoint, over that of the checkpoint; `None` without one.
    pub relative_error: Option<f64>,
}

impl StageReport {
    /// Judged by the gravest of its findings.
    pub fn judged(stage: Stage, checks: usize, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let verdict = findings.first().map_or(Verdict::Pass, |finding| finding.severity.verdict());
        Self { stage, outcome: Outcome::Judged { verdict }, findings, checks }
    }

    pub fn not_run(stage: Stage, why: impl Into<String>) -> Self {
        Self { stage, outcome: Outcome::NotRun { why: why.into() }, findings: Vec::new(), checks: 0 }
    }

    pub fn verdict(&self) -> Option<Verdict> {
        match self.outcome {
            Outcome::Judged { verdict } => Some(verdict),
            Outcome::NotRun { .. } => None,
        }
    }
}

impl Report {
    /// Findings of all stages with the stage that found them, the gravest first.
    fn findings(&self) -> Vec<(Stage, &Finding)> {
        let mut all: Vec<_> = self
            .stages
            .iter()
            .flat_map(|stage| stage.findings.iter().map(move |finding| (stage.stage, finding)))
            .collect();
        all.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
        all
    }

    /// The worst verdict of the stages. One that could not run is no pass, and neither is no stage at all.
    pub fn new(package: Identity, stages: Vec<StageReport>, measured: Measured) -> Self {
        let of = |stage: &StageReport| stage.verdict().unwrap_or(Verdict::Ambiguous);
        let verdict = stages.iter().map(of).max().unwrap_or(Verdict::Ambiguous);
        Self { package, stages, measured, verdict }
    }

    /// The same where a person accepts what these checks find: it is told as a warning, and does not decide.
    pub fn accepting(self, checks: &[String]) -> Self {
        let accepted = |finding: Finding| {
            if finding.severity <= Severity::Warning || !checks.iter().any(|check| check == finding.check) {
                return finding;
            }
            let message = format!("accepted, else {}: {}", finding.severity.name(), finding.message);
            Finding { severity: Severity::Warning, message, ..finding }
        };
        let stages = self.stages.into_iter().map(|stage| match stage.outcome {
            Outcome::NotRun { .. } => stage,
            Outcome::Judged { .. } => {
                StageReport::judged(stage.stage, stage.checks, stage.findings.into_iter().map(accepted).collect())
            }
        });
        Self::new(self.package, stages.collect(), self.measured)
    }
}
