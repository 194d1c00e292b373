//! Texts under a JSON schema are JSON of that schema, whoever chooses the tokens.

mod checker;
mod schemas;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use genai_validate::{
    Config, Constraint, Decoding, Generator, GeneratorParams, Grammar, GrammarCompiler, Guidance, LogitsProcessor,
    Model, SearchOptions, Spacing, SpecialTokens, Tokenizer,
};
use serde_json::{Value, json};

use checker::check;
use schemas::{Numbers, schemas};

use crate::support::{Outcome, build, fixture, for_each, load};

const COUNT: usize = 100;
const LONGEST: usize = 600;

/// Tokens that end a string, a list or an object.
const ENDS: [&str; 3] = ["\"", "]", "}"];
/// What patterns, formats and fractions wait for.
const AWAITED: [&str; 4] = ["@", "-", "1", "Z"];

fn tokens<const N: usize>(compiler: &GrammarCompiler, texts: [&str; N]) -> Vec<u32> {
    texts.map(|text| (0..).find(|&id| compiler.token_bytes(id) == text.as_bytes()).unwrap()).to_vec()
}

/// The text that a chooser writes who knows nothing but the grammar.
fn chosen_at_random(mut grammar: Grammar, closing: &[u32], end: u32, seed: u64) -> Outcome<Vec<u32>> {
    let mut numbers = Numbers(seed);
    let mut ids = Vec::new();
    while ids.len() < 20 * LONGEST {
        let allowed = grammar.allowed()?;
        let preferred: Vec<u32> = closing.iter().copied().filter(|&id| allowed.contains(id)).collect();
        let id = if allowed.contains(end) && numbers.below(2) == 0 {
            end
        } else if !preferred.is_empty() && numbers.below(3) == 0 {
            preferred[numbers.below(preferred.len())]
        } else {
            let allowed: Vec<u32> = allowed.ids().collect();
            allowed[numbers.below(allowed.len())]
        };
        grammar.commit(id)?;
        if id == end {
            return Ok(ids);
        }
        ids.push(id);
    }
    Err(format!("has no end: {ids:?}").into())
}

fn is_of(schema: &Value, text: &str) -> Outcome {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
    check(schema, &value).map_err(|problem| format!("{problem}\n{text}").into())
}

#[test]
fn whatever_a_schema_lets_through_is_of_that_schema() {
    let tokenizer = Tokenizer::load(&fixture("tales-llama")).unwrap();
    let end = tokenizer.token_id("<|endoftext|>").unwrap();
    // As many logits as tokens, and some more.
    let vocab_size = tokenizer.vocab_size() + 16;
    let compiler = GrammarCompiler::new(&tokenizer, vocab_size, &[end]).unwrap();
    let closing = tokens(&compiler, ENDS);
    let schemas = schemas(COUNT);
    let tokens = AtomicUsize::new(0);
    for_each(&schemas, ToString::to_string, |schema| {
        for (seed, spacing) in (1..).zip([Spacing::Compact, Spacing::Single]) {
            let grammar = compiler.compile(&Guidance::JsonSchema { schema: schema.clone(), spacing })?;
            let ids = chosen_at_random(grammar, &closing, end, seed)?;
            tokens.fetch_add(ids.len(), Ordering::Relaxed);
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| compiler.token_bytes(id)).copied().collect();
            let text = String::from_utf8(bytes)?;
            assert_eq!(text, tokenizer.decode_with(&ids, Decoding { special_tokens: true, ..Decoding::default() })?);
            is_of(schema, &text)?;
        }
        Ok(())
    });
    let tokens = tokens.into_inner();
    assert!(tokens > 20 * COUNT, "{tokens}");
    let all = schemas.iter().map(Value::to_string).collect::<String>();
    for keyword in [
        "$ref",
        "$defs",
        "anyOf",
        "oneOf",
        "allOf",
        "const",
        "enum",
        "type",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "properties",
        "additionalProperties",
        "patternProperties",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ] {
        assert!(all.matches(&format!("{keyword:?}:")).count() > 1, "{keyword}");
    }
}

