use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::*;

fn recorded() -> Json {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/chat/rendered.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The moment that the recording was made at.
fn clock() -> Clock {
    Clock::at(1_772_874_302)
}

#[test]
fn conversations_give_the_recorded_prompts() {
    let recorded = recorded();
    let tokens = recorded["tokens"].as_object().unwrap();
    let mut count = 0;
    let mut wrong = Vec::new();
    for (name, cases) in recorded["templates"].as_object().unwrap() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/chat/templates/{name}.jinja"));
        let template = ChatTemplate { source: std::fs::read_to_string(file).unwrap(), tokens: tokens.clone() };
        for (conversation, expected) in cases.as_object().unwrap() {
            let given = &recorded["conversations"][conversation];
            let array = |key: &str| given.get(key).map(|list| list.as_array().unwrap().clone());
            let mut chat = Chat {
                messages: array("messages").unwrap(),
                tools: array("tools"),
                documents: array("documents"),
                variables: given.get("kwargs").map_or_else(Map::new, |kwargs| kwargs.as_object().unwrap().clone()),
                ending: ChatEnding::Answer,
                clock: clock(),
            };
            for (how, expected) in expected.as_object().unwrap() {
                chat.ending = match how.as_str() {
                    "plain" => ChatEnding::Closed,
                    "continued" => ChatEnding::Continued,
                    "error" if given.get("continue").is_some() => ChatEnding::Continued,
                    _ => ChatEnding::Answer,
                };
                count += 1;
                let result = template.render(&chat);
                match (how.as_str(), &result) {
                    ("error", Err(_)) => {}
                    (_, Ok(text)) if how != "error" && text == expected.as_str().unwrap() => {}
                    _ => wrong.push(format!("{name} {conversation} {how}: {result:?}\nexpected {expected}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(count > 300, "{count}");
}

/// What Python's Jinja renders and this one refuses.
const REFUSED: [&str; 11] = [
    "{{ 'foo bar baz' | truncate(6) }}",
    "{{ 'a long word' | wordwrap(5) }}",
    "{{ 'x' | center(5) }}|",
    "{{ 'a b' | urlencode }}",
    "{{ 'hello world' | wordcount }}",
    "{{ {'a': [1, 2]} | pprint }}",
    "{{ {'a': 1} | xmlattr }}",
    "{{ 1024 | filesizeformat }}",
    "{{ '%r' % 'q' }}",
    // A format that is not written out in the template, and a number that Python shows in another way than Rust.
    "{{ s % 'q' }}",
    "{{ f[2] + 1 }}",
];

/// Where the two go apart in silence: the method of a dict as a value, under the name of one of its keys, and a loop
/// over `none`, which Python refuses. Nothing in minijinja can be set to tell either.
const APART: [&str; 2] = ["{{ d.items is string }}", "{% for a in none %}{% endfor %}"];

#[test]
fn nasty_templates_give_the_recorded_texts() {
    let recorded = recorded();
    let (mut wrong, mut refused, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    let cases = recorded["nasty"].as_array().unwrap();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let template = ChatTemplate { source: source.to_owned(), tokens: Map::new() };
        let result = template.run(&case["context"], clock());
        match (&result, case.get("text")) {
            (Ok(text), Some(expected)) if text == expected.as_str().unwrap() => {}
            (Err(_), None) => {}
            (Err(_), Some(_)) if REFUSED.contains(&source) => refused.push(source),
            _ if APART.contains(&source) => apart.push(source),
            (_, expected) => {
                wrong.push(format!("{source}\n   gives {result:?}\nexpected {expected:?} {:?}", case.get("error")))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
    assert_eq!((refused.len(), apart.len()), (REFUSED.len(), APART.len()), "{refused:?} {apart:?}");
    assert!(cases.len() > 120, "{}", cases.len());
}

#[test]
fn a_template_without_end_is_stopped() {
    let run = |source: &str| ChatTemplate { source: source.to_owned(), tokens: Map::new() }.run(&json!({}), clock());
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    assert!(run(endless).unwrap_err().to_string().contains("fuel"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    run(&deep).unwrap_err();
    run("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").unwrap_err();
}

fn folder(files: &[(&str, Json)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content.as_str().map_or_else(|| content.to_string(), str::to_owned)).unwrap();
    }
    folder
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let load = |files: &[(&str, Json)]| ChatTemplates::load(folder(files).path());
    let source = |templates: &ChatTemplates, name, tools| templates.select(name, tools).map(|template| template.source);

    assert!(load(&[]).unwrap().is_none());
    assert!(load(&[("tokenizer_config.json", json!({"chat_template": null}))]).unwrap().is_none());

    let one = load(&[
        (
            "tokenizer_config.json",
            json!({"chat_template": "config", "bos_token": {"content": "<s>"}, "pad_token": null}),
        ),
        ("chat_template.json", json!({"chat_template": "processor"})),
    ]);
    let one = one.unwrap().unwrap();
    assert_eq!(source(&one, None, true).unwrap(), "config");
    assert_eq!(one.select(None, false).unwrap().tokens, *json!({"bos_token": "<s>"}).as_object().unwrap());

    let listed = json!({"chat_template": [
        {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"}]});
    let listed = load(&[("tokenizer_config.json", listed)]).unwrap().unwrap();
    assert_eq!(source(&listed, None, false).unwrap(), "a");
    assert_eq!(source(&listed, None, true).unwrap(), "b");
    assert_eq!(source(&listed, Some("rag"), true).unwrap(), "c");
    let unknown = source(&listed, Some("x"), false).unwrap_err().to_string();
    assert_eq!(unknown, "chat template is x, expected default, tool_use, rag");

    let files = load(&[
        ("tokenizer_config.json", json!({"chat_template": "config", "eos_token": "</s>"})),
        ("special_tokens_map.json", json!({"eos_token": "old", "unk_token": "<unk>"})),
        ("chat_template.jinja", json!("file")),
        ("additional_chat_templates/tool_use.jinja", json!("tools")),
    ]);
    let files = files.unwrap().unwrap();
    assert_eq!(source(&files, None, false).unwrap(), "file");
    assert_eq!(source(&files, None, true).unwrap(), "tools");
    let tokens = files.select(None, false).unwrap().tokens;
    assert_eq!(tokens, *json!({"eos_token": "</s>", "unk_token": "<unk>"}).as_object().unwrap());

    let json_file = load(&[("chat_template.json", json!({"chat_template": "processor"}))]).unwrap().unwrap();
    assert_eq!(source(&json_file, None, false).unwrap(), "processor");

    for wrong in [json!({"chat_template": 3}), json!({"chat_template": [{"name": "x"}]}), json!([1]), json!("{")] {
        let error = load(&[("tokenizer_config.json", wrong.clone())]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Package, "{wrong}");
    }
}

#[test]
fn errors_say_whose_they_are() {
    let render = |source: &str, messages: Json| {
        let template = ChatTemplate { source: source.to_owned(), tokens: Map::new() };
        template.render(&Chat { clock: clock(), ..Chat::new(messages.as_array().unwrap().clone()) })
    };
    let hello = json!([{"role": "user", "content": "Hello"}]);
    let raised = render("a\n{{ raise_exception('no ' ~ 'systems') }}", hello.clone()).unwrap_err();
    assert_eq!(raised.to_string(), "the conversation is refused by the chat template: no systems");
    assert_eq!(raised.kind(), crate::ErrorKind::Argument);
    let broken = render("a\n{% if %}", hello.clone()).unwrap_err();
    assert!(broken.to_string().starts_with("chat template, line 2: syntax error"), "{broken}");
    assert_eq!(broken.kind(), crate::ErrorKind::Package);
    let unknown = render("{{ strftime_now('%Q') }}", hello).unwrap_err();
    assert!(unknown.to_string().contains("%Q"), "{unknown}");
    assert!(render("", json!([])).unwrap_err().to_string().contains("no message"));
    assert!(render("", json!(["hello"])).unwrap_err().to_string().contains("no JSON object"));
}

#[test]
fn a_probe_takes_what_the_template_takes() {
    let probe = |source: &str| {
        ChatTemplates::load(folder(&[("chat_template.jinja", json!(source))]).path()).unwrap().unwrap().probe()
    };
    let shown = "{% for m in messages %}{{ m.role }} {% endfor %}{{ 'tools' if tools }}";
    assert_eq!(probe(shown).unwrap(), "system user assistant user tools");
    let refusing = |what: &str| format!("{{% if {what} %}}{{{{ raise_exception('no') }}}}{{% endif %}}{shown}");
    assert_eq!(probe(&refusing("tools")).unwrap(), "system user assistant user ");
    assert_eq!(probe(&refusing("messages[0].role == 'system'")).unwrap(), "user assistant user ");
    assert_eq!(probe(&refusing("true")).unwrap_err().kind(), crate::ErrorKind::Argument);
    assert_eq!(probe("{% if tools %}{{ tools | nothing }}{% endif %}").unwrap_err().kind(), crate::ErrorKind::Package);
}
