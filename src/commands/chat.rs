use std::io::{BufRead, IsTerminal, stdin};

use genai_validate::{Chat, ChatTemplate, ChatTemplates, Generator, SpecialTokens};
use serde_json::{Value, json};

use crate::args::ChatArgs;
use crate::console::{note, print, print_prompt};
use crate::failure::Failure;
use crate::generation::{Ending, Opened, json_argument};
use crate::signals::Interruptible;

/// Tokens of a conversation, where `max_length` is not typed. The cache is made for them in one piece, and packages say
/// the length of the model's context, which can be more than memory holds.
const LENGTH: usize = 4096;

/// A conversation, and the generator that holds the cache of what was said.
struct Conversation<'a> {
    opened: &'a Opened,
    template: ChatTemplate,
    generator: Generator,
    chat: Chat,
    most: usize,
}

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let mut chat = Chat::new(Vec::new());
    if let Some(variables) = &args.template_variables {
        let variables = json_argument("--template-variables", variables)?;
        let Value::Object(variables) = variables else {
            return Err(Failure::usage("--template-variables: expected a JSON object"));
        };
        chat.variables = variables;
    }
    chat.messages.extend(args.system.as_ref().map(|text| json!({"role": "system", "content": text})));
    let opened = Opened::new(&args.package, &args.generation)?;
    let Some(templates) = ChatTemplates::load(&opened.package.tokenizer_folder)? else {
        let hint = "`genai-build run` continues plain text";
        return Err(Failure::unsupported("the package has no chat template".to_owned(), hint));
    };
    if opened.search.num_beams > 1 {
        let what = format!("a chat with {} beams", opened.search.num_beams);
        return Err(Failure::unsupported(what, "`genai-build run` has beams"));
    }
    let mut search = opened.search.clone();
    if !opened.length_given {
        let longest = if search.max_length > 0 { search.max_length } else { opened.model.context_length() };
        search.max_length = longest.min(LENGTH);
    }
    let mut conversation = Conversation {
        template: templates.select(None, false)?,
        generator: opened.generator(search)?,
        opened: &opened,
        chat,
        most: args.generation.max_tokens.unwrap_or(usize::MAX),
    };
    let signals = Interruptible::new();
    if let Some(text) = &args.once {
        return conversation.turn(text, &signals);
    }
    let people = stdin().is_terminal();
    let mut lines = stdin().lock().lines();
    loop {
        if people {
            print_prompt("> ");
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|error| Failure::usage(format!("cannot read what is said from stdin: {error}")))?;
        if !line.trim().is_empty() {
            conversation.turn(&line, &signals)?;
        }
    }
}

impl Conversation<'_> {
    /// Says `text`, and prints the answer as it comes. What the cache holds of the conversation already is not run again.
    fn turn(&mut self, text: &str, signals: &Interruptible) -> Result<(), Failure> {
        self.chat.messages.push(json!({"role": "user", "content": text}));
        let prompt = self.template.render(&self.chat)?;
        let ids = self.opened.tokenizer.encode(&prompt, SpecialTokens::AsWritten)?;
        let room = self.generator.search().max_length;
        if ids.len() >= room {
            let message = format!("the conversation has {} tokens, and there is room for {room}", ids.len());
            return Err(Failure::usage(message).with_hint("--search max_length=N, up to the context of the model"));
        }
        // Answers are not always cut into tokens again as they were chosen, and templates leave out thoughts.
        let held = self.generator.sequence(0)?;
        let same = held.iter().zip(&ids).take_while(|(held, id)| held == id).count();
        let kept = same.min(ids.len().saturating_sub(1));
        let (_, new) = ids.split_at(kept);
        let reply = {
            let replying = signals.replying();
            self.generator.rewind_to(kept)?;
            self.generator.append(new)?;
            self.opened.reply(&mut self.generator, self.most, &|| replying.interrupted(), &mut print)?
        };
        print("\n")?;
        match reply.ending {
            Ending::Length => {
                note("the answer was cut: no more tokens were asked for (-n), or fit (--search max_length=N)")
            }
            Ending::Interrupted => note("interrupted"),
            Ending::Eos | Ending::Stop => {}
        }
        self.chat.messages.push(json!({"role": "assistant", "content": reply.text}));
        Ok(())
    }
}
