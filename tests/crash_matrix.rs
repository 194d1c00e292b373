//! A build that is killed, fails or is stopped at each of its changes to the file system: the output is as it was, or
//! complete, and what was left beside it the next build removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use genai_builder::output::{Action, Fault};
use genai_builder::{
    Disk, Error, Interrupt, Output, Precision, Request, RuntimeConfig, Settings, Target, materialize::Limits,
};
use genai_checkpoint::Checkpoint;
use genai_quantize::Simd;

use crate::support::{Outcome, contents, fixture, for_each, tell};

type Files = BTreeMap<String, Vec<u8>>;

/// What is at the output before the build.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    /// Neither it nor the folder above.
    Nothing,
    /// A package of another precision: the two are swapped.
    Package,
    /// The same and a file that no build put there: files are moved one by one, with a journal.
    PackageAndMore,
}

/// What happens at one operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// The process is gone: that operation and all that follow are not done.
    Kill,
    /// The same, half-way through a write.
    TornKill,
    /// The operation fails, the process goes on.
    Fail,
    /// A signal asks the build to stop.
    Interrupt,
}

fn request(precision: Precision) -> Request {
    let target = Target::find("cpu").unwrap();
    Request {
        settings: Settings::of(target, precision).unwrap(),
        filename: "model.onnx".to_owned(),
        config_only: false,
        allow_unused: Vec::new(),
        hash_inputs: false,
        runtime_config: RuntimeConfig::default(),
    }
}

fn build(output: &Path, disk: Disk, precision: Precision) -> Result<(), Error> {
    let claimed = Output::claim(output, disk)?;
    let checkpoint = Checkpoint::open(&fixture("llama-default"))?;
    // Small tiles on one thread: many writes, always in the same order.
    let limits = Limits { max_memory: 64 << 10, threads: 1, simd: Simd::detect() };
    let request = request(precision);
    let (_, built) = genai_builder::build(&checkpoint, vec![(&request, claimed)], &limits, &|_, _| ())?;
    genai_builder::commit(built.into_iter().map(|built| (built, None)).collect()).1
}

/// A place to build in, and what is there.
struct Place {
    folder: tempfile::TempDir,
    output: PathBuf,
    before: Files,
    complete: Files,
}

/// The packages that the tests build, made once.
struct Packages {
    earlier: Files,
    new: Files,
}

impl Packages {
    fn make() -> Outcome<Self> {
        let made = |precision| {
            let folder = tempfile::tempdir()?;
            build(folder.path(), Disk::default(), precision)?;
            Ok::<_, Box<dyn std::error::Error>>(contents(folder.path()))
        };
        // Of the earlier one a file is no longer made.
        Ok(Self { earlier: made(Precision::Fp32)?, new: made(Precision::Int4)? })
    }

    fn place(&self, before: Before) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let output = match before {
            Before::Nothing => folder.path().join("made/for/package"),
            _ => folder.path().join("package"),
        };
        let (mut files, mut complete) = (Files::new(), self.new.clone());
        if before != Before::Nothing {
            files = self.earlier.clone();
            fs::create_dir(&output).unwrap();
        }
        if before == Before::PackageAndMore {
            for files in [&mut files, &mut complete] {
                files.insert("notes.txt".to_owned(), b"mine".to_vec());
            }
        }
        for (name, bytes) in &files {
            fs::write(output.join(name), bytes).unwrap();
        }
        Place { folder, output, before: files, complete }
    }
}

impl Place {
    fn now(&self) -> Files {
        if self.output.exists() { contents(&self.output) } else { Files::new() }
    }

    /// The files beside the output.
    fn beside(&self) -> Vec<PathBuf> {
        let parent = self.output.parent().unwrap();
        let entries =
            fs::read_dir(parent).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
        entries.unwrap_or_default().into_iter().filter(|path| *path != self.output).collect()
    }

    /// As before or complete, and nothing else.
    fn judge(&self, now: &Files) -> Result<bool, String> {
        if *now == self.complete {
            return Ok(true);
        }
        if *now == self.before { Ok(false) } else { Err(format!("a mixture: {:?}", now.keys().collect::<Vec<_>>())) }
    }
}

