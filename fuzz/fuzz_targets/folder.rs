//! A model folder that is written anew for every input. Put `TMPDIR` on a RAM disk.

use std::{cell::RefCell, fs, path::PathBuf};

use tempfile::TempDir;

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// The folder, with these files in it and whatever earlier inputs wrote under other names.
pub fn with(files: &[(&str, &[u8])]) -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| TempDir::new().expect("a temporary folder"));
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("a file of the temporary folder");
        }
        folder.path().to_owned()
    })
}
