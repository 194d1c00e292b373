//! What a generator does beyond what the peer can be asked for: rows that do not see each other's pads, text behind text
//! that was never run, rewinds of any cache, cancelling, hooks.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use genai_validate::{
    Adapters, CacheMode, Constraint, Error, Generator, GeneratorParams, Model, Result, SearchOptions, Sequence,
    SequenceOptions, Tensor,
};

use crate::support::{Outcome, build, fixture, for_each, load};

fn search(max_length: usize, batch_size: usize) -> SearchOptions {
    SearchOptions { max_length, batch_size, past_present_share_buffer: true, ..SearchOptions::default() }
}

fn package(name: &str, options: &[&str]) -> Outcome<(tempfile::TempDir, Arc<Model>)> {
    let folder = build(&fixture(name), "fp32", "cpu", options)?;
    let model = load(folder.path())?;
    Ok((folder, model))
}

fn finish(generator: &mut Generator) -> Result<Vec<u32>> {
    while !generator.is_done() {
        generator.generate_next_token()?;
    }
    generator.sequence(0)
}

/// The logits behind tokens that were never seen before.
fn from_scratch(model: &Arc<Model>, ids: &[u32], cache: CacheMode) -> Result<Vec<f32>> {
    let logits = Sequence::new(model, SequenceOptions { max_length: ids.len(), cache, adapter: None })?.append(ids)?;
    Ok(logits.row(logits.rows() - 1).to_vec())
}

fn expect_alike(found: &[f32], expected: &[f32]) -> Outcome {
    let off = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
    if found.len() == expected.len() && off < 1e-3 { Ok(()) } else { Err(format!("off by {off}").into()) }
}

#[test]
fn rows_of_a_batch_are_what_they_are_alone() {
    // Attention as one operator, and as many.
    for_each(
        &["tales-llama", "falcon-alibi", "gemma2-default"],
        |name| (*name).into(),
        |name| {
            let (_folder, model) = package(name, &[])?;
            // The first ends in the pad token, the second is nothing else; the peer takes them for shorter ones.
            let prompts: [&[u32]; 4] = [&[5, 9, 0], &[0, 0], &[7, 8, 9, 10, 11, 12, 13], &[40]];
            for (shared, beams) in [(true, 1), (false, 1), (false, 3)] {
                let options = SearchOptions {
                    past_present_share_buffer: shared && model.shares_buffer(),
                    num_beams: beams,
                    no_repeat_ngram_size: 2,
                    length_penalty: 0.0,
                    ..search(24, 4)
                };
                let mut together = Generator::new(&model, options.clone())?;
                together.append_tokens(&prompts)?;
                finish(&mut together)?;
                for (index, prompt) in prompts.into_iter().enumerate() {
                    let said = together.sequence(index)?;
                    assert_eq!(together.prompt_length(index)?, prompt.len());
                    let mut alone = Generator::new(&model, SearchOptions { batch_size: 1, ..options.clone() })?;
                    alone.append(prompt)?;
                    // In a batch the longest row ends all.
                    while !alone.is_done() && alone.token_count() < 17 + prompt.len() {
                        alone.generate_next_token()?;
                    }
                    assert_eq!(said, alone.sequence(0)?, "row {index}, shared {shared}, beams {beams}");
                    assert_eq!(said[..prompt.len()], *prompt);
                }
            }
            Ok(())
        },
    );
}

#[test]
fn text_goes_on_behind_what_was_never_run() -> Outcome {
    let (_folder, model) = package("tales-llama", &[])?;
    for cache in [CacheMode::Shared, CacheMode::Growing] {
        let options = SearchOptions { past_present_share_buffer: cache == CacheMode::Shared, ..search(64, 1) };
        let mut generator = Generator::new(&model, options.clone())?;
        generator.append(&[5, 44, 9])?;
        for _ in 0..4 {
            generator.generate_next_token()?;
        }
        generator.append(&[17, 202])?;
        let ids = generator.sequence(0)?;
        assert_eq!((ids.len(), generator.token_count(), generator.prompt_length(0)?), (9, 9, 9));
        expect_alike(generator.logits()?, &from_scratch(&model, &ids, cache)?)?;
        // Back into the generated text, and on without anything appended.
        generator.rewind_to(6)?;
        expect_alike(generator.logits()?, &from_scratch(&model, &ids[..6], cache)?)?;
        generator.generate_next_token()?;
        assert_eq!(generator.sequence(0)?, ids[..7]);

        let mut rows = Generator::new(&model, SearchOptions { batch_size: 2, ..options })?;
        rows.append_tokens(&[&[5, 44, 9], &[7]])?;
        rows.generate_next_token()?;
        rows.append_tokens(&[&[17], &[202, 3, 4]])?;
        let vocab = model.vocab_size();
        for row in 0..2 {
            let expected = from_scratch(&model, &rows.sequence(row)?, cache)?;
            expect_alike(&rows.logits()?[row * vocab..][..vocab], &expected)?;
        }
        rows.rewind_to(2)?;
        assert_eq!((rows.sequence(0)?, rows.token_count()), (vec![5, 44], 2));
        expect_alike(&rows.logits()?[..vocab], &from_scratch(&model, &[5, 44], cache)?)?;
    }
    Ok(())
}

