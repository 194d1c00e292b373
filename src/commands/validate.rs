use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use genai_architectures::{Config as ModelConfig, DecoderSpec, describe};
use genai_builder::Adaptation;
use genai_checkpoint::Checkpoint;
use genai_validate::judge::{self, Against, Judged, Level, Origin, Recording, Request, Text};
use genai_validate::report::{Outcome, Report, annotations, github, html, junit, text};
use genai_validate::{Config, ParityReport, Precision, Provider, Tokenizer, Verdict};
use serde::Serialize;
use serde_json::json;

use super::child::Child;
use super::runtime;
use crate::console::{note, print, print_json};
use crate::{
    adapters::Adapters,
    args::{LevelArg, ProviderArg, RuntimeArgs, ToleranceArg, ValidateArgs},
    failure::{Failure, code},
    hub,
    report::Continuation,
    token::TokenChoice,
};

#[derive(Serialize)]
struct ValidateReport<'a> {
    parity: Option<&'a ParityReport>,
    continuation: Option<Continuation>,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let config = args.package.join("genai_config.json");
    if let Err(source) = config.metadata() {
        return Err(genai_validate::Error::Io { path: config, source }.into());
    }
    let texts = texts(&args.text)?;
    let child = Child {
        package: args.package.clone(),
        provider: args.execution_provider,
        threads: args.threads,
        runtime: args.runtime.clone(),
    };
    match Source::of(args) {
        Source::None => judge(args, Against::Nothing, texts, &child),
        Source::File(path) => {
            let recording = Recording::read(&path)?;
            judge(args, Against::Recording(recording), texts, &child)
        }
        Source::Package(package) => {
            let mut runtime = args.runtime.clone();
            if let Some(library) = &args.reference_ort_lib {
                runtime.ort_lib = Some(library.clone());
            }
            note(&format!("running the reference {}", package.display()));
            // On the CPU, which every package for another provider can fall back to.
            let of_reference = Child { package, provider: ProviderArg::Cpu, runtime, ..child.clone() };
            judge(args, Against::Recording(of_reference.record(&texts)?), texts, &child)
        }
        Source::Checkpoint(name) => {
            let (offline, token) = (args.runtime.offline, TokenChoice::Environment);
            let adapters = Adapters::resolve(args.adapter_path.clone(), &args.adapters)?;
            let checkpoint = hub::open(&name, &args.hub, offline, &token, hub::describable)?;
            let checkpoint = adapters.open(checkpoint)?;
            let spec = describe(&ModelConfig::from_json(checkpoint.config().clone())?)?;
            let layers = Config::open(&args.package).map(|package| package.decoder.num_hidden_layers);
            let cut = layers.ok().and_then(|layers| judge::first_layers(&spec, layers));
            let subject = Subject {
                checkpoint: &checkpoint,
                spec: cut.as_ref().unwrap_or(&spec),
                adaptation: adapters.adaptation,
            };
            judge(args, Against::Origin(subject.origin()), texts, &child)
        }
    }
}

/// What `--reference` and `--checkpoint` name.
enum Source {
    None,
    File(PathBuf),
    Package(PathBuf),
    /// A folder, or a name on the Hub.
    Checkpoint(String),
}

impl Source {
    fn of(args: &ValidateArgs) -> Self {
        let named = match (&args.checkpoint, args.reference.as_deref()) {
            (Some(checkpoint), _) => return Self::Checkpoint(checkpoint.clone()),
            (None, None | Some("none")) => return Self::None,
            (None, Some(named)) => named,
        };
        let path = PathBuf::from(named);
        let recorded = path.extension().is_some_and(|extension| extension == "npz" || extension == "safetensors");
        if recorded {
            Self::File(path)
        } else if path.join("genai_config.json").exists() {
            Self::Package(path)
        } else {
            Self::Checkpoint(named.to_owned())
        }
    }
}

fn judge(args: &ValidateArgs, against: Against, texts: Vec<Text>, child: &Child) -> Result<(), Failure> {
    let nothing = matches!(against, Against::Nothing);
    let level = match args.level {
        Some(level) => level.into(),
        None if nothing => Level::Consistency,
        None => Level::Generation,
    };
    if nothing && args.reference.is_none() && (Level::Logits..Level::Generation).contains(&level) {
        let message = "this level compares with a reference, and there is none";
        return Err(Failure::usage(message).with_hint("name one with --reference"));
    }
    let runtime = match level {
        Level::Structure => Err("it was not asked for".to_owned()),
        _ => runtime::wanted(&args.runtime).map_err(|failure| failure.message),
    };
    let bench = |_: &Path| child.measure();
    let request = Request {
        level,
        against,
        precision: args.precision.into(),
        runtime: runtime.as_ref().map_err(Clone::clone),
        provider: args.execution_provider.into(),
        threads: args.threads,
        texts,
        bench: Some(&bench),
    };
    let mut judged = judge::validate(&args.package, &request, &mut |line| note(line));
    for check in &args.allow {
        let found = judged.report.stages.iter().flat_map(|stage| &stage.findings).any(|found| found.check == check);
        if !found {
            note(&format!("--allow {check}: no check of that name found anything"));
        }
    }
    judged.report = judged.report.accepting(&args.allow);
    if let (Some(path), Some(recording)) = (&args.save_reference, &judged.recording) {
        recording.write(path)?;
    }
    finish(args, judged)
}

