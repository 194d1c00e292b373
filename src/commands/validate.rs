use std::path::Path;
use std::sync::Arc;

use genai_architectures::{Config as ModelConfig, DecoderSpec, Mixer, describe};
use genai_builder::Adaptation;
use genai_checkpoint::Checkpoint;
use genai_validate::{
    Adapter, CacheMode, Config, Continued, ErrorKind, GenerateOptions, LoadOptions, Model, Network, ParityReport,
    Precision, PromptParity, Reference, SamplingOptions, SequenceOptions, SpecialTokens, Tokenizer, Verdict,
    compare_prompts, continue_greedily, generate, runtime::find_or_install,
};
use serde::Serialize;
use serde_json::json;

use crate::console::{note, print, print_json};
use crate::{
    adapters::Adapters,
    args::{RuntimeArgs, ValidateArgs},
    failure::{Failure, code},
    hub,
    report::Continuation,
    token::TokenChoice,
};

/// Logits recorded from transformers, where a checkpoint carries them.
const RECORDED: &str = "reference.npz";

/// Texts that a checkpoint without recorded logits is read with: prose, dialogue, code and digits.
const TEXTS: [(&str, &str); 3] = [
    ("prose", "The lighthouse keeper counted the boats as they came home, and one was missing."),
    ("dialogue", "\"Where have you been?\" she asked. \"I waited for you until the lamps went out.\""),
    ("code", "def mean(values):\n    return sum(values) / len(values)  # 3.14159"),
];
const GREEDY_STEPS: usize = 16;
const CONTINUED: (&str, usize) = ("Once upon a time", 32);

#[derive(Serialize)]
struct ValidateReport {
    parity: ParityReport,
    continuation: Continuation,
}

pub(crate) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let (offline, token) = (args.runtime.offline, TokenChoice::Environment);
    let adapters = Adapters::resolve(args.adapter_path.clone(), &args.adapters)?;
    let checkpoint = hub::open(&args.checkpoint, &args.hub, offline, &token, hub::describable)?;
    let checkpoint = adapters.open(checkpoint)?;
    let spec = describe(&ModelConfig::from_json(checkpoint.config().clone())?)?;
    let precision = precision(args.precision.into());
    let subject = Subject { checkpoint: &checkpoint, spec: &spec, adaptation: adapters.adaptation };
    let (parity, continuation) = check(&args.package, &subject, precision, &args.runtime)?;
    let failed = parity.verdict == Verdict::Fail;
    let report = ValidateReport { parity, continuation };
    if failed {
        if !args.json {
            print(&report.to_text())?;
        }
        let found = json!(report).as_object().cloned().unwrap_or_default();
        return Err(Failure::new(code::VALIDATION_FAILED, "validation failed").with_report(found));
    }
    if args.json { print_json(&report) } else { print(&report.to_text()) }
}

impl ValidateReport {
    fn to_text(&self) -> String {
        format!("{}greedy: {}{}\n", self.parity, self.continuation.prompt, self.continuation.text)
    }
}

/// What a package is made from.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// With its adapters.
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) adaptation: Adaptation,
}

/// Compares a package with recorded logits, or with the f32 interpreter where there are none, and has it continue a
/// text. Where adapters can be swapped, the package is compared without any and then with each.
pub(crate) fn check(
    package: &Path,
    subject: &Subject,
    precision: Precision,
    runtime: &RuntimeArgs,
) -> Result<(ParityReport, Continuation), Failure> {
    let package = Config::open(package)?;
    let tokenizer = Tokenizer::load(&package.folder)?;
    let model = load(&package, runtime)?;
    let cut = first_layers(subject.spec, package.decoder.num_hidden_layers);
    let subject = &Subject { spec: cut.as_ref().unwrap_or(subject.spec), ..*subject };
    let adapters = subject.checkpoint.adapters();
    let baked_in = adapters.first().filter(|_| subject.adaptation == Adaptation::BakedIn);
    let reference = reference(subject, (baked_in, None), &tokenizer, &model)?;
    let mode = CacheMode::plainest(&model);
    let mut prompts = compare_prompts(&model, &reference, mode, None)?;
    let mut name = reference.name;
    for adapter in adapters.iter().filter(|_| subject.adaptation == Adaptation::Swappable) {
        let file = Adapter::load(&package.folder.join(format!("{}.onnx_adapter", adapter.name())))?;
        let reference = self::reference(subject, (Some(adapter), Some(&file)), &tokenizer, &model)?;
        let with = compare_prompts(&model, &reference, mode, Some(&file))?;
        let called =
            |prompt: PromptParity| PromptParity { name: format!("{}/{}", adapter.name(), prompt.name), ..prompt };
        prompts.extend(with.into_iter().map(called));
        name = format!("{name}; with {}: {}", adapter.name(), reference.name);
    }
    let precision = coarser(precision, model.cache_precision());
    let parity = ParityReport::new(precision, subject.spec.num_parameters(), name, prompts)?;

    let (prompt, steps) = CONTINUED;
    let ids = tokenizer.encode(prompt, SpecialTokens::Added)?;
    let options = GenerateOptions {
        sequence: SequenceOptions {
            max_length: (ids.len() + steps).min(model.context_length()),
            cache: CacheMode::of(&model),
            adapter: None,
        },
        eos_token_ids: &package.eos_token_ids,
        sampling: SamplingOptions::GREEDY,
    };
    let generation = generate(&model, &tokenizer, &ids, options, &mut |_| {})?;
    Ok((parity, Continuation { prompt: prompt.to_owned(), text: generation.text }))
}

