//! Contexts put away and taken up again, and vectors of texts.

use genai_validate::completion::{EmbeddingOptions, Llm, LlmOptions, LlmState, Pooling, Prompt};
use genai_validate::{CacheMode, Config, ErrorKind, Tokenizer};
use half::bf16;
use std::sync::Arc;
use tempfile::TempDir;

use super::{STORY, complete, drawn, ids, llm, most};
use crate::cache::{channel_scales, quantized_with, scale_file};
use crate::engine::{Tales, tales};
use crate::support::{build, fixture, load, read_tensors};

fn in_mode(tales: &Tales, cache: CacheMode) -> Llm {
    let config = Config::open(tales.folder.path()).unwrap();
    let options = LlmOptions { n_ctx: Some(128), cache: Some(cache), ..LlmOptions::default() };
    Llm::new(config, tales.model.clone(), tales.tokenizer.clone(), options).unwrap()
}

/// Tokens drawn one by one.
fn sampled(llm: &mut Llm, count: usize) -> Vec<u32> {
    let draw = |_| {
        let token = llm.sample().unwrap();
        llm.eval(&[token]).unwrap();
        token
    };
    (0..count).map(draw).collect()
}

#[test]
fn a_state_goes_on_where_it_was_saved() {
    let tales = tales();
    let prompt = tales.encode(STORY);
    for (from, to) in [
        (CacheMode::Growing, CacheMode::Growing),
        (CacheMode::Growing, CacheMode::Shared),
        (CacheMode::Shared, CacheMode::Growing),
        (CacheMode::Shared, CacheMode::Shared),
    ] {
        let mut one = in_mode(tales, from);
        one.set_sampling(drawn(0, 5).sampling).unwrap();
        one.eval(&prompt).unwrap();
        let before = sampled(&mut one, 7);
        let state = one.save_state().unwrap();
        assert_eq!(state.tokens(), [prompt.as_slice(), &before].concat());
        let expected = sampled(&mut one, 20);

        let bytes = state.to_bytes().unwrap();
        assert!(bytes == state.to_bytes().unwrap(), "the same state in other bytes");
        let stored = LlmState::from_bytes(&bytes).unwrap();
        assert!(stored == state);
        let mut other = in_mode(tales, to);
        other.eval(&tales.encode("Something else.")).unwrap();
        other.load_state(&stored).unwrap();
        assert_eq!(other.context(), state.tokens());
        assert_eq!(sampled(&mut other, 20), expected, "{from:?} to {to:?}");
        assert!(other.save_state().unwrap() == one.save_state().unwrap());
        // And back.
        one.load_state(&state).unwrap();
        assert_eq!(sampled(&mut one, 20), expected);
    }
}

#[test]
fn a_state_of_a_quantized_cache_is_its_codes() {
    let scales = scale_file(&channel_scales("tales-llama").unwrap(), true);
    let folder = quantized_with("tales-llama", "fp32", "cpu", "int8_per_channel", &scales, &[]).unwrap();
    let mut llm = open(&folder);
    llm.eval(&tales().encode(STORY)).unwrap();
    let state = llm.save_state().unwrap();
    let expected = sampled(&mut llm, 12);
    let tokens = state.tokens().len();
    // A byte for each code: keys and values of six layers with two heads of 32, and logits.
    assert!(state.size_in_bytes() < tokens * (6 * 2 * 2 * 32 + 4) + 4 * (2048 + 624) + 1, "{}", state.size_in_bytes());
    let mut other = open(&folder);
    other.load_state(&LlmState::from_bytes(&state.to_bytes().unwrap()).unwrap()).unwrap();
    assert_eq!(sampled(&mut other, 12), expected);
}

/// A window of 16 tokens: what was forgotten is not in the state either.
#[test]
fn a_state_of_a_windowed_cache_is_the_window() {
    let folder = build(&fixture("mistral-window"), "fp32", "cpu", &["windowed_kv_cache=true"]).unwrap();
    let config = Config::open(folder.path()).unwrap();
    let (model, tokenizer) = (load(folder.path()).unwrap(), Tokenizer::load(folder.path()).unwrap());
    assert!(model.keeps_windows());
    let options = LlmOptions { n_ctx: Some(64), ..LlmOptions::default() };
    let tokenizer = Arc::new(tokenizer);
    let open = || Llm::new(config.clone(), model.clone(), tokenizer.clone(), options.clone()).unwrap();
    let mut one = open();
    let vocab = one.n_vocab() as u32;
    let tokens: Vec<u32> = (0..40).map(|token| token * 7 % vocab).collect();
    one.eval(&tokens).unwrap();
    let state = one.save_state().unwrap();
    let expected = sampled(&mut one, 8);
    let mut other = open();
    other.load_state(&state).unwrap();
    assert_eq!(sampled(&mut other, 8), expected);
    // What a prompt shares with a context that is forgotten is computed again.
    let mut fresh = open();
    let shared = [&tokens[..20], &[3, 4]].concat();
    assert_eq!(ids(&mut other, &shared, most(4)), ids(&mut fresh, &shared, most(4)));
}

