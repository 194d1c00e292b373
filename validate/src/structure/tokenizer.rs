//! Files of text: the tokenizer, special ids, the chat template.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::package::CONFIG;
use super::{Findings, Package};
use crate::graph::Dimension;
use crate::{ChatTemplates, Error, Tokenizer};

/// What the assistant says in the conversation of [`ChatTemplates::probe`].
const PROBE_ANSWER: &str = "Hello. How can I help?";

/// What the files say.
struct Text<'a> {
    package: &'a Package,
    /// Where they lie, relative to the package; empty or with a slash at the end.
    prefix: String,
    /// Token to id.
    ids: BTreeMap<String, u64>,
    /// Of those that were added to the vocabulary.
    added: BTreeSet<u64>,
    /// Of `tokenizer_config.json`.
    config: Value,
}

pub(super) fn all(package: &Package, findings: &mut Findings) {
    if package.document.is_null() {
        return;
    }
    special_ids(package, findings);
    let folder = package.name_or("model.tokenizer_dir", "");
    let prefix = if folder.is_empty() || crate::graph::files::check_name(folder).is_err() {
        String::new()
    } else {
        format!("{folder}/")
    };
    let Some(text) = Text::read(package, prefix, findings) else { return };
    text.fits_vocabulary(findings);
    text.ids_agree(findings);
    text.chat_template(findings);
}

/// Ids of `genai_config.json` by themselves.
fn special_ids(package: &Package, findings: &mut Findings) {
    let vocabulary = package.number("model.vocab_size");
    for key in ["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"] {
        for id in ids_at(package.value(&format!("model.{key}"))) {
            if vocabulary.is_some_and(|size| id >= size) {
                let message = format!("is {id}, the vocabulary has {} tokens", vocabulary.unwrap_or(0));
                findings.error("special-ids", format!("{CONFIG}: model.{key}"), message);
            }
        }
    }
    let eos = ids_at(package.value("model.eos_token_id"));
    let pad = package.number("model.pad_token_id");
    if eos.is_empty() && pad.is_some() {
        findings
            .warning(
                "special-ids",
                format!("{CONFIG}: model.eos_token_id"),
                "is missing, so that generation ends at the pad id",
            )
            .hint("name the ids that end a text or a turn");
    }
    let at = || format!("{CONFIG}: model.pad_token_id");
    let Some(pad) = pad else { return };
    if eos.contains(&pad) {
        findings
            .warning("pad", at(), format!("is {pad}, which is also an end-of-text id"))
            .hint("onnxruntime-genai takes the logits of an earlier token for a prompt that ends in it");
    } else if package.number("model.bos_token_id") == Some(pad) {
        findings
            .warning("pad", at(), format!("is {pad}, which also begins each text"))
            .hint("onnxruntime-genai takes it for padding at the end of a prompt");
    }
}

