//! One repository in the Hub cache, in huggingface_hub's layout ("Understand caching" in its documentation):
//!
//! ```text
//!  <cache>/models--org--name/refs/<revision>          the commit that a branch, tag or PR stood at
//!                           /snapshots/<commit>/<file> a relative symlink into
//!                           /blobs/<etag>              complete files
//!                           /blobs/<etag>.incomplete   what has come so far
//!         /.locks/models--org--name/<etag>.lock        held (flock) by who fetches that blob
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::id::{HubId, is_commit, is_commit_prefix};
use crate::error::{Error, ErrorKind, Result, listed, quoted};
use crate::source_file::SourceFile;

#[derive(Debug)]
pub(super) struct RepoCache {
    dir: PathBuf,
    locks: PathBuf,
}

/// What the cache knows of a revision.
pub(super) enum Found {
    /// Its snapshot, which may be partial, and the commit.
    Snapshot(PathBuf),
    /// And why not.
    Nothing(&'static str),
}

impl RepoCache {
    pub(super) fn new(cache: &Path, id: &HubId) -> RepoCache {
        RepoCache { dir: cache.join(id.folder()), locks: cache.join(".locks").join(id.folder()) }
    }

    pub(super) fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The snapshot that the cache holds of a revision.
    pub(super) fn find(&self, revision: &str) -> Result<Found> {
        if !self.exists() {
            return Ok(Found::Nothing("it has no such model"));
        }
        if let Some(commit) = read_ref(&self.dir.join("refs").join(revision))? {
            let snapshot = self.snapshot(&commit);
            return Ok(match snapshot.is_dir() {
                true => Found::Snapshot(snapshot),
                false => Found::Nothing("it knows the revision but has no snapshot of it"),
            });
        }
        if !is_commit_prefix(revision) {
            return Ok(Found::Nothing("it has the model but not this revision"));
        }
        let snapshots = self.dir.join("snapshots");
        let commits = commits_with_prefix(&snapshots, revision)?;
        match commits.as_slice() {
            [] => Ok(Found::Nothing("it has the model but not this commit")),
            [commit] => Ok(Found::Snapshot(snapshots.join(commit))),
            several => Err(Error::new(
                ErrorKind::CacheMiss,
                format!("commit {} is ambiguous: {}", quoted(revision), listed(several, 10)),
            )
            .in_file(&snapshots)),
        }
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    /// Where a blob lies, or will. The name was checked to be a plain file name.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.blobs().join(etag)
    }

    /// Waits until no other process fetches this blob. The lock ends with the file, or with the process.
    ///
    /// Some network file systems grant every lock or none; that costs a second download, never a wrong file, since what
    /// is shared between processes is checked by its hash before it becomes a blob.
    pub(super) fn lock(&self, etag: &str, waits: &mut dyn FnMut() -> Result<()>) -> Result<Option<File>> {
        create_folder(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| Error::io(&path, "open the lock", &e))?;
        let patience = Duration::from_millis(100);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) => {
                    waits()?;
                    std::thread::sleep(patience);
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
    }

    /// Makes `snapshots/<commit>/<name>` lead to the blob. All three names are plain.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let snapshot = self.snapshot(commit);
        create_folder(&snapshot)?;
        let (pointer, staged) = (snapshot.join(name), snapshot.join(unique(name)));
        let linked = symlink(&Path::new("..").join("..").join("blobs").join(etag), &staged)
            .or_else(|_| fs::copy(self.blob(etag), &staged).map(drop))
            .and_then(|()| fs::rename(&staged, &pointer));
        linked.map_err(|e| {
            // What is left of the attempt is of no use; the first failure is the one to tell.
            let _ = fs::remove_file(&staged);
            Error::io(&pointer, "link the file into the snapshot", &e)
        })
    }

    /// Notes that the revision stands at the commit.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.dir.join("refs").join(revision);
        if revision == commit || read_ref(&path).is_ok_and(|known| known.as_deref() == Some(commit)) {
            return Ok(());
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        create_folder(folder)?;
        let staged = folder.join(unique(&name.to_string_lossy()));
        fs::write(&staged, commit).and_then(|()| fs::rename(&staged, &path)).map_err(|e| {
            let _ = fs::remove_file(&staged);
            Error::io(&path, "note the revision", &e)
        })
    }
}

/// A name for a file that is to become `name`, which nobody else uses.
pub(super) fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Names near the limit of 255 bytes leave no room for more.
    let start: String = name.chars().take(40).collect();
    format!(".{start}.{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| {
        Error::io(path, "create the folder", &e).with_hint("name another Hub cache with --cache_dir or HF_HUB_CACHE")
    })
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Bytes that this user may still write where `path` is; `None` where the system does not tell.
#[cfg(unix)]
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// The commit in a file of `refs/`; `None` where there is no such file.
fn read_ref(path: &Path) -> Result<Option<String>> {
    // A folder is the first half of longer names, as `refs/pr` of `refs/pr/1`.
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = SourceFile::open(path, path)?.read_all(1024)?;
    let commit = String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
    if !is_commit(&commit) {
        return Err(Error::malformed(path, format!("holds {}, expected a commit hash", quoted(&commit))));
    }
    Ok(Some(commit))
}

fn commits_with_prefix(snapshots: &Path, prefix: &str) -> Result<Vec<String>> {
    let failed = |e: io::Error| Error::io(snapshots, "list the folder", &e);
    if !snapshots.is_dir() {
        return Ok(Vec::new());
    }
    let mut commits = Vec::new();
    for entry in fs::read_dir(snapshots).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_else(|_: OsString| String::new());
        if name.starts_with(prefix) && is_commit_prefix(&name) && entry.path().is_dir() {
            commits.push(name);
        }
    }
    commits.sort();
    Ok(commits)
}

/// Whether the disk, or the user's share of it, is full.
pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), IoKind::StorageFull | IoKind::QuotaExceeded | IoKind::FileTooLarge)
}

/// How often a wait is told of.
pub(super) struct Told {
    since: Instant,
    told: bool,
}

impl Told {
    pub(super) fn new() -> Told {
        Told { since: Instant::now(), told: false }
    }

    /// Once, after a second.
    pub(super) fn now(&mut self) -> bool {
        let now = !self.told && self.since.elapsed() >= Duration::from_secs(1);
        self.told |= now;
        now
    }
}
