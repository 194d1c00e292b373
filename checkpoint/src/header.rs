//! The safetensors header: which tensors a file holds, and where.
//!
//! ```text
//!  8 bytes        N bytes of JSON                                               data
//!  N, u64 LE │ {"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},…} │ …
//! ```
//!
//! The format: <https://github.com/huggingface/safetensors#format>. Every rule of it is checked: no duplicate key,
//! `shape` × `dtype` equals the byte range, and the ranges tile the data exactly, without hole, overlap or rest.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::Dtype;
use crate::error::{Error, Result, printable, quoted};
use crate::lookalike::{self, mistaken_for};
use crate::source_file::SourceFile;
use crate::strict_json::{Skipped, UniqueMap, duplicate_key, fill_once};

/// The longest header that the reference implementation reads, in bytes.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// The size of the header's length field.
const PREFIX_BYTES: u64 = 8;

#[derive(Debug)]
pub(crate) struct Header {
    /// Sorted by name.
    pub entries: Vec<Entry>,
    /// Where tensor data begins, in bytes from the start of the file.
    pub data_start: u64,
    /// The first tensor that has a field unknown to the format, and that field.
    pub unknown_field: Option<(String, String)>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub elements: u64,
    /// Relative to the start of the data.
    pub begin: u64,
    pub end: u64,
}

/// Reads and checks the header of `file`.
pub(crate) fn read(file: &SourceFile) -> Result<Header> {
    let header_len = header_len(file).map_err(|error| recognise(file).unwrap_or(error))?;
    let mut bytes = vec![0; header_len];
    file.read_exact_at(&mut bytes, PREFIX_BYTES)?;
    let (raw, unknown_field) = parse(file, &bytes)?;

    let data_start = PREFIX_BYTES.saturating_add(u64::try_from(header_len).unwrap_or(u64::MAX));
    let entries = raw
        .into_iter()
        .map(|(name, tensor)| measure(name, tensor))
        .collect::<Result<Vec<_>>>()
        .and_then(|entries| check_layout(&entries, file.len().saturating_sub(data_start)).map(|()| entries))
        .map_err(|error| error.in_file(file.path()))?;
    Ok(Header { entries, data_start, unknown_field })
}

/// The declared header length, once it is known to lie within the file and the cap.
fn header_len(file: &SourceFile) -> Result<usize> {
    let malformed = |problem: String| Error::malformed(file.path(), problem);
    if file.len() == 0 {
        return Err(malformed("is empty".to_owned()).with_hint("the download may have failed: fetch the file again"));
    }
    if file.len() < PREFIX_BYTES {
        return Err(malformed(format!("has {} bytes, too few for a safetensors file", file.len())));
    }
    let mut prefix = [0; 8];
    file.read_exact_at(&mut prefix, 0)?;
    let declared = u64::from_le_bytes(prefix);
    if declared > MOST_HEADER_BYTES {
        return Err(malformed(format!("declares a header of {declared} bytes, the limit is {MOST_HEADER_BYTES}")));
    }
    let available = file.len().saturating_sub(PREFIX_BYTES);
    if declared > available {
        return Err(malformed(format!(
            "declares a header of {declared} bytes, but {available} bytes follow (truncated download?)"
        )));
    }
    usize::try_from(declared).map_err(|_| malformed(format!("has a header of {declared} bytes, too long to read")))
}

fn recognise(file: &SourceFile) -> Option<Error> {
    let len = usize::try_from(file.len()).unwrap_or(usize::MAX).min(lookalike::PREFIX);
    let mut prefix = vec![0; len];
    file.read_exact_at(&mut prefix, 0).ok()?;
    mistaken_for(file.path(), &prefix)
}

type RawHeader = (BTreeMap<String, RawTensor>, Option<(String, String)>);

fn parse(file: &SourceFile, bytes: &[u8]) -> Result<RawHeader> {
    let malformed = |problem: String| Error::malformed(file.path(), problem);
    let text = str::from_utf8(bytes).map_err(|e| {
        let offset = PREFIX_BYTES.saturating_add(u64::try_from(e.valid_up_to()).unwrap_or(u64::MAX));
        malformed(format!("the header is not UTF-8 at byte {offset} of the file"))
    })?;
    match text.chars().next() {
        Some('{') => {}
        Some(other) => {
            let found = quoted(&other.to_string());
            return Err(malformed(format!("the header begins with {found}, expected `{{`")));
        }
        None => return Err(malformed("the header is empty, expected a JSON object".to_owned())),
    }

    let mut reading = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = HeaderSeed { reading: &mut reading }.deserialize(&mut json);
    parsed.and_then(|raw| json.end().map(|()| raw)).map_err(|e| {
        let error = malformed(format!("invalid header: {}", printable(&e.to_string(), 300)));
        match reading {
            Some(tensor) => error.of_tensor(tensor),
            None => error,
        }
    })
}

