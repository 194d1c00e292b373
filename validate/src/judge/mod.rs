//! Judges any package: what is in the folder, whether it runs, whether it agrees with itself, with a reference, where it
//! begins to differ, and how fast it is.
//!
//! ```text
//!  folder ─► structure ─► anatomy ─► load ─► consistency ─► alignment ─► logits ─► layers ─► generation ─► bench
//!                            ▲                                  ▲          ▲         ▲           ▲
//!                        checkpoint ───────────────────────── reference ───┴─────────┴───────────┘
//! ```
//!
//! A stage that was asked for and could not run says why, and is no pass. One that finds errors does not stop the next,
//! unless that could say nothing: a package that is not loaded computes nothing, and logits of other tokens or of
//! another vocabulary cannot be compared.

mod alignment;
mod bench;
mod certificate;
mod consistency;
mod generation;
mod layers;
mod load;
mod logits;
mod precision;
mod recording;
mod taps;
mod tolerance;
mod words;

use std::path::Path;

use genai_architectures::{DecoderSpec, Mixer};
use genai_checkpoint::Adapter as CheckpointAdapter;

use crate::model::default_threads;
use crate::report::{Bench, Finding, Identity, Measured, Report, Severity, Stage, StageReport};
use crate::{Error, ErrorKind, LoadOptions, Precision, Provider, Result, Runtime};
pub use bench::{BenchOptions, measure, measure_package};
pub use certificate::certify;
pub use generation::continue_text;
use load::Loaded;
pub use logits::{GREEDY_STEPS, Origin, parity_with_origin};
pub use recording::{Recording, record};

/// How far a validation goes; each level holds those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Structure,
    Load,
    Consistency,
    Logits,
    Layers,
    Generation,
    Bench,
}

impl Level {
    /// The level that a stage belongs to.
    fn of(stage: Stage) -> Self {
        match stage {
            Stage::Structure | Stage::Anatomy => Self::Structure,
            Stage::Load => Self::Load,
            Stage::Consistency => Self::Consistency,
            Stage::Alignment | Stage::Logits => Self::Logits,
            Stage::Layers => Self::Layers,
            Stage::Generation => Self::Generation,
            Stage::Bench => Self::Bench,
        }
    }
}

/// What a package is compared with.
pub enum Against<'a> {
    /// Nothing: stages that need a reference are not asked for.
    Nothing,
    /// Logits, and possibly layers, of a file or of another package.
    Recording(Recording),
    /// The checkpoint that the package was made from: its own recorded logits, or the f32 interpreter.
    Origin(Origin<'a>),
}

/// A text that the package reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub name: String,
    pub text: String,
}

/// What is read where nobody gives texts: prose, dialogue, code and digits, written for this tool.
pub fn own_texts() -> Vec<Text> {
    [
        ("prose", "The lighthouse keeper counted the boats as they came home, and one was missing."),
        ("dialogue", "\"Where have you been?\" she asked. \"I waited for you until the lamps went out.\""),
        ("code", "def mean(values):\n    return sum(values) / len(values)  # 3.14159"),
    ]
    .map(|(name, text)| Text { name: name.to_owned(), text: text.to_owned() })
    .into()
}

/// Measures a package.
pub type Measuring<'a> = dyn Fn(&Path) -> Result<Bench> + 'a;

/// What is asked.
pub struct Request<'a> {
    pub level: Level,
    pub against: Against<'a>,
    /// Whose tolerances apply; `None` takes what the graph stores most of its weights in.
    pub precision: Option<Precision>,
    /// ONNX Runtime, or why there is none.
    pub runtime: std::result::Result<&'a Runtime, String>,
    pub provider: Provider,
    pub threads: Option<usize>,
    pub texts: Vec<Text>,
    /// Measures speed and memory of the folder, in a process of its own if the memory is to be the model's alone; `None`
    /// measures here, without memory.
    pub bench: Option<&'a Measuring<'a>>,
}

impl Request<'_> {
    fn load_options(&self) -> LoadOptions {
        LoadOptions { provider: self.provider, threads: self.threads, ..LoadOptions::default() }
    }

    /// Whether a stage is part of what was asked.
    fn wants(&self, stage: Stage) -> bool {
        if Level::of(stage) > self.level {
            return false;
        }
        match stage {
            Stage::Anatomy => matches!(self.against, Against::Origin(_)),
            Stage::Alignment | Stage::Logits | Stage::Layers => !matches!(self.against, Against::Nothing),
            _ => true,
        }
    }
}

