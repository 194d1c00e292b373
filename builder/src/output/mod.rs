//! The output folder: claimed, staged beside its place, moved into it when everything is there.
//!
//! ```text
//! claim ──────────► stage ─────────────► commit
//! lock, undo what   write, hash, sync    genai-build.json, SHA256SUMS,
//! was cut off,                           then one rename or exchange,
//! clean up                               or a journal where files of others are in the place
//! ```
//!
//! The output is complete or as it was, whatever happens at whatever point: an error, a signal, a kill, a full disk, a
//! power cut. What a killed build leaves beside it, the next one removes.

mod disk;
mod interrupt;
mod journal;
mod place;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

pub(crate) use disk::DataFile;
pub use disk::{Action, Disk, Fault, Operation};
pub use interrupt::Interrupt;

use interrupt::Remains;
use journal::{Journal, is_plain};
use place::{Lock, Place, Run, is_current};

use crate::{
    Error, Result,
    digest::Digest,
    manifest::{MANIFEST, SUMS, listed_files, sums},
};

/// The file without which clients see no package: it leaves first and arrives last.
pub(crate) const LAST: &str = "genai_config.json";

/// An output folder that no other build writes to, until this is dropped.
#[derive(Debug)]
pub struct Output {
    place: Place,
    disk: Disk,
    /// Of what it leaves behind, in the disk's [`Interrupt`].
    number: usize,
    committed: bool,
    /// Dropped last.
    lock: Lock,
}

impl Output {
    /// Makes sure that a package can be put at `path`, which may be missing or a folder: locks the place, undoes a
    /// commit that was cut off, and removes what killed builds left.
    ///
    /// # Errors
    /// [`Error::Output`] where something is in the way, another build has the place, or it cannot be written to.
    pub fn claim(path: &Path, disk: Disk) -> Result<Self> {
        let place = Place::of(path)?;
        let parents = place.create_parents(&disk)?;
        let lock = match Lock::take(&place, &disk) {
            Ok(lock) => lock,
            Err(error) => {
                let disk = disk.unstoppable();
                parents.iter().for_each(|parent| drop(disk.remove_folder(parent)));
                return Err(error);
            }
        };
        let number = disk.interrupt().note(Remains { staging: None, lock: Some(lock.path.clone()), parents });
        let output = Self { place, disk, number, committed: false, lock };
        Journal::recover(&output.place, &output.disk)?;
        for leftover in output.place.leftovers()? {
            let is_folder = fs::symlink_metadata(&leftover).is_ok_and(|metadata| metadata.is_dir());
            if is_folder { output.disk.remove_tree(&leftover)? } else { output.disk.remove_file(&leftover)? }
        }
        Ok(output)
    }

    /// Starts a package of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Space`] where the disk has less room.
    pub(crate) fn stage(self, bytes: u64) -> Result<StagedOutput> {
        if let Some(free) = disk::free_bytes(&self.place.beside).filter(|free| *free < bytes) {
            return Err(Error::Space { path: self.place.beside.clone(), needed: bytes, free });
        }
        let run = Run::new();
        let folder = self.place.staging(&run);
        // Known before it is there, so that an interruption cannot come in between.
        if let Some(remains) = self.disk.interrupt().remains().get_mut(&self.number) {
            remains.staging = Some(folder.clone());
        }
        let staged = StagedOutput { output: self, folder, run, files: BTreeMap::new() };
        staged.output.disk.create_folder(&staged.folder).map_err(|error| staged.output.place.blocked(error))?;
        Ok(staged)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut all = self.disk.interrupt().remains();
        let parents = all.remove(&self.number).map(|remains| remains.parents).unwrap_or_default();
        if !self.committed {
            let disk = self.disk.unstoppable();
            // Of the lock file, which is in the innermost of them.
            if !parents.is_empty() {
                self.lock.remove_file();
            }
            let left = parents.into_iter().filter(|parent| disk.remove_folder(parent).is_err());
            // Another output of the same build may lie in what is not empty.
            if let Some(mut other) = all.last_entry() {
                other.get_mut().parents.extend(left);
            } else {
                left.for_each(drop);
            }
        }
    }
}

