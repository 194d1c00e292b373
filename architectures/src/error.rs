use std::fmt::Display;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a config could not be understood. Every variant names the key (dotted path) or the architecture concerned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("config key `{}` is missing, expected {expected}", printable(.key))]
    Missing { key: String, expected: String },

    #[error("config key `{}` is {}, expected {}", printable(.key), printable(.found), printable(.expected))]
    Invalid { key: String, expected: String, found: String },

    #[error("config key `{}` is {value:?}, which is not supported (supported: {})", printable(.key), printable(.supported))]
    Unsupported { key: String, value: String, supported: String },

    #[error("config keys that this family does not read may change the maths: {}", printable(&.keys.join(", ")))]
    Unread { keys: Vec<String> },

    #[error("architecture `{}` is not supported", printable(.found))]
    UnknownArchitecture { found: String, closest: Vec<&'static str>, supported: Vec<&'static str> },
}

/// What kind of answer an [`Error`] is, for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The model asks for something that is not implemented.
    Unsupported,
    /// The config contradicts itself or lacks a key.
    Inconsistent,
}

impl Error {
    pub(crate) fn invalid(key: String, expected: impl Display, found: impl Display) -> Self {
        Self::Invalid { key, expected: expected.to_string(), found: found.to_string() }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } | Self::Invalid { .. } => ErrorKind::Inconsistent,
            Self::Unsupported { .. } | Self::Unread { .. } | Self::UnknownArchitecture { .. } => ErrorKind::Unsupported,
        }
    }

    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unread { .. } => Some(
                "remove the keys if they are known to have no effect on this model; otherwise the family needs code \
                 that reads them"
                    .to_owned(),
            ),
            Self::UnknownArchitecture { closest, supported, .. } => Some(if closest.is_empty() {
                format!("supported: {}", supported.join(", "))
            } else {
                format!("closest supported: {}; all supported: {}", closest.join(", "), supported.join(", "))
            }),
            _ => None,
        }
    }
}

/// What a config says, without control or bidirectional characters, and cut where it gets long: it may be anything.
fn printable(text: &str) -> String {
    const MOST: usize = 4096;
    let mut shown = String::new();
    for c in text.chars().take(MOST) {
        match c {
            '\'' | '"' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
