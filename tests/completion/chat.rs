//! Conversations by the package's chat template.

use genai_validate::completion::{
    ChatChunk, ChatCompletion, ChatOptions, CompletionOptions, Prompt, ResponseFormat, ToolChoice, TurnOptions,
};
use genai_validate::{Chat, ChatEnding, ErrorKind, Guidance, SpecialTokens};
use serde_json::{Value, json};

use super::{llm, most};
use crate::engine::tales;

fn chat() -> Chat {
    Chat::new(vec![json!({"role": "user", "content": "Tell me of a dog."})])
}

fn options(turn: TurnOptions) -> ChatOptions {
    ChatOptions { turn, ..ChatOptions::default() }
}

#[test]
fn an_answer_is_the_completion_of_the_rendered_conversation() {
    let mut llm = llm(tales());
    let prompt = llm.chat_prompt(&chat(), None).unwrap();
    assert_eq!(prompt, "<|user|>Tell me of a dog.<|end|><|assistant|>");
    let tokens = llm.tokenize(&prompt, SpecialTokens::AsWritten).unwrap();
    let turn = || TurnOptions { logprobs: Some(2), ..most(12) };
    let completion = CompletionOptions { turn: turn(), ..CompletionOptions::default() };
    let plain = llm.create_completion(Prompt::Tokens(&tokens), completion).unwrap();
    // From the start again: a prompt that is known but for its last token is computed in two runs, which round apart.
    llm.reset().unwrap();
    let answer = llm.create_chat_completion(&chat(), options(turn())).unwrap();

    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["object"], "chat.completion");
    let choice = &json["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": plain.choices[0].text}));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(json["usage"]["prompt_tokens"], tokens.len());
    assert_eq!(json["usage"]["total_tokens"], tokens.len() + 12);
    let told = choice["logprobs"]["content"].as_array().unwrap();
    let plain_logprobs = plain.choices[0].logprobs.as_ref().unwrap();
    assert_eq!(told.len(), plain_logprobs.tokens.len());
    let mut bytes = Vec::new();
    for (token, logprob) in told.iter().zip(&plain_logprobs.token_logprobs) {
        assert_eq!(token["logprob"].as_f64(), *logprob);
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8));
    }
    assert_eq!(bytes, plain.choices[0].text.as_bytes());
    assert_eq!(serde_json::from_value::<ChatCompletion>(json).unwrap(), answer);

    let chunks: Vec<ChatChunk> =
        llm.stream_chat_completion(&chat(), options(turn())).unwrap().map(Result::unwrap).collect();
    assert_eq!(serde_json::to_value(&chunks[0].choices[0].delta).unwrap(), json!({"role": "assistant"}));
    let text: String = chunks.iter().filter_map(|chunk| chunk.choices[0].delta.content.clone()).collect();
    assert_eq!(Some(text), answer.choices[0].message.content);
    assert!(chunks.iter().all(|chunk| chunk.object == "chat.completion.chunk" && chunk.id == chunks[0].id));
    let last = chunks.last().unwrap();
    let usage = last.usage.unwrap();
    assert_eq!((last.choices[0].finish_reason.as_deref(), usage.total_tokens), (Some("length"), tokens.len() + 12));
    assert_eq!(usage.prompt_tokens_details.cached_tokens, tokens.len() - 1, "all of the prompt but its last token");
}

