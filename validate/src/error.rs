//! The one error type of the crate.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse enough to choose an exit code or an advice by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A file could not be read or written.
    Io,
    /// No usable ONNX Runtime library, or it could not be fetched.
    Runtime,
    /// The package (genai_config.json, model, tokenizer) is malformed or contradicts itself.
    Package,
    /// The checkpoint that a package is compared with cannot be read or does not fit its config.
    Checkpoint,
    /// Recorded logits are malformed, or do not fit what they are compared with.
    Reference,
    /// The package is sound, but this crate cannot run it.
    Unsupported,
    /// The caller asked for something outside the allowed range.
    Argument,
    /// ONNX Runtime or the tokenizer failed while working.
    Execution,
    /// Too much was asked for at a time.
    Busy,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// `tried` holds one line per place looked in, in search order.
    #[error("no usable ONNX Runtime library found; looked in:\n{}", tried.join("\n"))]
    RuntimeMissing { tried: Vec<String> },
    #[error("cannot use ONNX Runtime library {}: {reason}", library.display())]
    RuntimeRefused { library: PathBuf, reason: String },
    #[error("cannot fetch ONNX Runtime: {reason}")]
    RuntimeInstall { reason: String },
    /// `provider` as ONNX Runtime calls it.
    #[error("ONNX Runtime library {} was built without {provider}", library.display())]
    ProviderMissing { provider: &'static str, library: PathBuf },
    /// `found` says where the nodes ran.
    #[error("{op_type} did not run on {provider} alone: {found}")]
    Misplaced { op_type: String, provider: &'static str, found: String },
    /// `key` is the JSON path of the offending value, such as `model.decoder.head_size`.
    #[error("{}: {key}: {problem}", file.display())]
    Config { file: PathBuf, key: String, problem: String },
    #[error("{}: {problem}", file.display())]
    Package { file: PathBuf, problem: String },
    #[error(transparent)]
    Checkpoint(#[from] genai_checkpoint::Error),
    #[error("tensor `{tensor}` {problem}")]
    Weight { tensor: String, problem: String },
    /// `name` is a file, or says which prompt of which reference.
    #[error("reference {name}: {problem}")]
    Reference { name: String, problem: String },
    /// A conversation that a chat template cannot or will not write.
    #[error("the conversation {problem}")]
    Chat { problem: String },
    /// `line` counts from 1; 0 is unknown.
    #[error("chat template, line {line}: {problem}")]
    ChatTemplate { line: usize, problem: String },
    /// `kind` is `json_schema`, `regex` or `lark_grammar`.
    #[error("{kind}: {problem}")]
    Guidance { kind: &'static str, problem: String },
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported { what: String, supported: String },
    #[error("{name} is {value}, expected {expected}")]
    Argument { name: &'static str, value: String, expected: String },
    #[error("the generator was cancelled")]
    Cancelled,
    /// An engine whose queue is full.
    #[error("{waiting} texts wait already")]
    Busy { waiting: usize },
    #[error("{doing}: {source}")]
    Execution { doing: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::RuntimeMissing { .. }
            | Self::RuntimeRefused { .. }
            | Self::RuntimeInstall { .. }
            | Self::ProviderMissing { .. } => ErrorKind::Runtime,
            Self::Config { .. } | Self::Package { .. } | Self::ChatTemplate { .. } => ErrorKind::Package,
            Self::Checkpoint(_) | Self::Weight { .. } => ErrorKind::Checkpoint,
            Self::Reference { .. } => ErrorKind::Reference,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Argument { .. } | Self::Chat { .. } | Self::Guidance { .. } => ErrorKind::Argument,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Execution { .. } | Self::Misplaced { .. } | Self::Cancelled => ErrorKind::Execution,
        }
    }

    /// One line of advice, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::RuntimeMissing { .. } => {
                Some("run `genai-build runtime install`, or name a library with --ort-lib or ORT_DYLIB_PATH")
            }
            Self::RuntimeRefused { .. } => {
                Some("`genai-build runtime install` fetches a version that works; --ort-lib names another library")
            }
            Self::RuntimeInstall { .. } => Some(
                "install pip (python3 -m ensurepip), or place libonnxruntime 1.24 or newer somewhere and name it with \
                 --ort-lib or ORT_DYLIB_PATH",
            ),
            Self::ProviderMissing { .. } => {
                Some("name a library that has it with --ort-lib or ORT_DYLIB_PATH, such as that of onnxruntime-gpu")
            }
            Self::Io { path, source }
                if source.kind() == std::io::ErrorKind::NotFound && path.ends_with("genai_config.json") =>
            {
                Some("a package is a folder with this file")
            }
            _ => None,
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn package(file: &Path, problem: impl Into<String>) -> Self {
        Self::Package { file: file.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn weight(tensor: &str, problem: impl Into<String>) -> Self {
        Self::Weight { tensor: tensor.to_owned(), problem: problem.into() }
    }

    pub(crate) fn reference(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Reference { name: name.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>, supported: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), supported: supported.into() }
    }

    pub(crate) fn argument(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Argument { name, value: value.to_string(), expected: expected.into() }
    }

    /// For `map_err`: what was being done when a foreign library failed.
    pub(crate) fn execution<E>(doing: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let doing = doing.into();
        move |source| Self::Execution { doing, source: source.into() }
    }
}