/// Computes the size that dtype and shape ask for, and compares it with the byte range.
fn measure(name: String, raw: RawTensor) -> Result<Entry> {
    let RawTensor { dtype, shape, begin, end, .. } = raw;
    // The same order of operations as the reference: [0, huge, huge] is empty, [huge, huge, 0] overflows.
    let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let sized = elements.and_then(|elements| Some((elements, elements.checked_mul(dtype.bits())?)));
    let problem = match sized {
        None => format!("the size of shape {} overflows", show_shape(&shape)),
        Some((elements, bits)) => match (bits.checked_rem(8), bits.checked_div(8), end.checked_sub(begin)) {
            (_, _, None) => format!("data_offsets [{begin}, {end}] end before they begin"),
            (Some(0), Some(size), Some(held)) if size == held => {
                return Ok(Entry { name, dtype, shape, elements, begin, end });
            }
            (Some(0), Some(size), Some(held)) => format!(
                "dtype {dtype} and shape {} need {size} bytes, data_offsets [{begin}, {end}] hold {held}",
                show_shape(&shape)
            ),
            _ => format!("{elements} elements of {dtype} do not fill whole bytes"),
        },
    };
    Err(Error::new(crate::ErrorKind::Malformed, problem).of_tensor(name))
}

/// Checks that the ranges tile `data_len` bytes.
fn check_layout(entries: &[Entry], data_len: u64) -> Result<()> {
    let malformed = |problem: String| Error::new(crate::ErrorKind::Malformed, problem);
    let mut by_offset: Vec<&Entry> = entries.iter().collect();
    by_offset.sort_by_key(|entry| (entry.begin, entry.end));

    let mut covered = 0;
    let mut last_filled: Option<&Entry> = None;
    for entry in by_offset {
        let Entry { begin, end, .. } = *entry;
        if begin > covered {
            return Err(malformed(format!(
                "bytes {covered} to {begin} of the data, before this tensor, belong to none"
            ))
            .of_tensor(&entry.name));
        }
        if begin < covered {
            let other = last_filled.map_or_else(String::new, |other| {
                format!(" those of tensor {}, [{}, {}]", quoted(&other.name), other.begin, other.end)
            });
            return Err(malformed(format!("data_offsets [{begin}, {end}] overlap{other}")).of_tensor(&entry.name));
        }
        if end > begin {
            last_filled = Some(entry);
        }
        covered = end;
    }

    if covered > data_len {
        return Err(malformed(format!(
            "declares {covered} bytes of tensor data, the file has {data_len} (truncated download?)"
        ))
        .with_hint("fetch the file again"));
    }
    match data_len.checked_sub(covered) {
        None | Some(0) => Ok(()),
        Some(rest) => Err(malformed(format!("has {rest} bytes after the last tensor, which belong to none"))),
    }
}

fn show_shape(shape: &[u64]) -> String {
    match shape.get(..16) {
        Some(first) if shape.len() > 16 => format!("{first:?} and {} more dimensions", shape.len().saturating_sub(16)),
        _ => format!("{shape:?}"),
    }
}

/// One tensor's fields as they stand in the header.
struct RawTensor {
    dtype: Dtype,
    shape: Vec<u64>,
    begin: u64,
    end: u64,
    unknown_field: Option<String>,
}

/// Reads the header's object and leaves in `reading` the name of the tensor at which it failed.
struct HeaderSeed<'a> {
    reading: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata: Option<UniqueMap<String>> = None;
        let mut unknown_field = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                fill_once(&mut metadata, &name, map.next_value()?)?;
                continue;
            }
            let name = self.reading.insert(name);
            if tensors.contains_key(name) {
                return Err(A::Error::custom("duplicate tensor: the name appears twice"));
            }
            let mut tensor: RawTensor = map.next_value_seed(TensorSeed)?;
            if let (Some(field), None) = (tensor.unknown_field.take(), &unknown_field) {
                unknown_field = Some((name.clone(), field));
            }
            tensors.extend(self.reading.take().map(|name| (name, tensor)));
        }
        Ok((tensors, unknown_field))
    }
}

struct TensorSeed;

impl<'de> DeserializeSeed<'de> for TensorSeed {
    type Value = RawTensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawTensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed {
    type Value = RawTensor;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawTensor, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        let mut unknown: Option<String> = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dtype" => fill_once(&mut dtype, &key, map.next_value::<String>()?)?,
                "shape" => fill_once(&mut shape, &key, map.next_value::<Vec<u64>>()?)?,
                "data_offsets" => fill_once(&mut offsets, &key, map.next_value::<(u64, u64)>()?)?,
                _ if unknown.as_ref() == Some(&key) => return Err(duplicate_key(&key)),
                _ => {
                    map.next_value::<Skipped>()?;
                    unknown.get_or_insert(key);
                }
            }
        }
        let dtype: String = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let dtype = Dtype::from_name(&dtype)
            .ok_or_else(|| A::Error::custom(format_args!("unknown dtype {}", quoted(&dtype))))?;
        let shape = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let (begin, end) = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        Ok(RawTensor { dtype, shape, begin, end, unknown_field: unknown })
    }
}
