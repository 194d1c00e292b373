//! A model folder: plain names in, opened files out, and no way to leave it.

use std::fs;
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, quoted};
use crate::source_file::SourceFile;

/// A folder whose files are opened by plain name.
///
/// A file may be a symlink if its target lies in the folder, or in the `blobs/` of the Hub cache entry whose snapshot
/// the folder is. The folder itself may be reached through any symlink: the user named it.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    /// As the user named it.
    dir: PathBuf,
    /// With symlinks followed.
    root: PathBuf,
    /// `<repo>/blobs` where `root` is `<repo>/snapshots/<commit>`.
    blobs: Option<PathBuf>,
}

impl Folder {
    pub(crate) fn open(dir: &Path) -> Result<Folder> {
        let root = fs::canonicalize(dir).map_err(|e| match e.kind() {
            IoKind::NotFound => Error::new(ErrorKind::NotFound, "no such folder").in_file(dir),
            _ if is_link_loop(&e) => Error::malformed(dir, "is a symlink that leads back to itself"),
            _ => Error::io(dir, "open the folder", &e),
        })?;
        if !root.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, "is not a folder").in_file(dir));
        }
        let snapshots = root.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
        let blobs = snapshots.and_then(Path::parent).map(|repo| repo.join("blobs"));
        Ok(Folder { dir: dir.to_owned(), root, blobs })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder with symlinks followed.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is an entry of that plain name; a dangling symlink counts.
    pub(crate) fn contains(&self, name: &str) -> Result<bool> {
        match fs::symlink_metadata(self.root.join(name)) {
            Ok(_) => Ok(true),
            // No file can have a name that is too long for the system.
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::InvalidFilename) => Ok(false),
            Err(e) => Err(Error::io(&self.dir.join(name), "look at the file", &e)),
        }
    }

    /// Opens the file of that name; `None` where there is none.
    pub(crate) fn open_file(&self, name: &str) -> Result<Option<SourceFile>> {
        if !is_plain_file_name(name) {
            let problem = format!("{} is not a plain file name", quoted(name));
            return Err(Error::new(ErrorKind::Refused, problem).in_file(&self.dir));
        }
        match self.resolve(name)? {
            Some(resolved) => SourceFile::open(&self.dir.join(name), &resolved).map(Some),
            None => Ok(None),
        }
    }

    /// The names of the folder's entries, sorted; those that are not UTF-8 are left out.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let failed = |e: io::Error| Error::io(&self.dir, "list the folder", &e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Where the entry really is, if that is a place we may read.
    fn resolve(&self, name: &str) -> Result<Option<PathBuf>> {
        if !self.contains(name)? {
            return Ok(None);
        }
        let (path, entry) = (self.dir.join(name), self.root.join(name));
        let target = fs::canonicalize(&entry).map_err(|e| match e.kind() {
            IoKind::NotFound => Error::new(ErrorKind::Incomplete, "is a symlink to a file that does not exist")
                .in_file(&path)
                .with_hint("the download may be incomplete, or the cache was cleaned: run `hf download` again"),
            _ if is_link_loop(&e) => Error::malformed(&path, "is a symlink that leads back to itself"),
            _ => Error::io(&path, "follow the path", &e),
        })?;
        let inside = |place: &Path| target.starts_with(place);
        if inside(&self.root) || self.blobs.as_deref().is_some_and(inside) {
            return Ok(Some(target));
        }
        let outside = target.to_string_lossy();
        Err(Error::new(ErrorKind::Refused, format!("is a symlink to {}, outside the model folder", quoted(&outside)))
            .in_file(&path)
            .with_hint("copy the file into the folder, or name the folder that holds it"))
    }
}

/// Whether `name` can only mean an entry of the folder at hand, on any system: no separator, drive, stream, `..` or NUL.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(unix)]
fn is_link_loop(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(not(unix))]
fn is_link_loop(_: &io::Error) -> bool {
    false
}