#[test]
fn windows_take_text_of_any_length_and_are_rewound() -> Outcome {
    let (_folder, model) = package("mistral-window", &["windowed_kv_cache=true"])?;
    assert!(model.keeps_windows());
    let ids: Vec<u32> = (0..120).map(|index| 3 + index * 7 % 300).collect();
    let mut generator = Generator::new(&model, search(128, 1))?;
    // The second goes in behind a window that is full, and is longer than what the window has to spare.
    for part in [&ids[..50], &ids[50..]] {
        generator.append(part)?;
    }
    let expected = from_scratch(&model, &ids, CacheMode::Shared)?;
    expect_alike(generator.logits()?, &expected)?;
    generator.rewind_to(70)?;
    expect_alike(generator.logits()?, &from_scratch(&model, &ids[..70], CacheMode::Shared)?)?;
    generator.append(&ids[70..])?;
    expect_alike(generator.logits()?, &expected)
}

#[test]
fn text_is_seen_anew_where_the_rope_switches() -> Outcome {
    // Other factors from 33 tokens on; the caches of those before are of no use then.
    let (_folder, model) = package("phi3-longrope", &[])?;
    let prompt: Vec<u32> = (0..30).map(|index| 3 + index * 7 % 300).collect();
    let run = |rope_switch: usize| -> Outcome<f32> {
        let params = GeneratorParams { rope_switch: Some(rope_switch), ..GeneratorParams::from(search(40, 1)) };
        let mut generator = Generator::new(&model, params)?;
        generator.append(&prompt)?;
        let mut worst: f32 = 0.0;
        for back in [0, 30] {
            if back > 0 {
                generator.rewind_to(back)?;
            }
            while !generator.is_done() && generator.token_count() < 38 {
                let expected = from_scratch(&model, &generator.sequence(0)?, CacheMode::Shared)?;
                let found = generator.logits()?;
                worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
                generator.generate_next_token()?;
            }
        }
        Ok(worst)
    };
    let (right, wrong) = (run(33)?, run(1000)?);
    assert!(right < 1e-3 && wrong > 1e-2, "{right} where it switches, {wrong} elsewhere");
    Ok(())
}

#[test]
fn a_cancelled_generator_goes_on_where_it_was() -> Outcome {
    let (_folder, model) = package("tales-llama", &[])?;
    let prompt: Vec<u32> = (0..600).map(|index| 3 + index * 13 % 2000).collect();
    let expected = {
        let mut generator = Generator::new(&model, search(610, 1))?;
        generator.append(&prompt)?;
        finish(&mut generator)?
    };
    let mut generator = Generator::new(&model, search(610, 1))?;
    let handle = generator.cancellation();
    handle.cancel()?;
    assert!(matches!(generator.append(&prompt), Err(Error::Cancelled)));
    assert_eq!(generator.token_count(), 0, "what was refused is not appended");
    handle.resume()?;

    let other = handle.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        other.cancel()
    });
    let outcome = generator.append(&prompt);
    thread.join().map_err(|_| "the other thread panicked")??;
    assert!(matches!(outcome, Ok(()) | Err(Error::Cancelled)), "{outcome:?}");
    assert!(matches!(generator.generate_next_token(), Err(Error::Cancelled)));
    generator.set_runtime_option("terminate_session", "0")?;
    assert_eq!(finish(&mut generator)?, expected);
    let refused = generator.set_runtime_option("terminate_session", "2").unwrap_err().to_string();
    assert!(refused.contains("expected 0 or 1"), "{refused}");
    Ok(())
}

