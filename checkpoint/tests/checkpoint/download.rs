//! Downloads from a Hub that is well: what is asked for, what lies in the cache then, what is not asked for again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use genai_checkpoint::ErrorKind::{self, Auth, CacheMiss, Incomplete, Malformed, NoRevision, Refused, Unsupported};
use genai_checkpoint::{Checkpoint, Environment, Error, HubOptions, Patience, Progress, Token, resolve_model};
use tempfile::TempDir;

use crate::mock_hub::{COMMIT, Hub, Reply, Repo, Server, TOKEN, sha256};
use crate::support::{INDEX, SINGLE, assert_fails, f32_tensors, index};

pub(crate) const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// A cache, and how it is filled.
pub(crate) struct Client {
    pub(crate) dir: TempDir,
    pub(crate) options: HubOptions,
}

impl Client {
    /// Of the Hub, with a token, and with short pauses.
    pub(crate) fn of(hub: &Hub) -> Client {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment {
            hf_hub_cache: Some(dir.path().join("deep/er/hub")),
            hf_endpoint: Some(format!("{}/", hub.server.url())),
            hf_token: Token::new(TOKEN),
            ..Environment::default()
        };
        let patience = Patience { pause: Duration::from_millis(5), ..Patience::default() };
        Client { dir, options: HubOptions { environment, patience, ..HubOptions::default() } }
    }

    pub(crate) fn fetch(&self, model: &str) -> Result<PathBuf, Error> {
        resolve_model(model, &self.options, &(), |_| Ok(()))
    }

    pub(crate) fn offline(&self) -> Client {
        let options = HubOptions { offline: true, ..self.options.clone() };
        Client { dir: tempfile::tempdir().unwrap(), options }
    }

    /// Fetches and expects an error, in which there is no secret.
    #[track_caller]
    pub(crate) fn fails(&self, model: &str, kind: ErrorKind, says: &[&str]) -> Error {
        let error = assert_fails(self.fetch(model), kind, says);
        let all = format!("{error:?} {error}");
        assert!(!all.contains(TOKEN) && !all.contains("a-secret"), "{all}");
        error
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("deep/er/hub")
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.cache().join("models--org--name")
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(sha256(bytes))
    }

    pub(crate) fn incomplete(&self, bytes: &[u8]) -> PathBuf {
        self.repo().join("blobs").join(format!("{}.incomplete", sha256(bytes)))
    }

    /// The files below the folder that are not in the cache; the place where hostile names lead.
    pub(crate) fn strays(&self) -> Vec<PathBuf> {
        let mut strays = files_below(self.dir.path());
        strays.retain(|path| !path.starts_with(self.cache()));
        strays
    }