/// A package in the making, removed again unless it is committed.
#[derive(Debug)]
pub(crate) struct StagedOutput {
    output: Output,
    folder: PathBuf,
    run: Run,
    /// What was written so far, by name.
    files: BTreeMap<String, Digest>,
}

impl StagedOutput {
    /// Where files are until the commit.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, Digest> {
        &self.files
    }

    pub(crate) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.output.disk.write_file(&self.folder.join(name), bytes)?;
        self.files.insert(name.to_owned(), Digest::of(bytes));
        Ok(())
    }

    /// A file that is filled at offsets; [`StagedOutput::finish`] makes it part of the package.
    pub(crate) fn create(&self, name: &str, bytes: u64) -> Result<DataFile> {
        self.output.disk.create_file(&self.folder.join(name), bytes)
    }

    /// Hashes a file that was filled, while the system brings it to the disk.
    pub(crate) fn finish(&mut self, name: &str, file: &DataFile) -> Result<()> {
        let (synced, digest) = std::thread::scope(|scope| {
            let synced = scope.spawn(|| file.sync());
            let digest = Digest::of_file(file.path());
            (synced.join(), digest)
        });
        match synced {
            Ok(synced) => synced?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        self.files.insert(name.to_owned(), digest?);
        Ok(())
    }

    /// Adds the manifest and the checksums: the package is complete, and what is left is to put it in place.
    ///
    /// # Errors
    /// What would be in its way there.
    pub(crate) fn seal(&mut self, manifest: &[u8]) -> Result<()> {
        self.write(MANIFEST, manifest)?;
        let sums = sums(&self.files);
        self.write(SUMS, sums.as_bytes())?;
        self.output.disk.sync_folder(&self.folder)?;
        if self.output.place.target.exists() {
            self.check_folders(&Previous::look(&self.output.place)?)
        } else {
            Ok(())
        }
    }

    /// A folder is not replaced by a file.
    fn check_folders(&self, previous: &Previous) -> Result<()> {
        let Some(name) = self.files.keys().find(|name| previous.folders.contains(*name)) else { return Ok(()) };
        Err(Error::Output {
            path: self.output.place.named.clone(),
            reason: format!("has a folder named {name}, where the package has a file"),
            hint: Some("remove that folder, or give another output".to_owned()),
        })
    }

    fn put_in_place(&self, disk: &Disk) -> Result<()> {
        let place = &self.output.place;
        if !place.target.exists() {
            disk.rename(&self.folder, &place.target).map_err(|error| place.blocked(error))?;
            return disk.sync_folder(&place.beside).or_else(|error| {
                disk.rename(&place.target, &self.folder)?;
                Err(error)
            });
        }
        let previous = Previous::look(place)?;
        self.check_folders(&previous)?;
        let swappable =
            place.beside != place.target && same_owner(&self.folder, &place.target) && !is_current(&place.target);
        if previous.is_ours() && swappable {
            let permissions = fs::metadata(&place.target).map_err(Error::io("look at", &place.target))?.permissions();
            disk.set_permissions(&self.folder, permissions)?;
            if disk.exchange(&self.folder, &place.target)? {
                return disk.sync_folder(&place.beside).or_else(|error| {
                    disk.exchange(&self.folder, &place.target)?;
                    Err(error)
                });
            }
        }
        let is_new = |name: &String| self.files.contains_key(name);
        let mut new: Vec<String> = self.files.keys().cloned().collect();
        new.sort_by_key(|name| name == LAST);
        let mut old: Vec<String> =
            previous.files.iter().filter(|name| previous.listed.contains(*name) || is_new(name)).cloned().collect();
        old.sort_by_key(|name| name != LAST);
        Journal::commit(place, disk, &self.run, new, old).map_err(|error| place.blocked(error))
    }
}

