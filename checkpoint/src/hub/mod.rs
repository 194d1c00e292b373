//! Finds a model that the user named: a folder, or a Hub id that is in the local cache or gets there.
//!
//! ```text
//!  id ─► listing: commit, files ─► config, tokenizer, index ─► accept? ─► weights ─► refs/<revision>
//!          client                    download, several at a time                       cache
//! ```
//!
//! The cache is huggingface_hub's own, so that either finds what the other fetched. What is in a snapshot is not
//! fetched again; what was cut is resumed. The ref is written last: until a snapshot is whole, a branch leads to the one
//! before. All files come from the one commit that the revision stood at when it was asked for.

mod cache;
mod client;
mod download;
mod environment;
mod http;
mod id;
mod progress;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

pub use self::client::Patience;
pub use self::environment::{Environment, Token};
pub(crate) use self::id::is_sha256;
pub use self::progress::Progress;

use self::cache::{Found, RepoCache, free_bytes};
use self::client::{Blob, Client, network};
use self::download::Download;
use self::http::{Ureq, Url};
use self::id::{HubId, is_commit_prefix, is_storable_name};
use crate::error::{Error, ErrorKind, Result, listed, printable, quoted};
use crate::folder::Folder;
use crate::index::{INDEX, Index};
use crate::json_file;
use crate::weights::{SINGLE, no_weights};

const CONFIG: &str = "config.json";

/// The files beside the weights that are fetched where a repository has them.
const SMALL: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
];
/// First words, in upper case, of the names of licences and what belongs to them.
const LEGAL: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "USE_POLICY", "TERMS"];

/// Files fetched at a time.
const WORKERS: usize = 8;

/// How a Hub id becomes a folder.
#[derive(Debug, Clone, Default)]
pub struct HubOptions {
    /// Where the cache is (or its parent, with the cache in `hub/`), in place of what the environment says.
    pub cache_dir: Option<PathBuf>,
    /// Use the cache alone; so does `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// The token for this call: `None` for the environment's, `Some(None)` for none.
    pub token: Option<Option<Token>>,
    pub environment: Environment,
    pub patience: Patience,
}

impl HubOptions {
    /// What the environment of this process says.
    pub fn from_process() -> HubOptions {
        let environment = Environment::from_process();
        let mut patience = Patience::default();
        patience.stall = environment.hf_hub_download_timeout.unwrap_or(patience.stall);
        HubOptions { environment, patience, ..HubOptions::default() }
    }

    fn is_offline(&self) -> bool {
        self.offline || self.environment.hf_hub_offline
    }

    /// Folders in which the cache may be.
    fn places(&self) -> Vec<PathBuf> {
        match &self.cache_dir {
            Some(dir) => vec![dir.clone(), dir.join("hub")],
            None => Vec::from_iter(self.environment.hub_cache()),
        }
    }
}

/// The folder of a model: `model` itself if it is a folder, else the snapshot of `org/name[@revision]` in the Hub cache,
/// fetched as far as it is not there. A revision is a branch, tag, `refs/pr/N`, or a commit; the default is `main`.
///
/// Only what is read is fetched: configs, tokenizer, chat template, licence, model card, and the weights in safetensors.
/// `accept` sees `config.json` before the weights are fetched, and its error ends the download. It is not called where
/// nothing is fetched. Where the Hub cannot be asked, a complete snapshot in the cache serves, with a note.
///
/// # Errors
/// `NotFound` for anything that is neither a folder nor a Hub id; `CacheMiss` if it must be in the cache and is not, with
/// the places looked in; `Network`, `Auth`, `Checksum` as the download goes; `Refused` for names that lead elsewhere and
/// for pickles; `Incomplete` for a repository that lacks what a model needs; `Malformed` for a broken cache; `Io`.
pub fn resolve_model<E: From<Error>>(
    model: &str,
    options: &HubOptions,
    progress: &dyn Progress,
    accept: impl FnOnce(&Value) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, "is a file, expected a model folder or a Hub id")
            .in_file(path)
            .with_hint("name the folder that holds config.json and the weights")
            .into());
    }
    let id = HubId::parse(model)?;
    let places = options.places();
    let cached = Cached::look(id, &places);
    if options.is_offline() {
        return Ok(cached?.or_miss(model, id)?);
    }

    let Some(place) = places.iter().find(|place| RepoCache::new(place, &id).exists()).or(places.first()) else {
        return Err(network("no folder is known to keep downloads in").with_hint("--cache_dir names one").into());
    };
    let endpoint = options.environment.endpoint();
    let endpoint = Url::parse(endpoint).ok_or_else(|| {
        network(format!("HF_ENDPOINT is {}, expected an address such as https://huggingface.co", quoted(endpoint)))
    })?;
    let http = Ureq::new(&endpoint, options.patience.stall, options.environment.certificates.as_deref())?;
    let token = match &options.token {
        Some(token) => token.clone(),
        None => options.environment.implicit_token()?,
    };
    if token.as_ref().is_some_and(|token| !token.secret().bytes().all(|b| b.is_ascii_graphic())) {
        return Err(Error::new(ErrorKind::Auth, "the token has characters that no token has")
            .with_hint("set HF_TOKEN to the token alone, or run `hf auth login` again")
            .into());
    }
    let client = Client { http: &http, endpoint, token, patience: &options.patience, stopped: AtomicBool::new(false) };

    let complete = match &cached {
        Ok(Cached::Complete(folder)) => Some(folder),
        _ => None,
    };
    // With a model to fall back on there is no point in waiting for long.
    let attempts = if complete.is_some() { 1 } else { options.patience.attempts };
    let listing = match (client.listing(id, attempts), complete) {
        (Ok(listing), _) => listing,
        (Err(error), Some(folder)) if may_fall_back(&error, id) => {
            let commit = folder.file_name().unwrap_or_default().to_string_lossy();
            progress.note(&format!("{error}; using the commit {commit} of {} that is in the cache", id.repo));
            return Ok(folder.clone());
        }
        (Err(error), _) => return Err(error.into()),
    };
    let repo = RepoCache::new(place, &id);
    let fetch = Fetch { download: Download { client: &client, id, commit: &listing.commit, repo: &repo, progress } };
    fetch.run(&listing.files, accept)
}

