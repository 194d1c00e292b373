//! `resolve_model`: folders, Hub ids, and the cache, in made-up environments.

use std::fs;
use std::path::{Path, PathBuf};

use genai_checkpoint::ErrorKind::{CacheMiss, Malformed, NotFound, Unsupported};
use genai_checkpoint::{Environment, Error, HubOptions};
use tempfile::TempDir;

use crate::support::assert_fails;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "0123aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What `model` is, offline, in these places.
fn resolve_model_in(model: &str, cache_dir: Option<&Path>, environment: &Environment) -> Result<PathBuf, Error> {
    let (cache_dir, environment) = (cache_dir.map(Path::to_owned), environment.clone());
    let options = HubOptions { cache_dir, environment, offline: true, ..HubOptions::default() };
    genai_checkpoint::resolve_model(model, &options, &(), |_| panic!("nothing is fetched"))
}

fn resolve_model(model: &str, cache_dir: Option<&Path>) -> Result<PathBuf, Error> {
    resolve_model_in(model, cache_dir, &Environment::default())
}

/// A cache folder with `org/name` at two commits, and `solo` without organisation.
fn fill(cache: &Path) {
    let repo = cache.join("models--org--name");
    for commit in [COMMIT, OTHER] {
        model(&repo.join("snapshots").join(commit));
    }
    fs::create_dir_all(repo.join("refs/refs/pr")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    fs::write(repo.join("refs/v1.0"), format!("{OTHER}\n")).unwrap();
    fs::write(repo.join("refs/refs/pr/1"), OTHER).unwrap();
    fs::write(repo.join("refs/stale"), "f".repeat(40)).unwrap();
    fs::write(repo.join("refs/broken"), "../../../../etc").unwrap();
    model(&cache.join("models--solo/snapshots").join(COMMIT));
    fs::create_dir_all(cache.join("models--solo/refs")).unwrap();
    fs::write(cache.join("models--solo/refs/main"), COMMIT).unwrap();
}

/// As much as is looked at: what is needed is there.
fn model(snapshot: &Path) {
    fs::create_dir_all(snapshot).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::write(snapshot.join(name), "").unwrap();
    }
}

fn cache() -> TempDir {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path());
    cache
}

#[test]
fn an_existing_folder_is_itself() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().to_str().unwrap();
    assert_eq!(resolve_model(text, None).unwrap(), dir.path());
    let file = dir.path().join("model.safetensors");
    fs::write(&file, "").unwrap();
    assert_fails(resolve_model(file.to_str().unwrap(), None), Unsupported, &["is a file", "folder"]);
}

#[test]
fn revisions_lead_to_snapshots() {
    let cache = cache();
    let find = |model: &str| resolve_model_in(model, Some(cache.path()), &Environment::default());
    let snapshot = |repo: &str, commit: &str| cache.path().join(repo).join("snapshots").join(commit);
    for (model, commit) in [
        ("org/name", COMMIT),
        ("org/name@main", COMMIT),
        ("org/name@v1.0", OTHER),
        ("org/name@refs/pr/1", OTHER),
        (&format!("org/name@{OTHER}"), OTHER),
        ("org/name@01234", COMMIT),
        ("org/name@0123a", OTHER),
    ] {
        assert_eq!(find(model).unwrap(), snapshot("models--org--name", commit), "{model}");
    }
    assert_eq!(find("solo").unwrap(), snapshot("models--solo", COMMIT));

    let place = cache.path().to_str().unwrap();
    let hub = format!("{place}/hub");
    assert_fails(find("org/absent"), CacheMiss, &[place, &hub, "no such model", "hf download org/absent"]);
    assert_fails(find("org/name@v2"), CacheMiss, &["not this revision", "hf download org/name --revision v2"]);
    assert_fails(find("org/name@refs/pr"), CacheMiss, &["not this revision"]);
    assert_fails(find("org/name@stale"), CacheMiss, &["no snapshot"]);
    assert_fails(find("org/name@dead"), CacheMiss, &["not this commit"]);
    assert_fails(find("org/name@0123"), CacheMiss, &["ambiguous", COMMIT, OTHER]);
    assert_fails(find("org/name@broken"), Malformed, &["broken", "expected a commit hash"]);
}

#[test]
fn text_that_is_neither() {
    let cache = cache();
    for model in [
        "",
        "/no/such/folder",
        "a/b/c",
        "./org",
        "../name",
        "org/",
        "/name",
        "org/na me",
        "org/..",
        "org/a--b",
        "org/name\u{1b}[31m",
        "org/name@",
        "org/name@../../x",
        "org/name@a//b",
        "org/name@-x",
        "org/name@a b",
        "C:\\model",
        "hf://org/name",
        "nul\0",
    ] {
        let result = resolve_model_in(model, Some(cache.path()), &Environment::default());
        assert_fails(result, NotFound, &["neither an existing folder nor a Hub id", "org/name"]);
    }
    let long = "x".repeat(97);
    assert_fails(resolve_model_in(&long, None, &Environment::default()), NotFound, &["96"]);
}

#[test]
fn the_first_variable_that_is_set_decides() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| Some(root.path().join(name));
    // Each takes precedence over those before it.
    let mut environment = Environment::default();
    assert_fails(resolve_model_in("org/name", None, &environment), CacheMiss, &["no cache folder is known"]);
    type Set = fn(&mut Environment, Option<std::path::PathBuf>);
    let variables: [(&str, &str, Set); 5] = [
        ("home", "home/.cache/huggingface/hub", |e, p| e.home = p),
        ("xdg", "xdg/huggingface/hub", |e, p| e.xdg_cache_home = p),
        ("hf", "hf/hub", |e, p| e.hf_home = p),
        ("old", "old", |e, p| e.huggingface_hub_cache = p),
        ("new", "new", |e, p| e.hf_hub_cache = p),
    ];
    for (name, cache, set) in variables {
        let cache = root.path().join(cache);
        set(&mut environment, at(name));
        assert_fails(resolve_model_in("org/name", None, &environment), CacheMiss, &[cache.to_str().unwrap()]);
        fill(&cache);
        let expected = cache.join("models--org--name/snapshots").join(COMMIT);
        assert_eq!(resolve_model_in("org/name", None, &environment).unwrap(), expected);
    }

    let nested = root.path().join("given");
    fill(&nested.join("hub"));
    let found = resolve_model_in("org/name", Some(&nested), &environment).unwrap();
    assert!(found.starts_with(nested.join("hub")), "a cache_dir overrides the environment, also as the parent of hub/");

    let tilde = Environment { hf_home: Some("~/kept".into()), home: at("home"), ..Environment::default() };
    fill(&root.path().join("home/kept/hub"));
    assert!(resolve_model_in("org/name", None, &tilde).unwrap().starts_with(root.path().join("home/kept")));
}