/// Puts sealed packages in place, one after the other, up to one with which it fails. Returns the files of those that are
/// in place with their sizes, and that failure.
///
/// An interruption finds none of them or all of them done, where they were claimed on one disk.
pub(crate) fn commit(mut packages: Vec<StagedOutput>) -> (Vec<Vec<(String, u64)>>, Result<()>) {
    let mut done = Vec::new();
    let Some(interrupt) = packages.first().map(|package| package.output.disk.interrupt().clone()) else {
        return (done, Ok(()));
    };
    // Held to the end of the commit, so that `Interrupt::clean` waits for it. Dropped before the packages, which want it.
    let mut remains = interrupt.remains();
    if interrupt.is_requested() {
        return (done, Err(Error::Interrupted));
    }
    for package in &mut packages {
        let disk = package.output.disk.unstoppable();
        if let Err(error) = package.put_in_place(&disk) {
            return (done, Err(error));
        }
        package.output.committed = true;
        if let Some(remains) = remains.get_mut(&package.output.number) {
            remains.staging = None;
        }
        // The package is there; what is left over, the next build removes.
        for folder in [&package.folder, &package.output.place.aside(&package.run)] {
            if folder.exists() {
                let _ = disk.remove_tree(folder);
            }
        }
        let mut files: Vec<_> = package.files.iter().map(|(name, digest)| (name.clone(), digest.bytes)).collect();
        files.sort_by(|(a, _), (b, _)| (a == LAST, a).cmp(&(b == LAST, b)));
        done.push(files);
    }
    (done, Ok(()))
}

impl Drop for StagedOutput {
    fn drop(&mut self) {
        if !self.output.committed {
            // A commit whose rollback failed needs what is staged; the journal says so.
            if self.output.place.journal().exists() {
                return;
            }
            let disk = self.output.disk.unstoppable();
            for folder in [self.folder.clone(), self.output.place.aside(&self.run)] {
                if folder.exists() {
                    // Nothing more can be done about a folder that does not go away.
                    let _ = disk.remove_tree(&folder);
                }
            }
        }
    }
}

/// What is in the target before the commit.
struct Previous {
    /// Files and links, those whose names are text.
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// Whether there is anything with another kind of name.
    strange: bool,
    /// The files of the package that is there, as its manifest lists them.
    listed: BTreeSet<String>,
}

impl Previous {
    fn look(place: &Place) -> Result<Self> {
        let mut previous =
            Self { files: BTreeSet::new(), folders: BTreeSet::new(), strange: false, listed: BTreeSet::new() };
        for entry in fs::read_dir(&place.target).map_err(Error::io("list", &place.target))? {
            let entry = entry.map_err(Error::io("list", &place.target))?;
            if place.is_helper(&entry.file_name()) {
                continue;
            }
            let is_folder = entry.file_type().map_err(Error::io("look at", entry.path()))?.is_dir();
            match entry.file_name().into_string() {
                Ok(name) if is_folder => drop(previous.folders.insert(name)),
                Ok(name) => drop(previous.files.insert(name)),
                Err(OsString { .. }) => previous.strange = true,
            }
        }
        previous.listed.extend(listed_files(&place.target.join(MANIFEST)));
        previous.listed.retain(|name| is_plain(name));
        Ok(previous)
    }

    /// Nothing is there but what a build put there.
    fn is_ours(&self) -> bool {
        !self.strange && self.folders.is_empty() && self.files.is_subset(&self.listed)
    }
}

/// A folder that is swapped in should belong to whom the old one belonged.
#[cfg(unix)]
fn same_owner(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.uid(), a.gid()) == (b.uid(), b.gid()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_owner(_: &Path, _: &Path) -> bool {
    true
}
