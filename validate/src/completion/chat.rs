//! `create_chat_completion`: the next message of a conversation.

use serde_json::{Value, json};

use super::llm::{Generate, Llm};
use super::logprobs::TokenLogprobs;
use super::response::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatDelta, ChatLogprobs, ChatMessage, ChatTokenLogprob,
    CompletionUsage, FunctionCall, Heading, LikelyToken, ToolCall, finish_word,
};
use super::text;
use super::turn::{Token, TurnOptions};
use crate::{Chat, ChatTemplates, Error, Guidance, Result, SpecialTokens, Tokenizer};

/// Of [`Llm::create_chat_completion`].
#[derive(Default)]
pub struct ChatOptions {
    /// `logprobs` of it is OpenAI's `top_logprobs`.
    pub turn: TurnOptions,
    /// The name of the package's template; none takes its default, or that for tools where there are some.
    pub template: Option<String>,
    pub response_format: ResponseFormat,
    pub tool_choice: ToolChoice,
}

/// What an answer has to be. All but text constrain what comes, and so leave no place for
/// [`TurnOptions::constraint`]. An answer that ends by its length may be cut off.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON of that schema.
    JsonSchema(Value),
}

/// Which of the conversation's tools is called.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ToolChoice {
    /// As the template tells the model about them. How a family writes a call is its own; it comes as text.
    #[default]
    Auto,
    /// That function: the answer is its arguments and nothing else, constrained by the schema of its parameters.
    Function(String),
}

impl Llm {
    /// Answers a conversation.
    ///
    /// # Errors
    /// As [`Self::stream_chat_completion`], and what ends a text as failed.
    pub fn create_chat_completion(&mut self, chat: &Chat, options: ChatOptions) -> Result<ChatCompletion> {
        let called = match &options.tool_choice {
            ToolChoice::Function(name) => Some(name.clone()),
            ToolChoice::Auto => None,
        };
        let mut stream = self.stream_chat_completion(chat, options)?;
        let (mut content, mut logprobs) = (String::new(), None::<ChatLogprobs>);
        let (mut usage, mut finish_reason) = (CompletionUsage::default(), String::new());
        for chunk in stream.by_ref() {
            let chunk = chunk?;
            usage = chunk.usage.unwrap_or(usage);
            for choice in chunk.choices {
                content.push_str(choice.delta.content.as_deref().unwrap_or_default());
                if let Some(found) = choice.logprobs {
                    logprobs.get_or_insert_default().content.extend(found.content);
                }
                finish_reason = choice.finish_reason.unwrap_or(finish_reason);
            }
        }
        if let Some(logprobs) = &mut logprobs {
            // Tokens of a stop string are no part of the answer.
            let mut offset = 0;
            logprobs.content.retain(|found| {
                let kept = offset < content.len();
                offset += found.token.token.len();
                kept
            });
        }
        let heading = &stream.heading;
        let message = match called {
            Some(name) => {
                if finish_reason == "stop" {
                    "tool_calls".clone_into(&mut finish_reason);
                }
                let id = format!("call-{}", heading.id);
                let function = FunctionCall { name, arguments: content };
                let tool_calls = vec![ToolCall { id, r#type: "function".to_owned(), function }];
                ChatMessage { role: ASSISTANT.to_owned(), content: None, tool_calls }
            }
            None => ChatMessage { role: ASSISTANT.to_owned(), content: Some(content), tool_calls: Vec::new() },
        };
        Ok(heading.chat(ChatChoice { index: 0, message, logprobs, finish_reason }, usage))
    }

    /// The same in pieces, as they come: the role, text, then the reason of the end with usage. Arguments of a function come
    /// as text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a package without chat template; those of [`crate::ChatTemplate::render`];
    /// [`Error::Argument`] for a conversation that is too long, for options out of their range, a function that is none of
    /// the tools, and a constraint beside one that the format or the function makes.
    pub fn stream_chat_completion(&mut self, chat: &Chat, options: ChatOptions) -> Result<ChatStream<'_>> {
        let ChatOptions { mut turn, template, response_format, tool_choice } = options;
        let prompt = self.chat_prompt(chat, template.as_deref())?;
        let schema = match (response_format, tool_choice) {
            (ResponseFormat::Text, ToolChoice::Auto) => None,
            (ResponseFormat::JsonObject, ToolChoice::Auto) => Some(json!({"type": "object"})),
            (ResponseFormat::JsonSchema(schema), ToolChoice::Auto) => Some(schema),
            (ResponseFormat::Text, ToolChoice::Function(name)) => Some(parameters(chat, &name)?),
            (_, ToolChoice::Function(name)) => {
                return Err(Error::argument("response_format", format!("set beside the function {name}"), "text"));
            }
        };
        if let Some(schema) = schema {
            if turn.constraint.is_some() {
                return Err(Error::argument("the constraint", "set beside a format or function", "one of them"));
            }
            turn.constraint = Some(self.constraint(&Guidance::json_schema(schema))?);
        }
        let tokens = self.tokenize(&prompt, SpecialTokens::AsWritten)?;
        let heading = Heading::new("chatcmpl", self.name());
        let generate = self.generate(&tokens, turn)?;
        Ok(ChatStream { generate, heading, part: Part::Role })
    }

    /// A conversation as the package's chat template writes it.
    ///
    /// # Errors
    /// As [`Self::stream_chat_completion`].
    pub fn chat_prompt(&self, chat: &Chat, template: Option<&str>) -> Result<String> {
        let folder = &self.config.tokenizer_folder;
        let templates = ChatTemplates::load(folder)?.ok_or_else(|| {
            Error::unsupported(format!("{}: a chat without a chat template", folder.display()), "completions")
        })?;
        templates.select(template, chat.tools.is_some())?.render(chat)
    }
}

const ASSISTANT: &str = "assistant";

/// The schema of a tool's parameters.
fn parameters(chat: &Chat, name: &str) -> Result<Value> {
    let functions = chat.tools.iter().flatten().filter_map(|tool| tool.get("function").or(Some(tool)));
    let known: Vec<(&str, &Value)> =
        functions.filter_map(|function| Some((function.get("name")?.as_str()?, function))).collect();
    match known.iter().find(|(other, _)| *other == name) {
        Some((_, function)) => {
            Ok(function.get("parameters").cloned().unwrap_or_else(|| json!({"type": "object", "properties": {}})))
        }
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Err(Error::argument("the function to call", name, format!("one of the tools: {}", names.join(", "))))
        }
    }
}

