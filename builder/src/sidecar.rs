//! The files beside the graph: the tokenizer as onnxruntime-genai loads it, the chat template, the licence.

use genai_checkpoint::Checkpoint;
use serde_json::{Map, Value};

use crate::{Error, Result, output::StagedOutput};

/// What the tokenizer files say of special tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenizerFacts {
    pub(crate) bos: Option<u64>,
    pub(crate) eos: Option<u64>,
    pub(crate) pad: Option<u64>,
}

/// Files that are carried along byte for byte where the checkpoint has them.
const VERBATIM: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// The model card, and how the names of files begin that say under which terms the weights may be used.
const CARD: &str = "README.md";
const TERMS: &[&str] = &["LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY", "TERMS"];

/// More text than any licence has.
const MOST_TERMS_BYTES: usize = 4 << 20;

/// Tokenizer classes that onnxruntime-genai 0.18 and its predecessors load, without the `Fast` that may follow.
const KNOWN_CLASSES: &[&str] = &[
    "PreTrainedTokenizer",
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GPT2Tokenizer",
    "CodeGenTokenizer",
    "GPTNeoXTokenizer",
    "Qwen2Tokenizer",
    "GemmaTokenizer",
    "Phi3Tokenizer",
    "InternLM2Tokenizer",
    "ChatGLMTokenizer",
    "BaichuanTokenizer",
    "T5Tokenizer",
    "XLMRobertaTokenizer",
    "DebertaV2Tokenizer",
    "MarianTokenizer",
    "CLIPTokenizer",
    "WhisperTokenizer",
];

/// Files of a tokenizer, read and checked before any weight is.
#[derive(Debug)]
pub(crate) struct Sidecars {
    files: Vec<(String, Vec<u8>)>,
    /// The files of the checkpoint that these were made from.
    pub(crate) inputs: Vec<String>,
    pub(crate) facts: TokenizerFacts,
}

impl Sidecars {
    pub(crate) fn read(checkpoint: &Checkpoint, context_length: usize) -> Result<Self> {
        let mut files = Vec::new();
        for name in VERBATIM {
            if let Some(bytes) = checkpoint.file(name)? {
                files.push(((*name).to_owned(), bytes));
            }
        }
        let Some((_, tokenizer)) = files.iter().find(|(name, _)| name == "tokenizer.json") else {
            return Err(Error::Sidecar {
                file: "tokenizer.json".to_owned(),
                reason: "the checkpoint has no such file, and onnxruntime-genai needs it".to_owned(),
                hint: Some(
                    "save the tokenizer in its fast form: AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)"
                        .to_owned(),
                ),
            });
        };
        let tokenizer = object("tokenizer.json", tokenizer)?;
        let mut inputs: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
        let mut config = match checkpoint.file("tokenizer_config.json")? {
            Some(bytes) => {
                inputs.push("tokenizer_config.json".to_owned());
                object("tokenizer_config.json", &bytes)?
            }
            None => Map::new(),
        };
        let id = |key: &str| special_token(&config, key).and_then(|token| token_id(&tokenizer, token));
        let facts = TokenizerFacts { bos: id("bos_token"), eos: id("eos_token"), pad: id("pad_token") };

        let class = config.get("tokenizer_class").and_then(Value::as_str);
        let class = class.filter(|class| is_known(class)).unwrap_or_else(|| class_of(&tokenizer)).to_owned();
        config.insert("tokenizer_class".to_owned(), class.into());
        // transformers writes 10^30 where there is no limit.
        config.insert("model_max_length".to_owned(), context_length.into());
        let mut text = serde_json::to_vec_pretty(&config).unwrap_or_default();
        text.push(b'\n');
        files.push(("tokenizer_config.json".to_owned(), text));
        for name in checkpoint.file_names()?.into_iter().filter(|name| is_terms(name)) {
            if let Some(bytes) = checkpoint.file(&name)? {
                if bytes.len() > MOST_TERMS_BYTES {
                    let reason = format!("has {} bytes, expected a text of at most {MOST_TERMS_BYTES}", bytes.len());
                    return Err(Error::Sidecar { file: name, reason, hint: None });
                }
                inputs.push(name.clone());
                files.push((name, bytes));
            }
        }
        inputs.sort();
        Ok(Self { files, inputs, facts })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(crate) fn write(&self, output: &mut StagedOutput) -> Result<()> {
        self.files.iter().try_for_each(|(name, bytes)| output.write(name, bytes))
    }
}

/// Whether a file belongs to the weights wherever they go: the model card, a licence, a notice, terms of use.
fn is_terms(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let text = ["", ".MD", ".TXT", ".RST", ".PDF"];
    name == CARD
        || TERMS.iter().any(|start| {
            // `LICENSE-MIT.txt`, `NOTICE`, but no `licenses.py`.
            upper.strip_prefix(start).is_some_and(|rest| {
                let (middle, ending) = rest.rfind('.').map_or((rest, ""), |at| rest.split_at(at));
                text.contains(&ending) && (middle.is_empty() || middle.starts_with(['-', '_']))
            })
        })
}

fn object(file: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed { file: file.to_owned(), reason: format!("not a JSON object: {error}") })
}

fn is_known(class: &str) -> bool {
    KNOWN_CLASSES.contains(&class.strip_suffix("Fast").unwrap_or(class))
}

/// A class that the runtime knows and that treats text as this tokenizer does.
fn class_of(tokenizer: &Map<String, Value>) -> &'static str {
    let model = tokenizer.get("model");
    let kind = model.and_then(|model| model.get("type")).and_then(Value::as_str);
    let byte_fallback = model.and_then(|model| model.get("byte_fallback")).and_then(Value::as_bool);
    match (kind, byte_fallback) {
        (Some("Unigram"), _) => "T5Tokenizer",
        (_, Some(true)) => "LlamaTokenizer",
        _ => "PreTrainedTokenizerFast",
    }
}

/// The text of `bos_token` and the like, which is a string or an object with one.
fn special_token<'a>(config: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    match config.get(key)? {
        Value::String(text) => Some(text),
        Value::Object(token) => token.get("content")?.as_str(),
        _ => None,
    }
}

fn token_id(tokenizer: &Map<String, Value>, token: &str) -> Option<u64> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let mut added = added.into_iter().flatten();
    let by_name = added.find(|entry| entry.get("content").and_then(Value::as_str) == Some(token));
    by_name.and_then(|entry| entry.get("id")?.as_u64()).or_else(|| {
        match tokenizer.get("model")?.get("vocab")? {
            Value::Object(vocab) => vocab.get(token)?.as_u64(),
            // Unigram lists pairs of token and score; the place is the id.
            Value::Array(pairs) => {
                pairs.iter().position(|pair| pair.get(0).and_then(Value::as_str) == Some(token))?.try_into().ok()
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::is_terms;

    #[test]
    fn terms_are_known_by_their_names() {
        for name in
            ["README.md", "LICENSE", "License.md", "LICENCE-MIT", "Notice.txt", "LICENSE_2.0.txt", "TERMS_OF_USE.md"]
        {
            assert!(is_terms(name), "{name}");
        }
        for name in ["readme.md", "licenses.py", "LICENSEE.bin", "model.safetensors", "notice.sh", ""] {
            assert!(!is_terms(name), "{name}");
        }
    }
}