#[test]
fn a_state_of_another_model_is_refused() {
    let tales = tales();
    let mut mine = llm(tales);
    mine.eval(&tales.encode(STORY)).unwrap();
    let (_folder, mut other) = package(&["include_hidden_states=true"]);
    let context = tales.encode("Other");
    other.eval(&context).unwrap();
    let state = mine.save_state().unwrap();
    let error = other.load_state(&state).unwrap_err();
    assert!(error.kind() == ErrorKind::Argument && error.to_string().contains("a state is of model"), "{error}");
    assert_eq!(other.context(), context);

    // One that is longer than the context.
    let config = Config::open(tales.folder.path()).unwrap();
    let options = LlmOptions { n_ctx: Some(4), ..LlmOptions::default() };
    let mut short = Llm::new(config, tales.model.clone(), tales.tokenizer.clone(), options).unwrap();
    short.eval(&context).unwrap();
    assert!(short.load_state(&state).unwrap_err().to_string().contains("the length to restore"));
    assert_eq!(short.context(), context);

    let bytes = state.to_bytes().unwrap();
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..4], b"{}", &[]] {
        assert_eq!(LlmState::from_bytes(damaged).unwrap_err().kind(), ErrorKind::Argument);
    }
    let other_file = std::fs::read(fixture("tales-llama").join("model.safetensors")).unwrap();
    assert!(LlmState::from_bytes(&other_file).unwrap_err().to_string().contains("of format"));
}

#[test]
fn kept_contexts_serve_prompts_that_begin_alike() {
    let tales = tales();
    let mut plain = llm(tales);
    let mut cached = llm(tales);
    cached.set_cache(Some(64 << 20));
    let expected = complete(&mut plain, drawn(10, 2)).choices;
    assert_eq!(complete(&mut cached, drawn(10, 2)).choices, expected);
    // Something else pushes the story out of the context, and not out of the cache.
    let prompt = tales.encode("A dog ran to the tree.");
    assert_eq!(ids(&mut cached, &prompt, most(4)), ids(&mut plain, &prompt, most(4)));
    let again = complete(&mut cached, drawn(10, 2));
    assert_eq!(again.choices, expected);
    let story = tales.encode(STORY).len();
    assert_eq!(again.usage.unwrap().prompt_tokens_details.cached_tokens, story - 1);
    // A cache without room keeps nothing.
    cached.set_cache(Some(1000));
    assert_eq!(ids(&mut cached, &prompt, most(4)), ids(&mut plain, &prompt, most(4)));
    let without = complete(&mut cached, drawn(10, 2));
    assert_eq!(without.choices, expected);
    assert_eq!(without.usage.unwrap().prompt_tokens_details.cached_tokens, 0);
}

#[test]
fn embeddings_are_the_hidden_states() {
    let (_folder, mut llm) = package(&["include_hidden_states=true"]);
    let tokens = tales().encode(STORY);
    let options = |pooling, normalize| EmbeddingOptions { pooling, normalize, truncate: false };
    let last = llm.embed(&tokens, options(Pooling::Last, false)).unwrap();
    // The head is the embedding: its product with the last hidden state is the logits.
    let tensors = read_tensors(&fixture("tales-llama").join("model.safetensors"));
    let weights: Vec<f32> = tensors["model.embed_tokens.weight"]
        .data
        .chunks_exact(2)
        .map(|bytes| bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32())
        .collect();
    for (row, logit) in weights.chunks_exact(192).zip(llm.logits().unwrap()) {
        let product: f32 = row.iter().zip(&last).map(|(a, b)| a * b).sum();
        assert!((product - logit).abs() < 1e-3, "{product} {logit}");
    }
    let mean = llm.embed(&tokens, options(Pooling::Mean, false)).unwrap();
    let mut sum = vec![0.0f32; 192];
    for end in 1..=tokens.len() {
        // Later tokens change nothing about earlier ones.
        let state = llm.embed(&tokens[..end], options(Pooling::Last, false)).unwrap();
        sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value / tokens.len() as f32);
    }
    assert!(mean.iter().zip(&sum).all(|(a, b)| (a - b).abs() < 1e-3));
    let unit = llm.embed(&tokens, options(Pooling::Mean, true)).unwrap();
    assert!((unit.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);

    let answer = llm.create_embedding(&[STORY, "Two"], EmbeddingOptions::default()).unwrap();
    assert_eq!((answer.data.len(), answer.data[1].index, answer.data[0].embedding.len()), (2, 1, 192));
    assert!(answer.data[0].embedding.iter().zip(&unit).all(|(a, b)| (a - b).abs() < 1e-4));
    assert_eq!(answer.usage.prompt_tokens, tokens.len() + tales().encode("Two").len());
    let long = vec![5; 2000];
    assert_eq!(llm.embed(&long, EmbeddingOptions::default()).unwrap_err().kind(), ErrorKind::Argument);
    let refused = super::llm(tales()).create_embedding(&["One"], EmbeddingOptions::default()).unwrap_err();
    assert!(refused.kind() == ErrorKind::Unsupported && refused.to_string().contains("hidden_states"), "{refused}");
    assert!(llm.create_completion(Prompt::Text(STORY), Default::default()).is_ok());
}

fn package(options: &[&str]) -> (TempDir, Llm) {
    let folder = build(&fixture("tales-llama"), "fp32", "cpu", options).unwrap();
    let llm = open(&folder);
    (folder, llm)
}

fn open(folder: &TempDir) -> Llm {
    let config = Config::open(folder.path()).unwrap();
    let options = LlmOptions { n_ctx: Some(256), ..LlmOptions::default() };
    Llm::new(config, load(folder.path()).unwrap(), tales().tokenizer.clone(), options).unwrap()
}