fn ids_at(value: Option<&Value>) -> Vec<u64> {
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(value) => value.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

impl<'a> Text<'a> {
    fn read(package: &'a Package, prefix: String, findings: &mut Findings) -> Option<Self> {
        let file = format!("{prefix}tokenizer.json");
        let document = match package.json(&file) {
            None => {
                let others = ["tokenizer.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model"];
                let other = others.iter().find(|name| package.folder.join(&prefix).join(name).exists());
                let hint = match other {
                    Some(other) => {
                        format!("there is {other}; save the tokenizer with transformers to get tokenizer.json")
                    }
                    None => "copy it from the checkpoint: without it, the package takes ids and no text".to_owned(),
                };
                findings.warning("tokenizer", file, "is not in the package").hint(hint);
                return None;
            }
            Some(Err(problem)) => {
                findings.error("tokenizer", file, problem);
                return None;
            }
            Some(Ok(document)) => document,
        };
        if let Err(error) = Tokenizer::load(&package.folder.join(&prefix)) {
            findings.error("tokenizer", file, error.to_string());
        }
        let config = match package.json(&format!("{prefix}tokenizer_config.json")) {
            Some(Ok(config)) => config,
            Some(Err(problem)) => {
                findings.error("tokenizer", format!("{prefix}tokenizer_config.json"), problem);
                Value::Null
            }
            None => {
                findings
                    .warning("tokenizer", format!("{prefix}tokenizer_config.json"), "is not in the package")
                    .hint("onnxruntime-genai reads the kind of tokenizer from it");
                Value::Null
            }
        };
        let added = added(&document).map(|(_, id)| id).collect();
        Some(Self { package, prefix, ids: ids_of(&document), added, config })
    }

    fn fits_vocabulary(&self, findings: &mut Findings) {
        let Some((token, &largest)) = self.ids.iter().max_by_key(|(_, id)| **id) else { return };
        let width = self.package.decoder().and_then(|part| {
            let name = self.package.name_or("model.decoder.outputs.logits", "logits");
            match part.graph.output(name)?.shape.as_ref()?.last()? {
                Dimension::Fixed(width) => Some(*width),
                _ => None,
            }
        });
        let Some(width) = width.or(self.package.number("model.vocab_size")) else { return };
        let at = format!("{}tokenizer.json", self.prefix);
        if largest >= width {
            let message = format!("token {token:?} has the id {largest}, the model has {width} tokens");
            let ordinary = self.ids.values().any(|id| *id >= width && !self.added.contains(id));
            if ordinary {
                findings
                    .error("vocabulary", at, message)
                    .hint("the tokenizer is of another model: text becomes ids that the model does not know");
            } else {
                findings
                    .warning("vocabulary", at, message)
                    .hint("tokens were added that the model does not know; text without them is not touched");
            }
        } else if largest + 1 < width {
            let spare = width - largest - 1;
            findings.info("vocabulary", at, format!("{spare} of {width} rows of the logits stand for no token"));
        }
    }

    fn id_of(&self, key: &str) -> Option<(String, u64)> {
        let value = self.config.get(key)?;
        let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
        Some((token.to_owned(), *self.ids.get(token)?))
    }

    fn ids_agree(&self, findings: &mut Findings) {
        let eos = ids_at(self.package.value("model.eos_token_id"));
        let known: Vec<u64> = self.ids.values().copied().collect();
        let at = |key: &str| format!("{CONFIG}: model.{key}");
        let endless = "generation does not end there";
        if let Some(id) = eos.iter().find(|id| !known.contains(id)) {
            findings.warning(
                "special-ids",
                at("eos_token_id"),
                format!("holds {id}, which is no token of tokenizer.json"),
            );
        }
        if let Some((token, id)) = self.id_of("eos_token").filter(|(_, id)| !eos.is_empty() && !eos.contains(id)) {
            let message = format!("is {eos:?}, tokenizer_config.json has eos_token {token:?} with the id {id}");
            findings.warning("special-ids", at("eos_token_id"), message).hint(endless);
        }
        if let Some(Ok(generation)) = self.package.json(&format!("{}generation_config.json", self.prefix)) {
            let wanted = ids_at(generation.get("eos_token_id"));
            if let Some(id) = wanted.iter().find(|id| !eos.is_empty() && !eos.contains(id)) {
                let message = format!("is {eos:?}, generation_config.json ends at {id} too");
                findings.warning("special-ids", at("eos_token_id"), message).hint(endless);
            }
        }
        let bos = self.package.number("model.bos_token_id");
        if let (Some((token, id)), Some(bos)) = (self.id_of("bos_token"), bos)
            && id != bos
        {
            let message = format!("is {bos}, tokenizer_config.json has bos_token {token:?} with the id {id}");
            findings.warning("special-ids", at("bos_token_id"), message);
        }
    }

    /// Whether the template can be filled in, and whether generation ends where its turns do.
    fn chat_template(&self, findings: &mut Findings) {
        let file = format!("{}chat_template.jinja", self.prefix);
        let at = if self.package.folder.join(&file).is_file() {
            file
        } else {
            format!("{}tokenizer_config.json: chat_template", self.prefix)
        };
        let text = match ChatTemplates::load(&self.package.folder.join(&self.prefix)) {
            Ok(Some(templates)) => templates.probe(),
            Ok(None) => {
                findings.info("chat-template", ".", "the package has no chat template: it continues text");
                return;
            }
            Err(error) => Err(error),
        };
        let text = match text {
            Ok(text) => text,
            Err(error @ Error::Chat { .. }) => {
                findings.warning("chat-template", at, format!("refuses a conversation of three turns: {error}"));
                return;
            }
            Err(error) => {
                findings
                    .error("chat-template", at, error.to_string())
                    .hint("filled in with three turns, with a system's text and tools and without");
                return;
            }
        };
        let Some((_, rest)) = text.split_once(PROBE_ANSWER) else {
            findings
                .error("chat-template", at, "leaves out what was said")
                .hint("it was filled in with three turns, and the answer among them is not in the text");
            return;
        };
        // The token behind the answer is what the model says when it has answered.
        let rest = rest.trim_start();
        let tokens = self.ids.iter().filter(|(token, id)| self.added.contains(id) && rest.starts_with(token.as_str()));
        let Some((token, id)) = tokens.max_by_key(|(token, _)| token.len()) else { return };
        let eos = ids_at(self.package.value("model.eos_token_id"));
        if !eos.is_empty() && !eos.contains(id) {
            let message = format!("ends answers with {token:?} (id {id}), which is not in eos_token_id {eos:?}");
            findings.warning("chat-template", at, message).hint("answers do not end: add the id to model.eos_token_id");
        }
    }
}

/// Tokens and ids of `tokenizer.json`: those of the model and those that were added.
fn ids_of(document: &Value) -> BTreeMap<String, u64> {
    let mut ids = BTreeMap::new();
    match document.pointer("/model/vocab") {
        Some(Value::Object(vocabulary)) => {
            ids.extend(vocabulary.iter().filter_map(|(token, id)| Some((token.clone(), id.as_u64()?))));
        }
        // Pairs of a token and its score.
        Some(Value::Array(vocabulary)) => {
            let tokens = vocabulary.iter().zip(0_u64..);
            ids.extend(tokens.filter_map(|(pair, id)| Some((pair.get(0)?.as_str()?.to_owned(), id))));
        }
        _ => {}
    }
    ids.extend(added(document));
    ids
}

fn added(document: &Value) -> impl Iterator<Item = (String, u64)> {
    let added = document.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    added.filter_map(|token| Some((token.get("content")?.as_str()?.to_owned(), token.get("id")?.as_u64()?)))
}
