//! The real binary among real faults: kills, signals, full disks, limits, locks, odd outputs. What was at the output
//! stays, or the new package is there.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::same_bytes::write_wide_checkpoint;
use crate::support::{Outcome, Run, build, build_arguments, contents, fixture, genai_build, tell};

type Files = BTreeMap<String, Vec<u8>>;

const RESOURCES: i32 = 8;
const CONFLICT: i32 = 9;

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_genai-build")
}

/// Runs a line of shell in which `$GB` is the binary.
fn shell(line: &str, place: &Path) -> Run {
    let output = Command::new("bash").args(["-c", line]).env("GB", binary()).current_dir(place).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Run { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A shell command that builds the small fixture.
fn small(precision: &str, output: &str) -> String {
    format!("$GB -i {} -p {precision} -e cpu -o {output}", fixture("llama-default").display())
}

fn package(precision: &str) -> Files {
    contents(build(&fixture("llama-default"), precision, "cpu", &[]).unwrap().path())
}

/// A place with an earlier package at `package`.
fn place() -> Outcome<(tempfile::TempDir, PathBuf, Files)> {
    let place = tempfile::tempdir()?;
    let output = place.path().join("package");
    genai_build(build_arguments(&fixture("llama-default"), "fp32", "cpu", &output)).success()?;
    let before = contents(place.path());
    Ok((place, output, before))
}

#[test]
fn a_place_may_be_named_from_where_one_stands() -> Outcome {
    let (place, expected) = (tempfile::tempdir()?, package("int4"));
    // The second time there is a package to replace.
    for output in ["plain", "plain", "new/package", "new/package", "./new/er/package/", "new/../other"] {
        shell(&small("int4", output), place.path()).success()?;
        assert!(contents(&place.path().join(output)) == expected, "{output}");
    }
    shell(&format!("cd plain && {}", small("int4", ".")), place.path()).success()?;
    assert!(contents(&place.path().join("plain")) == expected);
    Ok(())
}

/// A checkpoint whose build takes a while.
fn large() -> Outcome<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    write_wide_checkpoint(folder.path())?;
    Ok(folder)
}

/// A build under way, ended with the test.
pub(crate) struct Building(Child);

/// Starts a build that takes a while.
pub(crate) fn start(checkpoint: &Path, output: &Path) -> Building {
    let arguments = build_arguments(checkpoint, "int4", "cpu", output);
    let slow = ["-j", "1", "--max-memory", "64K"];
    let mut command = Command::new(binary());
    Building(command.args(arguments).args(slow).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

impl Building {
    /// Waits for its end; what it said on stderr.
    pub(crate) fn finish(mut self) -> Outcome<(ExitStatus, String)> {
        let status = self.0.wait()?;
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said)?;
        Ok((status, said))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a build writes beside its output.
pub(crate) fn wait_for_staging(place: &Path) {
    let started = Instant::now();
    while !fs::read_dir(place).unwrap().any(|entry| is_staging(&entry.unwrap().file_name())) {
        assert!(started.elapsed() < Duration::from_secs(20), "nothing is staged");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_staging(name: &OsStr) -> bool {
    name.to_string_lossy().contains(".genai-build-")
}

/// At once: a process that sends it would take its time on a busy machine, and the build would be done.
fn send(signal: i32, process: u32) {
    // SAFETY: kill takes numbers alone; the child has not been waited for, so that its id is its own.
    assert_eq!(unsafe { libc::kill(process.try_into().unwrap(), signal) }, 0);
}

#[test]
fn signals_end_a_build_and_leave_nothing() -> Outcome {
    let checkpoint = large()?;
    let (place, output, before) = place()?;
    for (signal, number, code) in [("INT", libc::SIGINT, 130), ("TERM", libc::SIGTERM, 143), ("HUP", libc::SIGHUP, 129)]
    {
        for output in [&output, &place.path().join("new/package")] {
            let building = start(checkpoint.path(), output);
            let staged = output.parent().unwrap();
            while !staged.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            wait_for_staging(staged);
            let sent = Instant::now();
            send(number, building.0.id());
            let (status, said) = building.finish()?;
            assert!(sent.elapsed() < Duration::from_secs(2), "{signal}: {:?}", sent.elapsed());
            assert_eq!(status.code(), Some(code), "{signal}: {status} {said}");
            assert!(said.contains(&format!("stopped by SIG{signal}, the output is as it was")), "{said}");
            assert!(contents(place.path()) == before, "{signal} has changed something");
            assert_eq!(fs::read_dir(place.path())?.count(), 1, "{signal} leaves something");
        }
    }
    Ok(())
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let place = tempfile::tempdir().unwrap();
    let line = format!("trap '' HUP; {} & pid=$!; kill -HUP $pid; wait $pid", small("int4", "package"));
    assert_eq!(shell(&line, place.path()).code, 0);
    assert!(contents(&place.path().join("package")) == package("int4"));
}

#[test]
fn a_second_build_into_one_place_is_told_to_wait() -> Outcome {
    let checkpoint = large()?;
    let (place, output, before) = place()?;
    let first = start(checkpoint.path(), &output);
    wait_for_staging(place.path());
    let holder = first.0.id();
    let by = format!("is being written by another build (process {holder})");
    let second = |output: &Path| genai_build(build_arguments(&fixture("llama-default"), "int8", "cpu", output));
    let refused: Vec<Run> = (0..3).map(|_| second(&output)).collect();
    // Another output in the same folder is free.
    let other = second(&place.path().join("other"));
    drop(first);
    refused.iter().try_for_each(|run| run.failed(CONFLICT, &[&by, "hint: "]))?;
    other.success()?;
    assert!(before.iter().all(|(name, bytes)| contents(place.path()).get(name) == Some(bytes)));
    // The lock of a process that is gone holds nothing up, and what it left goes.
    genai_build(build_arguments(&fixture("llama-default"), "int8", "cpu", &output)).success()?;
    assert!(contents(&output) == package("int8"));
    assert_eq!(fs::read_dir(place.path())?.count(), 2);
    Ok(())
}

/// Kills the binary at random times: 10 times, or 100 times with `GENAI_BUILD_SLOW_TESTS=1`.
#[test]
fn kills_at_random_times_leave_an_old_or_a_new_package() -> Outcome {
    let slow = std::env::var_os("GENAI_BUILD_SLOW_TESTS").is_some_and(|value| value == "1");
    let kills = if slow { 100 } else { 10 };
    let (old, new) = (package("fp32"), package("int4"));
    let started = Instant::now();
    let arguments = |output: &Path| {
        let mut arguments = build_arguments(&fixture("llama-default"), "int4", "cpu", output);
        arguments.extend(["-j", "1", "--max-memory", "64K"].map(str::to_owned));
        arguments
    };
    genai_build(arguments(&tempfile::tempdir()?.path().join("package"))).success()?;
    let duration = started.elapsed();
    let (mut random, mut seen) = (0x2545_f491_4f6c_dd1du64, BTreeMap::new());
    for kill in 0..kills {
        let place = tempfile::tempdir()?;
        let output = place.path().join("package");
        let (mut before, mut complete) = (old.clone(), new.clone());
        if kill % 2 == 0 {
            for files in [&mut before, &mut complete] {
                files.insert("notes.txt".to_owned(), b"mine".to_vec());
            }
        }
        fs::create_dir(&output)?;
        for (name, bytes) in &before {
            fs::write(output.join(name), bytes)?;
        }
        let mut child = Command::new(binary()).args(arguments(&output)).stdout(Stdio::null()).spawn()?;
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(duration.mul_f64((random % 1000) as f64 / 1000.0));
        // It may be done already.
        let _ = child.kill();
        child.wait()?;
        let now = contents(&output);
        let outcome = match (now == before, now == complete) {
            (true, _) => "old",
            (_, true) => "new",
            _ => {
                assert!(!now.contains_key("genai_config.json"), "kill {kill}: a mixture that looks complete");
                "half moved"
            }
        };
        let left = fs::read_dir(place.path())?.count() > 1;
        *seen.entry((outcome, left)).or_insert(0) += 1;
        genai_build(arguments(&output)).success()?;
        assert!(contents(&output) == complete, "kill {kill}: the next build is not right");
        assert_eq!(fs::read_dir(place.path())?.count(), 1, "kill {kill}: something is left");
    }
    tell(&format!("{kills} kills: {seen:?} (what was at the output, whether something lay beside it)"));
    Ok(())
}

/// Mounts a RAM disk; `None`, with the reason printed, where this user may not.
fn ram_disk(options: &str) -> Option<RamDisk> {
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()).output();
    match mount {
        Ok(output) if output.status.success() => Some(RamDisk { folder }),
        Ok(output) => {
            tell(&format!("skipped: cannot mount a RAM disk: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            tell(&format!("skipped: no mount command: {error}"));
            None
        }
    }
}

struct RamDisk {
    folder: tempfile::TempDir,
}

impl Drop for RamDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_what_was_there() -> Outcome {
    let new = package("int4");
    let pages: u64 = new.values().map(|bytes| (bytes.len() as u64).next_multiple_of(4096)).sum();
    let (mut failed, mut succeeded) = (0, 0);
    // From far too little to enough, for a first package and for one more.
    for room in (0..=20).map(|step| pages * step / 16 + 8192) {
        for earlier in [false, true] {
            let fp32: u64 = package_pages(&package("fp32")) * u64::from(earlier);
            let Some(disk) = ram_disk(&format!("size={}", room + fp32)) else { return Ok(()) };
            let output = disk.folder.path().join("package");
            if earlier {
                genai_build(build_arguments(&fixture("llama-default"), "fp32", "cpu", &output)).success()?;
            }
            let before = contents(disk.folder.path());
            let run = genai_build(build_arguments(&fixture("llama-default"), "int4", "cpu", &output));
            if run.code == 0 {
                succeeded += 1;
                assert!(contents(&output) == new);
            } else {
                failed += 1;
                run.failed(RESOURCES, &["hint: "])?;
                assert!(contents(disk.folder.path()) == before, "room {room}");
                let kept = fs::read_dir(disk.folder.path())?.count();
                assert_eq!(kept, usize::from(earlier), "room {room}: something is left");
                if room + 4096 < new["model.onnx.data"].len() as u64 {
                    run.failed(
                        RESOURCES,
                        &["the package needs", "bytes free".split(' ').next_back().unwrap_or_default()],
                    )?;
                }
            }
        }
    }
    assert!(failed >= 10 && succeeded >= 4, "{failed} {succeeded}");
    Ok(())
}

fn package_pages(files: &Files) -> u64 {
    files.values().map(|bytes| (bytes.len() as u64).next_multiple_of(4096)).sum::<u64>() + 16384
}

#[test]
fn an_output_that_is_a_mount_point_is_filled_from_inside() -> Outcome {
    let Some(disk) = ram_disk("size=16M") else { return Ok(()) };
    let output = disk.folder.path();
    fs::write(output.join("notes.txt"), "mine")?;
    for precision in ["fp32", "int4", "int4"] {
        genai_build(build_arguments(&fixture("llama-default"), precision, "cpu", output)).success()?;
        let mut files = contents(output);
        assert_eq!(files.remove("notes.txt").as_deref(), Some(&b"mine"[..]));
        assert!(files == package(precision), "{precision}");
    }
    let before = contents(output);
    let broken = crate::support::Altered::copy_of("llama-default").with("tokenizer.json", "{");
    genai_build(build_arguments(broken.path(), "int4", "cpu", output)).failed(4, &["tokenizer.json"])?;
    assert!(contents(output) == before);
    Ok(())
}

#[test]
fn an_output_that_cannot_be_written_is_told_first() -> Outcome {
    // Root may write where the permissions say no, but not to a disk that is mounted for reading.
    let (disk, folder);
    let output = match ram_disk("size=1M,ro") {
        Some(mounted) => {
            disk = mounted;
            disk.folder.path().join("package")
        }
        None => {
            folder = tempfile::tempdir()?;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555))?;
            folder.path().join("package")
        }
    };
    // Before the checkpoint is looked at, let alone fetched.
    let mut arguments = build_arguments(Path::new("/nowhere"), "int4", "cpu", &output);
    genai_build(&arguments).failed(CONFLICT, &["cannot be written", "hint: "])?;
    arguments = build_arguments(&fixture("llama-default"), "int4", "cpu", &output.join("deeper/package"));
    genai_build(&arguments).failed(CONFLICT, &["cannot be written"])
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_death() -> Outcome {
    let (place, _, before) = place()?;
    // In blocks of 1024 bytes: less than the data file, less than the graph, less than anything.
    for blocks in [100, 20, 1, 0] {
        let run = shell(&format!("ulimit -f {blocks}; {}", small("int4", "package")), place.path());
        run.failed(RESOURCES, &["hint: a limit on the size of files"])?;
        assert!(contents(place.path()) == before, "{blocks}");
        assert_eq!(fs::read_dir(place.path())?.count(), 1);
    }
    Ok(())
}

#[test]
fn a_closed_or_full_stdout_does_not_cost_the_package() {
    let place = tempfile::tempdir().unwrap();
    let new = package("int4");
    for (ending, code) in [
        (" | true; exit ${PIPESTATUS[0]}", 0),
        (" --json | true; exit ${PIPESTATUS[0]}", RESOURCES),
        (" > /dev/full", RESOURCES),
        (" --json > /dev/full", RESOURCES),
        (" 2> /dev/full", 0),
        (" >&- 2>&-", 0),
    ] {
        // `true` may end after the result is written; a pipe that nobody reads is closed by then.
        let line = format!("{}{}", small("int4", "package"), ending.replace("| true", "| (exec <&-; sleep 1)"));
        let run = shell(&line, place.path());
        assert_eq!(run.code, code, "{ending}: {run:?}");
        assert!(contents(&place.path().join("package")) == new, "{ending}");
        fs::remove_dir_all(place.path().join("package")).unwrap();
    }
}

#[test]
fn files_folders_and_links_at_the_output() -> Outcome {
    let new = package("int4");
    let place = tempfile::tempdir()?;
    let at = |name: &str| place.path().join(name);
    let run = |output: &Path| genai_build(build_arguments(&fixture("llama-default"), "int4", "cpu", output));
    fs::write(at("file"), "mine")?;
    symlink("file", at("link-to-file"))?;
    symlink("nowhere", at("dangling"))?;
    symlink("loop", at("loop"))?;
    for (name, says) in [
        ("file", "exists and is not a folder"),
        ("link-to-file", "is a symlink to what is not a folder"),
        ("dangling", "is a symlink that leads nowhere"),
        ("loop", "is a symlink that leads nowhere"),
    ] {
        run(&at(name)).failed(CONFLICT, &[says, "hint: "])?;
    }
    assert_eq!(fs::read_dir(place.path())?.count(), 4);

    // A link to a folder is followed and stays.
    fs::create_dir(at("real"))?;
    fs::write(at("real").join("notes.txt"), "mine")?;
    symlink("real", at("link"))?;
    run(&at("link")).success()?;
    assert_eq!(fs::read_link(at("link"))?, Path::new("real"));
    let mut files = contents(&at("real"));
    assert_eq!(files.remove("notes.txt").as_deref(), Some(&b"mine"[..]));
    assert!(files == new);

    // A link in the output is replaced, and what it leads to is not written.
    fs::create_dir(at("linked"))?;
    symlink("../file", at("linked").join("model.onnx"))?;
    run(&at("linked")).success()?;
    assert!(contents(&at("linked")) == new && fs::read(at("file"))? == b"mine");

    // A folder where the package has a file.
    fs::create_dir_all(at("blocked/tokenizer.json/mine"))?;
    run(&at("blocked")).failed(CONFLICT, &["has a folder named tokenizer.json", "hint: "])?;
    assert_eq!(fs::read_dir(at("blocked"))?.count(), 1);

    // The folder in which the user is.
    fs::create_dir(at("here"))?;
    let here = shell(&format!("{} && ls", small("int4", ".")), &at("here"));
    assert!(here.code == 0 && here.stdout.contains("genai_config.json"), "{here:?}");
    assert!(contents(&at("here")) == new);
    Ok(())
}

#[test]
fn odd_names_are_fine() -> Outcome {
    let new = package("int4");
    let place = tempfile::tempdir()?;
    let long = "n".repeat(255);
    let names: [&OsStr; 7] = [
        "with space".as_ref(),
        "#%?&'\"".as_ref(),
        "🦙".as_ref(),
        ".hidden".as_ref(),
        "-p".as_ref(),
        long.as_ref(),
        OsStr::from_bytes(b"not\xffutf8\n"),
    ];
    for name in names {
        for more in [false, true] {
            let output = place.path().join(name);
            let run = Command::new(binary())
                .args(["-i".as_ref(), fixture("llama-default").as_os_str(), "-p".as_ref(), "int4".as_ref()])
                .args(["-e".as_ref(), "cpu".as_ref(), "-o".as_ref(), output.as_os_str()])
                .output()?;
            assert!(run.status.success(), "{name:?}: {}", String::from_utf8_lossy(&run.stderr));
            // Then over what is there, with a file of someone else.
            let mut files = contents(&output);
            assert_eq!(files.remove("notes.txt").is_some(), more);
            assert!(files == new, "{name:?}");
            fs::write(output.join("notes.txt"), "mine")?;
            assert_eq!(fs::read_dir(place.path())?.count(), 1, "{name:?}: something is left");
        }
        fs::remove_dir_all(place.path().join(name))?;
    }
    let too_long = "n".repeat(256);
    let run = genai_build(build_arguments(&fixture("llama-default"), "int4", "cpu", &place.path().join(too_long)));
    assert!([RESOURCES, CONFLICT].contains(&run.code), "{run:?}");
    assert_eq!(fs::read_dir(place.path())?.count(), 0);
    Ok(())
}

#[test]
fn modes_come_from_the_umask_and_the_folder_that_was_there() {
    let place = tempfile::tempdir().unwrap();
    for (umask, folder_mode, file_mode) in [("077", 0o700, 0o600), ("022", 0o755, 0o644), ("002", 0o775, 0o664)] {
        let output = format!("package-{umask}");
        assert_eq!(shell(&format!("umask {umask}; {}", small("int4", &output)), place.path()).code, 0);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&place.path().join(&output)), folder_mode);
        for name in contents(&place.path().join(&output)).keys() {
            assert_eq!(mode(&place.path().join(&output).join(name)), file_mode, "{name}");
        }
        // A folder that was there keeps its mode.
        fs::set_permissions(place.path().join(&output), fs::Permissions::from_mode(0o2750)).unwrap();
        assert_eq!(shell(&small("fp32", &output), place.path()).code, 0);
        assert_eq!(mode(&place.path().join(&output)), 0o2750);
    }
}

#[test]
fn the_environment_does_not_change_a_byte() {
    let place = tempfile::tempdir().unwrap();
    let new = package("int4");
    for (number, settings) in [
        "TZ=Asia/Kathmandu LC_ALL=tr_TR.UTF-8",
        "SOURCE_DATE_EPOCH=0 LANG=C",
        "HOME=/nowhere USER=x",
        "RAYON_NUM_THREADS=7",
    ]
    .iter()
    .enumerate()
    {
        let output = format!("package-{number}");
        assert_eq!(shell(&format!("{settings} {}", small("int4", &output)), place.path()).code, 0, "{settings}");
        assert!(contents(&place.path().join(&output)) == new, "{settings}");
    }
}
