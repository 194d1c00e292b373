//! The one way to the file system: every change goes through [`Disk`], so that a test can make any of them fail, or be
//! the last thing that the process did.

use std::{
    fmt,
    fs::{self, File, OpenOptions, Permissions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::Interrupt;
use crate::{Error, Result};

/// What is about to be done, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    pub action: Action,
    pub path: &'a Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    CreateFolder,
    CreateFile,
    Allocate,
    Write,
    SyncFile,
    SyncFolder,
    Rename,
    Exchange,
    SetPermissions,
    RemoveFile,
    RemoveFolder,
}

/// What a test makes of an operation.
#[derive(Debug)]
pub enum Fault {
    /// It is not done and fails.
    Fails(io::Error),
    /// Of a write, the first half is done; then it fails.
    Torn(io::Error),
}

/// Asked before every operation; `None` lets it pass.
type Hook = dyn Fn(&Operation) -> Option<Fault> + Send + Sync;

/// The file system, as far as a build changes it.
#[derive(Clone, Default)]
pub struct Disk {
    hook: Option<Arc<Hook>>,
    interrupt: Interrupt,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("hook", &self.hook.is_some()).finish_non_exhaustive()
    }
}

impl Disk {
    /// A disk on which nothing more is written once the build is interrupted.
    pub fn new(interrupt: Interrupt) -> Self {
        Self { hook: None, interrupt }
    }

    /// The same disk with its operations watched, failed or cut short by a test.
    pub fn with_hook(self, hook: impl Fn(&Operation) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { hook: Some(Arc::new(hook)), ..self }
    }

    /// The same for what must be done even after an interruption: commit, roll back, clean.
    pub(super) fn unstoppable(&self) -> Self {
        Self { hook: self.hook.clone(), interrupt: Interrupt::default() }
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn before(&self, action: Action, path: &Path) -> Result<()> {
        if self.interrupt.is_requested() {
            return Err(Error::Interrupted);
        }
        self.fault(action, path).map_or(Ok(()), |error| Err(failed(action, path, error)))
    }

    /// The error that a test wants instead of an operation.
    fn fault(&self, action: Action, path: &Path) -> Option<io::Error> {
        let (Fault::Fails(error) | Fault::Torn(error)) = self.hook.as_ref()?(&Operation { action, path })?;
        Some(error)
    }

    fn run(&self, action: Action, path: &Path, operation: impl FnOnce() -> io::Result<()>) -> Result<()> {
        self.before(action, path)?;
        operation().map_err(|error| failed(action, path, error))
    }

    pub(super) fn create_folder(&self, path: &Path) -> Result<()> {
        self.run(Action::CreateFolder, path, || fs::create_dir(path))
    }

    /// A new file with `bytes` bytes reserved for it, so that a full disk shows now and not at the end.
    pub(super) fn create_file(&self, path: &Path, bytes: u64) -> Result<DataFile> {
        self.before(Action::CreateFile, path)?;
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| failed(Action::CreateFile, path, error))?;
        self.run(Action::Allocate, path, || allocate(&file, bytes))?;
        Ok(DataFile { file, path: path.to_owned(), disk: self.clone() })
    }

    /// A new file of these bytes, on the disk when this returns.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.create_file(path, bytes.len() as u64)?;
        file.write_at(bytes, 0)?;
        file.sync()
    }

    /// Makes the entries of a folder lasting: what was created, renamed and removed in it.
    pub(super) fn sync_folder(&self, path: &Path) -> Result<()> {
        self.run(Action::SyncFolder, path, || sync_folder(path))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.run(Action::Rename, to, || fs::rename(from, to))
    }

    /// Swaps two folders in one step. `false` where the file system cannot, and nothing was done.
    pub(super) fn exchange(&self, a: &Path, b: &Path) -> Result<bool> {
        match self.fault(Action::Exchange, b).map_or_else(|| exchange(a, b), Err) {
            Ok(()) => Ok(true),
            Err(error) if is_beyond_it(&error) => Ok(false),
            Err(error) => Err(failed(Action::Exchange, b, error)),
        }
    }

    pub(super) fn set_permissions(&self, path: &Path, permissions: Permissions) -> Result<()> {
        self.run(Action::SetPermissions, path, || fs::set_permissions(path, permissions))
    }

    pub(super) fn remove_file(&self, path: &Path) -> Result<()> {
        self.run(Action::RemoveFile, path, || fs::remove_file(path))
    }

    pub(super) fn remove_folder(&self, path: &Path) -> Result<()> {
        self.run(Action::RemoveFolder, path, || fs::remove_dir(path))
    }

    /// Removes a folder of files. A folder in it is removed too; links are not followed.
    pub(super) fn remove_tree(&self, path: &Path) -> Result<()> {
        for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
            let entry = entry.map_err(Error::io("list", path))?;
            let is_folder = entry.file_type().map_err(Error::io("look at", entry.path()))?.is_dir();
            if is_folder { self.remove_tree(&entry.path())? } else { self.remove_file(&entry.path())? }
        }
        self.remove_folder(path)
    }
}

/// A file while it is filled: sized at once, written at offsets from any thread.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
    path: PathBuf,
    disk: Disk,
}

impl DataFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        if self.disk.interrupt.is_requested() {
            return Err(Error::Interrupted);
        }
        let operation = Operation { action: Action::Write, path: &self.path };
        let result = match self.disk.hook.as_ref().and_then(|hook| hook(&operation)) {
            None => write_all_at(&self.file, bytes, offset),
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::Torn(error)) => write_all_at(&self.file, &bytes[..bytes.len() / 2], offset).and(Err(error)),
        };
        result.map_err(|error| failed(Action::Write, &self.path, error))
    }

    /// Has the system begin to write what it holds of the file, where it can; waits for nothing, and promises nothing.
    #[cfg_attr(target_os = "linux", allow(unsafe_code, reason = "no crate that is used here has the call"))]
    pub(crate) fn begin_writeback(&self) {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            // SAFETY: the descriptor is that of an open file, and no memory is passed. A failure changes nothing: the
            // bytes are written later.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    /// Waits until the bytes are on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.disk.run(Action::SyncFile, &self.path, || self.file.sync_all())
    }
}

/// Bytes that this user may still write to the file system of `folder`; `None` where the system does not tell.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder).ok()?;
        // Some network and overlay file systems answer with zeros.
        (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

fn failed(action: Action, path: &Path, source: io::Error) -> Error {
    let action = match action {
        Action::CreateFolder | Action::CreateFile => "create",
        Action::Allocate => "reserve space for",
        Action::Write => "write",
        Action::SyncFile | Action::SyncFolder => "sync",
        Action::Rename | Action::Exchange => "rename to",
        Action::SetPermissions => "set the permissions of",
        Action::RemoveFile | Action::RemoveFolder => "remove",
    };
    Error::Io { action, path: path.to_owned(), source }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::Errno,
    };
    if bytes == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            // File systems without reservation: the size alone must do.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return file.set_len(bytes),
            result => return Ok(result?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Folders that cannot be synced by themselves.
        Err(error) if is_beyond_it(&error) => Ok(()),
        result => result,
    }
}

/// Windows has no way to ask for it.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Errors of file systems that do not know an operation, or not at this place, such as a mount point.
#[cfg(unix)]
fn is_beyond_it(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let beyond = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::BUSY, Errno::XDEV];
    Errno::from_io_error(error).is_some_and(|errno| beyond.contains(&errno))
}

#[cfg(not(unix))]
fn is_beyond_it(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !bytes.is_empty() {
        let written = file.seek_write(bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
