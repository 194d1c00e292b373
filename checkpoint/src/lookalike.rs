//! Recognises what is commonly found under a name that promises something else.

use std::path::Path;

use crate::Error;

/// How many leading bytes [`mistaken_for`] wants to see.
pub(crate) const PREFIX: usize = 512;

/// A better error than "malformed" for a file that failed to parse, if `prefix` (its first bytes) tells what it is.
pub(crate) fn mistaken_for(file: &Path, prefix: &[u8]) -> Option<Error> {
    // https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: the first line of a pointer is its version.
    if prefix.starts_with(b"version https://git-lfs") || prefix.starts_with(b"version https://hawser") {
        return Some(
            Error::malformed(file, "is a Git LFS pointer, not the file itself")
                .with_hint("run `git lfs pull` in the model's clone, or fetch the model with `hf download`"),
        );
    }
    let text = prefix.trim_ascii_start().to_ascii_lowercase();
    if [&b"<!doctype"[..], b"<html", b"<head", b"<?xml"].iter().any(|tag| text.starts_with(tag)) {
        return Some(
            Error::malformed(file, "looks like a web page, not a model file")
                .with_hint("a proxy or login page may have been saved under this name: download the file again"),
        );
    }
    // A zip is how torch.save writes; 0x80 0x02 opens an older bare pickle.
    if prefix.starts_with(b"PK\x03\x04") || prefix.starts_with(b"\x80\x02") {
        return Some(
            Error::malformed(file, "looks like a PyTorch pickle, not a safetensors or JSON file")
                .with_hint("pickles are not read: convert the weights to safetensors"),
        );
    }
    None
}
