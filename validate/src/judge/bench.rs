//! Speed and memory.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::percentile;
use crate::report::{Bench, Rate};
use crate::{
    CacheMode, Config, Error, LoadOptions, Matrix, Model, Result, Runtime, Sampler, SamplingOptions, Sequence,
    SequenceOptions, argmax,
};

/// What is measured.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Lengths of prompts, in tokens; those that leave no room in the context are left out.
    pub prompts: Vec<usize>,
    /// Tokens that are decoded behind the first prompt, as far as the context goes.
    pub decoded: usize,
    /// Runs before those that count.
    pub warm_ups: usize,
    /// Runs of which the median counts.
    pub runs: usize,
    /// How long the runs of one prompt may take. After that there are no more than are needed for a median, so that a
    /// large model is measured too.
    pub patience: Duration,
}

/// Runs that a median needs.
const FEWEST: usize = 3;

impl Default for BenchOptions {
    fn default() -> Self {
        Self { prompts: vec![128, 512, 2048], decoded: 128, warm_ups: 5, runs: 10, patience: Duration::from_secs(60) }
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

/// Measures a loaded model. Times are of a steady clock; those between tokens hold the choice of the likeliest token,
/// and not the sampling, which is measured beside it.
///
/// # Errors
/// Those of running; a context of one token, behind which nothing can be decoded.
pub fn measure(model: &Arc<Model>, load_seconds: f64, options: &BenchOptions) -> Result<Bench> {
    let context = model.context_length();
    if context < 2 {
        return Err(Error::argument("the context length", context, "at least 2 tokens, to measure speed"));
    }
    let mut lengths: Vec<usize> = options.prompts.iter().copied().filter(|&length| length < context).collect();
    if lengths.is_empty() {
        lengths.push(context / 2);
    }
    let mut measured = Vec::new();
    for (index, &length) in lengths.iter().enumerate() {
        let decoded = if index == 0 { options.decoded.clamp(1, context - length) } else { 0 };
        let started = Instant::now();
        for warmed in 0..options.warm_ups {
            if warmed == 0 || started.elapsed() < options.patience / 4 {
                run(model, length, decoded)?;
            }
        }
        let mut runs = Vec::new();
        while runs.len() < options.runs.max(1) && (runs.len() < FEWEST || started.elapsed() < options.patience) {
            runs.push(run(model, length, decoded)?);
        }
        measured.push((length, runs));
    }

    let prefill = measured.iter().map(|(length, runs)| {
        let (tokens_per_second, spread) = median(runs.iter().map(|run| rate(*length, run.prompt)));
        Rate { tokens: *length, tokens_per_second, spread }
    });
    let first = measured.first().map(|(_, runs)| runs.as_slice()).unwrap_or_default();
    let (first_token_seconds, first_token_spread) = median(first.iter().map(|run| run.prompt));
    let decode = first.iter().map(|run| rate(run.steps.len(), run.steps.iter().sum()));
    let (decode_tokens_per_second, decode_spread) = median(decode);
    let mut between: Vec<f64> = first.iter().flat_map(|run| &run.steps).map(|seconds| 1e3 * seconds).collect();
    between.sort_by(f64::total_cmp);
    let (sampling_seconds, _) = median(first.iter().flat_map(|run| run.sampling.iter().copied()));
    Ok(Bench {
        load_seconds,
        prefill: prefill.collect(),
        first_token_seconds,
        first_token_spread,
        decode_tokens_per_second,
        decode_spread,
        between_tokens_ms: [50.0, 90.0, 99.0].map(|percent| percentile(&between, percent)),
        sampling_us: 1e6 * sampling_seconds,
        peak_memory: None,
        cache_bytes_per_token: model.wiring.cache_bytes_per_token(),
        runs: measured.iter().map(|(_, runs)| runs.len()).min().unwrap_or(0),
    })
}

/// Seconds of one run.
struct Run {
    /// Until the first token is known.
    prompt: f64,
    /// Until each further token is.
    steps: Vec<f64>,
    /// Of drawing from the logits of each step.
    sampling: Vec<f64>,
}

/// How sampling is measured: as people sample, and the same each time.
const DRAWN: SamplingOptions = SamplingOptions { temperature: 1.0, top_k: 50, top_p: 0.95, seed: Some(7) };

/// Reads a prompt of so many tokens, the same each time, and decodes behind it.
fn run(model: &Arc<Model>, length: usize, decoded: usize) -> Result<Run> {
    let vocabulary = u32::try_from(model.vocab_size()).unwrap_or(u32::MAX).max(1);
    let ids: Vec<u32> = (0..u32::try_from(length).unwrap_or(u32::MAX))
        .map(|index| index.wrapping_mul(2_654_435_761).rotate_left(15) % vocabulary)
        .collect();
    let mut sampler = Sampler::new(DRAWN)?;
    let options = SequenceOptions { max_length: length + decoded, cache: CacheMode::of(model), adapter: None };
    let started = Instant::now();
    let mut sequence = Sequence::new(model, options)?;
    let mut token = likeliest(&sequence.append(&ids)?);
    let mut run = Run { prompt: started.elapsed().as_secs_f64(), steps: Vec::new(), sampling: Vec::new() };
    for _ in 0..decoded {
        let started = Instant::now();
        let logits = sequence.append(&[token])?;
        token = likeliest(&logits);
        run.steps.push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        // Logits that are no numbers are an error of the sampler's: this measures speed, not sense.
        let _ = black_box(sampler.pick(logits.last_row()));
        run.sampling.push(started.elapsed().as_secs_f64());
    }
    Ok(run)
}

/// 0 where the logits are no numbers, as above.
fn likeliest(logits: &Matrix) -> u32 {
    argmax(logits.last_row()).and_then(|token| u32::try_from(token).ok()).unwrap_or(0)
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    tokens as f64 / seconds.max(f64::MIN_POSITIVE)
}

/// The median, and the least and the greatest.
fn median(values: impl Iterator<Item = f64>) -> (f64, [f64; 2]) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    (percentile(&values, 50.0), [0.0, 100.0].map(|percent| percentile(&values, percent)))
}
