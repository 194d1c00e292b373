//! Files: those that the configuration names, those of weights, those that should lie beside them.

use serde_json::Value;

use super::package::CONFIG;
use super::{Findings, Package, some_of};
use crate::graph::{Found, Stored, files::check_name};

/// Above this, tensors want to begin where a page does, to be mapped instead of copied.
const MAPPED: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Native code that `genai_config.json` asks for.
pub(super) fn libraries(package: &Package, findings: &mut Findings) {
    let mut libraries = Vec::new();
    find(&package.document, "", "custom_ops_library", &mut libraries);
    for (key, library) in libraries {
        findings
            .error(
                "operators",
                format!("{CONFIG}: {key}"),
                format!("asks for the native library {library:?} to be run"),
            )
            .hint("a package that brings code is run by nobody who does not trust its maker: this tool loads none");
    }
}

/// Every file that the configuration names stays in the folder, and is there.
pub(super) fn paths(package: &Package, findings: &mut Findings) {
    let mut named = Vec::new();
    for key in ["filename", "config_filename", "adapter_filename", "data_file"] {
        find(&package.document, "", key, &mut named);
    }
    for (key, file) in &named {
        let at = format!("{CONFIG}: {key}");
        if let Err(problem) = check_name(file) {
            findings.error("paths", at, format!("is {file:?}, which {problem}"));
        } else if !key.ends_with(".filename") && !package.folder.join(file).exists() {
            findings.error("paths", at, format!("is {file:?}, which is not in the folder"));
        }
    }
    let folder = package.value("model.tokenizer_dir").and_then(Value::as_str).filter(|name| !name.is_empty());
    if let Some(Err(problem)) = folder.map(check_name) {
        findings.error("paths", format!("{CONFIG}: model.tokenizer_dir"), problem);
    }
}

/// What is wrong with names and tensors of the graph itself.
pub(super) fn model_file(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        for problem in &part.graph.problems {
            let at = format!("{}: {}", part.file, problem.at);
            let (check, hint) = match problem.found {
                Found::ExternalData => continue,
                Found::Name => ("model-file", "the graph was edited, and not all that belongs together"),
                Found::Tensor => ("model-file", "the file is damaged, or its maker wrote another size than it meant"),
                Found::Quantized => ("quantized", "codes, scales and attributes are not of one matrix"),
            };
            findings.error(check, at, problem.message.as_str()).hint(hint);
        }
    }
}

pub(super) fn external_data(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        for problem in part.graph.problems.iter().filter(|problem| problem.found == Found::ExternalData) {
            let hint = if problem.message.contains("does not exist") {
                "the file of weights was not copied along, or was renamed: the graph holds its name"
            } else if problem.message.contains("ends past") {
                "the file of weights is cut off: fetch it again"
            } else if problem.message.contains("overlaps") {
                "two tensors share bytes: offsets were written wrong"
            } else {
                "files of weights lie in the folder of the model, as plain files"
            };
            findings
                .error("external-data", format!("{}: {}", part.file, problem.at), problem.message.as_str())
                .hint(hint);
        }
        let astray: Vec<&str> = part
            .graph
            .initializers
            .iter()
            .filter(|tensor| tensor.bytes >= MAPPED)
            .filter(|tensor| matches!(&tensor.stored, Stored::In { file, offset } if *file != part.file && offset % PAGE != 0))
            .map(|tensor| tensor.name.as_str())
            .collect();
        if !astray.is_empty() {
            let message =
                format!("{} large tensors do not begin at a page of 4 KiB: {}", astray.len(), some_of(&astray));
            findings
                .info("external-data", part.file.as_str(), message)
                .hint("they are copied where they could be mapped: loading takes longer");
        }
        for (name, _) in part.graph.files().filter(|(name, _)| part.graph.is_linked(name)) {
            findings.info("external-data", name, "is a symbolic link, as in the cache of the Hub");
        }
    }
}

pub(super) fn licence(package: &Package, findings: &mut Findings) {
    let has = |starts: &[&str]| {
        package.listing.iter().any(|name| starts.iter().any(|start| name.to_ascii_uppercase().starts_with(start)))
    };
    if package.listing.is_empty() {
        return;
    }
    let missing: Vec<&str> = [
        ("a licence", ["LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY"].as_slice()),
        ("a model card", ["README", "MODEL_CARD"].as_slice()),
    ]
    .into_iter()
    .filter(|(_, starts)| !has(starts))
    .map(|(what, _)| what)
    .collect();
    if !missing.is_empty() {
        findings
            .info("licence", ".", format!("not in the folder: {}", missing.join(", ")))
            .hint("most licences want to be passed on with the weights");
    }
}

/// All texts under a key of this name, each with its path.
fn find(value: &Value, path: &str, wanted: &str, found: &mut Vec<(String, String)>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == wanted => found.push((join(key), text.clone())),
                    _ => find(value, &join(key), wanted, found),
                }
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                find(value, &format!("{path}[{index}]"), wanted, found);
            }
        }
        _ => {}
    }
}
