//! What packages are compared with: the logits recorded from transformers, or for quantized packages those that the
//! f32 interpreter computes from weights rounded as the package has to round them.

use std::path::Path;
use std::sync::Arc;

use genai_architectures::{Linear, LmHead};
use genai_builder::target::{Form, MatrixForm};
use genai_checkpoint::Checkpoint;
use genai_quantize::{IntScheme, ScaleDtype, dequantize_rows, quantize_rows};
use genai_validate::{
    Adapter, CacheMode, Matrix, Model, ParityReport, Precision, Reference, Sequence, SequenceOptions, Verdict,
    compare_prompts,
    interpreter::{self, Adapted, Rounded, Weights},
    metrics,
};

use crate::support::{Outcome, spec};

pub(crate) fn recorded_logits(checkpoint: &Path) -> Outcome<Reference> {
    Ok(Reference::read(&checkpoint.join("reference.npz"))?)
}

/// The recorded prompts with the logits of quantized weights, and without continuations.
///
/// Random weights lose too much at four bits to be compared with the float model, so the loss is in the reference.
pub(crate) fn rounded_logits(
    checkpoint: &Path,
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    tables: Tables,
) -> Outcome<Reference> {
    rounded_logits_of(&Checkpoint::open(checkpoint)?, recorded_logits(checkpoint)?, scheme, scale_dtype, tables)
}

/// The same for the prompts of a reference, of a checkpoint with at most one adapter, which is not rounded.
pub(crate) fn rounded_logits_of(
    checkpoint: &Checkpoint,
    reference: Reference,
    scheme: IntScheme,
    scale_dtype: ScaleDtype,
    tables: Tables,
) -> Outcome<Reference> {
    let spec = spec(checkpoint.dir())?;
    let table = spec.embedding.weight();
    let layer_table = spec.layer_inputs.as_ref().map(|inputs| inputs.weight());
    let tied = spec.lm_head == LmHead::Tied && tables == Tables::Rounded;
    logits_of(checkpoint, reference, scale_dtype, tables, &|name| {
        // Every matrix is quantized, but for a table that is only looked up.
        let looked_up = name == table && !tied || tables == Tables::Float && layer_table.as_deref() == Some(name);
        (!looked_up).then_some(scheme)
    })
}

/// The same with a scheme for each matrix, by the name of its tensor. Matrices that steer streams have none in any case.
/// A tied head with a float table is called [`HEAD_APART`].
pub(crate) fn logits_by_scheme(
    checkpoint: &Path,
    scale_dtype: ScaleDtype,
    tables: Tables,
    scheme_of: &dyn Fn(&str) -> Option<IntScheme>,
) -> Outcome<Reference> {
    logits_of(&Checkpoint::open(checkpoint)?, recorded_logits(checkpoint)?, scale_dtype, tables, scheme_of)
}

fn logits_of(
    checkpoint: &Checkpoint,
    mut reference: Reference,
    scale_dtype: ScaleDtype,
    tables: Tables,
    scheme_of: &dyn Fn(&str) -> Option<IntScheme>,
) -> Outcome<Reference> {
    let mut spec = spec(checkpoint.dir())?;
    let weights = checkpoint.renamed(|stored| spec.name_of(stored))?;
    let table = spec.embedding.weight();
    if tables == Tables::Float && spec.lm_head == LmHead::Tied {
        // The head is rounded, and the table that it is tied to is not.
        spec.lm_head = LmHead::Own(Linear::whole(HEAD_APART, spec.vocab_size, spec.hidden_size, false));
    }
    let weights = HeadApart { weights: &weights, table: &table };
    let round = |name: &str, rows: &mut [f32], k: usize| {
        let steers = ["modality_router", "prediction_coefs", "correction_coefs"];
        let steers = steers.iter().any(|module| name.ends_with(&format!(".altup.{module}.weight")));
        let Some(scheme) = scheme_of(name).filter(|_| !steers) else { return Ok(()) };
        let n = rows.len() / k;
        let mut codes = vec![0; n * scheme.code_bytes_per_row(k)];
        let mut scales = vec![0; n * scheme.blocks(k) * scale_dtype.size()];
        let mut zero_points = vec![0; n * scheme.zero_point_bytes_per_row(k)];
        quantize_rows(scheme, scale_dtype, rows, k, &mut codes, &mut scales, &mut zero_points).unwrap();
        dequantize_rows(scheme, scale_dtype, &codes, &scales, &zero_points, k, rows).unwrap();
        Ok(())
    };
    let adapted = checkpoint.adapters().first().map(|adapter| Adapted::new(&spec, &weights, adapter));
    let weights = adapted.as_ref().map_or(&weights as &dyn Weights, |adapted| adapted);
    let rounded = Rounded { weights, round: &round };
    let prompts: Vec<&[u32]> = reference.prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let logits = interpreter::logits(&spec, &rounded, &prompts)?;
    for (prompt, logits) in reference.prompts.iter_mut().zip(logits) {
        (prompt.logits, prompt.greedy) = (logits, Vec::new());
    }
    reference.name = "f32 interpreter of the rounded weights".to_owned();
    Ok(reference)
}

