//! Arrays from an `.npz` file, as `numpy.savez` writes them.
//!
//! Format: an archive of `NAME.npy` entries (numpy `lib.npyio`), each a magic, a version, a header that is a Python
//! dict literal with the keys `descr`, `fortran_order`, `shape`, and the elements (NEP 1, `numpy.lib.format`).
//!
//! The header is read here and not by `npyz` 0.9: that crate multiplies the dimensions unchecked and parses the
//! literal recursively, so a hostile file can panic it or overflow the stack.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::as_conversions,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use crate::{Error, Result};

/// A file of recorded logits is small; these bounds only keep a hostile one from exhausting memory.
const MAX_ENTRIES: usize = 4096;
const MAX_BYTES: u64 = 4 << 30;
/// numpy's own limit for a header that it parses without being asked to trust it is 10 000.
const MAX_HEADER: usize = 10_000;
const MAX_DIMENSIONS: usize = 8;
const MAX_NAME: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) elements: Elements,
}

/// In row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Elements {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// All arrays of a file, by name.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Array>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let at = |entry: &str| format!("{}: {entry}", path.display());
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|error| Error::reference(path.display().to_string(), format!("is not an npz file: {error}")))?;
    if archive.len() > MAX_ENTRIES {
        let problem = format!("has {} entries, more than {MAX_ENTRIES}", archive.len());
        return Err(Error::reference(path.display().to_string(), problem));
    }
    let mut left = MAX_BYTES;
    let mut arrays = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive
            .by_index(index)
            .map_err(|error| Error::reference(at(&format!("entry {index}")), error.to_string()))?;
        let name = entry.name().to_owned();
        // Names end up in reports and on terminals.
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let problem = format!("has a name with control characters or of more than {MAX_NAME} bytes");
            return Err(Error::reference(at(&format!("entry {index}")), problem));
        }
        let Some(array_name) = name.strip_suffix(".npy").map(str::to_owned) else {
            return Err(Error::reference(at(&name), "is not an array (.npy)"));
        };
        // The declared size is a claim; only what is really there is counted and held.
        let mut bytes = Vec::new();
        let count = (&mut entry)
            .take(left.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| Error::reference(at(&name), error.to_string()))?;
        left = u64::try_from(count).ok().and_then(|count| left.checked_sub(count)).ok_or_else(|| {
            Error::reference(path.display().to_string(), format!("holds more than {MAX_BYTES} bytes of arrays"))
        })?;
        let array = array(&bytes).map_err(|problem| Error::reference(at(&name), problem))?;
        if arrays.insert(array_name, array).is_some() {
            return Err(Error::reference(at(&name), "is there twice"));
        }
    }
    Ok(arrays)
}

type Parsed<T> = std::result::Result<T, String>;

fn array(bytes: &[u8]) -> Parsed<Array> {
    let (header, data) = split(bytes)?;
    let header = Header::parse(header)?;
    let count = header
        .shape
        .iter()
        .try_fold(1usize, |product, &dimension| product.checked_mul(dimension))
        .ok_or_else(|| format!("has shape {:?}, too large", header.shape))?;
    let mismatch =
        |size: usize| format!("has shape {:?} and {} bytes of {size}-byte elements", header.shape, data.len());
    let elements = match header.descr.as_str() {
        "<f4" => Elements::F32(exact(data, count).ok_or_else(|| mismatch(4))?.map(f32::from_le_bytes).collect()),
        "<i8" => Elements::I64(exact(data, count).ok_or_else(|| mismatch(8))?.map(i64::from_le_bytes).collect()),
        other => return Err(format!("has dtype {other}, expected <f4 or <i8")),
    };
    Ok(Array { shape: header.shape, elements })
}

/// The elements of `data` if they are exactly `count` of `SIZE` bytes.
fn exact<const SIZE: usize>(data: &[u8], count: usize) -> Option<impl Iterator<Item = [u8; SIZE]>> {
    let (elements, rest) = data.as_chunks::<SIZE>();
    (rest.is_empty() && elements.len() == count).then(|| elements.iter().copied())
}

/// The header's text and the bytes after it.
fn split(bytes: &[u8]) -> Parsed<(&str, &[u8])> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("does not start as an npy file")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or("ends within its header")?;
    let (length, rest) = match version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or("ends within its header")?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or("ends within its header")?;
            (usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX), rest)
        }
        [major, minor] => return Err(format!("has npy version {major}.{minor}, expected 1.0, 2.0 or 3.0")),
    };
    if length > MAX_HEADER {
        return Err(format!("has a header of {length} bytes, more than {MAX_HEADER}"));
    }
    let (header, data) = rest.split_at_checked(length).ok_or("ends within its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "has a header that is not UTF-8")?;
    Ok((header, data))
}

#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    shape: Vec<usize>,
}