/// An answer in pieces; see [`Llm::stream_chat_completion`].
pub struct ChatStream<'l> {
    generate: Generate<'l>,
    heading: Heading,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Role,
    Text,
    Over,
}

impl ChatStream<'_> {
    fn chunk(&self, delta: ChatDelta, logprobs: Option<ChatLogprobs>) -> ChatChunk {
        self.heading.chunk(ChatChunkChoice { index: 0, delta, logprobs, finish_reason: None }, None)
    }

    fn token(&self, token: Token) -> ChatChunk {
        let logprobs = token.logprobs.as_ref().map(|found| {
            let tokenizer = self.generate.llm().tokenizer();
            ChatLogprobs { content: vec![told(tokenizer, token.id, found)] }
        });
        self.chunk(ChatDelta { role: None, content: Some(token.text) }, logprobs)
    }

    fn end(&mut self) -> Result<ChatChunk> {
        let rest = self.generate.rest()?;
        let (prompt, cached, generated) = self.generate.counts();
        let content = (!rest.is_empty()).then_some(rest);
        let mut chunk = self.chunk(ChatDelta { role: None, content }, None);
        chunk.usage = Some(CompletionUsage::new(prompt, generated, cached));
        if let (Some(choice), Some(reason)) = (chunk.choices.first_mut(), self.generate.finish_reason()) {
            choice.finish_reason = Some(finish_word(reason).to_owned());
        }
        Ok(chunk)
    }
}

impl Iterator for ChatStream<'_> {
    type Item = Result<ChatChunk>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.part {
            Part::Over => return None,
            Part::Role => {
                self.part = Part::Text;
                let delta = ChatDelta { role: Some(ASSISTANT.to_owned()), content: None };
                return Some(Ok(self.chunk(delta, None)));
            }
            Part::Text => {}
        }
        let next = self.generate.next();
        if !matches!(next, Some(Ok(_))) {
            self.part = Part::Over;
        }
        match next {
            Some(Ok(token)) => Some(Ok(self.token(token))),
            Some(Err(error)) => Some(Err(error)),
            None => Some(self.end()),
        }
    }
}

fn told(tokenizer: &Tokenizer, token: u32, found: &TokenLogprobs) -> ChatTokenLogprob {
    let likely = |token: u32, logprob: f64| LikelyToken {
        token: text::shown(tokenizer, token),
        logprob,
        bytes: text::bytes(tokenizer, token),
    };
    let top_logprobs = found.top.iter().map(|&(token, logprob)| likely(token, logprob)).collect();
    ChatTokenLogprob { token: likely(token, found.logprob), top_logprobs }
}