    /// No file in the cache is unfinished.
    pub(crate) fn is_tidy(&self) {
        let left: Vec<_> = files_below(&self.cache())
            .into_iter()
            .filter(|path| path.to_str().unwrap().ends_with(".tmp") || path.to_str().unwrap().ends_with(".incomplete"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    files
}

/// `org/name`: one weight file of that many elements, and much that nobody needs.
pub(crate) fn single(elements: usize) -> Repo {
    Repo::new("org/name")
        .with("config.json", "{}")
        .with("tokenizer.json", r#"{"model": {}}"#)
        .with("README.md", "# A model")
        .with("LICENSE.txt", "Do what you like.")
        .with("NOTICE", "Of something.")
        .with("noticeboard.png", "a picture")
        .with("licenses.py", "print('code')")
        .with(SINGLE, f32_tensors(&[("a", elements)]))
        .with("pytorch_model.bin", "a pickle")
        .with("onnx/model.onnx", "another format")
        .with("modeling_name.py", "print('code')")
        .with(".gitattributes", "")
}

fn sharded() -> Repo {
    Repo::new("org/name")
        .with("config.json", "{}")
        .with(INDEX, index(&[("a", "one.safetensors"), ("b", "the other.safetensors")]))
        .with("one.safetensors", f32_tensors(&[("a", 3)]))
        .with("the other.safetensors", f32_tensors(&[("b", 4)]))
        .with("three.safetensors", "is not in the index")
}

#[test]
fn what_is_read_is_fetched_and_nothing_else() {
    let hub = Hub::start(single(5));
    let client = Client::of(&hub);
    let snapshot = client.fetch("org/name").unwrap();
    assert_eq!(snapshot, client.repo().join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(client.repo().join("refs/main")).unwrap(), COMMIT);

    let names: Vec<_> = files_below(&snapshot).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["LICENSE.txt", "NOTICE", "README.md", "config.json", SINGLE, "tokenizer.json"]);
    for (name, bytes) in &single(5).files {
        let asked = hub.log().iter().filter(|request| request.path.ends_with(name)).count();
        if names.iter().any(|fetched| fetched.to_str() == Some(name)) {
            assert_eq!(&fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
        } else {
            assert_eq!(asked, 0, "{name}");
        }
    }
    #[cfg(unix)]
    {
        let blob = sha256(&single(5).files[SINGLE]);
        assert_eq!(fs::read_link(snapshot.join(SINGLE)).unwrap(), Path::new("../../blobs").join(blob));
        // As any file of this user's, not the 0600 of a temporary one.
        use std::os::unix::fs::PermissionsExt;
        let plain = client.dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&snapshot.join(SINGLE)), mode(&plain));
    }
    client.is_tidy();

    let opened = Checkpoint::open(&snapshot).unwrap();
    let revision = opened.revision().unwrap();
    assert_eq!((revision.repo.as_str(), revision.commit.as_str()), ("org/name", COMMIT));

    // The token went to the Hub, with every request, and not to the store that it redirects to.
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.server.log().iter().all(|request| request.header("authorization") == Some(&bearer)));
    assert!(!hub.store.log().is_empty());
    hub.store_saw_no_token();
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let hub = Hub::start(single(5));
    let client = Client::of(&hub);
    let snapshot = client.fetch("org/name").unwrap();
    hub.server.clear();
    hub.store.clear();
    assert_eq!(client.fetch("org/name").unwrap(), snapshot);
    let asked = hub.log();
    assert!(asked.len() == 1 && asked[0].path == "/api/models/org/name/revision/main", "{asked:?}");

    // A file that was lost is fetched, and it alone.
    fs::remove_file(snapshot.join("README.md")).unwrap();
    hub.server.clear();
    client.fetch("org/name").unwrap();
    assert!(hub.log().iter().all(|request| request.path.contains("/api/") || request.path.ends_with("README.md")));
    assert_eq!(fs::read_to_string(snapshot.join("README.md")).unwrap(), "# A model");
}

#[test]
fn shards_are_those_of_the_index() {
    let hub = Hub::start(sharded());
    let client = Client::of(&hub);
    let snapshot = client.fetch("org/name").unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().tensors().len(), 2);
    assert!(!snapshot.join("three.safetensors").exists());

    let hub = Hub::start(sharded().with(INDEX, index(&[("a", "one.safetensors"), ("b", "gone"), ("c", "lost")])));
    let client = Client::of(&hub);
    client.fails("org/name", Incomplete, &[INDEX, "org/name does not have: `gone`, `lost`"]);
    assert!(hub.store.log().is_empty(), "no weight is fetched of a model that has not all");

    // As transformers does: one file of all weights comes before shards.
    let both = Hub::start(sharded().with(SINGLE, f32_tensors(&[("a", 3), ("b", 4)])));
    let snapshot = Client::of(&both).fetch("org/name").unwrap();
    assert!(snapshot.ends_with(COMMIT) && both.server.asked("GET", INDEX).is_empty());
}

