//! Fetching ONNX Runtime: `pip` downloads the wheel (its index, proxy and certificate settings then apply), and only
//! the libraries are unpacked from it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use zip::ZipArchive;

use super::{Runtime, library};
use crate::{Error, Result};

/// The release that is fetched.
pub const VERSION: &str = "1.31.1";

/// The libraries of the CPU wheel are 30 MiB; more than this is not a wheel of ONNX Runtime.
const LARGEST_LIBRARY: u64 = 4 << 30;

/// Fetches ONNX Runtime [`VERSION`] into `cache/VERSION` and returns it. A version that is there already is kept, so
/// the network is not touched twice.
///
/// # Errors
/// [`Error::RuntimeInstall`] if there is no pip or it fails, with what pip said.
pub fn install(cache: &Path) -> Result<Runtime> {
    let target = cache.join(VERSION);
    if let Some(present) = library::libraries_in(&target).into_iter().next() {
        return Ok(present);
    }
    fs::create_dir_all(cache).map_err(Error::io(cache))?;
    let download = Scratch::new(cache, "download")?;
    pip_download(&download.path)?;
    let wheel = wheel_in(&download.path)?;
    unpack(&wheel, cache, &target)
}

/// A folder that is gone when the work is done, or has failed. Its leading dot hides it from the search.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(cache: &Path, purpose: &str) -> Result<Self> {
        let path = cache.join(format!(".{purpose}-{}", process::id()));
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left-overs cost space and nothing else.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn pip_download(folder: &Path) -> Result<()> {
    let pips: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
    let mut failures = Vec::new();
    for pip in pips {
        let Some((program, prefix)) = pip.split_first() else { continue };
        let outcome = Command::new(program)
            .args(prefix)
            .args(["download", "--quiet", "--no-input", "--disable-pip-version-check"])
            // The library depends on no Python, but a wheel is published only for some: ask for one that has it.
            .args(["--no-deps", "--only-binary=:all:", "--python-version", "3.12"])
            .arg(format!("onnxruntime=={VERSION}"))
            .arg("-d")
            .arg(folder)
            .output();
        match outcome {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => failures.push(format!("`{}`: {}", pip.join(" "), last_line(&output.stderr))),
            Err(error) => failures.push(format!("`{}`: {error}", pip.join(" "))),
        }
    }
    Err(Error::RuntimeInstall { reason: failures.join("; ") })
}

/// pip ends its complaints with the one that matters.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("failed without a message").trim().to_owned()
}

fn wheel_in(folder: &Path) -> Result<PathBuf> {
    let entries = folder.read_dir().map_err(Error::io(folder))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::RuntimeInstall { reason: format!("pip left no wheel in {}", folder.display()) })
}

/// Unpacks the libraries into a hidden folder of `cache`, then renames it: `target` is complete or absent.
fn unpack(wheel: &Path, cache: &Path, target: &Path) -> Result<Runtime> {
    let unpacked = Scratch::new(cache, "unpack")?;
    let file = File::open(wheel).map_err(Error::io(wheel))?;
    extract_libraries(file, &unpacked.path)
        .map_err(|reason| Error::RuntimeInstall { reason: format!("{}: {reason}", wheel.display()) })?;
    if let Err(error) = fs::rename(&unpacked.path, target) {
        // Another process may have been faster; its folder is as good.
        if library::libraries_in(target).is_empty() {
            return Err(Error::io(target)(error));
        }
    }
    library::libraries_in(target).into_iter().next().ok_or_else(|| Error::RuntimeInstall {
        reason: format!("{} holds no ONNX Runtime library for this system", wheel.display()),
    })
}

/// Writes `onnxruntime/capi/libonnxruntime*` (on Windows `onnxruntime*.dll`) into `folder`, nothing else: no name of
/// the archive becomes a path but a plain file name that passed the filter.
fn extract_libraries(wheel: impl Read + Seek, folder: &Path) -> Result<(), String> {
    let mut archive = ZipArchive::new(wheel).map_err(|error| error.to_string())?;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| error.to_string())?;
        let Some(name) = library_name(entry.name()).map(str::to_owned) else { continue };
        let size = entry.size();
        if size > LARGEST_LIBRARY {
            return Err(format!("{name} has {size} bytes, expected at most {LARGEST_LIBRARY}"));
        }
        let path = folder.join(&name);
        let mut file = File::create_new(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Reading to the end also checks the CRC.
        let written =
            io::copy(&mut entry.take(LARGEST_LIBRARY), &mut file).map_err(|error| format!("{name}: {error}"))?;
        if written != size {
            return Err(format!("{name} unpacks to {written} bytes, expected {size}"));
        }
        file.sync_all().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn library_name(entry: &str) -> Option<&str> {
    let name = entry.strip_prefix("onnxruntime/capi/")?;
    let plain = !name.contains(['/', '\\', ':']);
    let library = if cfg!(windows) {
        name.starts_with("onnxruntime") && name.ends_with(".dll")
    } else {
        name.starts_with("libonnxruntime")
    };
    (plain && library).then_some(name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;

    use zip::write::FileOptions;

    use super::*;

    fn wheel(path: &Path, entries: &[(&str, &[u8])]) {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, bytes) in entries {
            archive.start_file(*name, FileOptions::default()).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_the_libraries_are_unpacked_and_nothing_else_is_left() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("onnxruntime.whl");
        let library = vec![7u8; 100_000];
        wheel(
            &path,
            &[
                ("onnxruntime/__init__.py", b"raise SystemExit"),
                ("onnxruntime/capi/libonnxruntime.so.1.31.1", &library),
                ("onnxruntime/capi/libonnxruntime_providers_shared.so", b"shared"),
                ("onnxruntime/capi/../../../libonnxruntime.so.1.99.0", b"escape"),
                ("onnxruntime/capi/deeper/libonnxruntime.so.1.99.0", b"deeper"),
            ],
        );
        let target = cache.path().join("1.31.1");
        let runtime = unpack(&path, cache.path(), &target).unwrap();
        assert_eq!(runtime.version.as_deref(), Some("1.31.1"));
        assert_eq!(fs::read(&runtime.library).unwrap(), library);
        assert_eq!(names(&target), ["libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"]);
        assert_eq!(names(cache.path()), ["1.31.1", "onnxruntime.whl"]);
        // What is installed is found without fetching anything.
        assert_eq!(install(cache.path()).unwrap(), runtime);
    }

    #[test]
    fn a_wheel_without_a_library_or_with_a_damaged_one_installs_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("onnxruntime.whl");
        wheel(&path, &[("onnxruntime/__init__.py", b"")]);
        let error = unpack(&path, cache.path(), &cache.path().join("1.31.1")).unwrap_err();
        assert!(error.to_string().contains("holds no ONNX Runtime library"), "{error}");

        let damaged = cache.path().join("damaged.whl");
        wheel(&damaged, &[("onnxruntime/capi/libonnxruntime.so.1.31.1", &[7u8; 100_000])]);
        let mut bytes = fs::read(&damaged).unwrap();
        bytes[80] ^= 0x55;
        fs::write(&damaged, bytes).unwrap();
        let target = cache.path().join("damaged");
        unpack(&damaged, cache.path(), &target).unwrap_err();
        assert!(!target.exists());
        assert!(names(cache.path()).iter().all(|name| !name.starts_with('.')));
    }
}