/// How tables are stored that are looked up and are the head, too, or that layers have of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    Float,
    Rounded,
}

impl Tables {
    pub(crate) fn of(form: Form) -> Self {
        match form.matrices {
            MatrixForm::NBits { .. } => Self::Rounded,
            MatrixForm::Qdq => Self::Float,
        }
    }
}

pub(crate) const HEAD_APART: &str = "the table as a head";

/// Weights in which the table of the embedding goes by a second name.
struct HeadApart<'a> {
    weights: &'a Checkpoint,
    table: &'a str,
}

impl Weights for HeadApart<'_> {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> genai_validate::Result<()> {
        let name = if name.strip_suffix(".weight") == Some(HEAD_APART) { self.table } else { name };
        Weights::read(self.weights, name, expected_shape, first, out)
    }
}

/// Judges prefill and greedy continuation in both cache modes, and fails unless the verdict is `least` or better.
pub(crate) fn expect_verdict(
    model: &Arc<Model>,
    reference: &Reference,
    parameters: u64,
    precision: Precision,
    least: Verdict,
) -> Outcome {
    let shared = model.shares_buffer().then_some(CacheMode::Shared);
    for cache in [CacheMode::Growing].into_iter().chain(shared) {
        let prompts = compare_prompts(model, reference, cache, None)?;
        let report = ParityReport::new(precision, parameters, reference.name.clone(), prompts)?;
        if report.verdict > least {
            return Err(format!("{cache:?} cache: {report}").into());
        }
    }
    Ok(())
}

pub(crate) fn sequence(model: &Arc<Model>, max_length: usize, cache: CacheMode) -> genai_validate::Result<Sequence> {
    Sequence::new(model, SequenceOptions { max_length, cache, adapter: None })
}

/// How the positions of a prompt are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    AtOnce(CacheMode),
    /// Half of the prompt at once, then token by token: the kernels for one row are others.
    InSteps(CacheMode),
    /// All prompts together, padded on the right.
    InABatch,
}

impl Way {
    /// Whether it needs past and present in one buffer.
    pub(crate) fn shares_buffer(self) -> bool {
        matches!(self, Self::AtOnce(CacheMode::Shared) | Self::InSteps(CacheMode::Shared))
    }
}

pub(crate) const WAYS: [Way; 5] = [
    Way::AtOnce(CacheMode::Growing),
    Way::AtOnce(CacheMode::Shared),
    Way::InSteps(CacheMode::Growing),
    Way::InSteps(CacheMode::Shared),
    Way::InABatch,
];

/// The logits of all positions of all prompts are those of the reference within `limit`, which is in units of their
/// spread, or 1 where that is more.
pub(crate) fn expect_logits(model: &Arc<Model>, reference: &Reference, way: Way, limit: f64) -> Outcome {
    expect_logits_with(model, None, reference, way, limit)
}

pub(crate) fn expect_logits_with(
    model: &Arc<Model>,
    adapter: Option<&Adapter>,
    reference: &Reference,
    way: Way,
    limit: f64,
) -> Outcome {
    for (prompt, logits) in reference.prompts.iter().zip(logits_with(model, adapter, reference, way)?) {
        let metrics = metrics::compare(&prompt.logits, &logits)?;
        let limit = limit * metrics.reference_std.max(1.0);
        if metrics.first_non_finite.is_some() || metrics.max_abs > limit {
            let (name, is) = (&prompt.name, metrics.max_abs);
            return Err(format!("{name} {way:?}: max abs {is:.2e}, limit {limit:.2e}; {metrics:?}").into());
        }
    }
    Ok(())
}

pub(crate) fn logits(model: &Arc<Model>, reference: &Reference, way: Way) -> Outcome<Vec<Matrix>> {
    logits_with(model, None, reference, way)
}

fn logits_with(model: &Arc<Model>, adapter: Option<&Adapter>, reference: &Reference, way: Way) -> Outcome<Vec<Matrix>> {
    let prompts: Vec<&[u32]> = reference.prompts.iter().map(|prompt| prompt.input_ids.as_slice()).collect();
    let (cache, in_steps) = match way {
        Way::AtOnce(cache) => (cache, false),
        Way::InSteps(cache) => (cache, true),
        Way::InABatch => return Ok(model.batch_logits(&prompts, adapter)?),
    };
    let mut all = Vec::new();
    for prompt in prompts {
        let (first, rest) = prompt.split_at(if in_steps { prompt.len() / 2 } else { prompt.len() });
        let mut sequence = Sequence::new(model, SequenceOptions { max_length: prompt.len(), cache, adapter })?;
        let mut values = sequence.append(first)?.data().to_vec();
        for id in rest {
            values.extend_from_slice(sequence.append(&[*id])?.data());
        }
        all.push(Matrix::new(prompt.len(), values.len() / prompt.len(), values)?);
    }
    Ok(all)
}
