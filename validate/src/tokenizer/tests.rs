use super::*;
use crate::Config;

/// A byte-level vocabulary: id = place in this list; `Ġ` is a space, and the last four are the bytes of U+1F600.
fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
    let vocab: serde_json::Map<String, serde_json::Value> = ["<s>", "h", "i", "Ġ", "hi", "ð", "Ł", "ĺ", "Ģ"]
        .iter()
        .zip(0..)
        .map(|(t, id)| (t.to_string(), id.into()))
        .collect();
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": [["h", "i"]]}
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(TOKENIZER_FILE), json.to_string()).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    (folder, tokenizer)
}

#[test]
fn adds_no_special_token_unless_asked_and_neither_pads_nor_truncates() {
    let (_folder, tokenizer) = tokenizer();
    assert_eq!(tokenizer.encode("hi hi h", SpecialTokens::AsWritten).unwrap(), [4, 3, 4, 3, 1]);
    assert_eq!(tokenizer.encode("<s>hi", SpecialTokens::AsWritten).unwrap(), [0, 4]);
    assert_eq!(tokenizer.encode("hi", SpecialTokens::Added).unwrap(), [0, 4]);
    assert_eq!(tokenizer.encode("", SpecialTokens::AsWritten).unwrap(), [0; 0]);
    assert_eq!(tokenizer.token_id("<s>"), Some(0));
}

#[test]
fn decoding_skips_specials_and_refuses_unknown_ids() {
    let (_folder, tokenizer) = tokenizer();
    assert_eq!(tokenizer.decode(&[0, 4, 3, 4]).unwrap(), "hi hi");
    assert!(tokenizer.decode(&[4, 99]).unwrap_err().to_string().contains("token id is 99"));
}

#[test]
fn a_stream_shows_unknown_ids() {
    let (_folder, tokenizer) = tokenizer();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = [4, 99, 5, 6, 7, 8, 5, 99, 1].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["hi", "\u{FFFD}", "", "", "", "\u{1F600}", "", "\u{FFFD}\u{FFFD}", "h"]);
    assert_eq!(stream.finish().unwrap(), (String::new(), pieces.concat()));
}

#[test]
fn a_stream_holds_back_half_characters() {
    let (_folder, tokenizer) = tokenizer();
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = [4, 5, 6, 7, 8, 3, 1].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["hi", "", "", "", "\u{1F600}", " ", "h"]);
    assert_eq!(stream.finish().unwrap(), (String::new(), "hi\u{1F600} h".into()));

    let mut cut = tokenizer.stream();
    assert_eq!([4, 5, 6].map(|id| cut.push(id).unwrap()), ["hi", "", ""]);
    let (rest, whole) = cut.finish().unwrap();
    assert_eq!(whole, format!("hi{rest}"));
    assert!(!rest.is_empty() && rest.chars().all(|c| c == '\u{FFFD}'), "{rest:?}");
}

#[test]
fn a_file_that_is_no_tokenizer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Tokenizer::load(folder.path()).err().unwrap().kind(), crate::ErrorKind::Io);
    for text in ["", "{}", "[1, 2]", "{\"model\": {\"type\": \"BPE\", \"vocab\": 3}}"] {
        std::fs::write(folder.path().join(TOKENIZER_FILE), text).unwrap();
        assert_eq!(Tokenizer::load(folder.path()).err().unwrap().kind(), crate::ErrorKind::Package, "{text}");
    }
}

#[test]
fn batches_are_ragged_and_padded_on_the_right() {
    let (_folder, tokenizer) = tokenizer();
    let rows = tokenizer.encode_batch(&["hi hi", "", "h"], SpecialTokens::AsWritten).unwrap();
    assert_eq!(rows, [vec![4, 3, 4], vec![], vec![1]]);
    assert_eq!(tokenizer.encode_batch(&["h"], SpecialTokens::Added).unwrap(), [[0, 1]]);
    let padded = Padded::new(&rows, 1);
    assert_eq!(padded, Padded { ids: vec![4, 3, 4, 1, 1, 1, 1, 1, 1], columns: 3, lengths: vec![3, 0, 1] });
    let back: Vec<&[u32]> = padded.rows().collect();
    assert_eq!(back, rows);
    assert_eq!(tokenizer.decode_batch(&back, Decoding::default()).unwrap(), ["hi hi", "", "h"]);
    assert_eq!(Padded::new::<Vec<u32>>(&[], 0).rows().count(), 0);
    assert_eq!(Padded::new(&[[0u32; 0]; 2], 0).rows().map(<[u32]>::len).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn decoding_shows_what_it_is_asked_to() {
    let (_folder, tokenizer) = tokenizer();
    let shown = |special_tokens, unknown_ids| {
        tokenizer.decode_with(&[0, 4, 99, 4], Decoding { special_tokens, unknown_ids }).map_err(|error| error.kind())
    };
    assert_eq!(shown(false, true).unwrap(), "hi\u{FFFD}hi");
    assert_eq!(shown(true, true).unwrap(), "<s>hi\u{FFFD}hi");
    assert_eq!(shown(true, false).unwrap_err(), crate::ErrorKind::Argument);
    assert_eq!((tokenizer.vocab_size(), tokenizer.token(4).as_deref(), tokenizer.token(9)), (9, Some("hi"), None));
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(4) && !tokenizer.is_special(99));
    assert_eq!(tokenizer.markers(), Markers::default());
}

#[test]
fn files_that_disagree_about_end_tokens_are_told() {
    let (folder, tokenizer) = tokenizer();
    let config = |eos: &str| {
        let text = format!(
            r#"{{"model": {{"type": "gpt2", "vocab_size": 9, "context_length": 8, "bos_token_id": 0, "pad_token_id": 3,
                "eos_token_id": {eos}, "decoder": {{"filename": "model.onnx", "head_size": 8, "num_hidden_layers": 1,
                "num_key_value_heads": 1}}}}, "search": {{}}}}"#
        );
        Config::parse(text.as_bytes(), folder.path()).unwrap()
    };
    assert_eq!(tokenizer.disagreements(&config("[1, 2]")).unwrap(), []);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": {"content": "i"}, "pad_token": "gone"}"#);
    write("generation_config.json", r#"{"eos_token_id": [1, 4], "pad_token_id": 0}"#);
    let told = tokenizer.disagreements(&config("[1, 2]")).unwrap();
    let told: Vec<_> = told.iter().map(|d| (d.key, &d.configured[..], &d.found[..])).collect();
    assert_eq!(told, [("eos_token_id", &[1, 2][..], &[1, 4][..]), ("pad_token_id", &[3], &[0])]);
    let told = tokenizer.disagreements(&config("[1, 4]")).unwrap();
    assert_eq!(told[0].found, [2]);
    assert!(told[0].file.ends_with("tokenizer_config.json"));
}
