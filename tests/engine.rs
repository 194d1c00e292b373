//! Several texts at once: each is what it would be alone, whatever happens to the others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use genai_validate::completion::{FinishReason, TurnOptions};
use genai_validate::engine::{
    Engine, EngineOptions, Event, Output, Scheduler, SessionId, SessionOptions, Shutdown, Usage,
};
use genai_validate::{
    Adapter, CacheMode, Config, Error, ErrorKind, GenerateOptions, GrammarCompiler, Guidance, Model, SamplingOptions,
    SequenceOptions, SpecialTokens, Tokenizer, generate,
};
use tempfile::TempDir;

use crate::lora::{adapter, swappable};
use crate::support::{build, fixture, load};

pub(crate) struct Tales {
    pub(crate) folder: TempDir,
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) eos_token_ids: Vec<u32>,
}

/// A small model that writes English of a sort, built once.
pub(crate) fn tales() -> &'static Tales {
    static TALES: OnceLock<Tales> = OnceLock::new();
    TALES.get_or_init(|| {
        let folder = build(&fixture("tales-llama"), "fp32", "cpu", &[]).unwrap();
        let eos_token_ids = Config::open(folder.path()).unwrap().eos_token_ids;
        let tokenizer = Arc::new(Tokenizer::load(folder.path()).unwrap());
        Tales { model: load(folder.path()).unwrap(), tokenizer, eos_token_ids, folder }
    })
}

impl Tales {
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, SpecialTokens::AsWritten).unwrap()
    }

    fn options(&self) -> EngineOptions {
        EngineOptions { max_length: 256, chunk_tokens: 4, ..EngineOptions::of(&self.model) }
    }

    fn engine(&self, options: EngineOptions) -> Engine {
        Engine::new(self.model.clone(), self.tokenizer.clone(), options).unwrap()
    }

    fn scheduler(&self, options: EngineOptions) -> Scheduler {
        Scheduler::new(self.model.clone(), self.tokenizer.clone(), options).unwrap()
    }
}

const PROMPTS: [&str; 6] = [
    "Once upon a time there was a little girl who lived in a big house near the forest.",
    "The dog",
    "One day, a boy named Tim went to the park with his mom. He saw a red ball and",
    "Lily was sad because",
    "The sun was",
    "\"Can I help you?\" asked the",
];

fn most(tokens: usize) -> TurnOptions {
    TurnOptions { max_tokens: Some(tokens), ..TurnOptions::default() }
}

/// Greedy for the even ones, drawn with a seed for the others.
fn options(index: usize) -> TurnOptions {
    let drawn = SamplingOptions { temperature: 0.9, top_k: 30, top_p: 0.95, seed: Some(index as u32) };
    let sampling = if index.is_multiple_of(2) { SamplingOptions::GREEDY } else { drawn };
    TurnOptions { sampling, ..most(12 + 3 * index) }
}

/// So many tokens, but for an end token, each of which takes its time.
fn slow(tokens: usize) -> TurnOptions {
    let waits = |_: &[u32], _: &mut [f32]| {
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    };
    TurnOptions { min_tokens: tokens, processors: vec![Box::new(waits)], ..most(tokens) }
}

fn ids(output: &Output) -> Vec<u32> {
    output.tokens.iter().map(|token| token.id).collect()
}