/// Whether what the cache holds is as good an answer: not where the Hub is sure that there is no such revision, unless
/// it is a commit that the Hub knows by its full name only.
fn may_fall_back(error: &Error, id: HubId) -> bool {
    match error.kind() {
        ErrorKind::Network | ErrorKind::Auth => true,
        ErrorKind::NoRevision => is_commit_prefix(id.revision()),
        _ => false,
    }
}

/// What the cache holds of a model, before the Hub is asked.
enum Cached {
    Complete(PathBuf),
    Partial(PathBuf, Vec<String>),
    /// Where it was looked for, and why it is not there.
    Nothing(Vec<String>),
}

impl Cached {
    fn look(id: HubId, places: &[PathBuf]) -> Result<Cached> {
        let mut reasons = Vec::new();
        for place in places {
            match RepoCache::new(place, &id).find(id.revision())? {
                Found::Snapshot(snapshot) => {
                    let missing = missing_files(&snapshot)?;
                    return Ok(match missing.is_empty() {
                        true => Cached::Complete(snapshot),
                        false => Cached::Partial(snapshot, missing),
                    });
                }
                Found::Nothing(reason) => {
                    reasons.push(format!("{}: {reason}", printable(&place.to_string_lossy(), 4096)));
                }
            }
        }
        Ok(Cached::Nothing(reasons))
    }

    /// The complete snapshot, or why there is none.
    fn or_miss(self, model: &str, id: HubId) -> Result<PathBuf> {
        let problem = match self {
            Cached::Complete(folder) => return Ok(folder),
            Cached::Partial(folder, missing) => {
                let folder = printable(&folder.to_string_lossy(), 4096);
                format!("{} is in the Hub cache only in part: {folder} lacks {}", quoted(model), listed(&missing, 20))
            }
            Cached::Nothing(reasons) => {
                let looked =
                    if reasons.is_empty() { "no cache folder is known".to_owned() } else { reasons.join("; ") };
                format!("{} is no folder here and not in the Hub cache ({looked})", quoted(model))
            }
        };
        let hint = format!("run it without --offline (and HF_HUB_OFFLINE), or first: {}", id.download_command());
        Err(Error::new(ErrorKind::CacheMiss, format!("{problem}, and downloads are forbidden")).with_hint(hint))
    }
}

/// The files without which a snapshot cannot be opened and that it does not have.
fn missing_files(snapshot: &Path) -> Result<Vec<String>> {
    let folder = Folder::open(snapshot)?;
    // Following links: one without a target is a missing file.
    let there = |name: &str| snapshot.join(name).is_file();
    let mut needed = vec![CONFIG.to_owned()];
    if there(INDEX) {
        needed.extend(Index::read(&folder)?.iter().flat_map(Index::shards).map(str::to_owned));
    } else if no_weights(&folder.names()?).kind() == ErrorKind::Incomplete {
        // Other weights are there, which opening the folder has its own words for.
        needed.push(SINGLE.to_owned());
    }
    needed.retain(|name| !there(name));
    Ok(needed)
}

/// Brings one commit into the cache.
struct Fetch<'a> {
    download: Download<'a>,
}

