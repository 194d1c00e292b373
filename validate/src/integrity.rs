//! Are the files of a package those that the build wrote? Compares them with `SHA256SUMS` and `genai-build.json`.
//!
//! Written apart from the code that makes both, so that a defect there shows here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{ErrorKind, Read},
    path::Path,
};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

pub(crate) const SUMS: &str = "SHA256SUMS";
pub(crate) const MANIFEST: &str = "genai-build.json";

/// Neither file comes near this.
const LARGEST: u64 = 64 << 20;

/// What a package's files are, compared with what they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// Files that were compared, and their bytes.
    pub files: usize,
    pub bytes: u64,
    /// Files whose bytes are not those that were written: the name and what is wrong.
    pub damaged: BTreeMap<String, String>,
    /// Files of the package that are not there.
    pub missing: Vec<String>,
    /// What is there and belongs to no package.
    pub extra: Vec<String>,
}

impl Integrity {
    /// Nothing is damaged or missing.
    pub fn is_intact(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }
}

/// Hashes every file of a package.
///
/// # Errors
/// `Package` where the folder has neither of the two lists, `Io` if the system fails a read.
pub fn verify(folder: &Path) -> Result<Integrity> {
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        present.insert(entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned());
    }
    if !present.contains(SUMS) && !present.contains(MANIFEST) {
        return Err(Error::package(
            folder,
            format!("holds neither {SUMS} nor {MANIFEST}: there is nothing to compare with"),
        ));
    }
    let mut found = Integrity::default();
    let mut sums = BTreeMap::new();
    if present.contains(SUMS) {
        match parse_sums(&read(&folder.join(SUMS))?) {
            Ok(parsed) => sums = parsed,
            Err(problem) => drop(found.damaged.insert(SUMS.to_owned(), problem)),
        }
    }
    let mut listed = BTreeMap::new();
    if present.contains(MANIFEST) {
        match parse_manifest(&read(&folder.join(MANIFEST))?) {
            Some(parsed) => listed = parsed,
            None => drop(found.damaged.insert(MANIFEST.to_owned(), "cannot be read".to_owned())),
        }
    }

    let mut names: BTreeSet<&str> = sums.keys().chain(listed.keys()).map(String::as_str).collect();
    names.extend([SUMS, MANIFEST]);
    found.missing = names.iter().filter(|name| !present.contains(**name)).map(|name| (*name).to_owned()).collect();
    found.extra = present.iter().filter(|name| !names.contains(name.as_str())).cloned().collect();
    let readable = found.damaged.is_empty() && found.missing.iter().all(|name| name != SUMS && name != MANIFEST);
    for name in names.into_iter().filter(|name| present.contains(*name)) {
        let (hash, bytes) = match sha256(&folder.join(name))? {
            Some(hashed) => hashed,
            None => {
                found.damaged.insert(name.to_owned(), "is not a regular file".to_owned());
                continue;
            }
        };
        found.files += 1;
        found.bytes += bytes;
        let lists = (sums.get(name), listed.get(name));
        let Some((blamed, problem)) = compare(name, &hash, bytes, lists, readable) else { continue };
        found.damaged.entry(blamed.to_owned()).or_insert(problem);
    }
    Ok(found)
}

/// What a manifest says of a file.
type Listed = (u64, String);

/// Which file is wrong, and how, where `name` has this hash. `both` is whether both lists could be read and so must
/// agree.
fn compare<'a>(
    name: &'a str,
    hash: &str,
    bytes: u64,
    (sum, listed): (Option<&String>, Option<&Listed>),
    both: bool,
) -> Option<(&'a str, String)> {
    if name == SUMS {
        return None;
    }
    match (sum, listed) {
        (Some(sum), Some((_, listed))) if sum != hash && listed == hash => {
            Some((SUMS, format!("has another SHA-256 of {name} than the file and {MANIFEST}")))
        }
        (Some(sum), Some((_, listed))) if sum == hash && listed != hash => {
            Some((MANIFEST, format!("has another SHA-256 of {name} than the file and {SUMS}")))
        }
        (_, Some((size, _))) if *size != bytes => Some((name, format!("has {bytes} bytes, {size} were written"))),
        (Some(written), _) | (None, Some((_, written))) if written != hash => {
            Some((name, format!("its SHA-256 is {hash}, that of what was written is {written}")))
        }
        (None, _) if both => Some((SUMS, format!("does not list {name}"))),
        (_, None) if both && name != MANIFEST => Some((MANIFEST, format!("does not list {name}"))),
        _ => None,
    }
}

/// Lines of 64 lower-case digits, two spaces and a plain name, sorted by name: just what a build writes, so that no
/// byte of the file can change unseen.
fn parse_sums(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text = str::from_utf8(bytes).map_err(|error| format!("is not text at byte {}", error.valid_up_to()))?;
    let Some(text) = text.strip_suffix('\n') else { return Err("does not end with a line feed".to_owned()) };
    let mut sums = BTreeMap::new();
    let mut last = "";
    for (number, line) in text.split('\n').enumerate() {
        let parsed = line.split_once("  ").filter(|(hash, name)| is_sha256(hash) && is_plain(name) && *name > last);
        let Some((hash, name)) = parsed else {
            return Err(format!(
                "line {} is not a SHA-256, two spaces and a name that sorts after the last",
                number + 1
            ));
        };
        sums.insert(name.to_owned(), hash.to_owned());
        last = name;
    }
    Ok(sums)
}

/// The files that a manifest lists; `None` where it is none.
fn parse_manifest(bytes: &[u8]) -> Option<BTreeMap<String, Listed>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let entry = |file: &Value| {
        let name = file.get("name")?.as_str().filter(|name| is_plain(name))?;
        let hash = file.get("sha256")?.as_str().filter(|hash| is_sha256(hash))?;
        Some((name.to_owned(), (file.get("bytes")?.as_u64()?, hash.to_owned())))
    };
    value.get("files")?.as_array()?.iter().map(entry).collect()
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let metadata = path.metadata().map_err(Error::io(path))?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(Error::package(path, format!("is not a file of at most {LARGEST} bytes")));
    }
    fs::read(path).map_err(Error::io(path))
}

/// The hash and the size of a regular file, links followed; `None` for anything else.
pub(crate) fn sha256(path: &Path) -> Result<Option<(String, u64)>> {
    if !path.metadata().map_err(Error::io(path))?.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut hash, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                hash.update(&chunk[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path)(error)),
        }
    }
    Ok(Some((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes)))
}