#[test]
fn a_text_does_not_depend_on_what_else_runs() {
    let tales = tales();
    let engine = tales.engine(tales.options());
    let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|prompt| tales.encode(prompt)).collect();
    let alone: Vec<Output> =
        prompts.iter().enumerate().map(|(i, prompt)| engine.submit(prompt, options(i)).unwrap().wait()).collect();
    // Greedy ones are those of the plain loop.
    for (index, (prompt, output)) in prompts.iter().zip(&alone).enumerate().step_by(2) {
        let sequence =
            SequenceOptions { max_length: prompt.len() + 12 + 3 * index, cache: CacheMode::Growing, adapter: None };
        let plain =
            GenerateOptions { sequence, eos_token_ids: &tales.eos_token_ids, sampling: SamplingOptions::GREEDY };
        let plain = generate(&tales.model, &tales.tokenizer, prompt, plain, &mut |_| ()).unwrap();
        assert_eq!((ids(output), output.text.clone()), (plain.ids, plain.text));
    }
    for max_active in [2, 6] {
        let engine = tales.engine(EngineOptions { max_active, max_scheduled_tokens: 8, ..tales.options() });
        let turns: Vec<_> =
            prompts.iter().enumerate().map(|(i, prompt)| engine.submit(prompt, options(i)).unwrap()).collect();
        for ((turn, alone), prompt) in turns.into_iter().zip(&alone).zip(&prompts) {
            let output = turn.wait();
            assert_eq!(output.tokens, alone.tokens, "{max_active} at a time");
            assert_eq!(output.text, alone.text);
            assert_eq!((output.reason, output.usage), (alone.reason, alone.usage));
            let (prompt_tokens, generated_tokens) = (prompt.len(), output.tokens.len());
            assert_eq!(output.usage, Usage { prompt_tokens, cached_prompt_tokens: 0, generated_tokens });
        }
    }
}

#[test]
fn each_step_gives_every_text_a_token_before_prompts_go_on() {
    let tales = tales();
    let mut scheduler = tales.scheduler(EngineOptions { max_scheduled_tokens: 6, ..tales.options() });
    let open = |scheduler: &mut Scheduler, prompt: &[u32]| {
        let session = scheduler.open(SessionOptions::default()).unwrap();
        scheduler.begin_turn(session, prompt, TurnOptions { min_tokens: 20, ..most(20) }).unwrap();
        session
    };
    let step = |scheduler: &mut Scheduler| {
        let mut told: Vec<SessionId> = Vec::new();
        scheduler.step(&mut |session, event| match event {
            Event::Token(_) => told.push(session),
            Event::Finished { .. } => panic!("{event:?}"),
        });
        told
    };
    let (one, two) = (open(&mut scheduler, &tales.encode("The")), open(&mut scheduler, &tales.encode("Once upon a")));
    assert_eq!(step(&mut scheduler), [one, two], "both prompts fit into the first step");
    // A prompt of 16 tokens in chunks of 4, next to two tokens of 6: a chunk a step.
    let prompt: Vec<u32> = tales.encode(PROMPTS[0]).into_iter().cycle().take(16).collect();
    let long = open(&mut scheduler, &prompt);
    for _ in 0..3 {
        assert_eq!(step(&mut scheduler), [one, two]);
    }
    assert_eq!(step(&mut scheduler), [one, two, long]);
    assert_eq!(step(&mut scheduler), [one, two, long]);
    scheduler.cancel(two);
    let mut over = Vec::new();
    scheduler.step(&mut |session, event| {
        if let Event::Finished { reason, .. } = event {
            over.push((session, reason));
        }
    });
    assert_eq!(over, [(two, FinishReason::Cancelled)]);
    assert_eq!(step(&mut scheduler), [one, long]);
    assert!(scheduler.has_pending());
    scheduler.abort(&mut |_, _| ());
    assert!(!scheduler.has_pending());

    // However little a step may do, it brings every text on.
    let mut scheduler = tales.scheduler(EngineOptions { max_scheduled_tokens: 1, ..tales.options() });
    let one = open(&mut scheduler, &tales.encode("The"));
    assert_eq!(step(&mut scheduler), [one]);
    let long = open(&mut scheduler, &prompt);
    for _ in 0..3 {
        assert_eq!(step(&mut scheduler), [one]);
    }
    assert_eq!(step(&mut scheduler), [one, long]);
}

