//! How a run that did not succeed ends: a line for people, a hint, an exit code. The codes are stable.

use std::fmt;

use genai_builder::ErrorKind as Build;
use genai_checkpoint::ErrorKind as Checkpoint;

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) code: u8,
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
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code }
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
        let code = match error.kind() {
            Build::Unsupported => code::UNSUPPORTED,
            Build::Malformed => code::MALFORMED,
            Build::Inconsistent => code::INCONSISTENT,
            Build::Refused => code::REFUSED,
            Build::CacheMiss => code::NETWORK,
            Build::Resources => code::RESOURCES,
            Build::OutputConflict => code::OUTPUT_CONFLICT,
            Build::Internal => code::INTERNAL,
        };
        Self { message: error.to_string(), hint: error.hint(), code }
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
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), code }
    }
}

impl From<genai_architectures::Error> for Failure {
    fn from(error: genai_architectures::Error) -> Self {
        genai_builder::Error::from(error).into()
    }
}