#[test]
fn adapters_are_loaded_activated_and_unloaded() -> Outcome {
    let folder =
        crate::lora::swappable_for("llama-default", "fp32", "cpu", &[("a", &fixture("adapters/llama-patterns"))])?;
    let model = load(folder.path())?;
    let file = folder.path().join("a.onnx_adapter");
    let adapter = genai_validate::Adapter::load(&file)?;
    let options = SequenceOptions { max_length: 3, cache: CacheMode::Growing, adapter: Some(&adapter) };
    let expected = Sequence::new(&model, options)?.append(&[5, 6, 7])?;

    let adapters = Adapters::new();
    adapters.load(&file, "tales")?;
    assert!(adapters.load(&file, "tales").is_err() && adapters.unload("other").is_err());
    assert!(adapters.load(Path::new("Cargo.toml"), "broken").is_err());
    let mut generator = Generator::new(&model, search(8, 1))?;
    assert!(generator.set_active_adapter(&adapters, "other").is_err());
    generator.set_active_adapter(&adapters, "tales")?;
    generator.append(&[5, 6, 7])?;
    expect_alike(generator.logits()?, expected.row(2))?;
    assert!(generator.set_active_adapter(&adapters, "tales").is_err(), "too late");
    assert!(adapters.unload("tales").unwrap_err().to_string().contains("no generator uses"));
    drop(generator);
    adapters.unload("tales")?;
    let mut plain = Generator::new(&model, search(8, 1))?;
    plain.append(&[5, 6, 7])?;
    assert!(expect_alike(plain.logits()?, expected.row(2)).is_err(), "the adapter changes nothing");
    Ok(())
}

/// Wants ids to count up by one from the first that it saw, and writes down what it was told.
#[derive(Clone, Default)]
struct Counting {
    told: Arc<Mutex<Vec<u32>>>,
    forces: bool,
}

impl Constraint for Counting {
    fn mask(&mut self, scores: &mut [f32]) -> Result<()> {
        let last = self.told.lock().unwrap().last().copied();
        for (id, score) in scores.iter_mut().enumerate() {
            if last.is_some_and(|last| id as u32 != last + 1) {
                *score = f32::MIN;
            }
        }
        Ok(())
    }

    fn commit(&mut self, id: u32) -> Result<()> {
        self.told.lock().unwrap().push(id);
        Ok(())
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        let mut told = self.told.lock().unwrap();
        let Some(last) = told.last().copied().filter(|_| self.forces) else { return Ok(Vec::new()) };
        told.extend([last + 1, last + 2]);
        Ok(vec![last + 1, last + 2])
    }

    fn reset(&mut self) -> Result<()> {
        self.told.lock().unwrap().clear();
        Ok(())
    }
}

