//! Model folders written for a test, and assertions on errors.

use std::fs;
use std::path::{Path, PathBuf};

use genai_checkpoint::{Checkpoint, Error, ErrorKind};
use tempfile::TempDir;

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A folder with a minimal `config.json`, removed at the end of the test.
pub(crate) struct Model {
    dir: TempDir,
}

impl Model {
    pub(crate) fn new() -> Model {
        let model = Model { dir: tempfile::tempdir().unwrap() };
        model.write("config.json", "{}");
        model
    }

    /// A model whose one weight file has these bytes.
    pub(crate) fn of(bytes: impl AsRef<[u8]>) -> Model {
        Model::new().with(SINGLE, bytes)
    }

    pub(crate) fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Model {
        self.write(name, bytes);
        self
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::open(self.dir())
    }

    pub(crate) fn open_ok(&self) -> Checkpoint {
        self.open().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opens and expects an error of that kind whose line and hint contain all of `says`.
    #[track_caller]
    pub(crate) fn fails(&self, kind: ErrorKind, says: &[&str]) -> Error {
        assert_fails(self.open(), kind, says)
    }
}

#[track_caller]
pub(crate) fn assert_fails<T>(result: Result<T, Error>, kind: ErrorKind, says: &[&str]) -> Error {
    let Err(error) = result else { panic!("expected {kind:?} saying {says:?}, got success") };
    let text = format!("{error}\nhint: {}", error.hint().unwrap_or(""));
    assert_eq!(error.kind(), kind, "{text}");
    for part in says {
        assert!(text.contains(part), "expected {part:?} in:\n{text}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "control characters in {text:?}");
    error
}

/// A safetensors file: this header text, then `data_len` bytes counting up.
pub(crate) fn safetensors(header: impl AsRef<[u8]>, data_len: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend((0..data_len).map(|i| i as u8));
    file
}

/// A file of f32 tensors, each with as many elements as given.
pub(crate) fn f32_tensors(tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, elements)| {
            let begin = end;
            end += elements * 4;
            format!(r#"{name:?}:{{"dtype":"F32","shape":[{elements}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    safetensors(format!("{{{}}}", entries.join(",")), end)
}

/// An index that maps these tensors to these shards.
pub(crate) fn index(map: &[(&str, &str)]) -> String {
    let map: serde_json::Map<_, _> = map.iter().map(|(t, s)| (t.to_string(), serde_json::json!(s))).collect();
    serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()
}
