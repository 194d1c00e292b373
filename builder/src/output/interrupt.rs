//! Stopping a build from outside: by a signal, or by a program that no longer wants the result.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// Shared by a build, of one package or of several, and whoever may stop it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    requested: AtomicBool,
    /// What a build that is stopped leaves behind unless it is removed, for each of its outputs by number. Locked during
    /// a commit.
    remains: Mutex<BTreeMap<usize, Remains>>,
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
        let mut parents = Vec::new();
        for (_, Remains { staging, lock, parents: of_output }) in std::mem::take(&mut *remains) {
            if let Some(staging) = staging {
                // A thread of the build may still create a file in it.
                for _ in 0..100 {
                    match fs::remove_dir_all(&staging) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
                        _ => break,
                    }
                }
            }
            if let Some(lock) = lock {
                let _ = fs::remove_file(lock);
            }
            parents.extend(of_output);
        }
        // Outputs may have them in common.
        parents.sort_by_key(|parent| std::cmp::Reverse(parent.components().count()));
        parents.iter().for_each(|parent| drop(fs::remove_dir(parent)));
    }

    /// Notes what one output more leaves behind. Returns its number.
    pub(super) fn note(&self, remains: Remains) -> usize {
        let mut all = self.remains();
        let number = all.last_key_value().map_or(0, |(last, _)| last + 1);
        all.insert(number, remains);
        number
    }

    pub(super) fn remains(&self) -> MutexGuard<'_, BTreeMap<usize, Remains>> {
        self.state.remains.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
