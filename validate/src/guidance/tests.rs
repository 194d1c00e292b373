use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::SpecialTokens;

fn tales() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tales-llama")).unwrap()
}

fn end(tokenizer: &Tokenizer) -> u32 {
    tokenizer.token_id("<|endoftext|>").unwrap()
}

/// A vocabulary as sentencepiece makes them: blanks are `▁`, bytes are a last resort, and a blank is put before a text.
fn sentencepiece() -> Tokenizer {
    let mut pieces = vec!["<unk>".to_owned(), "</s>".to_owned(), "<tool>".to_owned()];
    pieces.extend((0..=255).map(|byte: u8| format!("<0x{byte:02X}>")));
    pieces.extend(["▁", "a", "b", "é", "▁a", "ab", "{", "}", "\"", ":", "▁▁", "▁{"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> = pieces.iter().zip(0..).map(|(t, id)| (t.clone(), id.into())).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "</s>", true), added(2, "<tool>", false)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": [["▁", "a"], ["a", "b"], ["▁", "▁"], ["▁", "{"]]}
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

/// Follows `ids`, each of which has to be allowed; returns what is allowed behind them.
fn follow(grammar: &mut Grammar, ids: &[u32]) -> Vec<u32> {
    for &id in ids {
        assert!(grammar.allowed().unwrap().contains(id), "{id}");
        grammar.commit(id).unwrap();
    }
    grammar.allowed().unwrap().ids().collect()
}

#[test]
fn tokens_are_the_bytes_that_they_decode_to() {
    let tokenizer = tales();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end(&tokenizer)]).unwrap();
    let mut specials = 0;
    for (id, bytes) in vocabulary::words(&compiler.environment) {
        if tokenizer.is_special(id) {
            assert_eq!(bytes.first(), Some(&0xff), "{id}");
            specials += 1;
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&bytes), tokenizer.decode(&[id]).unwrap(), "{id}");
        // That byte is in no text, and marks special tokens.
        if bytes != [0xff] {
            assert_eq!(compiler.token_bytes(id), bytes);
        }
    }
    assert!(specials > 0);

    let tokenizer = sentencepiece();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[1]).unwrap();
    let letter = tokenizer.token_id("b").unwrap();
    for (id, bytes) in vocabulary::words(&compiler.environment) {
        if !tokenizer.is_special(id) && std::str::from_utf8(&bytes).is_ok() {
            // Behind a letter, because a blank at the start is taken away.
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(format!("b{text}"), tokenizer.decode(&[letter, id]).unwrap(), "{id}");
        }
    }
    assert_eq!(compiler.token_bytes(tokenizer.token_id("<0xF0>").unwrap()), [0xf0]);
    assert_eq!(compiler.token_bytes(2), b"<tool>");
    assert_eq!(compiler.token_bytes(1), b"");
    assert_eq!(compiler.token_bytes(9999), b"");
}

#[test]
fn a_regular_expression_is_matched_whole() {
    let tokenizer = tales();
    // More logits than tokens, as many models have.
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size() + 7, &[end(&tokenizer)]).unwrap();
    let mut grammar = compiler.compile(&Guidance::parse("regex", "[0-9]{3}").unwrap()).unwrap();
    let digits = |text: &str| tokenizer.encode(text, SpecialTokens::AsWritten).unwrap();
    for round in 0..2 {
        assert!(!grammar.may_end().unwrap(), "{round}");
        let mut scores = vec![0.0; tokenizer.vocab_size() + 7];
        grammar.mask(&mut scores).unwrap();
        for (id, score) in (0u32..).zip(&scores) {
            let digits = tokenizer.token(id).is_some_and(|token| {
                token.len() <= 3 && token.bytes().all(|byte| byte.is_ascii_digit()) && !tokenizer.is_special(id)
            });
            assert_eq!(*score == 0.0, digits, "{id}");
        }
        let behind = follow(&mut grammar, &digits("042"));
        assert_eq!(behind, [end(&tokenizer)]);
        assert!(grammar.may_end().unwrap());
        grammar.commit(end(&tokenizer)).unwrap();
        assert!(grammar.has_ended());
        grammar.reset().unwrap();
    }
    let error = grammar.commit(digits("x")[0]).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Argument, "{error}");
    assert!(compiler.compile(&Guidance::Regex("a".into())).unwrap().mask(&mut [0.0]).is_err());
}