/// A disk on which `event` happens at operation number `at`, counted from 0; the log gets what was done.
fn disk(event: Option<(Event, usize)>, log: &Arc<Mutex<Vec<(Action, PathBuf)>>>) -> Disk {
    let (log, interrupt) = (Arc::clone(log), Interrupt::default());
    let stop = interrupt.clone();
    Disk::new(interrupt).with_hook(move |operation| {
        let mut log = log.lock().unwrap();
        let number = log.len();
        log.push((operation.action, operation.path.to_owned()));
        let (event, at) = event?;
        let gone = || io::Error::other("the process is gone");
        match event {
            Event::Kill if number >= at => Some(Fault::Fails(gone())),
            Event::TornKill if number == at => Some(Fault::Torn(gone())),
            Event::TornKill if number > at => Some(Fault::Fails(gone())),
            Event::Fail if number == at => Some(Fault::Fails(io::Error::from_raw_os_error(5))),
            Event::Interrupt if number == at => {
                stop.request();
                None
            }
            _ => None,
        }
    })
}

/// What a build without any event does, in order.
fn operations(packages: &Packages, before: Before) -> Vec<(Action, PathBuf)> {
    let place = packages.place(before);
    let log = Arc::default();
    build(&place.output, disk(None, &log), Precision::Int4).unwrap();
    assert!(place.judge(&place.now()).unwrap());
    assert_eq!(place.beside(), [] as [PathBuf; 0]);
    let log = log.lock().unwrap();
    log.clone()
}

#[test]
fn wherever_a_build_is_cut_off_the_output_is_old_or_new() {
    let packages = Packages::make().unwrap();
    let mut cases = Vec::new();
    for before in [Before::Nothing, Before::Package, Before::PackageAndMore] {
        let operations = operations(&packages, before);
        let actions: BTreeSet<Action> = operations.iter().map(|(action, _)| *action).collect();
        let expected = [Action::Write, Action::Allocate, Action::SyncFile, Action::SyncFolder, Action::RemoveFile];
        assert!(expected.iter().all(|action| actions.contains(action)), "{before:?}: {actions:?}");
        let commits = if before == Before::Package { Action::Exchange } else { Action::Rename };
        assert!(actions.contains(&commits), "{before:?}: {actions:?}");
        assert!(operations.len() > 60, "{before:?}: {} operations are few", operations.len());
        for (at, (action, _)) in operations.iter().enumerate() {
            cases.push((before, Event::Kill, at));
            cases.push((before, Event::Fail, at));
            cases.push((before, Event::Interrupt, at));
            if *action == Action::Write {
                cases.push((before, Event::TornKill, at));
            }
        }
    }
    tell(&format!("crash matrix: {} points", cases.len()));
    for_each(&cases, |case| format!("{case:?}"), |(before, event, at)| case(&packages, *before, *event, *at));
}

fn case(packages: &Packages, before: Before, event: Event, at: usize) -> Outcome {
    let place = packages.place(before);
    let result = build(&place.output, disk(Some((event, at)), &Arc::default()), Precision::Int4);
    let now = place.now();
    match (event, &result) {
        // A kill says nothing; what there is may be half moved, but then no client takes it for a package.
        (Event::Kill | Event::TornKill, _) => {
            if let Err(mixture) = place.judge(&now)
                && now.contains_key("genai_config.json")
            {
                return Err(mixture.into());
            }
        }
        (_, Ok(())) => assert!(place.judge(&now)?, "it says that it is done"),
        (_, Err(error)) => {
            assert!(!place.judge(&now)?, "it fails and has changed the output: {error}");
            assert_eq!(event == Event::Interrupt, matches!(error, Error::Interrupted), "{error}");
            // What could not be removed is all that may be left.
            if event == Event::Interrupt {
                assert_eq!(place.beside(), [] as [PathBuf; 0]);
                assert_eq!(before == Before::Nothing, fs::read_dir(place.folder.path())?.next().is_none());
            }
        }
    }
    let under_way = place.output.with_file_name(".package.genai-build.journal").exists();
    if under_way {
        recovery_can_be_cut_off(&place)?;
    }
    drop(Output::claim(&place.output, Disk::default())?);
    let recovered = place.now();
    let done = place.judge(&recovered)?;
    assert!(now != place.complete || done || under_way, "the next build took a complete package back");
    assert_eq!(place.beside(), [] as [PathBuf; 0], "something is left beside the output");
    Ok(())
}

