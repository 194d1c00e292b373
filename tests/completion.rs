//! The surface of llama-cpp-python on a small model: what it answers, and that it answers the same whatever it has in its
//! context.

mod chat;
mod state;

use genai_validate::completion::{
    Completion, CompletionLogprobs, CompletionOptions, FinishReason, Llm, LlmOptions, Prompt, Token, TurnOptions,
};
use genai_validate::{CacheMode, Config, Error, ErrorKind, SamplingOptions, Sequence, SequenceOptions, SpecialTokens};

use crate::engine::{Tales, tales};

const STORY: &str = "Once upon a time there was a little girl named Lily. She";

fn llm(tales: &Tales) -> Llm {
    let config = Config::open(tales.folder.path()).unwrap();
    let options = LlmOptions { n_ctx: Some(256), ..LlmOptions::default() };
    Llm::new(config, tales.model.clone(), tales.tokenizer.clone(), options).unwrap()
}

fn most(tokens: usize) -> TurnOptions {
    TurnOptions { max_tokens: Some(tokens), ..TurnOptions::default() }
}

fn drawn(tokens: usize, seed: u32) -> TurnOptions {
    let sampling = SamplingOptions { temperature: 1.1, top_k: 40, top_p: 0.95, seed: Some(seed) };
    TurnOptions { sampling, ..most(tokens) }
}

fn ids(llm: &mut Llm, prompt: &[u32], options: TurnOptions) -> Vec<u32> {
    let tokens: Result<Vec<Token>, Error> = llm.generate(prompt, options).unwrap().collect();
    tokens.unwrap().iter().map(|token| token.id).collect()
}

fn complete(llm: &mut Llm, turn: TurnOptions) -> Completion {
    llm.create_completion(Prompt::Text(STORY), CompletionOptions { turn, ..CompletionOptions::default() }).unwrap()
}

