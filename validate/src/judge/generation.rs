//! Greedy search against the reference's, and sampling that repeats itself.

use std::sync::Arc;

use super::load::Loaded;
use super::logits::{Comparison, graded};
use super::{GREEDY_STEPS, Text};
use crate::report::{Finding, Severity, Stage, StageReport};
use crate::verdict::GREEDY;
use crate::{
    CacheMode, Config, Error, GenerateOptions, Generator, Model, Result, SamplingOptions, SearchOptions,
    SequenceOptions, SpecialTokens, Tokenizer, generate,
};

/// What the parting of greedy searches means is judged by the error of the logits: it says what a tie is.
pub(super) fn check(loaded: &Loaded, texts: &[Text], compared: Option<&Comparison>) -> StageReport {
    let (mut findings, mut checks) = (Vec::new(), 1);
    if let Some(comparison) = compared {
        checks += comparison.texts.iter().filter(|text| text.greedy.is_some()).count();
        let said = graded(&comparison.parity, comparison.parameters).filter(|(_, reason)| reason.contains(GREEDY));
        findings.extend(
            said.map(|(severity, reason)| Finding::new(severity, "greedy", &comparison.parity.reference, reason)),
        );
    }
    match (sampled(loaded, texts, 7), sampled(loaded, texts, 7)) {
        (Ok(first), Ok(second)) if first != second => {
            let message = format!("two runs with one seed give other tokens: {first:?} and {second:?}");
            let finding = Finding::new(Severity::Error, "seeded-sampling", "seed 7", message);
            findings.push(finding.with_hint("the logits differ from run to run"));
        }
        (Ok(_), Ok(_)) => {}
        (Err(error), _) | (_, Err(error)) => {
            findings.push(Finding::new(Severity::Error, "seeded-sampling", "seed 7", error.to_string()));
        }
    }
    StageReport::judged(Stage::Generation, checks, findings)
}

fn sampled(loaded: &Loaded, texts: &[Text], seed: u32) -> Result<Vec<u32>> {
    let text = texts.first().ok_or_else(|| Error::argument("the number of texts", 0, "at least 1"))?;
    let mut ids = loaded.words.encode(&text.text)?;
    let context = loaded.model.context_length();
    ids.truncate(context.saturating_sub(GREEDY_STEPS).max(1));
    let max_length = ids.len().saturating_add(GREEDY_STEPS).min(context);
    let search = SearchOptions {
        do_sample: true,
        min_length: max_length,
        max_length,
        top_k: 50,
        top_p: 0.95,
        random_seed: Some(seed),
        past_present_share_buffer: loaded.package.search.past_present_share_buffer,
        ..SearchOptions::default()
    };
    let mut generator = Generator::new(&loaded.model, search)?;
    generator.append(&ids)?;
    while !generator.is_done() {
        generator.generate_next_token()?;
    }
    Ok(generator.sequence(0)?.split_off(ids.len()))
}

/// A beginning that every model can go on from.
const CONTINUED: (&str, usize) = ("Once upon a time", 32);

/// What the package makes of a beginning of a text in greedy search: the beginning, and what it puts behind it.
///
/// # Errors
/// Those of running, and logits that are not numbers.
pub fn continue_text(package: &Config, tokenizer: &Tokenizer, model: &Arc<Model>) -> Result<(String, String)> {
    let (prompt, steps) = CONTINUED;
    let ids = tokenizer.encode(prompt, SpecialTokens::Added)?;
    let options = GenerateOptions {
        sequence: SequenceOptions {
            max_length: ids.len().saturating_add(steps).min(model.context_length()),
            cache: CacheMode::of(model),
            adapter: None,
        },
        eos_token_ids: &package.eos_token_ids,
        sampling: SamplingOptions::GREEDY,
    };
    Ok((prompt.to_owned(), generate(model, tokenizer, &ids, options, &mut |_| {})?.text))
}