/// A next build that is killed at each operation of its recovery leaves what the one after it recovers.
fn recovery_can_be_cut_off(place: &Place) -> Outcome {
    for at in 0.. {
        let copy = Place {
            folder: tempfile::tempdir()?,
            output: PathBuf::new(),
            before: place.before.clone(),
            complete: place.complete.clone(),
        };
        let copy = Place { output: copy.folder.path().join("package"), ..copy };
        copy_tree(place.folder.path(), copy.folder.path())?;
        let log = Arc::default();
        let claimed = Output::claim(&copy.output, disk(Some((Event::Kill, at)), &log));
        if claimed.is_ok() {
            assert!(at > 3, "a recovery of {at} operations");
            return Ok(());
        }
        drop(Output::claim(&copy.output, Disk::default())?);
        assert!(!copy.judge(&copy.now())?, "a commit that was cut off is undone");
        assert_eq!(copy.beside(), [] as [PathBuf; 0]);
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Outcome {
    for entry in fs::read_dir(from)? {
        let (entry, name) = (entry?, |entry: &fs::DirEntry| to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            fs::create_dir(name(&entry))?;
            copy_tree(&entry.path(), &name(&entry))?;
        } else {
            fs::copy(entry.path(), name(&entry))?;
        }
    }
    Ok(())
}

/// File systems that cannot swap two folders: the files are moved one by one.
#[test]
fn where_folders_cannot_be_swapped_files_are_moved() -> Outcome {
    let packages = Packages::make()?;
    let place = packages.place(Before::Package);
    let moved = Arc::new(Mutex::new(0));
    let count = Arc::clone(&moved);
    let disk = Disk::default().with_hook(move |operation| match operation.action {
        // EINVAL
        Action::Exchange => Some(Fault::Fails(io::Error::from_raw_os_error(22))),
        Action::Rename => {
            *count.lock().unwrap() += 1;
            None
        }
        _ => None,
    });
    build(&place.output, disk, Precision::Int4)?;
    assert!(place.judge(&place.now())?);
    assert_eq!(place.beside(), [] as [PathBuf; 0]);
    assert!(*moved.lock().unwrap() > packages.new.len());
    Ok(())
}

/// A power cut loses what was not synced, so nothing may be put in place before it is.
#[test]
fn nothing_is_put_in_place_before_it_is_on_the_disk() {
    let packages = Packages::make().unwrap();
    for before in [Before::Nothing, Before::Package, Before::PackageAndMore] {
        let operations = operations(&packages, before);
        let is_commit = |action: Action, path: &Path| match before {
            Before::Nothing => action == Action::Rename && path.ends_with("package"),
            Before::Package => action == Action::Exchange,
            // The journal, which the moves follow.
            Before::PackageAndMore => action == Action::Rename && path.to_string_lossy().ends_with(".journal"),
        };
        let commit = operations.iter().position(|(action, path)| is_commit(*action, path)).unwrap();
        let last = |action: Action, path: &Path, range: &[(Action, PathBuf)]| {
            range.iter().rposition(|(done, on)| *done == action && on == path)
        };
        let staged = &operations[..commit];
        let files: BTreeSet<&Path> =
            staged.iter().filter(|(action, _)| *action == Action::CreateFile).map(|(_, path)| path.as_path()).collect();
        assert!(files.len() >= 6, "{files:?}");
        for file in files {
            let (written, synced) = (last(Action::Write, file, staged), last(Action::SyncFile, file, staged));
            assert!(written < synced, "{before:?}: {} is put in place unsynced", file.display());
            let folder = file.parent().unwrap();
            let created = last(Action::CreateFile, file, staged);
            // The folder of the journal is synced after its rename, which is the step that counts.
            if !file.to_string_lossy().ends_with(".journal.new") {
                assert!(
                    created < last(Action::SyncFolder, folder, staged),
                    "{before:?}: {} unsynced",
                    folder.display()
                );
            }
        }
        let after = &operations[commit..];
        let parent = operations[commit].1.parent().unwrap();
        assert!(last(Action::SyncFolder, parent, after).is_some(), "{before:?}: the commit is not synced");
        if before == Before::PackageAndMore {
            let target = parent.join("package");
            let moved = after.iter().rposition(|(action, path)| *action == Action::Rename && path.starts_with(&target));
            let synced = last(Action::SyncFolder, &target, after);
            let forgotten = last(Action::RemoveFile, &operations[commit].1, after);
            assert!(moved < synced && synced < forgotten, "{before:?}: the journal goes before the files are there");
            let first = after.iter().position(|(action, path)| {
                *action == Action::Rename && !path.ends_with(".package.genai-build.journal")
            });
            let journal = after.iter().position(|(action, path)| *action == Action::SyncFolder && path == parent);
            assert!(journal < first, "files move before the journal is on the disk");
        }
    }
}