#[test]
fn what_can_only_follow_is_forced() {
    let tokenizer = tales();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end(&tokenizer)]).unwrap();
    let schema = json!({"type": "object", "properties": {"the_name": {"enum": ["the one", "the other"]}},
        "required": ["the_name"], "additionalProperties": false});
    let guidance = Guidance::JsonSchema { schema, spacing: Spacing::Compact };
    let mut grammar = compiler.compile(&guidance).unwrap();
    let mut ids = grammar.forced().unwrap();
    assert!(ids.len() > 3, "{ids:?}");
    while !grammar.has_ended() {
        let first = grammar.allowed().unwrap().ids().next().unwrap();
        grammar.commit(first).unwrap();
        if first != end(&tokenizer) {
            ids.push(first);
        }
        ids.extend(grammar.forced().unwrap());
    }
    ids.retain(|&id| id != end(&tokenizer));
    let text = tokenizer.decode(&ids).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value == json!({"the_name": "the one"}) || value == json!({"the_name": "the other"}), "{text}");

    let mut plain = GrammarCompiler::new(&sentencepiece(), 300, &[1]).unwrap().compile(&guidance).unwrap();
    assert!(plain.forced().unwrap().is_empty(), "the tokens of a text depend on where it stands");
}

#[test]
fn bytes_of_a_character_go_one_by_one() {
    let tokenizer = sentencepiece();
    let compiler = GrammarCompiler::new(&tokenizer, 300, &[1]).unwrap();
    let mut grammar = compiler.compile(&Guidance::Lark("start: \"🙂\" \" a\"".into())).unwrap();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    for byte in "🙂".bytes() {
        let token = id(&format!("<0x{byte:02X}>"));
        assert_eq!(follow(&mut grammar, &[]), [token]);
        grammar.commit(token).unwrap();
    }
    let mut blanks = vec![id("▁"), id("▁a"), id("<0x20>")];
    blanks.sort_unstable();
    assert_eq!(follow(&mut grammar, &[]), blanks);
    assert_eq!(follow(&mut grammar, &[id("▁a")]), [1]);
}

#[test]
fn what_the_model_has_no_logits_for_never_comes() {
    let tokenizer = sentencepiece();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, id("ab") as usize, &[1]).unwrap();
    let mut grammar = compiler.compile(&Guidance::Regex("ab".into())).unwrap();
    assert_eq!(follow(&mut grammar, &[]), [id("<0x61>"), id("a")]);
    // No brace in the smaller vocabulary, and no bytes either.
    let mut grammar =
        GrammarCompiler::new(&tokenizer, 3, &[1]).unwrap().compile(&Guidance::Regex("[{]".into())).unwrap();
    assert!(grammar.allowed().is_err());
    let outside = GrammarCompiler::new(&tokenizer, 4, &[1, 4]).err().unwrap().to_string();
    assert_eq!(outside, "eos_token_id is 4, expected below the model's vocab_size 4");
    assert!(GrammarCompiler::new(&tokenizer, 4, &[]).is_err());
}

#[test]
fn end_tokens_end_whatever_they_are_called() {
    let tokenizer = sentencepiece();
    let compiler = GrammarCompiler::new(&tokenizer, 300, &[2, 1]).unwrap();
    let mut grammar = compiler.compile(&Guidance::Regex("(a|<tool>)+".into())).unwrap();
    let a = tokenizer.token_id("a").unwrap();
    assert!(!follow(&mut grammar, &[]).contains(&2));
    let behind = follow(&mut grammar, &[a]);
    assert!(behind.contains(&1) && behind.contains(&2), "{behind:?}");
    grammar.commit(2).unwrap();
    assert!(grammar.has_ended());
}

#[test]
fn mistakes_are_told_before_anything_is_generated() {
    let tokenizer = tales();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end(&tokenizer)]).unwrap();
    let told = |kind: &str, data: &str| {
        Guidance::parse(kind, data).and_then(|guidance| compiler.compile(&guidance)).err().unwrap().to_string()
    };
    assert_eq!(
        told("prefix", "x"),
        "guidance of type prefix is not supported; supported: json_schema, regex, lark_grammar"
    );
    assert!(told("json_schema", "{").starts_with("json_schema: EOF"));
    assert!(told("regex", "(").starts_with("regex: "));
    assert!(told("regex", "a(?=b)").starts_with("regex: "));
    assert!(told("lark_grammar", "start: nothing").starts_with("lark_grammar: "));
    let schema = |schema: Value| told("json_schema", &schema.to_string());
    let unknown = schema(json!({"properties": {"a": {"items": [{"minLenght": 3}]}}}));
    assert!(
        unknown
            .starts_with("JSON schema keyword minLenght at $.properties.a.items[0] is not supported; supported: $ref,"),
        "{unknown}"
    );
    for (keyword, value) in [
        ("not", json!({})),
        ("if", json!({})),
        ("uniqueItems", json!(true)),
        ("contains", json!({})),
        ("dependentRequired", json!({})),
        ("propertyNames", json!({})),
        ("unevaluatedProperties", json!(false)),
        ("x-guidance", json!({"whitespace_flexible": true})),
    ] {
        let told = schema(json!({"type": "object", keyword: value}));
        assert!(told.contains(&format!("keyword {keyword} at $ ")), "{told}");
    }
    for wrong in [
        json!(3),
        json!({"type": "thing"}),
        json!({"format": "postcode", "type": "string"}),
        json!({"$ref": "#/$defs/no"}),
        json!({"minimum": 3, "maximum": 2, "type": "integer"}),
        json!({"properties": []}),
        json!({"anyOf": {}}),
        json!(false),
        json!({"pattern": "(", "type": "string"}),
        json!({"$ref": "https://example.com/x"}),
    ] {
        let told = schema(wrong.clone());
        assert!(told.starts_with("json_schema: "), "{wrong}: {told}");
    }
    let mut deep = json!({"type": "string"});
    (0..200).for_each(|_| deep = json!({"items": deep}));
    let deep = compiler.compile(&Guidance::json_schema(deep)).err().unwrap();
    assert!(deep.to_string().contains("deeper than"), "{deep}");
}

