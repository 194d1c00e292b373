//! Stopping a build from outside: by a signal, or by a program that no longer wants the result.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// Shared by a build and whoever may stop it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    requested: AtomicBool,
    /// What a build that is stopped leaves behind unless it is removed. Locked during a commit.
    remains: Mutex<Remains>,
}

#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) staging: Option<PathBuf>,
    pub(super) lock: Option<PathBuf>,
    /// Folders that were made for the output, innermost first.
    pub(super) parents: Vec<PathBuf>,
}

impl Interrupt {
    /// Asks the build to stop; it fails with [`Error::Interrupted`](crate::Error::Interrupted) before its next write.
    pub fn request(&self) {
        self.state.requested.store(true, Ordering::SeqCst);
    }

    pub fn is_requested(&self) -> bool {
        self.state.requested.load(Ordering::SeqCst)
    }

    /// Removes what the build has staged, in its stead: for a process that ends now, whatever the build is doing. A
    /// commit that has begun is waited for.
    pub fn clean(&self) {
        let mut remains = self.remains();
        if let Some(staging) = remains.staging.take() {
            // A thread of the build may still create a file in it.
            for _ in 0..100 {
                match fs::remove_dir_all(&staging) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
                    _ => break,
                }
            }
        }
        if let Some(lock) = remains.lock.take() {
            let _ = fs::remove_file(lock);
        }
        for parent in remains.parents.drain(..) {
            let _ = fs::remove_dir(parent);
        }
    }

    pub(super) fn remains(&self) -> MutexGuard<'_, Remains> {
        self.state.remains.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
