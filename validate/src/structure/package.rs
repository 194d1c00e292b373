//! A package as the checks see it: the document as it stands, and each graph that it names.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout;
use super::{Findings, some_of};
use crate::graph::{Graph, Weights};
use crate::{Config, Error};

pub(super) const CONFIG: &str = "genai_config.json";
/// What is called a configuration is smaller.
const LARGEST_JSON: u64 = 64 << 20;

pub(super) struct Package {
    pub(super) folder: PathBuf,
    /// `genai_config.json`, or one made up for a package without it; null where it cannot be read.
    pub(super) document: Value,
    /// Every ONNX file that the document names and that can be read.
    pub(super) parts: Vec<Part>,
    /// The names of all files and folders at the top, sorted.
    pub(super) listing: Vec<String>,
}

/// One ONNX file.
pub(super) struct Part {
    /// Where the document names it, such as `model.decoder`.
    pub(super) key: String,
    pub(super) file: String,
    pub(super) graph: Graph,
    pub(super) weights: Weights,
}

impl Package {
    pub(super) fn open(folder: &Path, findings: &mut Findings) -> Self {
        let mut listing: Vec<String> = match std::fs::read_dir(folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            Err(error) => {
                findings.error("model-file", ".", format!("the folder cannot be read: {error}"));
                Vec::new()
            }
        };
        listing.sort();
        let mut package = Self { folder: folder.to_path_buf(), document: Value::Null, parts: Vec::new(), listing };
        if package.listing.iter().any(|name| name == CONFIG) {
            package.read_config(findings);
        } else if !package.listing.is_empty() {
            package.make_config(findings);
        }
        package
    }

    fn read_config(&mut self, findings: &mut Findings) {
        self.document = self.json(CONFIG).and_then(Result::ok).unwrap_or(Value::Null);
        match Config::open(&self.folder) {
            Ok(config) => {
                for warning in &config.warnings {
                    findings.warning("config", format!("{CONFIG}: {}", warning.key), warning.problem.as_str());
                }
            }
            // The strict reader is of one decoder; what it misses in others need not be missing.
            Err(Error::Config { key, problem, .. }) if self.is_composed() => {
                findings
                    .warning("config", format!("{CONFIG}: {key}"), problem)
                    .hint("of a decoder by itself; this package has more graphs, and is looked at one by one");
            }
            Err(Error::Config { key, problem, .. }) => {
                findings.error("config", format!("{CONFIG}: {key}"), problem);
            }
            Err(Error::Package { problem, .. }) => {
                findings.error("config", CONFIG, problem);
            }
            Err(error) => {
                findings.error("config", CONFIG, error.to_string());
            }
        }
        let mut files = Vec::new();
        find_models(self.document.get("model").unwrap_or(&Value::Null), "model", &mut files);
        if files.is_empty() && !self.document.is_null() {
            findings
                .error("names", format!("{CONFIG}: model.decoder.filename"), "no ONNX file is named")
                .hint("model.decoder.filename names the decoder, relative to the folder");
        }
        for (key, file) in files {
            self.add(key, file, findings);
        }
    }

    fn make_config(&mut self, findings: &mut Findings) {
        let models = layout::models(&self.folder, &self.listing);
        let Some(first) = models.first() else {
            findings.error("model-file", ".", format!("the folder has neither {CONFIG} nor an ONNX file"));
            return;
        };
        if models.len() > 1 {
            let message = format!("one of {} is looked at: {}", models.len(), some_of(&models));
            findings.info("no-config", first.as_str(), message);
        }
        self.add("model.decoder".to_owned(), first.clone(), findings);
        let config = self.json("config.json").and_then(Result::ok).unwrap_or(Value::Null);
        if let Some(part) = self.parts.first() {
            self.document = layout::config(&part.graph, first, &config);
            let text = serde_json::to_string_pretty(&self.document).unwrap_or_default();
            findings
                .warning("no-config", CONFIG, "is not in the folder, and onnxruntime-genai needs it")
                .hint(format!("made from the graph and config.json, to be read before it is used:\n{text}"));
        }
    }

    fn add(&mut self, key: String, file: String, findings: &mut Findings) {
        if self.parts.iter().any(|part| part.file == file) {
            return;
        }
        match Graph::open(&self.folder, &file) {
            Ok(graph) => {
                let weights = graph.weights();
                self.parts.push(Part { key, file, graph, weights });
            }
            Err(error) => {
                let problem = match error {
                    Error::Package { problem, .. } => problem,
                    other => other.to_string(),
                };
                let hint = if problem.contains("declares") || problem.contains("cut off") {
                    "the file was not copied whole: fetch it again"
                } else if problem.contains("ONNX model") {
                    "a file of a few hundred bytes is often a pointer of Git LFS: fetch the file itself"
                } else {
                    "the name stands in genai_config.json, relative to the folder"
                };
                findings.error("model-file", file, problem).hint(hint);
            }
        }
    }

    /// Whether several graphs work together, in ways of their own.
    pub(super) fn is_composed(&self) -> bool {
        let beyond = ["encoder", "embedding", "vision", "speech", "joiner", "decoder.pipeline"];
        beyond.iter().any(|key| self.value(&format!("model.{key}")).is_some())
    }

    /// The part whose names and caches the document describes.
    pub(super) fn decoder(&self) -> Option<&Part> {
        self.parts.iter().find(|part| part.key == "model.decoder")
    }

    /// `None` where there is no such file.
    pub(super) fn json(&self, name: &str) -> Option<Result<Value, String>> {
        let path = self.folder.join(name);
        let metadata = path.metadata().ok()?;
        if !metadata.is_file() || metadata.len() > LARGEST_JSON {
            return Some(Err(format!("is no file of at most {LARGEST_JSON} bytes")));
        }
        let bytes = std::fs::read(&path);
        Some(
            bytes
                .map_err(|error| error.to_string())
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| format!("is no JSON: {error}"))),
        )
    }

    /// A value of the document, such as `model.decoder.head_size`.
    pub(super) fn value(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.document, |value, key| value.get(key))
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.value(path)?.as_u64()
    }

    pub(super) fn flag(&self, path: &str) -> Option<bool> {
        self.value(path)?.as_bool()
    }

    /// Names in the document, those that are no text left out.
    pub(super) fn names(&self, path: &str) -> Vec<(&str, &str)> {
        let object = self.value(path).and_then(Value::as_object);
        object.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
    }

    /// A name of the graph as the document has it, or its default.
    pub(super) fn name_or<'a>(&'a self, path: &str, default: &'a str) -> &'a str {
        self.value(path).and_then(Value::as_str).unwrap_or(default)
    }
}

/// All texts under a key `filename`, and the object that holds each.
fn find_models(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match (key.as_str(), value) {
                    ("filename", Value::String(file)) => found.push((path.to_owned(), file.clone())),
                    _ => find_models(value, &format!("{path}.{key}"), found),
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                find_models(value, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