#[test]
fn white_space_is_as_asked() {
    let tokenizer = tales();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end(&tokenizer)]).unwrap();
    let takes = |spacing: Spacing, text: &str| {
        let schema = json!({"type": "array", "items": {"type": "integer"}});
        let mut grammar = compiler.compile(&Guidance::JsonSchema { schema, spacing }).unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::AsWritten).unwrap();
        ids.iter().all(|&id| grammar.commit(id).is_ok()) && grammar.may_end().unwrap()
    };
    for (text, compact, single, free) in [
        ("[1,2]", true, true, true),
        ("[1, 2]", false, true, true),
        ("[1,  2]", false, false, true),
        ("[ 1,2]", false, false, true),
        ("[1,\n2]", false, false, true),
        ("[1,2,]", false, false, false),
    ] {
        let found = [Spacing::Compact, Spacing::Single, Spacing::Free].map(|spacing| takes(spacing, text));
        assert_eq!(found, [compact, single, free], "{text:?}");
    }
}

/// What llguidance would take for these is not what they say; how far that goes is tried here, so that a version which
/// does better is seen.
#[test]
fn bounds_are_refused_exactly_where_they_would_be_wrong() {
    let tokenizer = tales();
    let compiler = GrammarCompiler::new(&tokenizer, tokenizer.vocab_size(), &[end(&tokenizer)]).unwrap();
    let takes = |schema: &Value, text: &str| {
        let grammar = TopLevelGrammar::from_json_schema(schema.clone());
        let mut matcher = Matcher::new(compiler.factory.create_parser(grammar));
        let ids = tokenizer.encode(text, SpecialTokens::AsWritten).unwrap();
        matcher.consume_tokens(&ids).is_ok() && matcher.is_accepting().unwrap()
    };
    let numbers = ["0", "-0", "0.0", "1", "1.0", "-1", "-1.0", "2", "-2", "0.5", "-0.5", "1.5", "-1.5", "0.25", "3"];
    let bounds = [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.25];
    let mut refused = 0;
    for (low, high) in bounds.iter().flat_map(|low| bounds.iter().map(move |high| (*low, *high))) {
        if low >= high {
            continue;
        }
        for (low_key, high_key) in [
            ("minimum", "maximum"),
            ("exclusiveMinimum", "maximum"),
            ("minimum", "exclusiveMaximum"),
            ("exclusiveMinimum", "exclusiveMaximum"),
        ] {
            let schema = json!({"type": "number", low_key: low, high_key: high});
            let right = |number: f64| {
                (number > low || (number == low && low_key == "minimum"))
                    && (number < high || (number == high && high_key == "maximum"))
            };
            let wrong = numbers.iter().find(|text| takes(&schema, text) && !right(text.parse().unwrap()));
            let told = compiler.compile(&Guidance::json_schema(schema.clone())).err();
            assert_eq!(wrong.is_some(), told.is_some(), "{schema}: {wrong:?} {told:?}");
            refused += usize::from(told.is_some());
        }
    }
    assert!(refused > 0, "llguidance has been mended: what refuses such bounds can go");
    let apart = json!({"allOf": [{"exclusiveMinimum": 0}, {"type": "number", "maximum": 0.5}]});
    let told = compiler.compile(&Guidance::json_schema(apart)).err().unwrap().to_string();
    assert!(told.starts_with("JSON schema bound $.allOf[0].exclusiveMinimum 0 together with a bound 0.5"), "{told}");
    let old = json!({"minimum": 0, "exclusiveMinimum": true});
    let told = compiler.compile(&Guidance::json_schema(old)).err().unwrap().to_string();
    assert_eq!(told, "json_schema: $.exclusiveMinimum is true, expected a number");
}