#[test]
fn a_model_under_a_schema_writes_json_of_that_schema() {
    let folder = build(&fixture("tales-llama"), "int4", "cpu", &[]).unwrap();
    let package = Config::open(folder.path()).unwrap();
    let model = load(folder.path()).unwrap();
    let tokenizer = Tokenizer::load(&package.tokenizer_folder).unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, package.vocab_size, &package.eos_token_ids).unwrap();
    let mut ends = tokens(&compiler, ENDS);
    ends.extend(&package.eos_token_ids);
    let awaited = tokens(&compiler, AWAITED);
    let prompt = tokenizer.encode("Once upon a time there was", SpecialTokens::Added).unwrap();
    let schemas: Vec<(usize, Value)> = schemas(COUNT).into_iter().enumerate().collect();
    let forced = AtomicUsize::new(0);
    for_each(
        &schemas,
        |(index, schema)| format!("{index} {schema}"),
        |(index, schema)| {
            let grammar = compiler.compile(&Guidance::json_schema(schema.clone()))?;
            let search = SearchOptions {
                max_length: LONGEST,
                do_sample: index % 4 > 0,
                random_seed: Some(u32::try_from(*index)?),
                ..package.search.clone()
            };
            let ids = written(&model, search, grammar, index % 2 == 0, impatient(&ends, &awaited), &prompt, &forced)?;
            let ids = &ids.ok_or("has no end")?;
            is_of(schema, &tokenizer.decode(ids)?)
        },
    );
    assert!(forced.into_inner() > COUNT, "nothing was forced");
}

/// A model that has read nothing but tales ends nothing by itself: the longer the text, the likelier what ends it, or what
/// an end waits for. Of the latter each has its turn, because what follows one may be another for ever.
fn impatient(ends: &[u32], awaited: &[u32]) -> Box<dyn LogitsProcessor> {
    let (ends, awaited) = (ends.to_vec(), awaited.to_vec());
    Box::new(move |ids: &[u32], scores: &mut [f32]| {
        let turn = &awaited[ids.len() % awaited.len()];
        for &id in ends.iter().chain([turn]) {
            let score = &mut scores[id as usize];
            if *score > f32::MIN {
                *score += 3.0 + ids.len() as f32 / 20.0;
            }
        }
        Ok(())
    })
}

/// The tokens behind the prompt; none if they did not end.
fn written(
    model: &Arc<Model>,
    search: SearchOptions,
    grammar: Grammar,
    forced_tokens: bool,
    impatient: Box<dyn LogitsProcessor>,
    prompt: &[u32],
    forced: &AtomicUsize,
) -> Outcome<Option<Vec<u32>>> {
    let mut generator = Generator::new(
        model,
        GeneratorParams {
            search,
            constraints: vec![Box::new(grammar)],
            forced_tokens,
            processors: vec![impatient],
            ..GeneratorParams::default()
        },
    )?;
    generator.append(prompt)?;
    let mut steps = 0;
    while !generator.is_done() {
        generator.generate_next_token()?;
        steps += 1;
    }
    let ids = generator.sequence(0)?.split_off(prompt.len());
    forced.fetch_add((ids.len() + 1).saturating_sub(steps), Ordering::Relaxed);
    Ok((generator.token_count() < LONGEST).then_some(ids))
}

/// A checker that takes everything would prove nothing.
#[test]
fn the_checker_refuses_what_is_wrong() {
    for (schema, right, wrong) in [
        (json!({"type": "integer", "minimum": 3}), "3", "2"),
        (json!({"type": "integer"}), "2.0", "2.5"),
        (json!({"exclusiveMaximum": 3}), "2.9", "3"),
        (json!({"multipleOf": 3}), "9", "10"),
        (json!({"minLength": 2, "maxLength": 2}), "\"é🙂\"", "\"abc\""),
        (json!({"pattern": "^[0-9]+-[0-9]{2}$"}), "\"123-45\"", "\"123-4\""),
        (json!({"format": "date"}), "\"2024-02-29\"", "\"2024-02-30\""),
        (json!({"format": "date-time"}), "\"2024-02-29T23:59:60.5+01:00\"", "\"2024-02-29 23:59:60Z\""),
        (json!({"format": "ipv4"}), "\"1.2.3.4\"", "\"1.2.3.256\""),
        (json!({"enum": [null, {"a": 1}]}), "{\"a\":1}", "{\"a\":2}"),
        (
            json!({"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": false}),
            "{\"a\":1}",
            "{}",
        ),
        (json!({"properties": {"a": true}, "additionalProperties": {"type": "null"}}), "{\"b\":null}", "{\"b\":1}"),
        (json!({"patternProperties": {"^p_": false}, "minProperties": 1}), "{\"q\":1}", "{\"p_\":1}"),
        (json!({"prefixItems": [true], "items": {"type": "null"}}), "[1,null]", "[1,2]"),
        (json!({"prefixItems": [true], "items": false, "minItems": 1}), "[1]", "[1,2]"),
        (json!({"oneOf": [{"minimum": 1}, {"maximum": 3}]}), "0", "2"),
        (json!({"allOf": [{"minimum": 1}, {"maximum": 3}]}), "2", "0"),
        (json!({"$defs": {"x": {"type": "null"}}, "items": {"$ref": "#/$defs/x"}}), "[null]", "[0]"),
    ] {
        is_of(&schema, right).unwrap();
        assert!(is_of(&schema, wrong).is_err(), "{schema} takes {wrong}");
    }
}
