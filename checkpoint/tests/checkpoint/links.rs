//! Symlinks: which are followed, and the layout of the Hub cache (X11 to X13).
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use genai_checkpoint::Checkpoint;
use genai_checkpoint::ErrorKind::{Incomplete, Malformed, Refused};

use crate::support::{INDEX, Model, SINGLE, assert_fails, f32_tensors, index};

/// A Hub cache entry below `root`; returns its snapshot, whose files are links into `blobs/`.
fn snapshot(root: &Path) -> std::path::PathBuf {
    let repo = root.join("models--org--name");
    let snapshot = repo.join("snapshots").join("0".repeat(40));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("blobs")).unwrap();
    for (name, bytes) in [("config.json", b"{}".to_vec()), (SINGLE, f32_tensors(&[("a", 1)]))] {
        fs::write(repo.join("blobs").join(format!("hash-{name}")), bytes).unwrap();
        symlink(format!("../../blobs/hash-{name}"), snapshot.join(name)).unwrap();
    }
    snapshot
}

#[test]
fn x11_a_snapshot_links_into_its_blobs() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(root.path());
    let checkpoint = Checkpoint::open(&snapshot).unwrap();
    assert_eq!(checkpoint.tensors().len(), 1);
    assert_eq!(checkpoint.weight_files().next().unwrap(), snapshot.join(SINGLE), "named as the user knows it");
    assert_eq!(checkpoint.file_path("config.json").unwrap(), snapshot.join("config.json"));

    let link = root.path().join("link");
    symlink(&snapshot, &link).unwrap();
    assert_eq!(Checkpoint::open(&link).unwrap().dir(), link, "a link to the folder itself is the user's choice");
}

#[test]
fn x12_links_that_leave_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(root.path());
    let elsewhere = root.path().join("elsewhere.safetensors");
    fs::write(&elsewhere, f32_tensors(&[("a", 1)])).unwrap();

    fs::remove_file(snapshot.join(SINGLE)).unwrap();
    symlink(&elsewhere, snapshot.join(SINGLE)).unwrap();
    assert_fails(Checkpoint::open(&snapshot), Refused, &[SINGLE, "elsewhere.safetensors", "outside"]);

    let model = Model::of(f32_tensors(&[("a", 1)]));
    symlink("/etc/passwd", model.path("tokenizer.json")).unwrap();
    let checkpoint = model.open_ok();
    assert_fails(checkpoint.file("tokenizer.json"), Refused, &["tokenizer.json", "/etc/passwd"]);
    assert_eq!(checkpoint.file_path("tokenizer.json"), None);
}

#[test]
fn blobs_of_another_model_are_outside() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(root.path());
    let other = root.path().join("models--org--other").join("blobs");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("hash"), "{}").unwrap();
    symlink("../../../models--org--other/blobs/hash", snapshot.join("generation_config.json")).unwrap();
    assert_fails(Checkpoint::open(&snapshot), Refused, &["generation_config.json"]);
}

/// huggingface_hub 2 keeps one copy of a file for all models, in `<cache>/blobs`, and links `blobs/<etag>` to it.
#[test]
fn blobs_that_the_cache_shares_are_inside() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = snapshot(root.path());
    let shared = root.path().join("blobs/ab");
    fs::create_dir_all(&shared).unwrap();
    let blob = snapshot.join("../../blobs").join(format!("hash-{SINGLE}"));
    fs::rename(&blob, shared.join("abcd")).unwrap();
    symlink("../../blobs/ab/abcd", &blob).unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().tensors().len(), 1);

    // Where it is no cache, `blobs` beside a folder means nothing.
    let bare = root.path().join("model/snapshots").join("0".repeat(40));
    fs::create_dir_all(&bare).unwrap();
    fs::write(bare.join("config.json"), "{}").unwrap();
    symlink(shared.join("abcd"), bare.join(SINGLE)).unwrap();
    assert_fails(Checkpoint::open(&bare), Refused, &[SINGLE, "outside"]);
}

#[test]
fn links_within_the_folder_are_followed() {
    let model = Model::new().with("real", f32_tensors(&[("a", 1)]));
    symlink("real", model.path(SINGLE)).unwrap();
    assert_eq!(model.open_ok().tensors().len(), 1);
}

#[test]
fn x13_loops_and_dangling_links() {
    let model = Model::new();
    symlink(SINGLE, model.path(SINGLE)).unwrap();
    model.fails(Malformed, &[SINGLE, "leads back to itself"]);

    let model = Model::new().with(INDEX, index(&[("a", "shard")]));
    symlink("gone", model.path("shard")).unwrap();
    model.fails(Incomplete, &["shard", "does not exist"]);
}

#[test]
fn devices_behind_links_are_refused() {
    let model = Model::new();
    symlink("/dev/zero", model.path(SINGLE)).unwrap();
    model.fails(Refused, &[SINGLE, "/dev/zero"]);
}
