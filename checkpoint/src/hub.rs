//! Finds a model that the user named: a folder, or a Hub id that is in the local cache.
//!
//! The cache layout is huggingface_hub's ("Understand caching" in its documentation):
//!
//! ```text
//!  <cache>/models--org--name/refs/<revision>       the commit that a branch, tag or PR stood at
//!                           /snapshots/<commit>/…  symlinks into
//!                           /blobs/<hash>
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, listed, printable, quoted};
use crate::source_file::SourceFile;

/// What the user's environment says about where the Hub cache is. Empty values count as unset.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub hf_hub_cache: Option<PathBuf>,
    pub huggingface_hub_cache: Option<PathBuf>,
    pub hf_home: Option<PathBuf>,
    pub xdg_cache_home: Option<PathBuf>,
    /// The user's home folder.
    pub home: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn from_process() -> Environment {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Environment {
            hf_hub_cache: path("HF_HUB_CACHE"),
            huggingface_hub_cache: path("HUGGINGFACE_HUB_CACHE"),
            hf_home: path("HF_HOME"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            home: std::env::home_dir(),
        }
    }

    /// The Hub cache: as in huggingface_hub, the first variable that is set decides alone.
    fn hub_cache(&self) -> Option<PathBuf> {
        let home = || self.home.as_ref();
        let cache = (self.hf_hub_cache.clone())
            .or_else(|| self.huggingface_hub_cache.clone())
            .or_else(|| Some(self.hf_home.as_ref()?.join("hub")))
            .or_else(|| Some(self.xdg_cache_home.as_ref()?.join("huggingface").join("hub")))
            .or_else(|| Some(home()?.join(".cache").join("huggingface").join("hub")))?;
        match (cache.strip_prefix("~"), home()) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(cache),
        }
    }
}

/// The folder of a model: `model` itself if it is a folder, else the snapshot of `org/name[@revision]` in the Hub cache.
///
/// `cache_dir`, if given, is where the cache is (or its parent, with the cache in `hub/`), else the process environment
/// tells. A revision is a branch, tag, `refs/pr/N`, or a commit, which may be shortened; the default is `main`.
///
/// # Errors
/// `CacheMiss` for a Hub id that is not in the cache, listing the places looked in; `NotFound` for anything that is
/// neither a folder nor a Hub id; `Malformed` for a broken cache.
pub fn resolve_model(model: &str, cache_dir: Option<&Path>) -> Result<PathBuf> {
    resolve_model_in(model, cache_dir, &Environment::from_process())
}

/// [`resolve_model`] under a given environment.
pub fn resolve_model_in(model: &str, cache_dir: Option<&Path>, environment: &Environment) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(Error::new(ErrorKind::Unsupported, "is a file, expected a model folder or a Hub id")
            .in_file(path)
            .with_hint("name the folder that holds config.json and the weights"));
    }
    let id = HubId::parse(model)?;

    let places = match cache_dir {
        Some(dir) => vec![dir.to_owned(), dir.join("hub")],
        None => Vec::from_iter(environment.hub_cache()),
    };
    let mut reasons = Vec::new();
    for place in &places {
        match id.find_in(place)? {
            Found::Snapshot(snapshot) => return Ok(snapshot),
            Found::Nothing(reason) => reasons.push(format!("{}: {reason}", printable(&place.to_string_lossy(), 4096))),
        }
    }
    let looked = if reasons.is_empty() { "no cache folder is known".to_owned() } else { reasons.join("; ") };
    let problem = format!("{} is no folder here and not in the Hub cache ({looked})", quoted(model));
    Err(Error::new(ErrorKind::CacheMiss, problem).with_hint(id.download_command()))
}

/// `org/name@revision`, or `name` for the few models without an organisation.
struct HubId<'a> {
    repo: &'a str,
    revision: Option<&'a str>,
}

enum Found {
    Snapshot(PathBuf),
    /// And why not.
    Nothing(&'static str),
}

impl<'a> HubId<'a> {
    fn parse(model: &'a str) -> Result<HubId<'a>> {
        let (repo, revision) = match model.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (model, None),
        };
        let neither = |why: &str| {
            let problem = format!("{} is neither an existing folder nor a Hub id: {why}", quoted(model));
            Error::new(ErrorKind::NotFound, problem).with_hint("a Hub id is org/name or org/name@revision")
        };
        if repo.split('/').count() > 2 {
            return Err(neither("it has more than one slash"));
        }
        if !repo.split('/').all(is_repo_part) || repo.len() > 96 {
            return Err(neither("a Hub name is letters, digits and, inside, - _ . (96 in all)"));
        }
        if !revision.is_none_or(is_revision) {
            return Err(neither("the part after @ is not a revision"));
        }
        Ok(HubId { repo, revision })
    }

    /// The snapshot under one cache folder.
    fn find_in(&self, cache: &Path) -> Result<Found> {
        let repo = cache.join(format!("models--{}", self.repo.replace('/', "--")));
        if !repo.is_dir() {
            return Ok(Found::Nothing("it has no such model"));
        }
        let snapshots = repo.join("snapshots");
        let revision = self.revision.unwrap_or("main");
        if let Some(commit) = read_ref(&repo.join("refs").join(revision))? {
            let snapshot = snapshots.join(commit);
            return Ok(match snapshot.is_dir() {
                true => Found::Snapshot(snapshot),
                false => Found::Nothing("it knows the revision but has no snapshot of it"),
            });
        }
        if !is_commit_prefix(revision) {
            return Ok(Found::Nothing("it has the model but not this revision"));
        }
        let commits = commits_with_prefix(&snapshots, revision)?;
        match commits.as_slice() {
            [] => Ok(Found::Nothing("it has the model but not this commit")),
            [commit] => Ok(Found::Snapshot(snapshots.join(commit))),
            several => Err(Error::new(
                ErrorKind::CacheMiss,
                format!("commit {} is ambiguous: {}", quoted(revision), listed(several, 10)),
            )
            .in_file(&snapshots)),
        }
    }

    fn download_command(&self) -> String {
        match self.revision {
            Some(revision) => format!("hf download {} --revision {revision}", self.repo),
            None => format!("hf download {}", self.repo),
        }
    }
}

/// The naming rule of the Hub (`validate_repo_id` in huggingface_hub), which keeps `--` free as a separator.
fn is_repo_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether git would allow the name, so that it stays below `refs/` and fits on a command line.
fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/');
    let fine = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..");
    revision.chars().all(allowed) && revision.split('/').all(fine)
}

fn is_commit_prefix(text: &str) -> bool {
    (4..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The commit in a file of `refs/`; `None` where there is no such file.
fn read_ref(path: &Path) -> Result<Option<String>> {
    // A folder is the first half of longer names, as `refs/pr` of `refs/pr/1`.
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = SourceFile::open(path, path)?.read_all(1024)?;
    let commit = String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
    if commit.len() != 40 || !is_commit_prefix(&commit) {
        return Err(Error::malformed(path, format!("holds {}, expected a commit hash", quoted(&commit))));
    }
    Ok(Some(commit))
}

fn commits_with_prefix(snapshots: &Path, prefix: &str) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::io(snapshots, "list the folder", &e);
    if !snapshots.is_dir() {
        return Ok(Vec::new());
    }
    let mut commits = Vec::new();
    for entry in fs::read_dir(snapshots).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_else(|_: OsString| String::new());
        if name.starts_with(prefix) && is_commit_prefix(&name) && entry.path().is_dir() {
            commits.push(name);
        }
    }
    commits.sort();
    Ok(commits)
}