/// Logits behind every token, from the plain sequence.
fn rows(tales: &Tales, tokens: &[u32]) -> Vec<Vec<f32>> {
    let options = SequenceOptions { max_length: 256, cache: CacheMode::Growing, adapter: None };
    let logits = Sequence::new(&tales.model, options).unwrap().append(tokens).unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

fn log_share(row: &[f32], token: u32) -> f64 {
    let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
    f64::from(row[token as usize]) - sum.ln()
}

#[test]
fn the_pieces_that_generate_is_made_of_give_the_same() {
    let tales = tales();
    let mut llm = llm(tales);
    assert_eq!((llm.n_ctx(), llm.n_vocab(), llm.token_bos(), llm.token_eos()), (256, 2048, Some(0), Some(0)));
    let prompt = llm.tokenize(STORY, SpecialTokens::AsWritten).unwrap();
    assert_eq!(llm.detokenize(&prompt).unwrap(), STORY);
    let expected = ids(&mut llm, &prompt, drawn(12, 7));
    assert_ne!(expected, ids(&mut llm, &prompt, drawn(12, 8)), "a seed that does nothing");

    llm.reset().unwrap();
    assert!(llm.logits().is_none() && llm.sample().is_err());
    llm.set_sampling(drawn(0, 7).sampling).unwrap();
    llm.eval(&prompt).unwrap();
    let mut by_hand = Vec::new();
    while by_hand.len() < 12 {
        let token = llm.sample().unwrap();
        by_hand.push(token);
        llm.eval(&[token]).unwrap();
    }
    assert_eq!(by_hand, expected);
    assert_eq!(llm.context(), [prompt, by_hand].concat());
}

#[test]
fn what_a_prompt_shares_with_the_context_is_not_computed_again_and_changes_nothing() {
    let tales = tales();
    let (mut used, mut fresh) = (llm(tales), llm(tales));
    let story = tales.encode(STORY);
    let other = tales.encode("Once upon a time there was a big dog. The dog");
    let shared = story.iter().zip(&other).take_while(|(a, b)| a == b).count();
    assert!(shared > 4 && shared < other.len());
    for (prompt, reused) in [(&story, 0), (&other, shared), (&other, other.len() - 1), (&story, shared)] {
        fresh.reset().unwrap();
        let expected = ids(&mut fresh, prompt, drawn(15, 3));
        let mut generate = used.generate(prompt, drawn(15, 3)).unwrap();
        let found: Vec<u32> = generate.by_ref().map(|token| token.unwrap().id).collect();
        assert_eq!(generate.counts(), (prompt.len(), reused, found.len()));
        assert_eq!(found, expected);
    }
    // A prompt that is the context itself costs nothing.
    used.reset().unwrap();
    used.eval(&story).unwrap();
    let mut generate = used.generate(&story, drawn(15, 3)).unwrap();
    assert_eq!(generate.counts().1, story.len());
    fresh.reset().unwrap();
    assert_eq!(
        generate.by_ref().map(|token| token.unwrap().id).collect::<Vec<_>>(),
        ids(&mut fresh, &story, drawn(15, 3))
    );
}

#[test]
fn logprobs_are_those_of_the_model() {
    let tales = tales();
    let mut llm = llm(tales);
    // Temperature, bias and penalties change what comes, and not how likely it is.
    let turn = TurnOptions {
        logprobs: Some(3),
        logit_bias: [(50, 3.0), (61, -4.0)].into(),
        frequency_penalty: 0.5,
        ..drawn(10, 1)
    };
    let answer =
        llm.create_completion(Prompt::Text(STORY), CompletionOptions { turn, echo: true, suffix: None }).unwrap();
    let context = llm.context().to_vec();
    let choice = &answer.choices[0];
    let logprobs = choice.logprobs.as_ref().unwrap();
    let prompt = tales.encode(STORY);
    let rows = rows(tales, &context);
    assert_eq!(logprobs.tokens.concat(), choice.text);
    assert_eq!(logprobs.token_logprobs.len(), prompt.len() + 10);
    assert_eq!(logprobs.token_logprobs[0], None);
    // The last token is told and has not run.
    for (at, &token) in context.iter().enumerate().skip(1) {
        let expected = log_share(&rows[at - 1], token);
        let found = logprobs.token_logprobs[at].unwrap();
        assert!((expected - found).abs() < 1e-3, "token {at}: {found}, expected {expected}");
        let top = logprobs.top_logprobs[at].as_ref().unwrap();
        let best = (0..2048).map(|id| log_share(&rows[at - 1], id)).fold(f64::MIN, f64::max);
        assert!(top.len() <= 3 && top.values().any(|value| (value - best).abs() < 1e-3), "{top:?}");
    }
    let mut offset = 0;
    for (token, found) in logprobs.tokens.iter().zip(&logprobs.text_offset) {
        assert_eq!(*found, offset);
        offset += token.len();
    }
    assert_eq!(&choice.text[..STORY.len()], STORY);
    assert_eq!(&choice.text[logprobs.text_offset[prompt.len()]..logprobs.text_offset[prompt.len() + 1]], {
        logprobs.tokens[prompt.len()].as_str()
    });
    // What a harness asks to score a text.
    let turn = TurnOptions { logprobs: Some(0), ..most(0) };
    let scored =
        llm.create_completion(Prompt::Tokens(&prompt), CompletionOptions { turn, echo: true, suffix: None }).unwrap();
    assert_eq!(scored.choices[0].text, STORY);
    let CompletionLogprobs { token_logprobs, .. } = scored.choices[0].logprobs.clone().unwrap();
    assert_eq!(token_logprobs[..], logprobs.token_logprobs[..prompt.len()]);
}

#[test]
fn a_text_ends_for_the_reason_told() {
    let tales = tales();
    let mut llm = llm(tales);
    let whole = complete(&mut llm, most(30));
    let text = &whole.choices[0].text;
    assert_eq!(whole.choices[0].finish_reason.as_deref(), Some("length"));
    let usage = whole.usage.unwrap();
    assert_eq!((usage.completion_tokens, usage.prompt_tokens), (30, tales.encode(STORY).len()));
    assert_eq!(usage.total_tokens, usage.prompt_tokens + 30);

    // A stop string from the midst of one token to the midst of a later one.
    let pieces: Vec<Token> = llm.generate(&tales.encode(STORY), most(30)).unwrap().map(Result::unwrap).collect();
    let words: Vec<&Token> = pieces.iter().skip(2).filter(|token| token.text.len() > 3).take(1).collect();
    let at = text.find(&words[0].text).unwrap() + 2;
    let stop = text[at..].chars().take(12).collect::<String>();
    let before = &text[..text.find(&stop).unwrap()];
    let options = || TurnOptions { stop: vec!["never said".to_owned(), stop.clone()], ..most(30) };
    let mut generate = llm.generate(&tales.encode(STORY), options()).unwrap();
    let told: String = generate.by_ref().map(|token| token.unwrap().text).collect();
    assert_eq!(told + &generate.rest().unwrap(), before);
    assert_eq!(generate.finish_reason(), Some(FinishReason::Stop(1)));
    let stopped = complete(&mut llm, TurnOptions { logprobs: Some(0), ..options() });
    assert_eq!((stopped.choices[0].text.as_str(), stopped.choices[0].finish_reason.as_deref()), (before, Some("stop")));
    // No more tokens than the text has.
    let logprobs = stopped.choices[0].logprobs.as_ref().unwrap();
    assert!(logprobs.tokens.concat().starts_with(before) && logprobs.text_offset.iter().all(|at| *at < before.len()));

    let criterion = move |tokens: &[u32], logits: &[f32]| {
        assert_eq!(logits.len(), 2048);
        tokens.len() >= usage.prompt_tokens + 4
    };
    let tokens = ids(&mut llm, &tales.encode(STORY), TurnOptions { stopping: vec![Box::new(criterion)], ..most(30) });
    assert_eq!(tokens, pieces[..4].iter().map(|token| token.id).collect::<Vec<_>>());

    let room = llm.n_ctx() - usage.prompt_tokens;
    let full = complete(&mut llm, TurnOptions { min_tokens: 1000, max_tokens: None, ..TurnOptions::default() });
    assert_eq!(
        (full.usage.unwrap().completion_tokens, full.choices[0].finish_reason.as_deref()),
        (room, Some("length"))
    );
    let eos = TurnOptions { logit_bias: [(0, 100.0)].into(), ..most(30) };
    let ended = complete(&mut llm, eos);
    assert_eq!((ended.choices[0].text.as_str(), ended.choices[0].finish_reason.as_deref()), ("", Some("stop")));
    let late = TurnOptions { logit_bias: [(0, 100.0)].into(), min_tokens: 3, ..most(30) };
    assert_eq!(ids(&mut llm, &tales.encode(STORY), late).len(), 3);
}

#[test]
fn options_change_the_text_as_they_say() {
    let tales = tales();
    let mut llm = llm(tales);
    let prompt = tales.encode(STORY);
    let plain = ids(&mut llm, &prompt, most(40));
    let forbidden = plain[0];
    let bias = TurnOptions { logit_bias: [(forbidden, f32::NEG_INFINITY)].into(), ..most(40) };
    assert!(!ids(&mut llm, &prompt, bias).contains(&forbidden));
    // A penalty that outweighs everything leaves no token twice.
    let length = prompt.len();
    let processor = move |tokens: &[u32], scores: &mut [f32]| {
        for &token in tokens.iter().skip(length) {
            scores[token as usize] -= 1000.0;
        }
        Ok(())
    };
    let mut once = ids(&mut llm, &prompt, TurnOptions { processors: vec![Box::new(processor)], ..most(40) });
    assert_eq!(once.len(), 40);
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 40);
    // Cuts to the likeliest are greedy, whatever the seed.
    assert_eq!(ids(&mut llm, &prompt, TurnOptions { min_p: 1.0, ..drawn(40, 5) }), plain);
    for wrong in [
        TurnOptions { min_p: 2.0, ..most(1) },
        TurnOptions { typical_p: 0.0, ..most(1) },
        TurnOptions { repetition_penalty: -1.0, ..most(1) },
        TurnOptions { frequency_penalty: f32::NAN, ..most(1) },
        TurnOptions { logit_bias: [(2048, 1.0)].into(), ..most(1) },
        TurnOptions { stop: vec![String::new()], ..most(1) },
    ] {
        assert_eq!(llm.generate(&prompt, wrong).err().unwrap().kind(), ErrorKind::Argument);
    }
    let suffix = CompletionOptions { suffix: Some("The end.".to_owned()), ..CompletionOptions::default() };
    let refused = llm.create_completion(Prompt::Text(STORY), suffix).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    for prompt in [&[][..], &[4000], &vec![1; 300]] {
        assert_eq!(llm.generate(prompt, most(1)).err().unwrap().kind(), ErrorKind::Argument);
    }
}

