//! Where an output goes, and where its helpers lie: the lock, the journal and the staging folders.
//!
//! ```text
//!  parent/out                                 the output
//!  parent/.out.genai-build.lock               held while a build has the place
//!  parent/.out.genai-build.journal            there while a commit is under way
//!  parent/.out.genai-build-<run>              the package in the making
//!  parent/.out.genai-build-<run>.old          what it replaces, during a commit
//! ```
//!
//! An output that is a mount point has its helpers inside, since nothing can be renamed into it from beside.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::Disk;
use crate::{Error, Result};

/// What tells the folders of one build from those of another: process and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run(String);

impl Run {
    pub(super) fn new() -> Self {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self(format!("{:x}-{nanoseconds:x}", std::process::id()))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (process, time) = text.split_once('-')?;
        (is_hex(process) && is_hex(time)).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Debug)]
pub(super) struct Place {
    /// The output as it was given, for messages.
    pub(super) named: PathBuf,
    /// The same with a symlink followed.
    pub(super) target: PathBuf,
    /// The folder of the helpers, on the file system of the target.
    pub(super) beside: PathBuf,
    stem: OsString,
}

impl Place {
    pub(super) fn of(output: &Path) -> Result<Self> {
        let conflict = |reason: &str, hint: &str| Error::Output {
            path: output.to_owned(),
            reason: reason.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let target = match fs::symlink_metadata(output) {
            Ok(metadata) if metadata.is_symlink() => match fs::canonicalize(output) {
                Ok(target) if target.is_dir() => target,
                Ok(_) => return Err(conflict("is a symlink to what is not a folder", "name a folder")),
                Err(_) => return Err(conflict("is a symlink that leads nowhere", "remove it, or name a folder")),
            },
            Ok(metadata) if !metadata.is_dir() => {
                return Err(conflict("exists and is not a folder", "name a folder, or remove the file"));
            }
            Ok(_) if output.file_name().is_none() => fs::canonicalize(output).map_err(Error::io("look at", output))?,
            _ => output.to_owned(),
        };
        let Some(name) = target.file_name() else {
            return Err(conflict("does not name a folder", "give a path that ends in a name"));
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let (beside, stem) = if is_mount_point(&target, parent) {
            (target.clone(), OsString::new())
        } else {
            (parent.to_owned(), stem_of(name))
        };
        Ok(Self { named: output.to_owned(), beside, stem, target })
    }

    /// Makes the folders above the output. Returns those that it made, innermost first.
    pub(super) fn create_parents(&self, disk: &Disk) -> Result<Vec<PathBuf>> {
        // The last ancestor of a relative path is empty, and stands for the folder that the process is in.
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !exists(folder);
        let missing: Vec<&Path> = self.beside.ancestors().take_while(is_missing).collect();
        for (made, folder) in missing.iter().rev().enumerate() {
            if let Err(error) = disk.create_folder(folder) {
                let disk = disk.unstoppable();
                missing.iter().skip(missing.len() - made).for_each(|folder| drop(disk.remove_folder(folder)));
                return Err(self.blocked(error));
            }
        }
        Ok(missing.into_iter().map(Path::to_owned).collect())
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.helper(".journal")
    }

    pub(super) fn staging(&self, run: &Run) -> PathBuf {
        self.helper(&format!("-{}", run.0))
    }

    pub(super) fn aside(&self, run: &Run) -> PathBuf {
        self.helper(&format!("-{}.old", run.0))
    }

    /// What builds that are no more have left here. Only the holder of the lock may ask.
    pub(super) fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.beside).map_err(Error::io("list", &self.beside))? {
            let entry = entry.map_err(Error::io("list", &self.beside))?;
            if self.is_leftover(&entry.file_name()) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether an entry of the target is a helper of ours; a mount point has them inside.
    pub(super) fn is_helper(&self, name: &std::ffi::OsStr) -> bool {
        self.beside == self.target && name.to_string_lossy().starts_with(".genai-build")
    }

    /// `.out.genai-build-1f2e-17ab34` and the like, `.journal.new` of a commit that did not begin.
    fn is_leftover(&self, name: &std::ffi::OsStr) -> bool {
        let (name, stem) = (name.as_encoded_bytes(), self.helper_name("").into_encoded_bytes());
        let Some(rest) = name.strip_prefix(&*stem) else { return false };
        if rest == b".journal.new" {
            return true;
        }
        let run = rest.strip_suffix(b".old").unwrap_or(rest).strip_prefix(b"-");
        run.and_then(|run| str::from_utf8(run).ok()).and_then(Run::parse).is_some()
    }

    pub(super) fn helper(&self, suffix: &str) -> PathBuf {
        self.beside.join(self.helper_name(suffix))
    }

    fn helper_name(&self, suffix: &str) -> OsString {
        let mut name = OsString::from(".");
        if !self.stem.is_empty() {
            name.push(&self.stem);
            name.push(".");
        }
        name.push("genai-build");
        name.push(suffix);
        name
    }

    /// An error of the first changes: they fail where the user may not write, or where something is in the way.
    pub(super) fn blocked(&self, error: Error) -> Error {
        use io::ErrorKind::{NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        match &error {
            Error::Io { source, path, .. }
                if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem | NotADirectory) =>
            {
                Error::Output {
                    path: self.named.clone(),
                    reason: format!("cannot be written: {}: {source}", path.display()),
                    hint: Some(
                        "a build needs a folder beside its output: give an output where you may write".to_owned(),
                    ),
                }
            }
            _ => error,
        }
    }
}

/// The name of the output, or where it is so long that none with an ending would be allowed, a number made of it.
fn stem_of(name: &std::ffi::OsStr) -> OsString {
    const LONGEST: usize = 180;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(name.as_encoded_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(unix)]
fn is_mount_point(target: &Path, parent: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(target), fs::metadata(parent)) {
        (Ok(target), Ok(parent)) => target.dev() != parent.dev(),
        _ => false,
    }
}

/// Whether a shell may stand in the folder, which a swap would leave it in a folder that is gone.
pub(super) fn is_current(folder: &Path) -> bool {
    let current = std::env::current_dir().and_then(fs::canonicalize);
    matches!((current, fs::canonicalize(folder)), (Ok(current), Ok(folder)) if current.starts_with(&folder))
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path, _: &Path) -> bool {
    false
}

/// The right to write to a place, given up when dropped.
///
/// It is for politeness: two builds that both believe to hold it (on a file system whose locks do nothing) still stage
/// in folders of their own.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) path: PathBuf,
    file: File,
    disk: Disk,
}

impl Lock {
    pub(super) fn take(place: &Place, disk: &Disk) -> Result<Self> {
        let path = place.helper(".lock");
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = file.map_err(Error::io("create", &path)).map_err(|error| place.blocked(error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(place, &mut file)),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
            // The holder before may have removed the file after it was opened here.
            if !is_still_there(&path, &file) {
                continue;
            }
            // For the message of another build; it holds without.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            return Ok(Self { path, file, disk: disk.unstoppable() });
        }
    }
}

impl Lock {
    /// Removes the file. Who opened it before finds that it is gone once the lock is given up.
    pub(super) fn remove_file(&self) {
        if is_still_there(&self.path, &self.file) {
            let _ = self.disk.remove_file(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.remove_file();
        // A child of this process that is just being started has the file open too, and would hold the lock for us.
        let _ = self.file.unlock();
    }
}

fn taken(place: &Place, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = Read::take(file, 20).read_to_string(&mut holder);
    let holder = match holder.trim().parse::<u32>() {
        Ok(process) => format!(" (process {process})"),
        Err(_) => String::new(),
    };
    Error::Output {
        path: place.named.clone(),
        reason: format!("is being written by another build{holder}"),
        hint: Some("wait until it is done, or give another output".to_owned()),
    }
}

#[cfg(unix)]
fn is_still_there(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(there), Ok(here)) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_still_there(path: &Path, _: &File) -> bool {
    // A file that is open is not removed there.
    path.exists()
}
