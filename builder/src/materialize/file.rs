//! The data file while it is filled: sized at once, written at offsets from any thread.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

pub(crate) struct DataFile {
    file: File,
    path: PathBuf,
}

impl DataFile {
    pub(crate) fn create(path: &Path, bytes: u64) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        file.set_len(bytes).map_err(Error::io("size", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_all_at(&self.file, bytes, offset).map_err(Error::io("write", &self.path))
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

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
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
