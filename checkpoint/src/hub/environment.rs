//! What the user's environment says about the Hub: the variables that huggingface_hub reads, with its precedence.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
use crate::source_file::SourceFile;

const ENDPOINT: &str = "https://huggingface.co";

/// The environment variables that have a say. Empty values count as unset.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub hf_hub_cache: Option<PathBuf>,
    pub huggingface_hub_cache: Option<PathBuf>,
    pub hf_home: Option<PathBuf>,
    pub xdg_cache_home: Option<PathBuf>,
    /// The user's home folder.
    pub home: Option<PathBuf>,
    /// `HF_ENDPOINT`: the address of the Hub or of a mirror.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`, or the older `HUGGING_FACE_HUB_TOKEN`.
    pub hf_token: Option<Token>,
    pub hf_token_path: Option<PathBuf>,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`: send only a token that was given for this call.
    pub hf_hub_disable_implicit_token: bool,
    /// `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`.
    pub hf_hub_offline: bool,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`: how long a connection may be silent.
    pub hf_hub_download_timeout: Option<Duration>,
    /// `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`: the certificates to trust, in PEM, in place of
    /// Mozilla's.
    pub certificates: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn from_process() -> Environment {
        let raw = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = |name: &str| raw(name).map(PathBuf::from);
        let text = |name: &str| raw(name).map(|value: OsString| value.to_string_lossy().into_owned());
        let flag = |name: &str| text(name).is_some_and(|value| is_true(&value));
        let seconds = |name: &str| text(name)?.trim().parse().ok().map(Duration::from_secs);
        Environment {
            hf_hub_cache: path("HF_HUB_CACHE"),
            huggingface_hub_cache: path("HUGGINGFACE_HUB_CACHE"),
            hf_home: path("HF_HOME"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            home: std::env::home_dir(),
            hf_endpoint: text("HF_ENDPOINT"),
            hf_token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).and_then(|text| Token::new(&text)),
            hf_token_path: path("HF_TOKEN_PATH"),
            hf_hub_disable_implicit_token: flag("HF_HUB_DISABLE_IMPLICIT_TOKEN"),
            hf_hub_offline: raw("HF_HUB_OFFLINE")
                .or_else(|| raw("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| is_true(&value.to_string_lossy())),
            hf_hub_download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT").filter(|timeout| !timeout.is_zero()),
            certificates: path("SSL_CERT_FILE")
                .or_else(|| path("REQUESTS_CA_BUNDLE"))
                .or_else(|| path("CURL_CA_BUNDLE")),
        }
    }

    /// The Hub cache: as in huggingface_hub, the first variable that is set decides alone.
    pub(super) fn hub_cache(&self) -> Option<PathBuf> {
        let cache = (self.hf_hub_cache.clone())
            .or_else(|| self.huggingface_hub_cache.clone())
            .or_else(|| Some(self.home_of_hf()?.join("hub")))?;
        Some(self.expanded(cache))
    }

    /// The address of the Hub, without a slash at its end.
    pub(super) fn endpoint(&self) -> &str {
        self.hf_endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/')
    }

    /// The token that is sent where none was given for the call: the variable's, else the one that `hf auth login` left.
    pub(super) fn implicit_token(&self) -> Result<Option<Token>> {
        if self.hf_hub_disable_implicit_token {
            return Ok(None);
        }
        if let Some(token) = &self.hf_token {
            return Ok(Some(token.clone()));
        }
        let file = self.hf_token_path.clone().or_else(|| Some(self.home_of_hf()?.join("token")));
        match file.map(|file| self.expanded(file)).filter(|file| file.is_file()) {
            Some(file) => {
                // `hf auth login` may have put a link there.
                let resolved = file.canonicalize().unwrap_or_else(|_| file.clone());
                let bytes = SourceFile::open(&file, &resolved)?.read_all(64 << 10)?;
                Ok(Token::new(&String::from_utf8_lossy(&bytes)))
            }
            None => Ok(None),
        }
    }

    fn home_of_hf(&self) -> Option<PathBuf> {
        (self.hf_home.clone())
            .or_else(|| Some(self.xdg_cache_home.as_ref()?.join("huggingface")))
            .or_else(|| Some(self.home.as_ref()?.join(".cache").join("huggingface")))
    }

    fn expanded(&self, path: PathBuf) -> PathBuf {
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        }
    }
}

/// The values that huggingface_hub takes for yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// A secret that lets its holder read models on the Hub. It has no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` for text that holds no token, only space.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_owned()))
    }

    /// For the one header that carries it.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }

    /// A server's text, from which it cannot come back to the screen.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}