/// A report, and the reference that the package was compared with, where it was.
pub struct Judged {
    pub report: Report,
    pub recording: Option<Recording>,
    /// A beginning of a text, and what the package puts behind it; where the generation was looked at.
    pub continuation: Option<(String, String)>,
}

/// Runs the stages. `note` gets a line for what takes long.
///
/// Never fails: what cannot be done is in the report.
pub fn validate<'a>(folder: &'a Path, request: &'a Request<'a>, note: &mut dyn FnMut(&str)) -> Judged {
    let mut judge = Judge {
        folder,
        request,
        stages: Vec::new(),
        measured: Measured::default(),
        identity: identity(folder),
        continuation: None,
    };
    let recording = judge.run(note);
    let Judge { stages, measured, identity, continuation, .. } = judge;
    Judged { report: Report::new(identity, stages, measured), recording, continuation }
}

/// A validation under way.
struct Judge<'a> {
    folder: &'a Path,
    request: &'a Request<'a>,
    stages: Vec<StageReport>,
    measured: Measured,
    identity: Identity,
    continuation: Option<(String, String)>,
}

impl<'a> Judge<'a> {
    fn run(&mut self, note: &mut dyn FnMut(&str)) -> Option<Recording> {
        self.stages.push(crate::structure::check(self.folder));
        if let Against::Origin(origin) = &self.request.against {
            note("comparing graph and weights with the checkpoint");
            self.anatomy(origin);
        }
        if self.request.level < Level::Load {
            return None;
        }
        note("loading");
        let loaded = self.load();
        let Some(loaded) = loaded else {
            self.skip_after(Stage::Load, "the package is not loaded");
            return None;
        };
        if self.request.wants(Stage::Consistency) {
            note("comparing the package with itself");
            let (stage, roads) = consistency::check(&loaded, &self.request.texts);
            self.measured.roads = roads;
            self.stages.push(stage);
        }
        let recording = self.compare(&loaded, note);
        if self.request.wants(Stage::Generation) {
            let text = |tokenizer| continue_text(&loaded.package, tokenizer, &loaded.model).ok();
            self.continuation = loaded.words.tokenizer().and_then(text);
        }
        if self.request.wants(Stage::Bench) {
            note("measuring speed and memory");
            self.bench(&loaded);
        }
        recording
    }

    fn anatomy(&mut self, origin: &Origin) {
        match origin.checkpoint.renamed(|stored| origin.spec.name_of(stored)) {
            Ok(checkpoint) => {
                let (stage, modules) = crate::anatomy::check(self.folder, origin.spec, &checkpoint);
                self.measured.modules = modules;
                self.stages.push(stage);
            }
            Err(error) => self.stages.push(StageReport::not_run(Stage::Anatomy, error.to_string())),
        }
    }

