//! The output folder: staged beside its place, moved into it when everything is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// A folder beside the output, removed again unless it is committed.
#[derive(Debug)]
pub(crate) struct StagedOutput {
    staging: PathBuf,
    output: PathBuf,
    committed: bool,
}

impl StagedOutput {
    /// `output` may be missing or a folder; its other files stay as they are.
    pub(crate) fn create(output: &Path) -> Result<Self> {
        let conflict = |reason: &str, hint: Option<&str>| Error::Output {
            path: output.to_owned(),
            reason: reason.to_owned(),
            hint: hint.map(str::to_owned),
        };
        if output.exists() && !output.is_dir() {
            return Err(conflict("exists and is not a folder", Some("name a folder, or remove the file")));
        }
        let Some(name) = output.file_name() else {
            return Err(conflict("does not name a folder", Some("give a path that ends in a name")));
        };
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let staging_name = format!(".{}.genai-build-{}", name.to_string_lossy(), std::process::id());
        let staging = parent.join(staging_name);
        if staging.exists() {
            // Left by a process of the same number that was killed.
            fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
        }
        fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
        Ok(Self { staging, output: output.to_owned(), committed: false })
    }

    /// Where files are written until the commit.
    pub(crate) fn folder(&self) -> &Path {
        &self.staging
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.staging.join(name);
        fs::write(&path, bytes).map_err(Error::io("write", path))
    }

    /// Puts the staged files in place and returns their names and sizes.
    ///
    /// `last` is the file without which clients see no package: it leaves first and arrives last.
    pub(crate) fn commit(mut self, last: &str) -> Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.staging).map_err(Error::io("list", &self.staging))? {
            let entry = entry.map_err(Error::io("list", &self.staging))?;
            let size = entry.metadata().map_err(Error::io("look at", entry.path()))?.len();
            files.push((entry.file_name().to_string_lossy().into_owned(), size));
        }
        files.sort_by(|(a, _), (b, _)| (a == last, a).cmp(&(b == last, b)));
        if !self.output.exists() {
            fs::rename(&self.staging, &self.output).map_err(Error::io("rename to", &self.output))?;
            self.committed = true;
            return Ok(files);
        }
        let previous = self.output.join(last);
        if previous.exists() {
            fs::remove_file(&previous).map_err(Error::io("remove", previous))?;
        }
        for (name, _) in &files {
            let target = self.output.join(name);
            fs::rename(self.staging.join(name), &target).map_err(Error::io("rename to", target))?;
        }
        fs::remove_dir(&self.staging).map_err(Error::io("remove", &self.staging))?;
        self.committed = true;
        Ok(files)
    }
}

impl Drop for StagedOutput {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more can be done about a folder that does not go away.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}