#[test]
fn what_fails_in_one_text_stays_there() {
    let tales = tales();
    let engine = tales.engine(tales.options());
    let prompt = tales.encode(PROMPTS[2]);
    let alone = engine.submit(&prompt, most(16)).unwrap().wait();

    let after = |count: usize, what: fn()| {
        let mut calls = 0;
        move |_: &[u32], _: &mut [f32]| {
            calls += 1;
            if calls > count {
                what();
            }
            Ok(())
        }
    };
    let panics = TurnOptions { processors: vec![Box::new(after(3, || panic!("a bad processor")))], ..most(16) };
    let forbids = |_: &[u32], scores: &mut [f32]| {
        scores.fill(f32::NEG_INFINITY);
        Ok(())
    };
    let forbids = TurnOptions { processors: vec![Box::new(forbids)], ..most(16) };
    let turns = [most(16), panics, forbids, most(16)].map(|options| engine.submit(&prompt, options).unwrap());
    let [first, panicked, forbidden, last] = turns.map(|turn| turn.wait());
    assert_eq!(panicked.reason, FinishReason::Failed);
    assert_eq!(panicked.tokens, alone.tokens[..3]);
    assert!(panicked.error.unwrap().to_string().contains("a panic: a bad processor"));
    assert_eq!((forbidden.reason, forbidden.tokens.len()), (FinishReason::Failed, 0));
    assert!(forbidden.error.unwrap().to_string().contains("-inf at every token"));
    for output in [first, last, engine.submit(&prompt, most(16)).unwrap().wait()] {
        assert_eq!(output.tokens, alone.tokens);
    }
}

#[test]
fn turns_of_a_session_continue_each_other() {
    let tales = tales();
    let engine = tales.engine(tales.options());
    let session = engine.session(SessionOptions::default()).unwrap();
    let (first, second) = (tales.encode(PROMPTS[3]), tales.encode(" Then the cat"));
    let one = session.begin_turn(&first, most(9)).unwrap().wait();
    assert_eq!(one.reason, FinishReason::MaxTokens);
    // The last of these has not run when the second turn begins.
    let length = first.len() + 9;
    assert_eq!(session.len().unwrap(), length);
    let two = session.begin_turn(&second, most(9)).unwrap().wait();
    let whole = [first.as_slice(), &ids(&one), &second].concat();
    let fresh = engine.submit(&whole, most(9)).unwrap().wait();
    assert_eq!(ids(&two), ids(&fresh));
    assert_eq!((two.usage.prompt_tokens, two.usage.cached_prompt_tokens), (whole.len(), length - 1));
    // A turn that failed is taken back; one may be taken back by hand, and comes again.
    let fails = |_: &[u32], _: &mut [f32]| panic!("once");
    let fails = TurnOptions { processors: vec![Box::new(fails)], ..most(3) };
    session.rewind(length).unwrap();
    assert_eq!(session.begin_turn(&second, fails).unwrap().wait().reason, FinishReason::Failed);
    assert_eq!(session.len().unwrap(), length);
    let again = session.begin_turn(&second, most(9)).unwrap().wait();
    assert_eq!(again.tokens, two.tokens);
    assert!(session.rewind(1000).unwrap_err().to_string().contains("at most"));
    // More than fits is an error of that turn alone.
    let long: Vec<u32> = whole.iter().copied().cycle().take(250).collect();
    let over = session.begin_turn(&long, most(1)).unwrap().wait();
    assert_eq!((over.reason, over.error.unwrap().kind()), (FinishReason::Failed, ErrorKind::Argument));
    assert_eq!(session.len().unwrap(), whole.len() + 9);
}

