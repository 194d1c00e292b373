//! The order in which ONNX Runtime is looked for.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Runtime, library};
use crate::{Error, Result};

/// All that the search depends on, so that a test can give its own.
pub(super) struct Search<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) executable: Option<PathBuf>,
    /// Holds one folder per installed version.
    pub(super) cache: Option<PathBuf>,
    /// Asks `python3` for its site-packages; called only when nothing was found before.
    pub(super) python: &'a dyn Fn() -> Option<PathBuf>,
    pub(super) system: Vec<PathBuf>,
}

impl Search<'static> {
    pub(super) fn of_this_process() -> Self {
        let variable: &'static dyn Fn(&str) -> Option<OsString> = &|name| env::var_os(name);
        Self {
            variable,
            executable: env::current_exe().ok(),
            cache: cache_folder(variable),
            python: &ask_python,
            system: system_folders(variable),
        }
    }
}

impl Search<'_> {
    pub(super) fn run(&self, explicit: Option<&Path>) -> Result<Runtime> {
        if let Some(path) = explicit {
            return requested("--ort-lib", path);
        }
        let mut tried = Vec::new();
        for name in ["GENAI_BUILD_ORT_LIB", "ORT_DYLIB_PATH"] {
            match self.set(name) {
                Some(path) => return requested(name, &path),
                None => tried.push(format!("  {name}: not set")),
            }
        }
        for (place, folder) in self.folders() {
            if let Some(found) = judge(&place, &folder, &mut tried) {
                return Ok(found);
            }
        }
        match (self.python)() {
            Some(site) => {
                if let Some(found) = judge("python3 site-packages", &site.join("onnxruntime/capi"), &mut tried) {
                    return Ok(found);
                }
            }
            None => tried.push("  python3 site-packages: python3 could not be asked".into()),
        }
        for folder in &self.system {
            if let Some(found) = judge("system", folder, &mut tried) {
                return Ok(found);
            }
        }
        Err(Error::RuntimeMissing { tried })
    }

    /// The folders to look in before Python is asked.
    fn folders(&self) -> Vec<(String, PathBuf)> {
        let mut folders = Vec::new();
        if let Some(beside) = self.executable.as_deref().and_then(Path::parent) {
            folders.push(("beside the executable".into(), beside.to_path_buf()));
            folders.push(("beside the executable".into(), beside.join("../lib")));
        }
        if let Some(cache) = &self.cache {
            let mut versions = subfolders(cache);
            versions.sort_by_key(|path| std::cmp::Reverse(version_key(path)));
            if versions.is_empty() {
                versions.push(cache.clone());
            }
            folders.extend(versions.into_iter().map(|folder| ("cache".into(), folder)));
        }
        for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            if let Some(prefix) = self.set(name) {
                folders.extend(
                    site_packages(&prefix).into_iter().map(|site| (name.into(), site.join("onnxruntime/capi"))),
                );
            }
        }
        folders
    }

    fn set(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

/// What the user named must be usable; anything else in its place would be a silent change of the request.
fn requested(origin: &str, path: &Path) -> Result<Runtime> {
    let refused = |reason: String| Error::RuntimeRefused { library: path.to_path_buf(), reason };
    let found = if path.is_dir() {
        library::libraries_in(path)
            .into_iter()
            .next()
            .ok_or_else(|| refused(format!("{origin} names a folder without an ONNX Runtime library")))?
    } else {
        let library = path.canonicalize().map_err(|error| refused(format!("named by {origin}: {error}")))?;
        library::inspect(library)
    };
    match library::objection(&found) {
        Some(reason) => Err(refused(format!("named by {origin}: {reason}"))),
        None => Ok(found),
    }
}

/// The first acceptable library of the folder; what was seen otherwise goes to `tried`.
fn judge(place: &str, folder: &Path, tried: &mut Vec<String>) -> Option<Runtime> {
    let found = library::libraries_in(folder);
    if found.is_empty() {
        tried.push(format!("  {place}: none in {}", folder.display()));
    }
    for runtime in found {
        match library::objection(&runtime) {
            None => return Some(runtime),
            Some(reason) => tried.push(format!("  {place}: {} {reason}", runtime.library.display())),
        }
    }
    None
}

fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![prefix.join("Lib/site-packages")];
    }
    let mut versions: Vec<PathBuf> = subfolders(&prefix.join("lib"))
        .into_iter()
        .filter(|folder| {
            folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python3."))
        })
        .map(|folder| folder.join("site-packages"))
        .collect();
    versions.sort();
    versions
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        // Names with a leading dot are installations under way.
        .filter(|path| path.is_dir() && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
        .collect();
    found.sort();
    found
}

/// `1.9` sorts before `1.31`, and what is no version before both.
fn version_key(folder: &Path) -> Vec<u32> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').map_while(|part| part.parse().ok()).collect()
}

fn cache_folder(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative XDG_CACHE_HOME is to be ignored, says the XDG base directory specification.
    let base = set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| if cfg!(windows) { set("LOCALAPPDATA") } else { None })
        .or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(base.join("genai-build").join("onnxruntime"))
}

