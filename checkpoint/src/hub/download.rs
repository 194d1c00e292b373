//! One file from the Hub into the cache: resumed where it was cut, checked before it counts.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::cache::{RepoCache, Told, create_folder, is_full, unique};
use super::client::{Blob, Client, Subject, Trouble, network};
use super::http::{Method, Url};
use super::id::{HubId, is_sha256};
use super::progress::Progress;
use crate::error::{Error, ErrorKind, Result, quoted};

/// An attempt that brings at least this much was not in vain.
const FRUITFUL: u64 = 64 << 10;
/// Attempts for one file in all, fruitful or not.
const MOST_ATTEMPTS: u32 = 100;
const BUFFER: usize = 256 << 10;

pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) id: HubId<'a>,
    pub(super) commit: &'a str,
    pub(super) repo: &'a RepoCache,
    pub(super) progress: &'a dyn Progress,
}

impl Download<'_> {
    /// Bytes of the blob that an earlier run left, complete or not.
    pub(super) fn present(&self, blob: &Blob) -> u64 {
        let len = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        match len(&self.repo.blob(&blob.etag)) == blob.size {
            true => blob.size,
            false if is_sha256(&blob.etag) => {
                Some(len(&self.partial(blob))).filter(|len| *len <= blob.size).unwrap_or(0)
            }
            false => 0,
        }
    }

    /// Fetches the blob, unless it is there, and links it into the snapshot.
    pub(super) fn run(&self, blob: &Blob) -> Result<()> {
        let target = self.repo.blob(&blob.etag);
        create_folder(&self.repo.blobs())?;
        let mut told = Told::new();
        let lock = self.repo.lock(&blob.etag, &mut || {
            if told.now() {
                self.progress.note(&format!("waiting for another process that fetches {}", quoted(&blob.name)));
            }
            self.client.go_on()
        })?;
        if fs::metadata(&target).is_ok_and(|metadata| metadata.len() == blob.size) {
            self.progress.file(&blob.name, blob.size, blob.size);
        } else {
            self.fetch(blob, &target)?;
        }
        let linked = self.repo.link(self.commit, &blob.name, &blob.etag);
        drop(lock);
        linked
    }

    fn fetch(&self, blob: &Blob, target: &Path) -> Result<()> {
        let path = self.partial(blob);
        let mut partial = Partial::open(&path, blob)?;
        let filled = self.fill(&mut partial, blob).and_then(|()| {
            partial.file.sync_all().map_err(|e| unwritable(&path, &e))?;
            fs::rename(&path, target).map_err(|e| Error::io(target, "put the file into the cache", &e))
        });
        let worthless = !is_sha256(&blob.etag) || matches!(&filled, Err(e) if e.kind() == ErrorKind::Checksum);
        if filled.is_err() && worthless {
            // The failure is told; a leftover is only in the way.
            let _ = fs::remove_file(&path);
        }
        filled
    }

    /// Where the bytes are collected. Without a hash to check it by, what another process left cannot be trusted, so
    /// that the name is ours alone.
    fn partial(&self, blob: &Blob) -> PathBuf {
        let target = self.repo.blob(&blob.etag);
        match is_sha256(&blob.etag) {
            true => target.with_file_name(format!("{}.incomplete", blob.etag)),
            false => target.with_file_name(unique(&blob.etag)),
        }
    }

    /// Fetches until the file is whole and its hash right.
    fn fill(&self, partial: &mut Partial, blob: &Blob) -> Result<()> {
        let url = self.client.file_url(self.id, self.commit, &blob.name)?;
        let (mut fruitless, mut attempts) = (0_u32, 0_u32);
        loop {
            let before = partial.done;
            let trouble = match self.stream(partial, blob, &url).and_then(|()| check_hash(partial, blob, &url)) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(error, wait)) => (error, wait),
            };
            attempts = attempts.saturating_add(1);
            let fruitful = partial.done.saturating_sub(before) >= FRUITFUL;
            fruitless = if fruitful { 0 } else { fruitless.saturating_add(1) };
            let (error, wait) = trouble;
            if fruitless >= self.client.patience.attempts || attempts >= MOST_ATTEMPTS {
                let hint = match partial.hasher {
                    Some(_) => "what has come is kept: run the same command again to go on from there",
                    None => "run the same command again",
                };
                return Err(error.after_attempts(attempts).with_hint(hint));
            }
            if partial.hasher.is_none() {
                // What cannot be checked is not put together from pieces.
                partial.restart()?;
            }
            self.client.pause(fruitless.max(1), wait, error)?;
        }
    }

    /// One request: from what is there to the end.
    fn stream(&self, partial: &mut Partial, blob: &Blob, url: &Url) -> Result<(), Trouble> {
        if partial.done == blob.size {
            return Ok(());
        }
        let subject = Subject { id: self.id, file: Some(&blob.name) };
        let (mut response, url) = self.client.follow(Method::Get, url, partial.done, subject)?;
        if partial.done > 0 {
            let range = response.header("content-range").and_then(parse_range);
            if response.status == 206 && range == Some((partial.done, blob.size)) {
                partial.pieced = true;
            } else {
                // The server ignores ranges (200), has no such range (416), or has another file.
                self.progress.file(&blob.name, 0, blob.size);
                partial.restart()?;
                if response.status != 200 {
                    let stated = response.header("content-range").map_or_else(|| "none".to_owned(), quoted);
                    let problem = format!("{url} gave the range {stated}, not the rest of {} bytes", blob.size);
                    return Err(Trouble::Passing(network(problem), None));
                }
            }
        }
        let left = blob.size.saturating_sub(partial.done);
        match response.number("content-length") {
            Some(length) if length != left => {
                let problem = format!("{url} has {length} bytes to give, expected {left}");
                return Err(wrong(problem).into());
            }
            _ if response.status == 416 => return Err(network(format!("{url} has no bytes to give (416)")).into()),
            _ => {}
        }
        let mut buffer = vec![0; BUFFER];
        let mut pace = Pace::new(self.client.patience.stall);
        loop {
            self.client.go_on()?;
            let cut = |cause: &dyn std::fmt::Display| Trouble::Passing(self.client.cut(&url, cause), None);
            let count = match response.body.read(&mut buffer) {
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(cut(&e)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                if partial.done < blob.size {
                    return Err(cut(&format!("{} of {} bytes came", partial.done, blob.size)));
                }
                return Ok(());
            }
            partial.append(bytes, blob)?;
            self.progress.file(&blob.name, partial.done, blob.size);
            if !pace.keeps_up(count) {
                return Err(cut(&"it came at less than 1 KiB/s"));
            }
        }
    }
}