    fn load(&mut self) -> Option<Loaded<'a>> {
        let request: &'a Request = self.request;
        let runtime = match &request.runtime {
            Ok(runtime) => *runtime,
            Err(why) => {
                self.stages.push(StageReport::not_run(Stage::Load, why.clone()));
                return None;
            }
        };
        self.identity.runtime = runtime.version.clone();
        self.identity.provider = Some(self.request.provider.name().to_owned());
        self.identity.threads = Some(self.request.threads.unwrap_or_else(default_threads));
        match Loaded::load(self.folder, runtime, self.request.load_options(), self.request.precision) {
            Ok((loaded, findings, placement)) => {
                self.measured.placement = placement;
                self.stages.push(StageReport::judged(Stage::Load, 3, findings));
                Some(loaded)
            }
            Err(error) => {
                self.stages.push(unloaded(&error));
                None
            }
        }
    }

    /// Alignment, logits, layers and generation.
    fn compare(&mut self, loaded: &Loaded, note: &mut dyn FnMut(&str)) -> Option<Recording> {
        let request = self.request;
        if let Against::Nothing = request.against {
            if request.wants(Stage::Generation) {
                self.stages.push(generation::check(loaded, &request.texts, None));
            }
            return None;
        }
        if !request.wants(Stage::Alignment) {
            return None;
        }
        let alignment = alignment::check(loaded, &request.against, &request.texts);
        let aligned = alignment.verdict() != Some(crate::Verdict::Fail);
        self.stages.push(alignment);
        if !aligned {
            self.skip_after(Stage::Alignment, "the two sides do not read the same tokens");
            return None;
        }
        note("comparing with the reference");
        let compared = match logits::compare(loaded, &request.against, &request.texts, request.wants(Stage::Layers)) {
            Ok(compared) => compared,
            Err(error) => {
                self.stages.push(StageReport::not_run(Stage::Logits, error.to_string()));
                self.skip_after(Stage::Logits, "there is no reference to compare with");
                return None;
            }
        };
        self.stages.push(logits::judged(&compared.parity, compared.parameters));
        if request.wants(Stage::Layers) {
            note("comparing layer by layer");
            let (mut stage, layers) = layers::check(loaded, &compared.recording);
            if compared.parity.verdict == crate::Verdict::Fail {
                stage.findings.extend(layers::behind(&stage, &layers));
            }
            self.measured.layers = layers;
            self.stages.push(stage);
        }
        if request.wants(Stage::Generation) {
            self.stages.push(generation::check(loaded, &request.texts, Some(&compared)));
        }
        self.measured.texts = compared.texts;
        self.measured.predictions = Some(compared.predictions);
        self.measured.parity = Some(compared.parity);
        Some(compared.recording)
    }

    fn bench(&mut self, loaded: &Loaded) {
        let measured = match self.request.bench {
            Some(bench) => bench(self.folder),
            None => measure(&loaded.model, loaded.seconds, &BenchOptions::default()),
        };
        match measured {
            Ok(bench) => {
                self.measured.bench = Some(bench);
                self.stages.push(StageReport::judged(Stage::Bench, 1, Vec::new()));
            }
            Err(error) => self.stages.push(StageReport::not_run(Stage::Bench, error.to_string())),
        }
    }

    /// Says of all wanted stages behind `stage` that they did not run.
    fn skip_after(&mut self, stage: Stage, why: &str) {
        let behind = Stage::ALL.iter().filter(|&&other| other > stage && self.request.wants(other));
        self.stages.extend(behind.map(|&other| StageReport::not_run(other, why)));
    }
}

/// A package that ONNX Runtime refuses is wrong. One that this crate cannot run, or this machine, was not judged.
fn unloaded(error: &Error) -> StageReport {
    match error.kind() {
        ErrorKind::Package | ErrorKind::Execution => {
            let mut finding = Finding::new(Severity::Error, "load", "the package", error.to_string());
            finding.hint = error.hint().map(str::to_owned);
            StageReport::judged(Stage::Load, 1, vec![finding])
        }
        _ => StageReport::not_run(Stage::Load, error.to_string()),
    }
}

fn identity(folder: &Path) -> Identity {
    let canonical = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = canonical.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Ok(package) = crate::Config::open(folder) else {
        return Identity { name, ..Identity::default() };
    };
    let graph = precision::open(&package).ok();
    Identity {
        name,
        model_type: package.model_type.clone(),
        producer: graph.as_ref().map(|graph| graph.producer.clone()).unwrap_or_default(),
        opsets: graph.map(|graph| graph.opsets).unwrap_or_default(),
        ..Identity::default()
    }
}

/// Adapters of a checkpoint: the one that is part of the package, and those that can be swapped.
#[derive(Clone, Copy, Default)]
pub struct Adapters<'a> {
    pub baked_in: Option<&'a CheckpointAdapter>,
    pub swappable: &'a [CheckpointAdapter],
}

/// The spec with as many layers as `caches` belong to, counted from the first; `None` where it has no more.
pub fn first_layers(spec: &DecoderSpec, caches: usize) -> Option<DecoderSpec> {
    let mut own = spec.layers.iter().enumerate().filter(|(_, layer)| {
        let Mixer::Attention(attention) = &layer.mixer;
        attention.key_value.is_own()
    });
    let (first_left_out, _) = own.nth(caches)?;
    let mut cut = spec.clone();
    cut.layers.truncate(first_left_out);
    Some(cut)
}