#[test]
fn constraints_and_processors_have_their_say() -> Outcome {
    let (_folder, model) = package("tales-llama", &[])?;
    let constrained = |forces: bool| -> Outcome<(Generator, Counting)> {
        let counting = Counting { forces, ..Counting::default() };
        let constraints: Vec<Box<dyn Constraint>> = vec![Box::new(counting.clone())];
        let params = GeneratorParams { constraints, forced_tokens: forces, ..GeneratorParams::from(search(14, 1)) };
        let mut generator = Generator::new(&model, params)?;
        generator.append(&[5, 44, 9])?;
        Ok((generator, counting))
    };
    let (mut generator, counting) = constrained(false)?;
    let ids = finish(&mut generator)?;
    assert!(ids.len() == 14 && ids[4..].windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    assert_eq!(*counting.told.lock().unwrap(), ids[3..]);
    // What a rewind leaves is told again.
    generator.rewind_to(6)?;
    assert_eq!(*counting.told.lock().unwrap(), ids[3..6]);
    assert_eq!(finish(&mut generator)?, ids);
    // Forced tokens come without a choice, and are run like others.
    let (mut forced, _) = constrained(true)?;
    forced.generate_next_token()?;
    assert_eq!(forced.sequence(0)?, ids[..6]);
    expect_alike(forced.logits()?, &from_scratch(&model, &ids[..6], CacheMode::Shared)?)?;
    assert_eq!(finish(&mut forced)?, ids);

    let mut params = GeneratorParams::from(search(12, 2));
    params.processors.push(Box::new(|ids: &[u32], scores: &mut [f32]| {
        scores.fill(0.0);
        scores[ids.len()] = 1.0;
        Ok(())
    }));
    let mut generator = Generator::new(&model, params)?;
    generator.append_tokens(&[&[5, 44, 9], &[7]])?;
    generator.generate_next_token()?;
    generator.generate_next_token()?;
    assert_eq!((generator.sequence(0)?, generator.sequence(1)?), (vec![5, 44, 9, 3, 4], vec![7, 1, 2]));
    assert_eq!(generator.next_tokens(), [4, 2]);
    Ok(())
}

#[test]
fn logits_may_come_from_the_caller() -> Outcome {
    let (_folder, model) = package("llama-default", &[])?;
    let mut generator = Generator::new(&model, search(8, 2))?;
    let nothing = generator.generate_next_token().unwrap_err().to_string();
    assert!(nothing.contains("at least one token"), "{nothing}");
    let vocab = model.vocab_size();
    let mut logits = vec![0.0; 2 * vocab];
    (logits[30], logits[vocab + 40]) = (1.0, 1.0);
    generator.set_logits(&logits)?;
    assert_eq!(generator.logits()?, logits);
    generator.generate_next_token()?;
    generator.set_logits(&logits)?;
    generator.generate_next_token()?;
    assert_eq!((generator.sequence(0)?, generator.sequence(1)?), (vec![30, 30], vec![40, 40]));
    expect_alike(&generator.logits()?[vocab..], &from_scratch(&model, &[40, 40], CacheMode::Shared)?)?;
    assert!(generator.set_logits(&logits[1..]).is_err());
    Ok(())
}

#[test]
fn tensors_of_the_last_run_are_there_by_name() -> Outcome {
    let (_folder, model) = package("llama-default", &["include_hidden_states=true"])?;
    let mut generator = Generator::new(&model, search(8, 1))?;
    assert!(generator.output("logits").is_err(), "nothing ran yet");
    generator.append(&[5, 6, 7])?;
    assert_eq!(generator.input("input_ids")?.values, genai_validate::TensorValues::Int64(vec![5, 6, 7]));
    assert_eq!(generator.output("logits")?.shape, [1, 3, model.vocab_size()]);
    assert_eq!(generator.output("hidden_states")?.shape[..2], [1, 3]);
    assert_eq!(generator.output("present.0.key")?.shape[2], 8, "a shared cache has its full length");
    let last = generator.output("logits")?.floats().unwrap()[2 * model.vocab_size()..].to_vec();
    assert_eq!(generator.logits()?, last);
    let unknown = generator.output("nothing").unwrap_err().to_string();
    assert!(unknown.contains("`nothing`"), "{unknown}");
    let unknown = generator.set_model_input("pixels", &Tensor::float32(&[1], vec![0.0])).unwrap_err().to_string();
    assert!(unknown.contains("`pixels`") && unknown.contains("takes no others"), "{unknown}");
    Ok(())
}

#[test]
fn what_cannot_be_is_told() -> Outcome {
    let (_folder, model) = package("llama-default", &[])?;
    let told = |outcome: Result<()>| outcome.unwrap_err().to_string();
    let mut generator = Generator::new(&model, search(6, 2))?;
    for (outcome, expected) in [
        (generator.append(&[5]), "the number of rows is 1, expected batch_size 2"),
        (generator.append_tokens(&[&[5], &[]]), "the number of tokens is 0"),
        (generator.append_tokens(&[&[5], &[9999]]), "below vocab_size"),
        (generator.append_tokens(&[&[5], &[5; 7]]), "at most max_length 6"),
        (generator.rewind_to(1), "the length to rewind to is 1"),
    ] {
        let message = told(outcome);
        assert!(message.contains(expected), "{message}");
    }
    generator.append_tokens(&[&[5], &[5; 6]])?;
    assert!(generator.is_done() && told(generator.generate_next_token()).contains("at max_length 6"));
    let mut beams = Generator::new(&model, SearchOptions { num_beams: 2, ..search(6, 1) })?;
    beams.append(&[5, 6])?;
    beams.generate_next_token()?;
    assert!(
        told(beams.append(&[5])).contains("appending to beams") && told(beams.rewind_to(1)).contains("rewinding beams")
    );
    beams.rewind_to(0)?;
    beams.append(&[5, 6])?;
    assert!(beams.beam_score(0).is_some() && beams.sequence(1).is_err());
    for options in [
        SearchOptions { batch_size: 0, ..search(6, 1) },
        SearchOptions { batch_size: 33, ..search(6, 1) },
        SearchOptions { num_return_sequences: 2, ..search(6, 1) },
        SearchOptions { num_beams: 2, do_sample: true, ..search(6, 1) },
        SearchOptions { repetition_penalty: 0.0, ..search(6, 1) },
        SearchOptions { temperature: -1.0, ..search(6, 1) },
        SearchOptions { top_p: f32::NAN, do_sample: true, ..search(6, 1) },
        SearchOptions { top_k: model.vocab_size() + 1, do_sample: true, ..search(6, 1) },
        search(model.context_length() + 1, 1),
    ] {
        assert!(Generator::new(&model, options.clone()).is_err(), "{options:?}");
    }
    Ok(())
}
