//! The files that a checkpoint is read from and their hashes, for the record of a build.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::adapter;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::hub::is_sha256;
use crate::source_file::SourceFile;

/// A file that the checkpoint is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// A plain name, in the folder of the checkpoint.
    pub name: String,
    pub bytes: u64,
    /// What the Hub says its SHA-256 is: the name under which the Hub cache keeps it.
    pub recorded_sha256: Option<String>,
    /// The SHA-256 of its bytes, where they were hashed.
    pub sha256: Option<String>,
}

impl Checkpoint {
    /// A file beside the weights; `None` where there is none. It is hashed: these files are small.
    ///
    /// # Errors
    /// As [`Checkpoint::file`].
    pub fn input(&self, name: &str) -> Result<Option<Input>> {
        self.folder().open_file(name)?.map(|file| describe(&file, name, true)).transpose()
    }

    /// The weight files, in the order of [`Checkpoint::weight_files`]; those of adapters are named `ADAPTER/FILE`. To
    /// hash them is to read all of them; those of adapters are hashed anyway: they are what tells builds of one base
    /// apart, and small.
    ///
    /// # Errors
    /// `Io` if the system fails a read.
    pub fn weight_inputs(&self, hash: bool) -> Result<Vec<Input>> {
        let files = self.source_files();
        let own = files.len().saturating_sub(self.adapters().len());
        let describe = |index: usize, file: &SourceFile| {
            let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            match index.checked_sub(own).and_then(|index| self.adapters().get(index)) {
                None => describe(file, &name, hash),
                Some(adapter) => describe(file, &adapter.file_label(&name), true),
            }
        };
        // A file has one hash that is computed front to back; several files have several.
        std::thread::scope(|scope| {
            let describe = &describe;
            let files = files.iter().enumerate();
            let work: Vec<_> = files.map(|(index, file)| scope.spawn(move || describe(index, file))).collect();
            work.into_iter().map(|work| work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// The configs of the adapters, named `ADAPTER/FILE`.
    ///
    /// # Errors
    /// As [`Checkpoint::file`].
    pub fn adapter_configs(&self) -> Result<Vec<Input>> {
        let configs = self.adapters().iter().filter_map(|adapter| {
            let file = adapter.folder.open_file(adapter::CONFIG).transpose()?;
            Some(file.and_then(|file| describe(&file, &adapter.file_label(adapter::CONFIG), true)))
        });
        configs.collect()
    }
}

fn describe(file: &SourceFile, name: &str, hash: bool) -> Result<Input> {
    let sha256 = if hash { Some(sha256(file)?) } else { None };
    Ok(Input { name: name.to_owned(), bytes: file.len(), recorded_sha256: recorded(file.resolved()), sha256 })
}

/// The Hub cache names large files by their SHA-256; small ones have the 40 digits of a git object.
fn recorded(resolved: &Path) -> Option<String> {
    let in_blobs = resolved.parent()?.file_name()? == "blobs";
    let name = resolved.file_name()?.to_str()?;
    (in_blobs && is_sha256(name)).then(|| name.to_owned())
}

fn sha256(file: &SourceFile) -> Result<String> {
    const CHUNK: u64 = 1 << 20;
    let (mut hash, mut at, mut chunk) = (Sha256::new(), 0u64, vec![0; 1 << 20]);
    while at < file.len() {
        let wanted = usize::try_from(file.len().saturating_sub(at).min(CHUNK)).unwrap_or(0);
        let Some(part) = chunk.get_mut(..wanted) else { break };
        file.read_exact_at(part, at)?;
        hash.update(part);
        at = at.saturating_add(CHUNK);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