#[test]
fn a_session_ends_at_its_length() {
    let tales = tales();
    let engine = tales.engine(tales.options());
    let prompt = tales.encode(PROMPTS[1]);
    let options = SessionOptions { max_length: Some(prompt.len() + 5), ..SessionOptions::default() };
    let output = engine.session(options).unwrap().begin_turn(&prompt, TurnOptions::default()).unwrap().wait();
    assert_eq!((output.reason, output.tokens.len()), (FinishReason::MaxLength, 5));
    let none = engine.submit(&prompt, most(0)).unwrap().wait();
    assert_eq!((none.reason, none.tokens.len()), (FinishReason::MaxTokens, 0));
    for max_length in [Some(0), Some(100_000)] {
        assert!(engine.session(SessionOptions { max_length, ..SessionOptions::default() }).is_err());
    }
    let named = SessionOptions { adapter: Some("tales".to_owned()), ..SessionOptions::default() };
    assert!(engine.session(named).err().unwrap().to_string().contains("the adapter of a session is tales"));
    for prompt in [&[][..], &[999_999]] {
        assert_eq!(engine.submit(prompt, most(1)).err().unwrap().kind(), ErrorKind::Argument);
    }
}

#[test]
fn cancelled_and_dropped_turns_make_room() {
    let tales = tales();
    let engine = tales.engine(EngineOptions { max_active: 1, max_waiting: 2, ..tales.options() });
    let prompt = tales.encode(PROMPTS[4]);
    let (open, gate) = channel::<()>();
    let (begun, length) = (AtomicBool::new(false), prompt.len());
    // Its second token comes when the gate opens.
    let stops = move |tokens: &[u32], _: &mut [f32]| {
        if tokens.len() > length && !begun.swap(true, Ordering::Relaxed) {
            let _ = gate.recv();
        }
        Ok(())
    };
    let mut runs = engine.submit(&prompt, TurnOptions { processors: vec![Box::new(stops)], ..most(200) }).unwrap();
    assert!(matches!(runs.next(), Some(Event::Token(_))));
    let waits = engine.submit(&prompt, most(200)).unwrap();
    let dropped = engine.submit(&prompt, most(200)).unwrap();
    let refused = engine.submit(&prompt, most(200)).err().unwrap();
    assert!(matches!(refused, Error::Busy { waiting: 2 }) && engine.waiting() == 2, "{refused}");
    drop(dropped);
    runs.cancel();
    waits.cancel();
    drop(open);
    let last = runs.by_ref().last().unwrap();
    assert!(matches!(last, Event::Finished { reason: FinishReason::Cancelled, .. }), "{last:?}");
    assert!(runs.next().is_none() && runs.next_within(Duration::ZERO).is_none());
    assert_eq!(waits.wait().reason, FinishReason::Cancelled);
    assert_eq!(engine.submit(&prompt, most(2)).unwrap().wait().tokens.len(), 2);
    assert_eq!(engine.waiting(), 0);
}

#[test]
fn an_engine_ends_with_or_without_its_texts() {
    let tales = tales();
    let prompt = tales.encode(PROMPTS[0]);
    for (how, reason) in [(Shutdown::Drain, FinishReason::MaxTokens), (Shutdown::Abort, FinishReason::Cancelled)] {
        let engine = tales.engine(EngineOptions { max_active: 2, ..tales.options() });
        let session = engine.session(SessionOptions::default()).unwrap();
        let tokens = if how == Shutdown::Drain { 10 } else { 200 };
        let turns: Vec<_> = (0..4).map(|_| engine.submit(&prompt, slow(tokens)).unwrap()).collect();
        engine.shutdown(how);
        for turn in turns {
            assert_eq!(turn.wait().reason, reason, "{how:?}");
        }
        assert!(engine.submit(&prompt, most(1)).is_err() && session.len().is_err());
    }
    // An engine that is dropped takes its texts with it.
    let turn = tales.engine(tales.options()).submit(&prompt, slow(200)).unwrap();
    assert_eq!(turn.wait().reason, FinishReason::Cancelled);
}

