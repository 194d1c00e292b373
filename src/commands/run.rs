use std::io::Read;
use std::time::Instant;

use genai_validate::{SpecialTokens, Tokenizer};
use serde::Serialize;

use crate::args::RunArgs;
use crate::console::{note, print, print_json};
use crate::failure::{Failure, code};
use crate::generation::{Ending, Opened, Reply};

/// How many tokens are generated where nothing says.
const TOKENS: usize = 64;

/// docs/json.md has the fields.
#[derive(Serialize)]
struct Generated {
    prompt: String,
    sequences: Vec<Sequence>,
    usage: Usage,
    timings: Timings,
}

#[derive(Serialize)]
struct Sequence {
    ids: Vec<u32>,
    text: String,
    finish_reason: &'static str,
    /// Of a beam.
    score: Option<f32>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

#[derive(Serialize)]
struct Timings {
    load_seconds: f64,
    prefill_seconds: f64,
    decode_seconds: f64,
}

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let prompt = prompt(args)?;
    let opened = Opened::new(&args.package, &args.generation)?;
    let ids = opened.tokenizer.encode(&prompt, SpecialTokens::Added)?;
    if ids.is_empty() {
        return Err(Failure::usage("the prompt has no tokens"));
    }
    let mut search = opened.search.clone();
    let room = if opened.length_given { search.max_length } else { opened.model.context_length() };
    if ids.len() >= room {
        let message = format!("the prompt has {} tokens, and the context of the model is {room}", ids.len());
        return Err(Failure::usage(message));
    }
    let most = match (args.generation.max_tokens, opened.length_given) {
        (Some(most), _) => most,
        (None, true) => usize::MAX,
        (None, false) => TOKENS,
    };
    search.max_length = ids.len().saturating_add(most).min(room);
    let (beams, returned) = (search.num_beams, search.num_return_sequences);

    let mut generator = opened.generator(search)?;
    let started = Instant::now();
    generator.append(&ids)?;
    let prefill_seconds = started.elapsed().as_secs_f64();
    let silent = args.json || beams > 1;
    if !silent {
        print(&prompt)?;
    }
    let started = Instant::now();
    let sequences = if beams > 1 {
        while !generator.is_done() {
            generator.generate_next_token()?;
        }
        let text = |index| beam(&opened.tokenizer, &generator, index);
        (0..returned).map(text).collect::<Result<Vec<_>, Failure>>()?
    } else {
        let tell = &mut |piece: &str| if silent { Ok(()) } else { print(piece) };
        vec![opened.reply(&mut generator, most, &|| false, tell)?.into()]
    };
    let decode_seconds = started.elapsed().as_secs_f64();
    let completion_tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    if args.json {
        return print_json(&Generated {
            prompt,
            sequences,
            usage: Usage { prompt_tokens: ids.len(), completion_tokens },
            timings: Timings { load_seconds: opened.load_seconds, prefill_seconds, decode_seconds },
        });
    }
    if beams > 1 {
        for sequence in &sequences {
            print(&format!("{prompt}{}\n", sequence.text))?;
        }
    } else {
        print("\n")?;
    }
    if completion_tokens > 1 && decode_seconds > 0.0 {
        let rate = (completion_tokens - 1) as f64 / decode_seconds;
        note(&format!("{completion_tokens} tokens, {rate:.1} tokens/s"));
    }
    Ok(())
}

impl From<Reply> for Sequence {
    fn from(reply: Reply) -> Self {
        Self { ids: reply.ids, text: reply.text, finish_reason: reply.ending.word(), score: None }
    }
}

/// One of the sequences that a beam search returns.
fn beam(tokenizer: &Tokenizer, generator: &genai_validate::Generator, index: usize) -> Result<Sequence, Failure> {
    let ids = generator.sequence(index)?.split_off(generator.prompt_length(index)?);
    let full = generator.prompt_length(index)? + ids.len() >= generator.search().max_length;
    let ending = if full { Ending::Length } else { Ending::Eos };
    let text = tokenizer.decode(&ids)?;
    Ok(Sequence { ids, text, finish_reason: ending.word(), score: generator.beam_score(index) })
}

/// What was typed, or is in a file, or comes in by stdin.
fn prompt(args: &RunArgs) -> Result<String, Failure> {
    let unreadable =
        |name: &str, error| Failure::new(code::RESOURCES, format!("cannot read the prompt from {name}: {error}"));
    match (&args.prompt, &args.prompt_file) {
        (Some(text), _) if text != "-" => Ok(text.clone()),
        (None, Some(file)) => {
            std::fs::read_to_string(file).map_err(|error| unreadable(&file.display().to_string(), error))
        }
        _ => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable("stdin", error))?;
            Ok(text)
        }
    }
}
