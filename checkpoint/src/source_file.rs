//! One opened file: read by position, and watched for changes.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// A regular file, opened once and kept.
#[derive(Debug)]
pub(crate) struct SourceFile {
    file: File,
    seen: Fingerprint,
}

/// What a file looked like when it was opened.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprint {
    /// As the user knows it, for messages.
    path: PathBuf,
    /// Where it really is, with symlinks followed.
    resolved: PathBuf,
    stamp: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    /// Device and inode; where the system has none, nothing.
    identity: Option<(u64, u64)>,
}

impl SourceFile {
    /// Opens `resolved`, calling it `path` in messages. Anything but a regular file is refused, without blocking on it.
    pub(crate) fn open(path: &Path, resolved: &Path) -> Result<SourceFile> {
        // Looking first keeps us from opening devices and sockets; looking again after the open closes the race.
        let before = fs::symlink_metadata(resolved).map_err(|e| Error::io(path, "look at the file", &e))?;
        require_regular(path, &before)?;
        let file = open_without_blocking(resolved).map_err(|e| Error::io(path, "open", &e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, "look at the file", &e))?;
        require_regular(path, &metadata)?;
        let stamp = Stamp::of(&metadata);
        Ok(SourceFile { file, seen: Fingerprint { path: path.to_owned(), resolved: resolved.to_owned(), stamp } })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.seen.path
    }

    /// Where the file really is, with symlinks followed.
    pub(crate) fn resolved(&self) -> &Path {
        &self.seen.resolved
    }

    /// The length in bytes when the file was opened.
    pub(crate) fn len(&self) -> u64 {
        self.seen.stamp.len
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.seen
    }

    /// Fills `buf` from byte `offset` of the file.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, buf, offset).map_err(|e| match e.kind() {
            IoKind::UnexpectedEof => {
                let now = self.file.metadata().map_or_else(|_| "fewer".to_owned(), |m| m.len().to_string());
                self.seen.changed(format!("has {now} bytes, had {} when it was opened", self.len()))
            }
            _ => Error::io(self.path(), "read", &e),
        })
    }

    /// The whole file, unless it is longer than `cap` bytes.
    pub(crate) fn read_all(&self, cap: u64) -> Result<Vec<u8>> {
        if self.len() > cap {
            return Err(Error::malformed(
                self.path(),
                format!("has {} bytes, more than the limit of {cap} for this file", self.len()),
            ));
        }
        let len = usize::try_from(self.len()).map_err(|_| Error::malformed(self.path(), "does not fit in memory"))?;
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Fingerprint {
    /// Fails if the file at this path is no longer the one that was opened.
    pub(crate) fn verify(&self) -> Result<()> {
        let now = match fs::symlink_metadata(&self.resolved) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(e) if e.kind() == IoKind::NotFound => return Err(self.changed("was removed".to_owned())),
            Err(e) => return Err(Error::io(&self.path, "look at the file again", &e)),
        };
        let was = &self.stamp;
        if now.identity != was.identity {
            return Err(self.changed("was replaced by another file".to_owned()));
        }
        if now.len != was.len {
            return Err(self.changed(format!("has {} bytes, had {} when it was opened", now.len, was.len)));
        }
        if now.modified != was.modified {
            return Err(self.changed("has a new modification time".to_owned()));
        }
        Ok(())
    }

    fn changed(&self, how: String) -> Error {
        Error::malformed(&self.path, format!("changed while reading: it {how}"))
            .with_hint("wait until the download or copy of the model is complete, and start again")
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            Some((metadata.dev(), metadata.ino()))
        };
        #[cfg(not(unix))]
        let identity = None;
        Stamp { len: metadata.len(), modified: metadata.modified().ok(), identity }
    }
}

fn require_regular(path: &Path, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() { "is a folder, not a regular file" } else { "is not a regular file" };
    Err(Error::malformed(path, what))
}

#[cfg(unix)]
fn open_without_blocking(resolved: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // Links were followed and judged before; one that appears now is not followed.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(resolved)
}

#[cfg(not(unix))]
fn open_without_blocking(resolved: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(resolved)
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(IoKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            }
            Err(e) if e.kind() == IoKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