/// The model with as many layers as `caches` belong to, counted from the first; `None` where it has no more.
fn first_layers(spec: &DecoderSpec, caches: usize) -> Option<DecoderSpec> {
    let mut own = spec.layers.iter().enumerate().filter(|(_, layer)| {
        let Mixer::Attention(attention) = &layer.mixer;
        attention.key_value.is_own()
    });
    let (first_left_out, _) = own.nth(caches)?;
    let mut cut = spec.clone();
    cut.layers.truncate(first_left_out);
    Some(cut)
}

/// Loads a package on whichever ONNX Runtime is found, or fetched.
pub(crate) fn load(package: &Config, args: &RuntimeArgs) -> Result<Arc<Model>, Failure> {
    let network = if args.offline { Network::Offline } else { Network::Allowed };
    let runtime = find_or_install(args.ort_lib.as_deref(), network, &mut note)?;
    Ok(Arc::new(Model::load(package, &runtime, LoadOptions::default())?))
}

/// What the package is to compute with this adapter, or with none: logits that were recorded of the two, or else those
/// of the f32 interpreter. `file` is what of the adapter the package has beside it.
fn reference(
    subject: &Subject,
    (adapter, file): (Option<&genai_checkpoint::Adapter>, Option<&Adapter>),
    tokenizer: &Tokenizer,
    model: &Arc<Model>,
) -> Result<Reference, Failure> {
    let recorded = match adapter {
        Some(adapter) => adapter.file_path(RECORDED),
        None => subject.checkpoint.file_path(RECORDED),
    };
    let (layers, all) = (
        subject.spec.layers.len(),
        describe(&ModelConfig::from_json(subject.checkpoint.config().clone())?)?.layers.len(),
    );
    let why = match recorded {
        Some(path) if layers == all => {
            return Ok(Reference { name: format!("recorded logits ({RECORDED})"), ..Reference::read(&path)? });
        }
        Some(_) => format!("the package has the first {layers} of {all} layers"),
        None => "no recorded logits beside the checkpoint".to_owned(),
    };
    note(&format!("{why}: comparing with the f32 interpreter"));
    interpreted(subject, (adapter, file), tokenizer, model)
}

fn interpreted(
    subject: &Subject,
    (adapter, file): (Option<&genai_checkpoint::Adapter>, Option<&Adapter>),
    tokenizer: &Tokenizer,
    model: &Arc<Model>,
) -> Result<Reference, Failure> {
    let Subject { spec, checkpoint, .. } = *subject;
    let mut continued = Vec::new();
    for (name, text) in TEXTS {
        let mut prompt = tokenizer.encode(text, SpecialTokens::Added)?;
        prompt.truncate(model.context_length().saturating_sub(GREEDY_STEPS));
        if !prompt.is_empty() {
            let mode = CacheMode::plainest(model);
            let continuation = continue_greedily(model, &prompt, GREEDY_STEPS, mode, file)?;
            continued.push(Continued { name: name.to_owned(), prompt, continuation });
        }
    }
    Ok(Reference::interpret(spec, checkpoint, adapter, &continued)?)
}

/// Of weights and cache that which loses more.
fn coarser(weights: Precision, cache: Option<Precision>) -> Precision {
    match (weights, cache) {
        (Precision::Int4, _) | (_, Some(Precision::Int4)) => Precision::Int4,
        (_, Some(cache)) => cache,
        (weights, None) => weights,
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

impl From<genai_validate::Error> for Failure {
    fn from(error: genai_validate::Error) -> Self {
        let code = match error.kind() {
            // A package that this crate cannot run was neither right nor wrong.
            ErrorKind::Runtime | ErrorKind::Unsupported | ErrorKind::Execution | ErrorKind::Busy => code::COULD_NOT_RUN,
            ErrorKind::Package | ErrorKind::Reference => code::MALFORMED,
            ErrorKind::Checkpoint => code::INCONSISTENT,
            ErrorKind::Argument => code::USAGE,
            ErrorKind::Io => code::RESOURCES,
        };
        Self { hint: error.hint().map(str::to_owned), ..Self::new(code, error.to_string()) }
    }
}
