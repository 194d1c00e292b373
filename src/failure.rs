//! How a run that did not succeed ends: a line for people, a hint, an exit code. The codes are stable.

use std::fmt;

use genai_builder::ErrorKind as Build;
use genai_checkpoint::ErrorKind as Checkpoint;
use genai_validate::ErrorKind as Validate;
use serde_json::{Map, Value, json};

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
    /// For programs; boxed, since few failures have any.
    pub(crate) details: Box<Details>,
}

/// What a failure is about.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(crate) file: Option<String>,
    pub(crate) tensor: Option<String>,
    /// Each of several problems.
    pub(crate) problems: Vec<String>,
    /// The extra option that has no meaning where it was given.
    pub(crate) meaningless: Option<String>,
    /// What was found out all the same.
    pub(crate) report: Map<String, Value>,
}

pub(crate) mod code {
    pub(crate) const INTERNAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const UNSUPPORTED: u8 = 3;
    pub(crate) const MALFORMED: u8 = 4;
    pub(crate) const INCONSISTENT: u8 = 5;
    /// The Hub cannot be reached, or the cache lacks what may not be downloaded.
    pub(crate) const NETWORK: u8 = 6;
    pub(crate) const AUTH: u8 = 7;
    pub(crate) const RESOURCES: u8 = 8;
    pub(crate) const OUTPUT_CONFLICT: u8 = 9;
    pub(crate) const VALIDATION_FAILED: u8 = 10;
    pub(crate) const CHECKSUM: u8 = 11;
    pub(crate) const REFUSED: u8 = 12;
    pub(crate) const COULD_NOT_RUN: u8 = 13;
    /// What was compared is not the same.
    pub(crate) const DIFFERENT: u8 = 14;
    pub(crate) const INTERRUPTED: u8 = 130;
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code, details: Box::default() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(code::USAGE, message)
    }

    pub(crate) fn unsupported(message: String, hint: &str) -> Self {
        Self::new(code::UNSUPPORTED, message).with_hint(hint)
    }

    pub(crate) fn refused(message: String, hint: &str) -> Self {
        Self::new(code::REFUSED, message).with_hint(hint)
    }

    pub(crate) fn with_report(mut self, report: Map<String, Value>) -> Self {
        self.details.report = report;
        self
    }

    /// The word for the exit code.
    fn kind(&self) -> &'static str {
        match self.code {
            code::INTERNAL => "internal",
            code::USAGE => "usage",
            code::UNSUPPORTED => "unsupported",
            code::MALFORMED => "malformed_input",
            code::INCONSISTENT => "inconsistent_input",
            code::NETWORK => "network",
            code::AUTH => "auth",
            code::RESOURCES => "resources",
            code::OUTPUT_CONFLICT => "output_conflict",
            code::VALIDATION_FAILED => "validation_failed",
            code::CHECKSUM => "checksum_mismatch",
            code::REFUSED => "refused",
            code::COULD_NOT_RUN => "could_not_validate",
            code::DIFFERENT => "different",
            _ => "interrupted",
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "kind": self.kind(),
            "exit_code": self.code,
            "message": self.message,
            "hint": self.hint,
            "file": self.details.file,
            "tensor": self.details.tensor,
            "problems": self.details.problems,
        })
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<genai_builder::Error> for Failure {
    fn from(error: genai_builder::Error) -> Self {
        use genai_builder::Error;
        let code = match error.kind() {
            Build::Unsupported => code::UNSUPPORTED,
            Build::Malformed => code::MALFORMED,
            Build::Inconsistent => code::INCONSISTENT,
            Build::Refused => code::REFUSED,
            Build::CacheMiss => code::NETWORK,
            Build::Resources => code::RESOURCES,
            Build::OutputConflict => code::OUTPUT_CONFLICT,
            Build::Checksum => code::CHECKSUM,
            // Which signal it was, `main` knows.
            Build::Interrupted => code::INTERRUPTED,
            Build::Internal => code::INTERNAL,
        };
        let mut failure = Self { hint: error.hint(), ..Self::new(code, error.to_string()) };
        match error {
            Error::Checkpoint(error) => return error.into(),
            Error::Weight { tensor, .. } => failure.details.tensor = Some(tensor),
            Error::Tensors { problems } | Error::Weights { problems, .. } => failure.details.problems = problems,
            Error::Sidecar { file, .. } | Error::Malformed { file, .. } | Error::Checksum { file, .. } => {
                failure.details.file = Some(file)
            }
            Error::Io { path, .. } | Error::Output { path, .. } => {
                failure.details.file = Some(path.display().to_string())
            }
            _ => {}
        }
        failure
    }
}

impl From<genai_checkpoint::Error> for Failure {
    fn from(error: genai_checkpoint::Error) -> Self {
        let code = match error.kind() {
            Checkpoint::Unsupported => code::UNSUPPORTED,
            Checkpoint::Malformed => code::MALFORMED,
            Checkpoint::NotFound | Checkpoint::Incomplete => code::INCONSISTENT,
            Checkpoint::Refused => code::REFUSED,
            Checkpoint::CacheMiss | Checkpoint::Network | Checkpoint::NoRevision => code::NETWORK,
            Checkpoint::Auth => code::AUTH,
            Checkpoint::Checksum => code::CHECKSUM,
            Checkpoint::Io => code::RESOURCES,
        };
        let mut failure = Self { hint: error.hint().map(str::to_owned), ..Self::new(code, error.to_string()) };
        failure.details.file = error.file().map(|file| file.display().to_string());
        failure.details.tensor = error.tensor().map(str::to_owned);
        failure
    }
}

impl From<genai_architectures::Error> for Failure {
    fn from(error: genai_architectures::Error) -> Self {
        genai_builder::Error::from(error).into()
    }
}

impl From<genai_validate::Error> for Failure {
    fn from(error: genai_validate::Error) -> Self {
        let code = match error.kind() {
            // A package that this crate cannot run was neither right nor wrong.
            Validate::Runtime | Validate::Unsupported | Validate::Execution | Validate::Busy => code::COULD_NOT_RUN,
            Validate::Package | Validate::Reference => code::MALFORMED,
            Validate::Checkpoint => code::INCONSISTENT,
            Validate::Argument => code::USAGE,
            Validate::Io => code::RESOURCES,
        };
        let mut failure = Self { hint: error.hint().map(str::to_owned), ..Self::new(code, error.to_string()) };
        if let genai_validate::Error::Io { path, .. } = error {
            failure.details.file = Some(path.display().to_string());
        }
        failure
    }
}
