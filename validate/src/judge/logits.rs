//! Logits against a reference: the checkpoint's recorded ones, the f32 interpreter's, those of a file or of another
//! package.

use std::sync::Arc;

use genai_architectures::{Config as ModelConfig, DecoderSpec, describe};
use genai_checkpoint::{Adapter as CheckpointAdapter, Checkpoint};

use super::load::Loaded;
use super::words::Words;
use super::{Adapters, Against, Recording, Text, layers, precision};
use crate::interpreter::{self, Adapted, LayerTrace, Weights};
use crate::metrics::Predictions;
use crate::parity::{Compared, compare_prompt};
use crate::report::{Finding, Severity, Stage, StageReport, TextTrace};
use crate::verdict::{self, GREEDY};
use crate::{
    Adapter, CacheMode, Config, Continued, Error, Model, ParityReport, Precision, PromptParity, Reference, Result,
    Verdict, continue_greedily,
};

/// Logits recorded from transformers, where a checkpoint carries them.
const RECORDED: &str = "reference.npz";

/// Tokens that greedy search puts behind each prompt.
pub const GREEDY_STEPS: usize = 16;

/// The checkpoint that a package was made from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Of the layers that the package has: see [`super::first_layers`].
    pub spec: &'a DecoderSpec,
    pub adapters: Adapters<'a>,
}

/// What came of the comparison.
pub(super) struct Comparison {
    pub(super) parity: ParityReport,
    /// Of the model: they choose the tolerances.
    pub(super) parameters: u64,
    pub(super) texts: Vec<TextTrace>,
    pub(super) predictions: Predictions,
    pub(super) recording: Recording,
}

/// Compares all prompts of the reference, without adapters and then with each that can be swapped. `traced` asks for
/// what passes between layers, too.
pub(super) fn compare(loaded: &Loaded, against: &Against, texts: &[Text], traced: bool) -> Result<Comparison> {
    let side = Side { model: &loaded.model, words: &loaded.words };
    match against {
        Against::Nothing => Err(Error::argument("the reference", "none", "one to compare with")),
        Against::Recording(recording) => {
            let compared = side.prompts(&recording.reference, None)?;
            let parameters = parameters(&loaded.package)?;
            let name = recording.reference.name.clone();
            finish(loaded, recording.clone(), compared, Vec::new(), (parameters, name))
        }
        Against::Origin(origin) => {
            let recording = origin.recording(&side, (origin.adapters.baked_in, None), texts, traced)?;
            let compared = side.prompts(&recording.reference, None)?;
            let (with, name) = side.swapped(&loaded.package, origin, texts, recording.reference.name.clone())?;
            finish(loaded, recording, compared, with, (origin.spec.num_parameters(), name))
        }
    }
}

/// The same for a package that was just built, whose stages nobody asks for.
///
/// # Errors
/// Those of reading the checkpoint and of running.
pub fn parity_with_origin(
    package: &Config,
    model: &Arc<Model>,
    origin: &Origin,
    precision: Precision,
    texts: &[Text],
) -> Result<ParityReport> {
    let words = &Words::open(&package.tokenizer_folder, package.vocab_size)?;
    let side = Side { model, words };
    let recording = origin.recording(&side, (origin.adapters.baked_in, None), texts, false)?;
    let compared = side.prompts(&recording.reference, None)?;
    let (with, name) = side.swapped(package, origin, texts, recording.reference.name)?;
    let prompts = compared.into_iter().chain(with).map(|compared| compared.parity).collect();
    let precision = precision::coarser(precision, model.cache_precision());
    ParityReport::new(precision, origin.spec.num_parameters(), name, prompts)
}

fn finish(
    loaded: &Loaded,
    recording: Recording,
    compared: Vec<Compared>,
    with_adapters: Vec<Compared>,
    (parameters, name): (u64, String),
) -> Result<Comparison> {
    let prompts = recording.reference.prompts.iter();
    let texts = prompts.zip(&compared).map(|(prompt, compared)| {
        let words = |ids: &[u32]| ids.iter().map(|&id| loaded.words.word(id)).collect::<Vec<_>>();
        TextTrace {
            name: prompt.name.clone(),
            tokens: words(&[prompt.input_ids.as_slice(), &prompt.greedy].concat()),
            kl: compared.predictions.iter().map(|prediction| prediction.kl).collect(),
            disagreements: compared.parity.logits.disagreements.iter().map(|other| other.position).collect(),
            prompt_tokens: prompt.input_ids.len(),
            expected: words(&prompt.greedy),
            found: words(&compared.chosen),
            greedy: compared.parity.greedy.clone(),
        }
    });
    let texts = texts.collect();
    let all = || compared.iter().chain(&with_adapters);
    let predictions: Vec<_> = all().flat_map(|compared| compared.predictions.iter().copied()).collect();
    let prompts = all().map(|compared| compared.parity.clone()).collect();
    let parity = ParityReport::new(loaded.precision, parameters, name, prompts)?;
    Ok(Comparison { parity, parameters, texts, predictions: Predictions::of(&predictions), recording })
}

/// Elements of all matrices of the graph, as near as can be known without the checkpoint.
fn parameters(package: &Config) -> Result<u64> {
    let matrices = precision::open(package)?.weights().matrices;
    let elements = matrices.iter().map(|weight| u64::try_from(weight.n.saturating_mul(weight.k)).unwrap_or(u64::MAX));
    Ok(elements.fold(0, u64::saturating_add))
}

