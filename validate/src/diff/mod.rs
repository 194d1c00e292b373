//! What two packages have in common, and what not: files, configuration, graph, and weights by their values.
//!
//! ```text
//!  A ─► files ─┬─► settings: genai_config.json, tokenizer                ─┐
//!              ├─► graph ─► nodes: who is whose counterpart ─► structure ─┼─► Difference ─► Sameness
//!  B ─► files ─┘        └─► weights: by bytes, then by numbers           ─┘
//! ```
//!
//! Neither side is the right one. Weights are compared as numbers in pieces, however they are stored, so that memory is
//! bounded; what is equal in bytes is found under any name.

mod files;
mod nodes;
mod settings;
mod structure;
mod text;
mod weights;

use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::graph::Graph;

pub use files::{File, FileDifference, Files};
pub use settings::Setting;
pub use structure::{Changed, Interface, Operators, Replaced, Structure};
pub use weights::{Renamed, WeightDifference, Weights};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether weights are read and compared; without, only names, shapes and types are.
    pub weights: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { weights: true }
    }
}

/// How far two packages are the same, from the same bytes to another model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sameness {
    /// All files have the same bytes.
    Identical,
    /// They compute the same from the same numbers, under other names or in another order.
    OtherSpelling,
    /// The same model, its numbers stored with another precision. Each differs by no more than that explains.
    OtherQuantization,
    Different,
}

impl Sameness {
    /// In words, as they follow "the packages are".
    pub fn name(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::OtherSpelling => "the same in other spelling",
            Self::OtherQuantization => "the same model in other quantization or rounding",
            Self::Different => "different",
        }
    }
}

/// On both sides; `None` where one has nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Pair<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<T>,
}

/// Two packages, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub sameness: Sameness,
    /// What keeps the packages from being more alike, the gravest first.
    pub reasons: Vec<Reason>,
    pub files: Files,
    /// Of the configuration and of the small files of the tokenizer.
    pub settings: Vec<Setting>,
    pub models: Vec<ModelDifference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What the packages can be at best.
    pub at_best: Sameness,
    pub message: String,
}

impl Reason {
    fn new(at_best: Sameness, message: impl Into<String>) -> Self {
        Self { at_best, message: message.into() }
    }
}

/// One ONNX file of each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelDifference {
    /// The names of the two, which are one name mostly.
    pub files: Pair<String>,
    pub structure: Structure,
    /// `None` where they were not asked for.
    pub weights: Option<Weights>,
}

/// Compares two packages.
///
/// # Errors
/// `Io` where a folder or file cannot be read, `Package` where an ONNX file is damaged.
pub fn compare(a: &Path, b: &Path, options: Options) -> Result<Difference> {
    let files = Files::compare(a, b)?;
    let mut reasons = files.reasons();
    let (settings, found) = settings::compare(a, b, &files)?;
    reasons.extend(found);
    let mut models = Vec::new();
    for (first, second) in files.models() {
        let (left, right) = (Graph::open(a, &first)?, Graph::open(b, &second)?);
        let (model, found) = model((&first, &left), (&second, &right), options)?;
        reasons.extend(found);
        models.push(model);
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.at_best));
    let worst = reasons.first().map_or(Sameness::Identical, |reason| reason.at_best);
    Ok(Difference { sameness: worst, reasons, files, settings, models })
}

fn model(a: (&str, &Graph), b: (&str, &Graph), options: Options) -> Result<(ModelDifference, Vec<Reason>)> {
    let ((a_name, a), (b_name, b)) = (a, b);
    let pairs = nodes::Pairs::of(a, b);
    let tensors = weights::Tensors::of(a, b, options.weights)?;
    let weights = if options.weights { Some(Weights::compare(a, b, &pairs, &tensors)?) } else { None };
    let structure = Structure::compare(a, b, &pairs, &tensors, weights.as_ref())?;
    let mut reasons = structure.reasons();
    reasons.extend(weights.iter().flat_map(Weights::reasons));
    let files = Pair { a: Some(a_name.to_owned()), b: Some(b_name.to_owned()) };
    Ok((ModelDifference { files, structure, weights }, reasons))
}

#[cfg(test)]
mod tests;
