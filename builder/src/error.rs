use std::{fmt::Display, io::ErrorKind as ErrorKindOfIo, path::PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a package was not built. Nothing is left at the output path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Architecture(#[from] genai_architectures::Error),

    #[error(transparent)]
    Checkpoint(#[from] genai_checkpoint::Error),

    /// A request that this tool cannot meet; `hint` says what it can do instead.
    #[error("{what}")]
    Unsupported { what: String, hint: String },

    /// The tensors of the checkpoint are not those that the config describes; all problems at once.
    #[error("the checkpoint does not fit its config.json: {}", .problems.join("; "))]
    Tensors { problems: Vec<String> },

    /// A weight has no faithful form in the package.
    #[error("tensor {tensor:?}, row {row}: {reason}")]
    Weight { tensor: String, row: u64, reason: String, hint: Option<&'static str> },

    /// Weights of several tensors have none; the first of each tensor.
    #[error("{} tensors cannot be stored: {}", .problems.len(), .problems.join("; "))]
    Weights { problems: Vec<String>, hint: Option<&'static str> },

    /// A file beside the weights is missing or cannot be used.
    #[error("{file}: {reason}")]
    Sidecar { file: String, reason: String, hint: Option<String> },

    /// A file beside the weights breaks its format.
    #[error("{file}: {reason}")]
    Malformed { file: String, reason: String },

    #[error("cannot {action} {}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("the output {} {reason}", .path.display())]
    Output { path: PathBuf, reason: String, hint: Option<String> },

    #[error("{what} needs {needed} bytes, but the limit is {limit}")]
    Memory { what: String, needed: u64, limit: u64 },

    #[error("the package needs {needed} bytes, and {} has {free} free", .path.display())]
    Space { path: PathBuf, needed: u64, free: u64 },

    /// A file is not the one that the Hub says it is.
    #[error("{file}: its SHA-256 is {found}, the Hub cache says {recorded}")]
    Checksum { file: String, found: String, recorded: String },

    /// Someone asked the build to stop.
    #[error("the build was interrupted")]
    Interrupted,

    /// A graph that does not fit together: a defect of this tool.
    #[error("internal error at graph node `{node}`: {reason}")]
    Graph { node: String, reason: String },
}

/// What kind of answer an [`Error`] is, for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Unsupported,
    Malformed,
    Inconsistent,
    Refused,
    CacheMiss,
    Resources,
    OutputConflict,
    Checksum,
    Interrupted,
    Internal,
}

impl Error {
    pub(crate) fn graph(node: &str, reason: impl Display) -> Self {
        Self::Graph { node: node.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub fn kind(&self) -> ErrorKind {
        use genai_architectures::ErrorKind as Architecture;
        use genai_checkpoint::ErrorKind as Checkpoint;
        match self {
            Self::Architecture(error) => match error.kind() {
                Architecture::Unsupported => ErrorKind::Unsupported,
                Architecture::Inconsistent => ErrorKind::Inconsistent,
            },
            Self::Checkpoint(error) => match error.kind() {
                Checkpoint::Unsupported => ErrorKind::Unsupported,
                Checkpoint::Malformed => ErrorKind::Malformed,
                Checkpoint::Incomplete => ErrorKind::Inconsistent,
                Checkpoint::Refused => ErrorKind::Refused,
                Checkpoint::CacheMiss => ErrorKind::CacheMiss,
                _ => ErrorKind::Resources,
            },
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Tensors { .. } | Self::Weight { .. } | Self::Weights { .. } | Self::Sidecar { .. } => {
                ErrorKind::Inconsistent
            }
            Self::Io { .. } | Self::Memory { .. } | Self::Space { .. } => ErrorKind::Resources,
            Self::Malformed { .. } => ErrorKind::Malformed,
            Self::Output { .. } => ErrorKind::OutputConflict,
            Self::Checksum { .. } => ErrorKind::Checksum,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Graph { .. } => ErrorKind::Internal,
        }
    }

    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Architecture(error) => error.hint(),
            Self::Checkpoint(error) => error.hint().map(|hint| hint.to_string()),
            Self::Unsupported { hint, .. } => Some(hint.clone()),
            Self::Weight { hint, .. } | Self::Weights { hint, .. } => hint.map(str::to_owned),
            Self::Sidecar { hint, .. } | Self::Output { hint, .. } => hint.clone(),
            Self::Memory { .. } => Some("raise --max-memory".to_owned()),
            Self::Graph { .. } => Some("this is a defect of genai-build; please report it with the config".to_owned()),
            Self::Space { .. } => Some("free some space, or give an output on another disk".to_owned()),
            Self::Checksum { .. } => {
                Some("the file is damaged: remove it from the cache and fetch it again".to_owned())
            }
            Self::Io { source, .. } => match source.kind() {
                ErrorKindOfIo::StorageFull | ErrorKindOfIo::QuotaExceeded => {
                    Some("the disk is full: free some space, or give an output on another disk".to_owned())
                }
                ErrorKindOfIo::FileTooLarge => Some("a limit on the size of files is set; see `ulimit -f`".to_owned()),
                _ => None,
            },
            Self::Tensors { .. } | Self::Malformed { .. } | Self::Interrupted => None,
        }
    }
}