/// The stage of the logits. What is said of greedy search is the generation's.
pub(super) fn judged(parity: &ParityReport, parameters: u64) -> StageReport {
    let findings = graded(parity, parameters).filter(|(_, reason)| !reason.contains(GREEDY));
    let findings = findings.map(|(severity, reason)| Finding::new(severity, "parity", &parity.reference, reason));
    StageReport::judged(Stage::Logits, parity.prompts.len(), findings.collect())
}

/// What keeps a comparison from passing, and how grave that is.
pub(super) fn graded(parity: &ParityReport, parameters: u64) -> impl Iterator<Item = (Severity, String)> {
    let graded = verdict::graded(parity.precision, parameters, &parity.prompts);
    graded.into_iter().map(|(verdict, reason)| match verdict {
        Verdict::Pass => (Severity::Info, reason),
        Verdict::Ambiguous => (Severity::Doubt, reason),
        Verdict::Fail => (Severity::Error, reason),
    })
}

/// The package's side of a comparison.
struct Side<'a> {
    model: &'a Arc<Model>,
    words: &'a Words,
}

impl Side<'_> {
    fn prompts(&self, reference: &Reference, adapter: Option<&Adapter>) -> Result<Vec<Compared>> {
        let mode = CacheMode::plainest(self.model);
        reference.prompts.iter().map(|prompt| compare_prompt(self.model, prompt, mode, adapter)).collect()
    }

    /// With each adapter that can be swapped; the name is that of all references together.
    fn swapped(
        &self,
        package: &Config,
        origin: &Origin,
        texts: &[Text],
        mut name: String,
    ) -> Result<(Vec<Compared>, String)> {
        let mut all = Vec::new();
        for adapter in origin.adapters.swappable {
            let file = Adapter::load(&package.folder.join(format!("{}.onnx_adapter", adapter.name())))?;
            let recording = origin.recording(self, (Some(adapter), Some(&file)), texts, false)?;
            let called = |compared: Compared| {
                let name = format!("{}/{}", adapter.name(), compared.parity.name);
                Compared { parity: PromptParity { name, ..compared.parity }, ..compared }
            };
            all.extend(self.prompts(&recording.reference, Some(&file))?.into_iter().map(called));
            name = format!("{name}; with {}: {}", adapter.name(), recording.reference.name);
        }
        Ok((all, name))
    }

    /// Texts and what greedy search puts behind them.
    fn continued(&self, texts: &[Text], adapter: Option<&Adapter>) -> Result<Vec<Continued>> {
        let mut continued = Vec::new();
        for text in texts {
            let mut prompt = self.words.encode(&text.text)?;
            prompt.truncate(self.model.context_length().saturating_sub(GREEDY_STEPS));
            if !prompt.is_empty() {
                let mode = CacheMode::plainest(self.model);
                let continuation = continue_greedily(self.model, &prompt, GREEDY_STEPS, mode, adapter)?;
                continued.push(Continued { name: text.name.clone(), prompt, continuation });
            }
        }
        Ok(continued)
    }
}

impl Origin<'_> {
    /// Logits that were recorded of the checkpoint, or of it and its adapter, or else those of the f32 interpreter; and
    /// where it is wanted, what that gives of the layers for the first prompt. An adapter that is not part of the package
    /// comes with its file.
    fn recording(
        &self,
        side: &Side,
        (adapter, swapped): (Option<&CheckpointAdapter>, Option<&Adapter>),
        texts: &[Text],
        traced: bool,
    ) -> Result<Recording> {
        let recorded = match adapter {
            Some(adapter) => adapter.file_path(RECORDED),
            None => self.checkpoint.file_path(RECORDED),
        };
        let recorded = match recorded {
            Some(path) if self.is_whole()? => Some(Reference::read(&path)?),
            _ => None,
        };
        let (reference, texts) = match recorded {
            Some(reference) => (Reference { name: format!("recorded logits ({RECORDED})"), ..reference }, Vec::new()),
            None => {
                let continued = side.continued(texts, swapped)?;
                (Reference::interpret(self.spec, self.checkpoint, adapter, &continued)?, texts.to_vec())
            }
        };
        let layers = match (traced, reference.prompts.first()) {
            (true, Some(prompt)) => self.layers(adapter, &prompt.input_ids)?,
            _ => Vec::new(),
        };
        let named = |text: Text| (text.name, text.text);
        Ok(Recording { reference, layers, texts: texts.into_iter().map(named).collect() })
    }

    /// Whether the package has all layers, as recorded logits are of them.
    fn is_whole(&self) -> Result<bool> {
        let config = ModelConfig::from_json(self.checkpoint.config().clone());
        let all = config.and_then(|config| describe(&config));
        let all = all.map_err(|error| Error::reference("the checkpoint", error.to_string()))?;
        Ok(all.layers.len() == self.spec.layers.len())
    }

    fn layers(&self, adapter: Option<&CheckpointAdapter>, ids: &[u32]) -> Result<Vec<LayerTrace>> {
        let weights = self.checkpoint.renamed(|stored| self.spec.name_of(stored))?;
        let adapted = adapter.map(|adapter| Adapted::new(self.spec, &weights, adapter));
        let weights: &dyn Weights = match &adapted {
            Some(adapted) => adapted,
            None => &weights,
        };
        let (_, traces) = interpreter::traced(self.spec, weights, &[ids])?;
        Ok(layers::numbered_by_cache(traces))
    }
}