/// A file that grows, with the hash of what it holds where that will be wanted.
struct Partial {
    path: PathBuf,
    file: File,
    done: u64,
    hasher: Option<Sha256>,
    /// Whether it was put together from several answers.
    pieced: bool,
}

impl Partial {
    fn open(path: &Path, blob: &Blob) -> Result<Partial> {
        let file = open_own(path).map_err(|e| unwritable(path, &e))?;
        let hasher = is_sha256(&blob.etag).then(Sha256::new);
        let mut partial = Partial { path: path.to_owned(), file, done: 0, hasher, pieced: false };
        let left = partial.file.metadata().map_err(|e| Error::io(path, "look at the file", &e))?.len();
        if left > blob.size || partial.hasher.is_none() {
            partial.restart()?;
        } else {
            partial.take_over()?;
        }
        Ok(partial)
    }

    /// Hashes what an earlier run left.
    fn take_over(&mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = self.file.read(&mut buffer).map_err(|e| Error::io(&self.path, "read", &e))?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                self.pieced = self.done > 0;
                return Ok(());
            }
            self.count(bytes);
        }
    }

    fn append(&mut self, bytes: &[u8], blob: &Blob) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| unwritable(&self.path, &e))?;
        self.count(bytes);
        if self.done > blob.size {
            return Err(wrong(format!("{} is longer than the {} bytes that were told", quoted(&blob.name), blob.size)));
        }
        Ok(())
    }

    fn count(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.done = self.done.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop));
        emptied.map_err(|e| unwritable(&self.path, &e))?;
        self.done = 0;
        self.pieced = false;
        self.hasher = self.hasher.is_some().then(Sha256::new);
        Ok(())
    }
}

/// Compares a whole file with the hash that the Hub gave. One that was put together from pieces gets a second chance.
fn check_hash(partial: &mut Partial, blob: &Blob, url: &Url) -> Result<(), Trouble> {
    let Some(hasher) = &partial.hasher else { return Ok(()) };
    let hash: String = hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if hash == blob.etag {
        return Ok(());
    }
    let error = wrong(format!("{url} came with sha256 {hash}, expected {}", blob.etag));
    match partial.pieced {
        true => {
            partial.restart()?;
            Err(Trouble::Passing(error, Some(Duration::ZERO)))
        }
        false => Err(error.into()),
    }
}

fn wrong(problem: String) -> Error {
    Error::new(ErrorKind::Checksum, problem)
        .with_hint("a proxy or mirror may have changed it; nothing of it was kept: run the same command again")
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    let error = Error::io(path, "write", e);
    match is_full(e) {
        true => {
            error.with_hint("make room, or name a Hub cache on another disk with --cache_dir; what has come is kept")
        }
        false => error,
    }
}

/// `bytes 5-9/10`: the first byte, and the length of the whole.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (last.checked_add(1)? == size).then_some((first, size))
}

/// Opens for reading and writing, and makes the file if need be. A link in its place is not followed.
fn open_own(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW);
    }
    options.open(path)
}

/// Watches that bytes come at a kibibyte per second at least, averaged over the time of a stall.
struct Pace {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Pace {
        Pace { window, since: Instant::now(), bytes: 0 }
    }

    fn keeps_up(&mut self, count: usize) -> bool {
        self.bytes = self.bytes.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let elapsed = self.since.elapsed();
        if elapsed < self.window {
            return true;
        }
        let enough = self.bytes >= elapsed.as_secs().saturating_mul(1024);
        *self = Pace::new(self.window);
        enough
    }
}
