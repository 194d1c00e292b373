//! Files by name, size and hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Pair, Reason, Sameness};
use crate::integrity::sha256;
use crate::{Error, Result};

/// Folders in folders; packages have one level, at most.
const MAX_DEPTH: usize = 4;

/// What records a package and follows from the rest of it.
const RECORDS: [&str; 2] = ["genai-build.json", "SHA256SUMS"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Names of files with the same bytes.
    pub same: Vec<String>,
    pub different: Vec<FileDifference>,
}

/// A file that is on one side only, or has other bytes there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Relative to the package, with `/`.
    pub name: String,
    #[serde(flatten)]
    pub sides: Pair<File>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    pub bytes: u64,
    pub sha256: String,
}

impl Files {
    pub(super) fn compare(a: &Path, b: &Path) -> Result<Self> {
        let (mut left, mut right) = (list(a)?, list(b)?);
        let names: BTreeSet<String> = left.keys().chain(right.keys()).cloned().collect();
        let (mut same, mut different) = (Vec::new(), Vec::new());
        for name in names {
            let sides = Pair { a: left.remove(&name), b: right.remove(&name) };
            if sides.a == sides.b { same.push(name) } else { different.push(FileDifference { name, sides }) }
        }
        Ok(Self { same, different })
    }

    /// Names of ONNX files to compare: those of one name, and what is left if it is one file on each side. Those of the
    /// same name are compared although they have the same bytes, since their weights may lie in other files.
    pub(super) fn models(&self) -> Vec<(String, String)> {
        let is_model = |name: &&String| name.ends_with(".onnx");
        if self.different.is_empty() {
            return Vec::new();
        }
        let both = self.different.iter().filter(|file| file.sides.a.is_some() && file.sides.b.is_some());
        let both = self.same.iter().chain(both.map(|file| &file.name)).filter(is_model);
        let mut models: Vec<_> = both.map(|name| (name.clone(), name.clone())).collect();
        let only = |side: fn(&FileDifference) -> bool| {
            let mut names = self.different.iter().filter(|file| side(file)).map(|file| &file.name).filter(is_model);
            names.next().filter(|_| names.next().is_none()).cloned()
        };
        if let (Some(a), Some(b)) = (only(|file| file.sides.b.is_none()), only(|file| file.sides.a.is_none())) {
            models.push((a, b));
        }
        models.sort();
        models
    }

    /// What names of files tell. What is in a file, others tell.
    pub(super) fn reasons(&self) -> Vec<Reason> {
        let models = self.models();
        let mut reasons = Vec::new();
        for FileDifference { name, sides } in &self.different {
            let compared = models.iter().any(|(a, b)| a == name || b == name);
            let missing = match (&sides.a, &sides.b) {
                (Some(_), Some(_)) => None,
                (Some(_), None) => Some("B"),
                _ => Some("A"),
            };
            match missing {
                Some(side) if !compared && (name.ends_with(".onnx") || is_read(name)) => {
                    reasons.push(Reason::new(Sameness::Different, format!("{side} has no {name}")));
                }
                _ => reasons.push(Reason::new(Sameness::OtherSpelling, format!("{name} has other bytes"))),
            }
        }
        reasons
    }
}

/// Whether a runtime reads the file, as part of the configuration or of the tokenizer.
pub(super) fn is_read(name: &str) -> bool {
    let is_setting = name.ends_with(".json") && !RECORDS.contains(&name);
    let is_vocabulary = name.ends_with(".model") || name.ends_with(".tiktoken") || name.ends_with(".jinja");
    is_setting || is_vocabulary || ["merges.txt", "vocab.txt"].contains(&name) || name.ends_with(".onnx_adapter")
}

fn list(folder: &Path) -> Result<BTreeMap<String, File>> {
    let mut found = BTreeMap::new();
    walk(folder, "", 0, &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, depth: usize, found: &mut BTreeMap<String, File>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(Error::io(&path))?;
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, &format!("{name}/"), depth + 1, found)?;
            }
        } else if let Some((sha256, bytes)) = sha256(&path)? {
            found.insert(name, File { bytes, sha256 });
        }
    }
    Ok(())
}
