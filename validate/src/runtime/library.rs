//! Recognising an ONNX Runtime library, and its version, without loading it.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Runtime;

/// The oldest release that the `ort` feature `api-24` accepts.
pub(super) const OLDEST: (u32, u32) = (1, 24);

/// The libraries in `folder`, newest version first and those of unknown version last. Links are followed, so that
/// `libonnxruntime.so.1` gives the full version of what it points at.
pub(super) fn libraries_in(folder: &Path) -> Vec<Runtime> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<Runtime> = entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_str().is_some_and(is_library_name))
        .filter_map(|entry| entry.path().canonicalize().ok())
        .filter(|path| path.is_file())
        .map(inspect)
        .collect();
    found.sort_by_cached_key(|runtime| (Reverse(version_number(runtime)), runtime.library.clone()));
    found.dedup_by(|a, b| a.library == b.library);
    found
}

/// The file as a candidate, with its version if that can be known.
pub(super) fn inspect(library: PathBuf) -> Runtime {
    let version =
        version_in_name(&library).or_else(|| version_of_wheel(&library)).or_else(|| version_in_symbols(&library));
    Runtime { library, version }
}

/// Why the library is of no use; none if its version is acceptable or unknown (then `ort` checks when loading).
pub(super) fn objection(runtime: &Runtime) -> Option<String> {
    let (major, minor) = OLDEST;
    (version_number(runtime)? < OLDEST).then(|| {
        let version = runtime.version.as_deref().unwrap_or_default();
        format!("is version {version}, expected {major}.{minor} or newer")
    })
}

/// `libonnxruntime.so`, `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`; not the provider
/// libraries beside them.
pub(super) fn is_library_name(name: &str) -> bool {
    if cfg!(windows) {
        name.eq_ignore_ascii_case("onnxruntime.dll")
    } else if cfg!(target_os = "macos") {
        name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    } else {
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so.")
    }
}

fn version_number(runtime: &Runtime) -> Option<(u32, u32)> {
    let mut parts = runtime.version.as_deref()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `1.31.1` of `libonnxruntime.so.1.31.1`; nothing of `libonnxruntime.so.1`, which is an interface number.
fn version_in_name(library: &Path) -> Option<String> {
    let name = library.file_name()?.to_str()?;
    let rest = name.strip_prefix("libonnxruntime.")?;
    let version = rest.strip_prefix("so.").or_else(|| rest.strip_suffix(".dylib"))?;
    is_version(version).then(|| version.to_owned())
}

/// From `onnxruntime-1.31.1.dist-info` (or `onnxruntime_gpu-…`), which pip puts beside the package.
fn version_of_wheel(library: &Path) -> Option<String> {
    let capi = library.parent()?;
    let package = capi.parent()?;
    if !capi.ends_with("capi") || !package.ends_with("onnxruntime") {
        return None;
    }
    let mut versions = fs::read_dir(package.parent()?).ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let (distribution, version) = name.strip_suffix(".dist-info")?.split_once('-')?;
        let ours = distribution == "onnxruntime" || distribution.starts_with("onnxruntime_");
        (ours && !distribution.contains("genai") && is_version(version)).then(|| version.to_owned())
    });
    let version = versions.next()?;
    // Two distributions in one folder overwrite each other: then the metadata does not say whose library this is.
    versions.all(|other| other == version).then_some(version)
}

/// The Linux library names its symbol version after the release: `VERS_1.31.1`.
fn version_in_symbols(library: &Path) -> Option<String> {
    const MARK: &[u8] = b"VERS_1.";
    const LONGEST: usize = 32;
    const CHUNK: u64 = 1 << 20;

    let mut file = File::open(library).ok()?;
    let mut window = Vec::new();
    loop {
        let read = file.by_ref().take(CHUNK).read_to_end(&mut window).ok()?;
        let mark = window.windows(MARK.len()).position(|bytes| bytes == MARK);
        // A mark near the end of the window is judged with the next chunk, or at the end of the file.
        if let Some(tail) = mark.and_then(|at| window.get(at + 5..))
            && (tail.len() >= LONGEST || read == 0)
        {
            let version: String = tail
                .iter()
                .take(LONGEST)
                .map(|&byte| char::from(byte))
                .take_while(|c| "0123456789.".contains(*c))
                .collect();
            return is_version(&version).then_some(version);
        }
        if read == 0 {
            return None;
        }
        let keep_from = window.len().saturating_sub(MARK.len() + LONGEST);
        window.drain(..keep_from);
    }
}

/// At least `major.minor`, digits throughout.
fn is_version(text: &str) -> bool {
    let numbers = text.split('.').map(str::parse::<u32>).collect::<Vec<_>>();
    numbers.len() >= 2 && numbers.iter().all(Result::is_ok)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn touch(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_newest_library_comes_first_and_providers_are_no_candidates() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime.so",
        ];
        for name in names {
            touch(&folder.path().join(name), b"");
        }
        let found: Vec<_> = libraries_in(folder.path()).into_iter().map(|r| r.version).collect();
        assert_eq!(found, [Some("1.31.1".to_owned()), Some("1.9.0".to_owned()), None]);
    }

    #[test]
    fn links_are_followed_and_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        touch(&folder.path().join("libonnxruntime.so.1.30.0"), b"");
        std::os::unix::fs::symlink("libonnxruntime.so.1.30.0", folder.path().join("libonnxruntime.so.1")).unwrap();
        let found = libraries_in(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version.as_deref(), Some("1.30.0"));
    }

    #[test]
    fn the_wheel_metadata_tells_the_version_unless_two_wheels_share_the_folder() {
        let site = tempfile::tempdir().unwrap();
        let library = site.path().join("onnxruntime/capi/libonnxruntime.so");
        touch(&library, b"");
        touch(&site.path().join("onnxruntime-1.29.0.dist-info/METADATA"), b"");
        touch(&site.path().join("onnxruntime_genai-0.18.0.dist-info/METADATA"), b"");
        assert_eq!(inspect(library.clone()).version.as_deref(), Some("1.29.0"));
        touch(&site.path().join("onnxruntime_gpu-1.20.0.dist-info/METADATA"), b"");
        assert_eq!(inspect(library).version, None);
    }

    #[test]
    fn the_symbol_version_is_found_across_chunks() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libonnxruntime.so");
        let mark = b"\0VERS_1.31.1\0OrtGetApiBase\0";
        for offset in [0, (1 << 20) - 4, (1 << 20) - 9, (1 << 20) + 1] {
            let mut bytes = vec![0xAAu8; offset];
            bytes.extend_from_slice(mark);
            touch(&library, &bytes);
            assert_eq!(inspect(library.clone()).version.as_deref(), Some("1.31.1"), "offset {offset}");
        }
        touch(&library, b"VERS_1.x");
        assert_eq!(inspect(library).version, None);
    }

    #[test]
    fn only_a_known_old_version_is_objected_to() {
        let of = |version: Option<&str>| Runtime { library: "x".into(), version: version.map(str::to_owned) };
        assert_eq!(objection(&of(Some("1.24.0"))), None);
        assert_eq!(objection(&of(Some("2.0.0"))), None);
        assert_eq!(objection(&of(None)), None);
        assert_eq!(objection(&of(Some("1.23.2"))).unwrap(), "is version 1.23.2, expected 1.24 or newer");
    }
}
