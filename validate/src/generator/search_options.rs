//! How a sequence is continued: the `search` block of `genai_config.json`, typed.

use crate::config::Config;

/// Names, meanings and defaults are those of onnxruntime-genai 0.18; lengths are in tokens, prompt included.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// Draws tokens; else the likeliest is taken.
    pub do_sample: bool,
    /// Below it no end token is taken.
    pub min_length: usize,
    /// 0 stands for the model's context length.
    pub max_length: usize,
    /// Sequences that are run together, 1 to 32.
    pub batch_size: usize,
    /// 1 to 32; more than one is a beam search.
    pub num_beams: usize,
    /// Of each prompt, 1 to `num_beams`.
    pub num_return_sequences: usize,
    /// Divides the positive scores of tokens that were seen, and multiplies the negative; 1 changes nothing.
    pub repetition_penalty: f32,
    /// 0 keeps all tokens, 1 takes the likeliest.
    pub top_k: usize,
    /// Has an effect between 0 and 1.
    pub top_p: f32,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// A beam search ends as soon as it has `num_beams` sequences.
    pub early_stopping: bool,
    /// No sequence of so many tokens comes twice; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Read by nothing, in the peer neither.
    pub diversity_penalty: f32,
    /// The score of a finished beam is divided by its length to this power.
    pub length_penalty: f32,
    /// One cache buffer for past and present. Beams have none of it.
    pub past_present_share_buffer: bool,
    /// None draws a seed from the operating system.
    pub random_seed: Option<u32>,
    /// The first prompt goes in by so many tokens a run.
    pub chunk_size: Option<usize>,
    /// Of transducers, which nothing here runs.
    pub blank_penalty: f32,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            do_sample: false,
            min_length: 0,
            max_length: 0,
            batch_size: 1,
            num_beams: 1,
            num_return_sequences: 1,
            repetition_penalty: 1.0,
            top_k: 50,
            top_p: 0.0,
            temperature: 1.0,
            early_stopping: true,
            no_repeat_ngram_size: 0,
            diversity_penalty: 0.0,
            length_penalty: 1.0,
            past_present_share_buffer: false,
            random_seed: None,
            chunk_size: None,
            blank_penalty: 0.0,
        }
    }
}

impl SearchOptions {
    /// What the package itself asks for.
    pub fn of(package: &Config) -> Self {
        let search = &package.search;
        Self {
            do_sample: search.do_sample,
            max_length: search.max_length,
            repetition_penalty: search.repetition_penalty,
            top_k: search.top_k,
            top_p: search.top_p,
            temperature: search.temperature,
            past_present_share_buffer: search.past_present_share_buffer,
            ..Self::default()
        }
    }
}
