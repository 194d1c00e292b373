//! Whether both sides read a text as the same tokens, and have logits of the same tokens: without it no number that
//! follows means anything.

use crate::judge::load::Loaded;
use crate::judge::{Against, Text};
use crate::report::{Finding, Severity, Stage, StageReport};
use crate::{SpecialTokens, Tokenizer};

/// Compares tokens and sizes of the package with those of the reference.
pub(super) fn check(loaded: &Loaded, against: &Against, texts: &[Text]) -> StageReport {
    let mut gate = Gate { loaded, findings: Vec::new(), checks: 0 };
    match against {
        Against::Nothing => {}
        Against::Recording(recording) => {
            for prompt in &recording.reference.prompts {
                gate.width(&prompt.name, prompt.logits.cols());
                if let Some(text) = recording.texts.get(&prompt.name) {
                    gate.ids(&prompt.name, text, &prompt.input_ids);
                }
            }
        }
        Against::Origin(origin) => {
            gate.width("config.json: vocab_size", origin.spec.vocab_size);
            let theirs = origin.checkpoint.file_path("tokenizer.json");
            match theirs.as_deref().and_then(|path| path.parent()).map(Tokenizer::load) {
                Some(Ok(theirs)) => {
                    for text in texts {
                        match theirs.encode(&text.text, SpecialTokens::Added) {
                            Ok(ids) => gate.ids(&text.name, &text.text, &ids),
                            Err(error) => gate.add(Severity::Doubt, "tokenizer", &text.name, error.to_string()),
                        }
                    }
                }
                Some(Err(error)) => gate.add(Severity::Warning, "tokenizer", "the checkpoint", error.to_string()),
                None => {
                    let message = "has no tokenizer.json, so that the package's own is believed";
                    gate.add(Severity::Info, "tokenizer", "the checkpoint", message.to_owned());
                }
            }
        }
    }
    StageReport::judged(Stage::Alignment, gate.checks, gate.findings)
}

struct Gate<'a> {
    loaded: &'a Loaded<'a>,
    findings: Vec<Finding>,
    checks: usize,
}

impl Gate<'_> {
    fn add(&mut self, severity: Severity, check: &'static str, at: &str, message: String) {
        self.findings.push(Finding::new(severity, check, at, message));
    }

    fn width(&mut self, at: &str, expected: usize) {
        self.checks += 1;
        let found = self.loaded.model.vocab_size();
        if found != expected {
            let message = format!("the package gives {found} logits for each token, the reference {expected}");
            let hint = "is it the package of another model, or one whose vocabulary was padded?";
            self.findings.push(Finding::new(Severity::Error, "vocab-size", at, message).with_hint(hint));
        }
    }

    /// The package's tokens of a text against the reference's.
    fn ids(&mut self, name: &str, text: &str, expected: &[u32]) {
        let Some(tokenizer) = self.loaded.words.tokenizer() else { return };
        self.checks += 1;
        let found = match tokenizer.encode(text, SpecialTokens::Added) {
            Ok(found) => found,
            Err(error) => return self.add(Severity::Error, "tokenizer", name, error.to_string()),
        };
        // A reference may have read the beginning of a text only.
        if found.starts_with(expected) && (found.len() == expected.len() || !expected.is_empty()) {
            return;
        }
        let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        let token = |ids: &[u32]| ids.get(at).map_or("nothing".to_owned(), u32::to_string);
        let message = format!(
            "the two sides read other tokens, from token {at} on: {} in the package, {} in the reference",
            token(&found),
            token(expected)
        );
        let bos = self.loaded.package.bos_token_id;
        let hint = match (at, bos) {
            (0, Some(bos)) if expected.first() == Some(&bos) || found.first() == Some(&bos) => {
                "one side puts the beginning-of-text token before it: compare the post_processor of both tokenizer.json"
            }
            _ => "the tokenizer is of another model, or was changed: compare both tokenizer.json",
        };
        self.findings.push(Finding::new(Severity::Error, "tokens", name, message).with_hint(hint));
    }
}
