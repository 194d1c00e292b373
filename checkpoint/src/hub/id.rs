//! Names on the Hub, and which of them may become paths.

use crate::error::{Error, ErrorKind, Result, quoted};

/// `org/name@revision`, or `name` for the few models without an organisation.
#[derive(Debug, Clone, Copy)]
pub(super) struct HubId<'a> {
    pub(super) repo: &'a str,
    /// As the user typed it.
    pub(super) asked: Option<&'a str>,
}

impl<'a> HubId<'a> {
    pub(super) fn parse(model: &'a str) -> Result<HubId<'a>> {
        let (repo, asked) = match model.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (model, None),
        };
        let neither = |why: &str| {
            let problem = format!("{} is neither an existing folder nor a Hub id: {why}", quoted(model));
            Error::new(ErrorKind::NotFound, problem).with_hint("a Hub id is org/name or org/name@revision")
        };
        if repo.split('/').count() > 2 {
            return Err(neither("it has more than one slash"));
        }
        if !repo.split('/').all(is_repo_part) || repo.len() > 96 {
            return Err(neither("a Hub name is letters, digits and, inside, - _ . (96 in all)"));
        }
        if !asked.is_none_or(is_revision) {
            return Err(neither("the part after @ is not a revision"));
        }
        Ok(HubId { repo, asked })
    }

    pub(super) fn revision(&self) -> &'a str {
        self.asked.unwrap_or("main")
    }

    /// The name of the repository's folder in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.repo.replace('/', "--"))
    }

    pub(super) fn download_command(&self) -> String {
        match self.asked {
            Some(revision) => format!("hf download {} --revision {revision}", self.repo),
            None => format!("hf download {}", self.repo),
        }
    }
}

/// The naming rule of the Hub (`validate_repo_id` in huggingface_hub), which keeps `--` free as a separator.
fn is_repo_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether git would allow the name, so that it stays below `refs/` and fits on a command line and into a file name.
fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/');
    let fine =
        |part: &str| !part.is_empty() && part.len() <= 200 && !part.starts_with(['.', '-']) && !part.contains("..");
    revision.len() <= 1000 && revision.chars().all(allowed) && revision.split('/').all(fine)
}

/// A commit hash in full.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_commit_prefix(text)
}

pub(super) fn is_commit_prefix(text: &str) -> bool {
    (4..=40).contains(&text.len()) && is_lower_hex(text)
}

/// Whether an ETag, which is the name of a blob in the cache too, is the SHA-256 of the content, as it is for files in
/// large file storage.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && is_lower_hex(text)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether the path, told by a server, could not be one in a git tree: it leads out of the tree, or is not printable.
pub(super) fn is_hostile_path(path: &str) -> bool {
    let drive = matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    drive
        || path.len() > 4096
        || path.chars().any(char::is_control)
        || path.starts_with('\\')
        || path.split('/').any(str::is_empty)
        || path.split(['/', '\\']).any(|part| matches!(part, "." | ".."))
}

/// Whether a file of that name can be made in a folder of any system, and mean nothing but that file.
pub(super) fn is_storable_name(name: &str) -> bool {
    const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = ["COM", "LPT"]
        .iter()
        .any(|port| stem.strip_prefix(port).is_some_and(|rest| rest.len() == 1 && rest.as_bytes() != b"0"));
    name.len() <= 255
        && crate::folder::is_plain_file_name(name)
        && !name.chars().any(|c| c.is_control() || "<>\"|?*".contains(c))
        && !name.ends_with(['.', ' '])
        && !DEVICES.contains(&stem.as_str())
        && !numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_no_git_tree_holds() {
        for path in
            ["../x", "a/../../b", "/etc/passwd", "a//b", "..\\x", "\\\\srv\\x", "C:\\x", "c:x", "a\0b", "", "./a"]
        {
            assert!(is_hostile_path(path), "{path:?}");
        }
        assert!(is_hostile_path(&"x/".repeat(3000)));
        for path in ["config.json", "onnx/model.onnx", ".gitattributes", "a..b", "weird\\name", "größe.txt"] {
            assert!(!is_hostile_path(path), "{path:?}");
        }
    }

    #[test]
    fn names_that_any_system_stores() {
        for name in ["model-00001-of-00002.safetensors", "größe", "a b", "COM0", "CONFIG", "com.safetensors"] {
            assert!(is_storable_name(name), "{name:?}");
        }
        for name in ["CON", "nul.safetensors", "COM1", "lpt9.x", "a/b", "a:b", "a?", "a.", "a ", "..", ""] {
            assert!(!is_storable_name(name), "{name:?}");
        }
        assert!(!is_storable_name(&"x".repeat(256)));
    }
}