impl Header {
    /// Reads the literal in the one form that numpy writes; `descr` of a structured dtype is a list and so refused.
    fn parse(text: &str) -> Parsed<Self> {
        let bad = || format!("has the header {:?}, not one of a plain array", text.trim_end());
        let mut rest = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(bad)?;
        let (mut descr, mut order, mut shape) = (None, None, None);
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                break;
            }
            let (key, after) = quoted(rest).ok_or_else(bad)?;
            let value = after.trim_start().strip_prefix(':').ok_or_else(bad)?.trim_start();
            let after = match key {
                "descr" => {
                    let (value, after) = quoted(value).ok_or_else(bad)?;
                    descr.replace(value.to_owned()).map_or(Ok(after), |_| Err(bad()))?
                }
                "fortran_order" => {
                    let (value, after) = boolean(value).ok_or_else(bad)?;
                    order.replace(value).map_or(Ok(after), |_| Err(bad()))?
                }
                "shape" => {
                    let (value, after) = tuple(value).ok_or_else(bad)?;
                    shape.replace(value).map_or(Ok(after), |_| Err(bad()))?
                }
                _ => return Err(bad()),
            };
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next,
                None if after.is_empty() => after,
                None => return Err(bad()),
            };
        }
        let (Some(descr), Some(fortran), Some(shape)) = (descr, order, shape) else { return Err(bad()) };
        if fortran && shape.len() > 1 {
            return Err("is in Fortran order, expected C order".to_owned());
        }
        Ok(Self { descr, shape })
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let (value, rest) = text.strip_prefix(quote)?.split_once(quote)?;
    (!value.contains('\\')).then_some((value, rest))
}

fn boolean(text: &str) -> Option<(bool, &str)> {
    let literals = [("True", true), ("False", false)];
    literals.iter().find_map(|(literal, value)| Some((*value, text.strip_prefix(literal)?)))
}

fn tuple(text: &str) -> Option<(Vec<usize>, &str)> {
    let (inside, rest) = text.strip_prefix('(')?.split_once(')')?;
    let inside = inside.trim();
    let inside = inside.strip_suffix(',').unwrap_or(inside);
    if inside.is_empty() {
        return Some((Vec::new(), rest));
    }
    let dimensions: Vec<usize> =
        inside.split(',').take(MAX_DIMENSIONS + 1).map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    (dimensions.len() <= MAX_DIMENSIONS).then_some((dimensions, rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// An npy file with this header and these elements.
    pub(crate) fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", length.as_slice(), header.as_bytes(), data].concat()
    }

    pub(crate) fn header(descr: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}   \n")
    }

    pub(crate) fn npz(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            let stored = zip::write::FileOptions::default().compression_method(zip::CompressionMethod::Stored);
            writer.start_file(*name, stored).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn reads_what_numpy_writes() {
        let expected = Array { shape: vec![2, 1], elements: Elements::F32(vec![1.0, -2.0]) };
        assert_eq!(array(&npy(&header("<f4", "(2, 1)"), &floats(&[1.0, -2.0]))), Ok(expected));
        let scalar = Array { shape: vec![], elements: Elements::I64(vec![-3]) };
        assert_eq!(array(&npy(&header("<i8", "()"), &(-3i64).to_le_bytes())), Ok(scalar));
        let vector = Array { shape: vec![1], elements: Elements::I64(vec![7]) };
        assert_eq!(array(&npy(&header("<i8", "(1,)"), &7i64.to_le_bytes())), Ok(vector));
    }

    #[test]
    fn refuses_what_is_not_a_plain_array() {
        let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }";
        let twice = "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        let deep = format!("{{'descr': {}", "[(".repeat(4000));
        let cases = [
            (npy(&header("<f4", "(2, 2)"), &floats(&[1.0])), "has shape [2, 2] and 4 bytes of 4-byte elements"),
            (npy(&header("<f4", "(1,)"), &[0; 5]), "has shape [1] and 5 bytes"),
            (npy(&header("<f8", "(1,)"), &[0; 8]), "has dtype <f8, expected <f4 or <i8"),
            (npy(&header("<f4", "(9999999999, 9999999999)"), &[]), "too large"),
            (npy(&header("<f4", "(99999999999999999999,)"), &[]), "not one of a plain array"),
            (npy(&header("<f4", "(-1,)"), &[]), "not one of a plain array"),
            (npy(&header("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), &[0; 4]), "not one of a plain array"),
            (npy(fortran, &floats(&[1.0, 2.0])), "Fortran order"),
            (npy(twice, &floats(&[1.0])), "not one of a plain array"),
            (npy(&deep, &[]), "not one of a plain array"),
            (npy("", &[]), "not one of a plain array"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "a header of 4294967295 bytes"),
            (b"\x93NUMPY\x09\x00".to_vec(), "npy version 9.0"),
            (b"\x93NUMPY\x01\x00\x10\x00{".to_vec(), "ends within its header"),
            (b"PK".to_vec(), "does not start as an npy file"),
        ];
        for (bytes, expected) in cases {
            let problem = array(&bytes).unwrap_err();
            assert!(problem.contains(expected), "{problem:?} lacks {expected:?}");
        }
    }

    #[test]
    fn refuses_names_unfit_for_a_terminal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        for name in ["a\u{1b}[2J.npy".to_owned(), format!("{}.npy", "a".repeat(300))] {
            std::fs::write(&path, npz(&[(&name, vec![])])).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("entry 0: has a name with control characters"), "{message:?}");
        }
    }

    #[test]
    fn no_prefix_or_flipped_byte_of_a_good_file_panics() {
        let good = npz(&[("a.logits.npy", npy(&header("<f4", "(2, 1)"), &floats(&[1.0, -2.0])))]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        let arrays_of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path)
        };
        assert_eq!(arrays_of(&good).unwrap().keys().collect::<Vec<_>>(), ["a.logits"]);
        for length in 0..good.len() {
            assert!(arrays_of(&good[..length]).is_err(), "cut to {length} bytes");
        }
        for index in 0..good.len() {
            let mut bytes = good.clone();
            bytes[index] ^= 0xff;
            // Some bytes (dates, the comment) carry no meaning here; what matters is that this returns.
            let _ = arrays_of(&bytes);
        }
    }
}
