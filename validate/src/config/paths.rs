//! Paths in a package: text that stays inside its folder, and links that lead out of it.

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// Is this a relative path that cannot leave the folder, by the rules of every platform? Packages travel.
pub(super) fn stays_inside(text: &str) -> bool {
    let plain =
        Path::new(text).components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    plain && !text.contains(['\\', ':', '\0'])
}

/// Where `file`, a relative path, really is: symlinks are followed, and must end in the folder or, where that is a
/// snapshot in a Hub cache, in the cache's `blobs`.
///
/// # Errors
/// [`Error::Package`] for a path or a link that leads elsewhere, [`Error::Io`] for a file that is not there.
pub fn resolve_inside(folder: &Path, file: &Path) -> Result<PathBuf> {
    let path = folder.join(file);
    if !file.to_str().is_some_and(stays_inside) {
        return Err(Error::package(&path, "is not a relative path inside the package"));
    }
    let root = folder.canonicalize().map_err(Error::io(folder))?;
    let target = path.canonicalize().map_err(Error::io(&path))?;
    if target.starts_with(&root) || blobs(&root).iter().any(|blobs| target.starts_with(blobs)) {
        return Ok(target);
    }
    Err(Error::package(&path, format!("is a link to {}, outside the package", target.display())))
}

/// `<cache>/models--org--name/blobs` and `<cache>/blobs`, where the folder is in
/// `<cache>/models--org--name/snapshots/<commit>`.
fn blobs(root: &Path) -> Vec<PathBuf> {
    let snapshots = root.ancestors().find(|place| place.file_name().is_some_and(|name| name == "snapshots"));
    let model = snapshots.and_then(Path::parent).filter(|model| {
        model.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("models--"))
    });
    let places = model.into_iter().chain(model.and_then(Path::parent));
    places.map(|place| place.join("blobs")).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_must_not_lead_out() -> Result<()> {
        let place = tempfile::tempdir().unwrap();
        let package = place.path().join("package");
        fs::create_dir_all(package.join("cpu")).unwrap();
        fs::write(package.join("cpu/model.onnx"), b"x").unwrap();
        fs::write(place.path().join("secret"), b"x").unwrap();
        symlink("cpu/model.onnx", package.join("inside")).unwrap();
        symlink("../secret", package.join("outside")).unwrap();
        symlink("..", package.join("up")).unwrap();
        assert!(resolve_inside(&package, Path::new("inside"))?.ends_with("package/cpu/model.onnx"));
        for file in ["outside", "up/secret"] {
            let error = resolve_inside(&package, Path::new(file)).unwrap_err();
            assert!(error.to_string().contains("outside the package"), "{file}: {error}");
        }
        assert!(resolve_inside(&package, Path::new("../secret")).is_err());
        assert!(matches!(resolve_inside(&package, Path::new("nothing")), Err(Error::Io { .. })));
        Ok(())
    }

    #[test]
    fn a_snapshot_of_the_hub_cache_is_of_links_to_its_blobs() -> Result<()> {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--a--b");
        let package = model.join("snapshots/0123/cpu");
        fs::create_dir_all(&package).unwrap();
        fs::create_dir_all(model.join("blobs")).unwrap();
        fs::write(model.join("blobs/ffff"), b"x").unwrap();
        fs::write(model.join("other"), b"x").unwrap();
        symlink("../../../blobs/ffff", package.join("model.onnx")).unwrap();
        symlink("../../../other", package.join("other.onnx")).unwrap();
        assert!(resolve_inside(&package, Path::new("model.onnx")).is_ok());
        assert!(resolve_inside(&package, Path::new("other.onnx")).is_err());
        Ok(())
    }
}
