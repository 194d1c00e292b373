//! Speed and memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::report::{Bench, Rate};
use crate::{CacheMode, Config, LoadOptions, Model, Result, Runtime, Sequence, SequenceOptions, argmax};

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Lengths of prompts, in tokens; those that do not fit the context are left out.
    pub prompts: Vec<usize>,
    /// Tokens that are decoded behind the first prompt.
    pub decoded: usize,
    /// Runs before those that count.
    pub warm_ups: usize,
    /// Runs of which the median counts.
    pub runs: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { prompts: vec![128, 512, 2048], decoded: 128, warm_ups: 1, runs: 5 }
    }
}

/// Loads a package and measures it, for a process that does nothing else.
///
/// # Errors
/// Those of loading and running.
pub fn measure_package(folder: &Path, runtime: &Runtime, options: LoadOptions, bench: &BenchOptions) -> Result<Bench> {
    let package = Config::open(folder)?;
    let started = Instant::now();
    let model = Arc::new(Model::load(&package, runtime, options)?);
    measure(&model, started.elapsed().as_secs_f64(), bench)
}

/// Measures a loaded model. Times are of a steady clock; those between tokens hold the choice of the likeliest token.
///
/// # Errors
/// Those of running.
pub fn measure(model: &Arc<Model>, load_seconds: f64, options: &BenchOptions) -> Result<Bench> {
    let context = model.context_length();
    let mut lengths: Vec<usize> = options.prompts.iter().copied().filter(|&length| length <= context).collect();
    if lengths.is_empty() {
        lengths.push(context.div_ceil(2));
    }
    let (mut prefill, mut first_token) = (Vec::new(), 0.0);
    for (index, &length) in lengths.iter().enumerate() {
        let mut seconds = Vec::new();
        for run in 0..options.warm_ups.saturating_add(options.runs) {
            let started = Instant::now();
            let (_, first) = begin(model, length, length)?;
            std::hint::black_box(first);
            if run >= options.warm_ups {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        let median = median(&mut seconds);
        if index == 0 {
            first_token = median;
        }
        prefill.push(Rate { tokens: length, tokens_per_second: length as f64 / median.max(f64::MIN_POSITIVE) });
    }

    let prompt = lengths.first().copied().unwrap_or(1).min(context.saturating_sub(1).max(1));
    let decoded = options.decoded.min(context.saturating_sub(prompt));
    let (mut rates, mut between) = (Vec::new(), Vec::new());
    for run in 0..options.warm_ups.saturating_add(options.runs) {
        let (mut sequence, mut token) = begin(model, prompt, prompt.saturating_add(decoded))?;
        let all = Instant::now();
        for _ in 0..decoded {
            let started = Instant::now();
            token = likeliest(&sequence.append(&[token])?);
            if run >= options.warm_ups {
                between.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        if run >= options.warm_ups {
            rates.push(decoded as f64 / all.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
        }
    }
    between.sort_by(f64::total_cmp);
    Ok(Bench {
        load_seconds,
        prefill,
        first_token_seconds: first_token,
        decode_tokens_per_second: median(&mut rates),
        between_tokens_ms: [50, 90, 99].map(|percent| percentile(&between, percent)),
        peak_memory: None,
        cache_bytes_per_token: model.wiring.cache_bytes_per_token(),
        runs: options.runs,
    })
}

/// A prompt of so many tokens, the same each time, and the token that follows it.
fn begin(model: &Arc<Model>, length: usize, max_length: usize) -> Result<(Sequence, u32)> {
    let options = SequenceOptions { max_length, cache: CacheMode::of(model), adapter: None };
    let mut sequence = Sequence::new(model, options)?;
    let vocabulary = u32::try_from(model.vocab_size()).unwrap_or(u32::MAX).max(1);
    let ids: Vec<u32> = (0..u32::try_from(length).unwrap_or(u32::MAX))
        .map(|index| index.wrapping_mul(2_654_435_761).rotate_left(15) % vocabulary)
        .collect();
    let token = likeliest(&sequence.append(&ids)?);
    Ok((sequence, token))
}

/// 0 where the logits are no numbers: this measures speed, not sense.
fn likeliest(logits: &crate::Matrix) -> u32 {
    argmax(logits.last_row()).and_then(|token| u32::try_from(token).ok()).unwrap_or(0)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 50)
}

/// The nearest of the sorted values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let index = sorted.len().saturating_sub(1).saturating_mul(percent).div_ceil(100);
    sorted.get(index).copied().unwrap_or(0.0)
}