impl Fetch<'_> {
    fn run<E: From<Error>>(
        &self,
        listed_files: &[String],
        accept: impl FnOnce(&Value) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let Download { id, commit, repo, .. } = self.download;
        let files: BTreeSet<&str> = listed_files.iter().map(String::as_str).collect();
        let snapshot = repo.snapshot(commit);
        let single = files.contains(SINGLE) && !snapshot.join(INDEX).is_file();
        let sharded = !single && files.contains(INDEX);
        if !files.contains(CONFIG) {
            let problem = format!("{} has no {CONFIG} at commit {commit}", id.repo);
            return Err(Error::new(ErrorKind::Incomplete, problem).into());
        }
        if !single && !sharded {
            let why = no_weights(listed_files);
            let hint = why.hint().unwrap_or("only weights in safetensors are read").to_owned();
            let problem = format!("{} at commit {commit} {why}", id.repo);
            return Err(Error::new(why.kind(), problem).with_hint(hint).into());
        }
        let is_small = |name: &str| SMALL.contains(&name) || (sharded && name == INDEX) || is_legal(name);
        // What lies in folders of the repository is not read.
        let small: Vec<&str> = files.iter().copied().filter(|name| is_storable_name(name) && is_small(name)).collect();
        self.bring(&small)?;

        let folder = Folder::open(&snapshot)?;
        let index = if sharded { Index::read(&folder)? } else { None };
        let weights: Vec<&str> = match &index {
            Some(index) => index.shards().into_iter().collect(),
            None => vec![SINGLE],
        };
        require_storable(&weights, &snapshot)?;
        let unlisted: Vec<&&str> = weights.iter().filter(|name| !files.contains(**name)).collect();
        if !unlisted.is_empty() {
            let problem = format!("{INDEX} names files that {} does not have: {}", id.repo, listed(&unlisted, 20));
            return Err(Error::new(ErrorKind::Incomplete, problem).into());
        }
        if weights.iter().any(|name| !snapshot.join(name).is_file()) {
            if let Some((config, _)) = json_file::read_object(&folder, CONFIG)? {
                accept(&config)?;
            }
            self.bring(&weights)?;
        }
        if let Err(error) = repo.write_ref(id.revision(), commit) {
            // A cache that is complete may well be read-only.
            self.download.progress.note(&format!("warning: {error}"));
        }
        Ok(snapshot)
    }

    /// Fetches what the snapshot lacks of these files.
    fn bring(&self, names: &[&str]) -> Result<()> {
        let Download { client, id, commit, repo, progress } = self.download;
        let snapshot = repo.snapshot(commit);
        let absent: Vec<&str> = names.iter().copied().filter(|name| !snapshot.join(name).is_file()).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let blobs = in_parallel(&absent, &client.stopped, |name| client.blob(id, commit, name))?;
        let mut needed = 0_u64;
        for blob in &blobs {
            let present = self.download.present(blob);
            progress.file(&blob.name, present, blob.size);
            needed = needed.saturating_add(blob.size.saturating_sub(present));
        }
        let dir = repo.blobs();
        cache::create_folder(&dir)?;
        if let Some(free) = free_bytes(&dir).filter(|free| *free < needed) {
            let problem = format!("{} needs {needed} bytes more, and the disk has {free} left", id.repo);
            return Err(Error::new(ErrorKind::Io, problem)
                .in_file(&dir)
                .with_hint("make room, or name a Hub cache on another disk with --cache_dir"));
        }
        in_parallel(&blobs, &client.stopped, |blob: &Blob| self.download.run(blob)).map(drop)
    }
}

/// `LICENSE`, `License-MIT.txt`, `NOTICE`, but not `noticeboard.png`.
fn is_legal(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let rest = LEGAL.iter().find_map(|word| upper.strip_prefix(word));
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
}

/// Fails for names of weight files that some system cannot tell apart or cannot store.
fn require_storable(names: &[&str], snapshot: &Path) -> Result<()> {
    let refused = |problem: String| {
        Error::new(ErrorKind::Refused, problem)
            .in_file(&snapshot.join(INDEX))
            .with_hint("no model needs such names: do not trust this repository")
    };
    let mut seen = BTreeSet::new();
    for name in names {
        if !is_storable_name(name) {
            return Err(refused(format!("names the file {}, which not every system can store", quoted(name))));
        }
        if !seen.insert(name.to_lowercase()) {
            return Err(refused(format!("names {} twice, in upper and lower case", quoted(name))));
        }
    }
    Ok(())
}

/// Runs `work` on all items, several at a time; the first failure sets `stopped` and is the result.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    stopped: &AtomicBool,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let (results, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
    // A poisoned lock is one whose thread panicked, which the scope passes on.
    fn locked<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    std::thread::scope(|scope| {
        for _ in 0..items.len().min(WORKERS) {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    match work(item) {
                        Ok(result) => locked(&results).push((at, result)),
                        Err(error) => {
                            locked(&failure).get_or_insert(error);
                            stopped.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = locked(&failure).take() {
        return Err(error);
    }
    let mut results = std::mem::take(&mut *locked(&results));
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