#[test]
fn a_stop_string_ends_an_answer_before_it() {
    let mut llm = llm(tales());
    let whole = llm.create_chat_completion(&chat(), options(most(30))).unwrap();
    let content = whole.choices[0].message.content.clone().unwrap();
    let stop: String = content.chars().skip(10).take(8).collect();
    let turn = TurnOptions { stop: vec![stop.clone()], logprobs: Some(0), ..most(30) };
    let answer = llm.create_chat_completion(&chat(), options(turn)).unwrap();
    let choice = &answer.choices[0];
    assert_eq!(choice.message.content.as_deref(), content.split(&stop).next());
    assert_eq!(choice.finish_reason, "stop");
    let told: usize = choice.logprobs.as_ref().unwrap().content.iter().map(|found| found.token.bytes.len()).sum();
    assert!((10..18 + stop.len()).contains(&told), "{told}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let mut llm = llm(tales());
    let mut ask = |chat: &Chat, options: ChatOptions| llm.create_chat_completion(chat, options).unwrap_err();
    let named = ChatOptions { template: Some("none".to_owned()), ..options(most(1)) };
    assert!(ask(&chat(), named).to_string().contains("chat template"));
    let tool = json!({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}});
    let with_tools = Chat { tools: Some(vec![tool]), ..chat() };
    let function = |name: &str| ToolChoice::Function(name.to_owned());
    let error = ask(&with_tools, ChatOptions { tool_choice: function("look_down"), ..options(most(1)) });
    assert!(error.to_string().contains("look_down, expected one of the tools: look_up"), "{error}");
    let both = ChatOptions {
        tool_choice: function("look_up"),
        response_format: ResponseFormat::JsonObject,
        ..options(most(1))
    };
    assert_eq!(ask(&with_tools, both).kind(), ErrorKind::Argument);
    let long = Chat::new(vec![json!({"role": "user", "content": "word ".repeat(300)})]);
    assert!(ask(&long, options(most(1))).to_string().contains("the length of the prompt"));
    let closed = Chat { ending: ChatEnding::Closed, ..chat() };
    assert!(!llm.chat_prompt(&closed, None).unwrap().ends_with("<|assistant|>"));
}

#[test]
fn an_answer_has_the_format_that_was_asked_for() {
    let mut llm = llm(tales());
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 99}
        },
        "required": ["name", "age"],
        "additionalProperties": false
    });
    let format = |response_format| ChatOptions { response_format, ..options(super::drawn(150, 4)) };
    let answer = llm.create_chat_completion(&chat(), format(ResponseFormat::JsonSchema(schema.clone()))).unwrap();
    let content: Value = serde_json::from_str(answer.choices[0].message.content.as_deref().unwrap()).unwrap();
    assert!(content["name"].as_str().unwrap().chars().count() <= 8 && content["age"].as_u64().unwrap() <= 99);
    assert_eq!((content.as_object().unwrap().len(), answer.choices[0].finish_reason.as_str()), (2, "stop"));

    // The end of an object is favoured, as this model has never seen one.
    let ends = TurnOptions { logit_bias: ending_bias(), ..most(150) };
    let object = ChatOptions { response_format: ResponseFormat::JsonObject, ..options(ends) };
    let answer = llm.create_chat_completion(&chat(), object).unwrap();
    let content = answer.choices[0].message.content.clone().unwrap();
    assert!(serde_json::from_str::<Value>(&content).unwrap().is_object(), "{content}");

    let tool = json!({"type": "function", "function": {"name": "note_age", "parameters": schema}});
    let with_tools = Chat { tools: Some(vec![tool]), ..chat() };
    let call = ChatOptions { tool_choice: ToolChoice::Function("note_age".to_owned()), ..options(most(150)) };
    let answer = llm.create_chat_completion(&with_tools, call).unwrap();
    let choice = serde_json::to_value(&answer.choices[0]).unwrap();
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let called = &choice["message"]["tool_calls"][0];
    assert_eq!((&called["type"], &called["function"]["name"]), (&json!("function"), &json!("note_age")));
    let arguments: Value = serde_json::from_str(called["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["age"].is_u64() && arguments["name"].is_string());

    let wrong = format(ResponseFormat::JsonSchema(json!({"type": "object", "unheard_of": 1})));
    assert!(llm.create_chat_completion(&chat(), wrong).is_err());
    let constraint = Some(llm.constraint(&Guidance::Regex("[0-9]{3}".to_owned())).unwrap());
    let turn = TurnOptions { constraint, ..most(20) };
    let answer = llm.create_chat_completion(&chat(), options(turn)).unwrap();
    let digits = answer.choices[0].message.content.clone().unwrap();
    assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    let constraint = Some(llm.constraint(&Guidance::Regex("a".to_owned())).unwrap());
    let both = ChatOptions { turn: TurnOptions { constraint, ..most(1) }, ..format(ResponseFormat::JsonObject) };
    assert_eq!(llm.create_chat_completion(&chat(), both).unwrap_err().kind(), ErrorKind::Argument);
}

/// In favour of what closes strings and objects.
fn ending_bias() -> std::collections::BTreeMap<u32, f32> {
    ["\"", "}", "\"}"].iter().filter_map(|text| tales().tokenizer.token_id(text)).map(|id| (id, 50.0)).collect()
}