/// Writes the pages, and says how it ended.
fn finish(args: &ValidateArgs, Judged { mut report, continuation, .. }: Judged) -> Result<(), Failure> {
    // Pages are written even where the package cannot be certified.
    let certified = args.certify.then(|| judge::certify(&args.package, &report)).transpose();
    if let Ok(Some(hashes)) = &certified {
        report.package.files.clone_from(hashes);
    }
    let written = |path: &Path, page: String| {
        fs::write(path, page).map_err(|source| genai_validate::Error::Io { path: path.to_path_buf(), source })
    };
    if let Some(path) = &args.junit {
        written(path, junit(&report))?;
    }
    if let Some(path) = &args.html {
        written(path, html(&report))?;
    }
    certified?;
    let continuation = continuation.map(|(prompt, text)| Continuation { prompt, text });
    if args.github {
        summarize(&report)?;
    } else if !args.json {
        let greedy = continuation.as_ref().map(|found| format!("\ngreedy: {}{}\n", found.prompt, found.text));
        print(&format!("{}{}", text(&report), greedy.unwrap_or_default()))?;
    }
    let parity = report.measured.parity.as_ref();
    let result = ValidateReport { parity, continuation, report: &report };
    let Some(failure) = failure(&report) else {
        return if args.json { print_json(&result) } else { Ok(()) };
    };
    Err(failure.with_report(json!(result).as_object().cloned().unwrap_or_default()))
}

/// Wrong is worse than not looked at; neither is a pass.
fn failure(report: &Report) -> Option<Failure> {
    if report.verdict == Verdict::Fail {
        return Some(Failure::new(code::VALIDATION_FAILED, "validation failed"));
    }
    let left_out = report.stages.iter().find_map(|stage| match &stage.outcome {
        Outcome::NotRun { why } => Some((stage.stage, why)),
        Outcome::Judged { .. } => None,
    });
    left_out.map(|(stage, why)| Failure::new(code::COULD_NOT_RUN, format!("could not validate: {stage}: {why}")))
}

/// What GitHub shows: annotations on stdout, a summary in the file that it names.
fn summarize(report: &Report) -> Result<(), Failure> {
    print(&annotations(report))?;
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").map(PathBuf::from) else {
        return print(&github(report));
    };
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(|source| genai_validate::Error::Io { path: path.clone(), source })?;
    Ok(file.write_all(github(report).as_bytes()).map_err(|source| genai_validate::Error::Io { path, source })?)
}

/// Texts of files, called as the files; the tool's own where there are none.
fn texts(files: &[PathBuf]) -> Result<Vec<Text>, Failure> {
    if files.is_empty() {
        return Ok(judge::own_texts());
    }
    let read = |path: &PathBuf| {
        let text =
            fs::read_to_string(path).map_err(|source| genai_validate::Error::Io { path: path.clone(), source })?;
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Text { name, text })
    };
    files.iter().map(read).collect()
}

/// What a package is made from.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// With its adapters.
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) adaptation: Adaptation,
}

impl<'a> Subject<'a> {
    fn origin(self) -> Origin<'a> {
        let all = self.checkpoint.adapters();
        let adapters = match self.adaptation {
            Adaptation::BakedIn => judge::Adapters { baked_in: all.first(), swappable: &[] },
            Adaptation::Swappable => judge::Adapters { baked_in: None, swappable: all },
        };
        Origin { checkpoint: self.checkpoint, spec: self.spec, adapters }
    }
}

/// Compares a package that was just built with recorded logits, or with the f32 interpreter where there are none, and has
/// it continue a text.
pub(crate) fn check(
    package: &Path,
    subject: &Subject,
    precision: Precision,
    runtime: &RuntimeArgs,
) -> Result<(ParityReport, Continuation), Failure> {
    let package = Config::open(package)?;
    let tokenizer = Tokenizer::load(&package.folder)?;
    let model = runtime::load(&package, runtime)?;
    let cut = judge::first_layers(subject.spec, package.decoder.num_hidden_layers);
    let origin = Subject { spec: cut.as_ref().unwrap_or(subject.spec), ..*subject }.origin();
    let texts = judge::own_texts();
    let parity = judge::parity_with_origin(&package, &model, &origin, precision, &texts)?;
    let (prompt, text) = judge::continue_text(&package, &tokenizer, &model)?;
    Ok((parity, Continuation { prompt, text }))
}

impl From<LevelArg> for Level {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Structure => Self::Structure,
            LevelArg::Load => Self::Load,
            LevelArg::Consistency => Self::Consistency,
            LevelArg::Logits => Self::Logits,
            LevelArg::Layers => Self::Layers,
            LevelArg::Generation => Self::Generation,
            LevelArg::Bench => Self::Bench,
        }
    }
}

impl From<ProviderArg> for Provider {
    fn from(provider: ProviderArg) -> Self {
        match provider {
            ProviderArg::Cpu => Self::Cpu,
            ProviderArg::Cuda => Self::Cuda,
            ProviderArg::Webgpu => Self::WebGpu,
        }
    }
}

impl From<ToleranceArg> for Option<Precision> {
    fn from(precision: ToleranceArg) -> Self {
        match precision {
            ToleranceArg::Auto => None,
            ToleranceArg::Fp32 => Some(Precision::Fp32),
            ToleranceArg::Fp16 => Some(Precision::Fp16),
            ToleranceArg::Bf16 => Some(Precision::Bf16),
            ToleranceArg::Int8 => Some(Precision::Int8),
            ToleranceArg::Int4 => Some(Precision::Int4),
        }
    }
}

pub(crate) fn precision(precision: genai_builder::Precision) -> Precision {
    use genai_builder::Precision as Built;
    match precision {
        Built::Fp32 => Precision::Fp32,
        Built::Fp16 => Precision::Fp16,
        Built::Bf16 => Precision::Bf16,
        Built::Int8 => Precision::Int8,
        Built::Int4 => Precision::Int4,
    }
}