fn ask_python() -> Option<PathBuf> {
    let program = if cfg!(windows) { "python" } else { "python3" };
    let output = Command::new(program)
        .args(["-c", "import sysconfig; print(sysconfig.get_paths()['platlib'])"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let site = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(site.trim_end_matches(['\r', '\n'])))
}

/// The folders that the system's loader would search. They are listed rather than left to the loader, because what is
/// loaded by name alone cannot be judged beforehand. Windows is left out: System32 holds old copies.
fn system_folders(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if cfg!(windows) {
        return Vec::new();
    }
    let (search_path, known): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("DYLD_LIBRARY_PATH", &["/opt/homebrew/lib", "/usr/local/lib"])
    } else {
        (
            "LD_LIBRARY_PATH",
            &["/usr/local/lib", "/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"],
        )
    };
    let listed = variable(search_path).unwrap_or_default();
    env::split_paths(&listed)
        .filter(|path| path.is_absolute())
        .chain(known.iter().map(PathBuf::from).filter(|path| path.is_dir()))
        .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;
    use crate::ErrorKind;

    /// A folder tree, and the variables that point into it.
    struct Place {
        root: tempfile::TempDir,
        variables: Vec<(&'static str, PathBuf)>,
    }

    impl Place {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap(), variables: Vec::new() }
        }

        fn path(&self, relative: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(relative)
        }

        fn put(&self, relative: &str) -> PathBuf {
            let path = self.path(relative);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, b"").unwrap();
            path
        }

        fn set(&mut self, name: &'static str, relative: &str) {
            self.variables.push((name, self.path(relative)));
        }

        fn search(&self, explicit: Option<&Path>) -> Result<Runtime> {
            let variable = |name: &str| {
                self.variables.iter().find(|(known, _)| *known == name).map(|(_, path)| path.clone().into_os_string())
            };
            let python = || Some(self.path("python"));
            Search {
                variable: &variable,
                executable: Some(self.path("bin/genai-build")),
                cache: Some(self.path("cache")),
                python: &python,
                system: vec![self.path("usr/lib")],
            }
            .run(explicit)
        }
    }

    #[test]
    fn each_place_gives_way_to_the_one_before_it() {
        let mut place = Place::new();
        let in_order = [
            "usr/lib/libonnxruntime.so.1.24.0",
            "python/onnxruntime/capi/libonnxruntime.so.1.25.0",
            "conda/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.26.0",
            "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.27.0",
            "cache/1.28.0/libonnxruntime.so.1.28.0",
            "lib/libonnxruntime.so.1.29.0",
            "bin/libonnxruntime.so.1.30.0",
        ];
        place.set("VIRTUAL_ENV", "venv");
        place.set("CONDA_PREFIX", "conda");
        fs::create_dir_all(place.path("bin")).unwrap();
        for relative in in_order {
            let path = place.put(relative);
            assert_eq!(place.search(None).unwrap().library, path);
        }
        for (name, relative) in
            [("ORT_DYLIB_PATH", "a/libonnxruntime.so.1.31.0"), ("GENAI_BUILD_ORT_LIB", "b/any-name.so")]
        {
            let path = place.put(relative);
            place.set(name, relative);
            assert_eq!(place.search(None).unwrap().library, path);
        }
        let explicit = place.put("c/libonnxruntime.so.1.32.0");
        assert_eq!(place.search(Some(&explicit)).unwrap().library, explicit);
        assert_eq!(place.search(explicit.parent()).unwrap().library, explicit);
    }

    #[test]
    fn the_newest_cached_version_is_taken_and_unfinished_ones_are_not() {
        let place = Place::new();
        place.put("cache/1.9.0/libonnxruntime.so.1.9.0");
        place.put("cache/1.24.0/libonnxruntime.so.1.24.0");
        let newest = place.put("cache/1.31.1/libonnxruntime.so.1.31.1");
        place.put("cache/.unpack-1/libonnxruntime.so.1.99.0");
        assert_eq!(place.search(None).unwrap().library, newest);
    }

    #[test]
    fn an_old_library_is_passed_over_and_reported() {
        let place = Place::new();
        let old = place.put("bin/libonnxruntime.so.1.20.1");
        let good = place.put("cache/1.31.1/libonnxruntime.so.1.31.1");
        assert_eq!(place.search(None).unwrap().library, good);
        fs::remove_file(good).unwrap();
        let error = place.search(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        let text = error.to_string();
        assert!(text.contains(&format!("{} is version 1.20.1, expected 1.24 or newer", old.display())), "{text}");
        for part in
            ["GENAI_BUILD_ORT_LIB: not set", "cache: none in", "python3 site-packages: none in", "system: none in"]
        {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
        assert!(error.hint().unwrap().contains("genai-build runtime install"));
    }

    #[test]
    fn a_library_that_was_asked_for_is_never_replaced() {
        let mut place = Place::new();
        place.put("bin/libonnxruntime.so.1.31.1");
        let old = place.put("old/libonnxruntime.so.1.17.0");
        let refused = |outcome: Result<Runtime>| match outcome {
            Err(Error::RuntimeRefused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(place.search(Some(&old))).contains("--ort-lib: is version 1.17.0"));
        assert!(refused(place.search(Some(&place.path("absent.so")))).contains("--ort-lib"));
        fs::create_dir_all(place.path("empty")).unwrap();
        assert!(refused(place.search(Some(&place.path("empty")))).contains("without an ONNX Runtime library"));
        place.set("ORT_DYLIB_PATH", "absent.so");
        assert!(refused(place.search(None)).contains("ORT_DYLIB_PATH"));
    }

    #[test]
    fn the_cache_follows_xdg_and_then_home() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            cache_folder(&|name| match name {
                "XDG_CACHE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                _ => None,
            })
        };
        assert_eq!(with(Some("/x"), Some("/h")).unwrap(), Path::new("/x/genai-build/onnxruntime"));
        assert_eq!(with(Some("relative"), Some("/h")).unwrap(), Path::new("/h/.cache/genai-build/onnxruntime"));
        assert_eq!(with(Some(""), None), None);
    }
}