#[test]
fn prompts_that_begin_alike_share_a_cache() {
    let tales = tales();
    let engine = tales.engine(EngineOptions { kept_prefixes: 2, ..tales.options() });
    let prompt = tales.encode(PROMPTS[0]);
    let first = engine.submit(&prompt, most(8)).unwrap().wait();
    assert_eq!(first.usage.cached_prompt_tokens, 0);
    // The same again has all but its last token, whose logits are wanted.
    let again = engine.submit(&prompt, most(8)).unwrap().wait();
    assert_eq!((ids(&again), again.usage.cached_prompt_tokens), (ids(&first), prompt.len() - 1));
    let longer = [prompt.as_slice(), &tales.encode(" She had a dog.")].concat();
    let continued = engine.submit(&longer, most(8)).unwrap().wait();
    assert_eq!(continued.usage.cached_prompt_tokens, prompt.len());
    let fresh = tales.engine(tales.options()).submit(&longer, most(8)).unwrap().wait();
    assert_eq!(ids(&continued), ids(&fresh));
    let other = engine.submit(&tales.encode(PROMPTS[5]), most(2)).unwrap().wait();
    assert_eq!(other.usage.cached_prompt_tokens, 0);
}

#[test]
fn a_grammar_binds_its_own_text() {
    let tales = tales();
    let engine = tales.engine(tales.options());
    let compiler = GrammarCompiler::new(&tales.tokenizer, tales.model.vocab_size(), &tales.eos_token_ids).unwrap();
    let bound = |expression: &str| {
        let grammar = compiler.compile(&Guidance::Regex(expression.to_owned())).unwrap();
        TurnOptions { constraint: Some(Box::new(grammar)), ..most(20) }
    };
    let prompt = tales.encode(PROMPTS[1]);
    let turns = [bound("[0-9]{3}"), most(20), bound("(yes|no)")].map(|turn| engine.submit(&prompt, turn).unwrap());
    let [number, free, answer] = turns.map(|turn| turn.wait());
    assert!(number.text.len() == 3 && number.text.parse::<u32>().is_ok(), "{}", number.text);
    assert!(["yes", "no"].contains(&answer.text.as_str()), "{}", answer.text);
    assert_eq!([number.reason, answer.reason], [FinishReason::Eos; 2]);
    assert_eq!(free.tokens, engine.submit(&prompt, most(20)).unwrap().wait().tokens);
}

#[test]
fn sessions_have_adapters_of_their_own() {
    let names = ["llama-attention", "llama-patterns"];
    let folders = names.map(adapter);
    let package = swappable("llama-default", "fp32", &[("one", &folders[0]), ("two", &folders[1])]).unwrap();
    let model = load(package.path()).unwrap();
    let tokenizer = Arc::new(Tokenizer::load(package.path()).unwrap());
    let file = |name: &str| package.path().join(format!("{name}.onnx_adapter"));
    let adapters = ["one", "two"].map(|name| (name.to_owned(), file(name)));
    let options = EngineOptions { max_length: 40, adapters: adapters.into(), ..EngineOptions::of(&model) };
    let engine = Engine::new(model.clone(), tokenizer.clone(), options).unwrap();
    let prompt: Vec<u32> = (1..9).collect();
    let cases = [None, Some("one"), Some("two"), None];
    let turns = cases.map(|name| {
        let session = SessionOptions { adapter: name.map(str::to_owned), ..SessionOptions::default() };
        engine.session(session).unwrap().begin_turn(&prompt, most(16)).unwrap()
    });
    let told = turns.map(|turn| ids(&turn.wait()));
    for (name, found) in cases.iter().zip(&told) {
        let adapter = name.map(|name| Adapter::load(&file(name)).unwrap());
        let sequence = SequenceOptions { max_length: 24, cache: CacheMode::Growing, adapter: adapter.as_ref() };
        let eos_token_ids = model.eos_token_ids();
        let plain = GenerateOptions { sequence, eos_token_ids, sampling: SamplingOptions::GREEDY };
        let plain = generate(&model, &tokenizer, &prompt, plain, &mut |_| ()).unwrap();
        assert_eq!(*found, plain.ids, "{name:?}");
    }
    assert!(told[0] != told[1] && told[1] != told[2], "adapters that do nothing");
    let missing = EngineOptions { adapters: [("no".to_owned(), file("no"))].into(), ..EngineOptions::of(&model) };
    assert!(Engine::new(model, tokenizer, missing).is_err());
}