#[test]
fn a_repository_without_readable_weights_is_told_before_anything_is_fetched() {
    let cases = [
        (single(1), vec![SINGLE], Refused, "pickle is not read"),
        (single(1), vec!["config.json"], Incomplete, "has no config.json"),
        (Repo::new("org/name").with("config.json", "{}").with("a.gguf", ""), vec![], Unsupported, "GGUF"),
        (Repo::new("org/name").with("config.json", "{}"), vec![], Incomplete, "holds neither"),
    ];
    for (mut repo, without, kind, says) in cases {
        without.iter().for_each(|name| drop(repo.files.remove(*name)));
        let hub = Hub::start(repo);
        let client = Client::of(&hub);
        client.fails("org/name", kind, &["org/name", says]);
        assert_eq!(hub.log().len(), 1, "only the listing");
        assert!(files_below(&client.cache()).is_empty());
    }
}

#[test]
fn the_config_is_judged_before_the_weights_are_fetched() {
    let hub = Hub::start(single(5).with("config.json", r#"{"model_type": "oracle"}"#));
    let client = Client::of(&hub);
    let refuse = |config: &serde_json::Value| {
        assert_eq!(config["model_type"], "oracle");
        Err(Refusal("no".to_owned()))
    };
    let refused = resolve_model("org/name", &client.options, &(), refuse);
    assert_eq!(refused.unwrap_err().0, "no");
    assert!(hub.server.asked("GET", SINGLE).is_empty() && hub.server.asked("HEAD", SINGLE).is_empty());
    // What is refused is not what the branch stands at.
    assert!(!client.repo().join("refs/main").exists());
}

#[derive(Debug)]
struct Refusal(String);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(error.to_string())
    }
}

#[test]
fn revisions_are_resolved_once_and_noted() {
    let repo = single(5).revision("v1.0", OTHER).revision("refs/pr/1", OTHER).revision("feature/x", OTHER);
    let hub = Hub::start(repo);
    let client = Client::of(&hub);
    for (revision, noted) in
        [("v1.0", Some("v1.0")), ("refs/pr/1", Some("refs/refs/pr/1")), ("feature/x", Some("feature/x")), (OTHER, None)]
    {
        let snapshot = client.fetch(&format!("org/name@{revision}")).unwrap();
        assert!(snapshot.ends_with(OTHER), "{revision}");
        if let Some(noted) = noted {
            let noted = noted.strip_prefix("refs/refs").map_or_else(|| noted.to_owned(), |rest| format!("refs{rest}"));
            assert_eq!(fs::read_to_string(client.repo().join("refs").join(noted)).unwrap(), OTHER);
        }
        assert_eq!(client.offline().fetch(&format!("org/name@{revision}")).unwrap(), snapshot, "{revision}");
    }
    assert!(!client.repo().join("refs").join(OTHER).exists());
    // Every file was asked for by commit, so that a branch that moves meanwhile mixes nothing.
    let files = hub.server.log().into_iter().filter(|request| request.path.contains("/resolve/"));
    assert!(files.into_iter().all(|request| request.path.contains(OTHER)));
    client.fails("org/name@v9", NoRevision, &["org/name has no revision `v9`", "/org/name/tree/main"]);
}