#[test]
fn answers_have_the_shape_that_clients_know() {
    let tales = tales();
    let mut llm = llm(tales);
    let options = || CompletionOptions { turn: TurnOptions { logprobs: Some(1), ..most(5) }, echo: true, suffix: None };
    let whole = llm.create_completion(Prompt::Text(STORY), options()).unwrap();
    let json = serde_json::to_value(&whole).unwrap();
    assert_eq!(json["object"], "text_completion");
    assert!(json["id"].as_str().unwrap().starts_with("cmpl-") && json["created"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(json["choices"][0]["index"], 0);
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["choices"][0]["logprobs"]["token_logprobs"][0], serde_json::Value::Null);
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert_eq!(serde_json::from_value::<Completion>(json).unwrap(), whole);

    let pieces: Vec<Completion> =
        llm.stream_completion(Prompt::Text(STORY), options()).unwrap().map(Result::unwrap).collect();
    assert_eq!(pieces.len(), 7, "the prompt, five tokens, the end");
    assert!(pieces.iter().all(|piece| piece.id == pieces[0].id));
    let texts: String = pieces.iter().map(|piece| piece.choices[0].text.as_str()).collect();
    assert_eq!(texts, whole.choices[0].text);
    let (last, others) = pieces.split_last().unwrap();
    assert!(others.iter().all(|piece| piece.choices[0].finish_reason.is_none() && piece.usage.is_none()));
    assert_eq!(last.usage.unwrap().completion_tokens, 5);
}

#[test]
fn a_folder_is_enough() {
    let tales = tales();
    let mut opened = Llm::from_dir(tales.folder.path(), crate::support::runtime(), LlmOptions::default()).unwrap();
    assert_eq!(opened.n_ctx(), 1024);
    let prompt = tales.encode(STORY);
    assert_eq!(ids(&mut opened, &prompt, most(8)), ids(&mut llm(tales), &prompt, most(8)));
}
