//! Files of a package, opened only where they may lie: inside their folder, as regular files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file that was judged, and its length.
#[derive(Debug)]
pub(crate) struct PackageFile {
    file: File,
    pub(crate) length: u64,
    /// Whether it was reached through a symbolic link.
    pub(crate) linked: bool,
}

impl PackageFile {
    /// Opens `name` relative to `folder`. A symbolic link may lead to another place of the folder, or into the `blobs`
    /// of the Hub's cache that holds the folder; no other way leads out.
    ///
    /// # Errors
    /// Says what is wrong with the name or with what lies there.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<Self, String> {
        check_name(name)?;
        let path = folder.join(name);
        let mut linked = false;
        let mut walked = folder.to_path_buf();
        for part in Path::new(name).components() {
            walked.push(part);
            let found = fs::symlink_metadata(&walked).map_err(|error| missing(&walked, folder, &error))?;
            linked |= found.is_symlink();
        }
        let resolved = path.canonicalize().map_err(|error| missing(&path, folder, &error))?;
        if !is_inside(folder, &resolved) {
            return Err("is a symbolic link that leads out of the folder".to_owned());
        }
        let metadata = fs::metadata(&resolved).map_err(|error| missing(&path, folder, &error))?;
        if !metadata.is_file() {
            return Err(if metadata.is_dir() { "is a folder, not a file" } else { "is not a regular file" }.to_owned());
        }
        if !linked && other_names(&metadata) > 0 {
            return Err(
                "is a hard link: the same bytes have another name, which may lie outside of the folder".to_owned()
            );
        }
        let file = File::open(&resolved).map_err(|error| missing(&path, folder, &error))?;
        Ok(Self { file, length: metadata.len(), linked })
    }

    pub(super) fn handle(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset` on.
    #[cfg(unix)]
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    /// Fills `buffer` from `offset` on.
    #[cfg(windows)]
    pub(crate) fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !buffer.is_empty() {
            match self.file.seek_read(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                    offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A name that stays inside its folder on every system: relative, without `..`, a drive or a server.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let mut parts = name.split(['/', '\\']);
    let problem = if name.is_empty() {
        "is empty"
    } else if name.starts_with(['/', '\\']) {
        "is an absolute path; the runtime reads only files inside the package"
    } else if name.contains(':') {
        "names a drive or a stream"
    } else if name.contains('*') {
        "is a mark of a running session, not a file"
    } else if name.contains('\0') || name.len() > 4096 {
        "is no file name"
    } else if parts.clone().any(|part| part == "..") {
        "leads out of the folder (`..`)"
    } else if parts.all(|part| part.is_empty() || part == ".") {
        "names no file"
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

/// Whether a resolved path lies in the folder, or among the blobs of the Hub's cache in which the folder is a snapshot
/// (`models--ORG--NAME/snapshots/REVISION`).
fn is_inside(folder: &Path, resolved: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let snapshots = folder.ancestors().find(|path| path.file_name().is_some_and(|name| name == "snapshots"));
    let blobs: Option<PathBuf> = snapshots.and_then(Path::parent).map(|model| model.join("blobs"));
    resolved.starts_with(&folder) || blobs.is_some_and(|blobs| resolved.starts_with(blobs))
}

fn missing(path: &Path, folder: &Path, error: &io::Error) -> String {
    let name = path.strip_prefix(folder).unwrap_or(path).display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("does not exist: there is no {name} in the folder"),
        _ => format!("cannot be opened: {error}"),
    }
}

#[cfg(unix)]
fn other_names(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata).saturating_sub(1)
}

#[cfg(not(unix))]
fn other_names(_: &fs::Metadata) -> u64 {
    0
}