#[test]
fn a_branch_that_moved_shares_what_did_not_change() {
    let moved = std::sync::Arc::new(AtomicBool::new(false));
    let now = moved.clone();
    let next = single(5).with("config.json", r#"{"next": 1}"#);
    let hub = Hub::misbehaving(next, move |request, right| {
        let first = !now.load(Ordering::Relaxed);
        if request.path.contains("/api/") {
            return Some(single(5).listing(if first { COMMIT } else { OTHER }));
        }
        let old = first && request.path.ends_with("config.json");
        let _ = right;
        old.then(|| Reply::new(200, "{}").with("ETag", "\"old\""))
    });
    let client = Client::of(&hub);
    let before = client.fetch("org/name").unwrap();
    moved.store(true, Ordering::Relaxed);
    hub.server.clear();
    hub.store.clear();
    let after = client.fetch("org/name").unwrap();
    assert!(before.ends_with(COMMIT) && after.ends_with(OTHER));
    assert_eq!(fs::read_to_string(before.join("config.json")).unwrap(), "{}");
    assert_eq!(fs::read_to_string(after.join("config.json")).unwrap(), r#"{"next": 1}"#);
    assert!(hub.store.log().is_empty(), "the weights are the same blob");
    assert_eq!(fs::read_to_string(client.repo().join("refs/main")).unwrap(), OTHER);
}

#[test]
fn offline_asks_nobody() {
    let hub = Hub::start(sharded());
    let client = Client::of(&hub);
    let offline = client.offline();
    offline.fails("org/name", CacheMiss, &["not in the Hub cache", "hf download org/name", "--offline"]);
    assert!(hub.log().is_empty());

    let snapshot = client.fetch("org/name").unwrap();
    hub.server.clear();
    hub.store.clear();
    assert_eq!(offline.fetch("org/name").unwrap(), snapshot);
    fs::remove_file(snapshot.join("one.safetensors")).unwrap();
    fs::remove_file(snapshot.join("config.json")).unwrap();
    offline.fails("org/name", CacheMiss, &["only in part", COMMIT, "lacks `config.json`, `one.safetensors`"]);
    fs::remove_file(fs::canonicalize(snapshot.join("the other.safetensors")).unwrap()).unwrap();
    offline.fails("org/name", CacheMiss, &["`the other.safetensors`"]);
    assert!(hub.log().is_empty());

    let mut by_variable = Client::of(&hub);
    by_variable.options.environment.hf_hub_offline = true;
    by_variable.fails("org/name", CacheMiss, &["not in the Hub cache"]);
    assert!(hub.log().is_empty());
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Listener {
    pub(crate) notes: Mutex<Vec<String>>,
    pub(crate) files: Mutex<Vec<(String, u64, u64)>>,
}

impl Progress for Listener {
    fn file(&self, name: &str, done: u64, size: u64) {
        self.files.lock().unwrap().push((name.to_owned(), done, size));
    }

    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn a_hub_that_cannot_be_asked_is_replaced_by_the_cache() {
    let hub = Hub::start(single(5));
    let mut client = Client::of(&hub);
    let snapshot = client.fetch("org/name").unwrap();
    let down = Server::start(|_| Reply::new(503, "")).url();
    let closed = "http://127.0.0.1:1".to_owned();
    let gone = Server::start(|_| Reply::error(401, "RepoNotFound")).url();
    for endpoint in [down, closed, gone] {
        client.options.environment.hf_endpoint = Some(endpoint.clone());
        let listener = Listener::default();
        let found = resolve_model::<Error>("org/name", &client.options, &listener, |_| Ok(())).unwrap();
        assert_eq!(found, snapshot);
        let notes = listener.notes.into_inner().unwrap().join("\n");
        assert!(notes.contains(&endpoint) && notes.contains(COMMIT) && !notes.contains(TOKEN), "{notes}");
        assert!(client.fetch("org/absent").is_err());
    }
    // A Hub that knows the model and not the revision is believed, also where the cache knows one.
    fs::write(client.repo().join("refs/old"), COMMIT).unwrap();
    client.options.environment.hf_endpoint = Some(hub.server.url());
    client.fails("org/name@old", NoRevision, &["has no revision `old`"]);
    // A shortened commit is known to the cache alone.
    assert_eq!(client.fetch("org/name@01234567").unwrap(), snapshot);
}

#[test]
fn progress_is_told_from_nothing_to_all() {
    let hub = Hub::start(single(100_000));
    let client = Client::of(&hub);
    let listener = Listener::default();
    resolve_model::<Error>("org/name", &client.options, &listener, |_| Ok(())).unwrap();
    let told = listener.files.into_inner().unwrap();
    for (name, bytes) in single(100_000).files.iter().filter(|(name, _)| ["README.md", SINGLE].contains(&name.as_str()))
    {
        let of_file: Vec<_> = told.iter().filter(|(told, ..)| told == name).collect();
        let size = bytes.len() as u64;
        assert!(of_file.iter().all(|(_, _, told)| *told == size));
        assert!(of_file[0].1 == 0 && of_file.last().unwrap().1 == size, "{of_file:?}");
        assert!(of_file.is_sorted_by_key(|(_, done, _)| *done));
    }
    assert!(listener.notes.into_inner().unwrap().is_empty());
}

#[test]
fn which_token_is_sent() {
    let hub = Hub::start(single(5));
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::create_dir_all(files.path().join(name).parent().unwrap()).unwrap();
        fs::write(files.path().join(name), text).unwrap();
        Some(files.path().join(name))
    };
    let bare = Environment { hf_endpoint: Some(hub.server.url()), ..Environment::default() };
    let (login, _) = (file("home/.cache/huggingface/token", " hf_login\n"), file("hf/token", "hf_home"));
    let home = Some(files.path().join("home"));
    let hf_home = Some(files.path().join("hf"));
    let variable = Token::new("hf_variable");
    let cases = [
        (bare.clone(), None, None),
        (Environment { home: home.clone(), ..bare.clone() }, None, Some("hf_login")),
        (Environment { home: home.clone(), hf_home, ..bare.clone() }, None, Some("hf_home")),
        (Environment { hf_token_path: file("path", "hf_path"), home, ..bare.clone() }, None, Some("hf_path")),
        (Environment { hf_token: variable.clone(), hf_token_path: login, ..bare.clone() }, None, Some("hf_variable")),
        (Environment { hf_token: variable.clone(), ..bare.clone() }, Some(None), None),
        (Environment { hf_token: variable.clone(), ..bare.clone() }, Some(Token::new("hf_given")), Some("hf_given")),
        (Environment { hf_token: variable, hf_hub_disable_implicit_token: true, ..bare }, None, None),
    ];
    for (environment, token, sent) in cases {
        hub.server.clear();
        let mut client = Client::of(&hub);
        let cache_dir = Some(client.cache());
        client.options = HubOptions { cache_dir, environment, token, ..client.options };
        client.fetch("org/name").unwrap();
        let sent = sent.map(|token| format!("Bearer {token}"));
        for request in hub.server.log() {
            assert_eq!(request.header("authorization"), sent.as_deref());
        }
    }
    let mut client = Client::of(&hub);
    client.options.environment.hf_token = Token::new("hf_two\r\nX-Other: words");
    let error = client.fails("org/name", Auth, &["the token has characters", "HF_TOKEN"]);
    assert!(!format!("{error:?} {:?}", client.options).contains("hf_two"), "no part of a token is printed");
}

#[test]
fn where_downloads_are_kept() {
    let hub = Hub::start(single(5));
    let client = Client::of(&hub);
    let given = client.dir.path().join("given");
    let options = HubOptions { cache_dir: Some(given.clone()), ..client.options.clone() };
    let fetch = || resolve_model::<Error>("org/name", &options, &(), |_| Ok(())).unwrap();
    assert!(fetch().starts_with(given.join("models--org--name")));
    // A cache in `hub/`, where HF_HOME would have it, is gone on with.
    fs::create_dir(given.join("hub")).unwrap();
    fs::rename(given.join("models--org--name"), given.join("hub/models--org--name")).unwrap();
    assert!(fetch().starts_with(given.join("hub/models--org--name")));
}

#[test]
fn certificates_are_read_or_told() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    fs::write(&empty, "no certificate").unwrap();
    for (file, kind, says) in
        [(empty, Malformed, "holds no certificate"), (dir.path().join("gone.pem"), ErrorKind::Io, "gone.pem")]
    {
        let environment = Environment {
            hf_endpoint: Some("https://127.0.0.1:1".to_owned()),
            certificates: Some(file),
            ..Environment::default()
        };
        let options = HubOptions { cache_dir: Some(dir.path().join("hub")), environment, ..HubOptions::default() };
        assert_fails(resolve_model::<Error>("org/name", &options, &(), |_| Ok(())), kind, &[says]);
    }
}
