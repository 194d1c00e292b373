//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{Error, ErrorKind, Result, quoted};
use crate::folder::{Folder, is_plain_file_name};
use crate::json_file::syntax_error;
use crate::source_file::SourceFile;
use crate::strict_json::{Skipped, UniqueMap, fill_once};

pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// As for a safetensors header; the largest published indices are below 10 MB.
const MOST_BYTES: u64 = 100_000_000;

#[derive(Debug)]
pub(crate) struct Index {
    pub file: SourceFile,
    /// Tensor name to the plain name of its shard.
    pub weight_map: BTreeMap<String, String>,
    /// The declared bytes of tensor data.
    pub total_size: Option<u64>,
}

impl Index {
    /// Reads the folder's index; `None` where it has none.
    pub(crate) fn read(folder: &Folder) -> Result<Option<Index>> {
        let Some(file) = folder.open_file(INDEX)? else {
            return Ok(None);
        };
        let bytes = file.read_all(MOST_BYTES)?;
        let RawIndex { weight_map, total_size } =
            serde_json::from_slice(&bytes).map_err(|e| syntax_error(&file, &bytes, &e))?;
        if weight_map.is_empty() {
            return Err(Error::new(ErrorKind::Incomplete, "the weight_map names no tensor").in_file(file.path()));
        }
        for (tensor, shard) in &weight_map {
            if !is_plain_file_name(shard) {
                let problem = format!("is mapped to {}, which is not a plain file name", quoted(shard));
                return Err(Error::new(ErrorKind::Refused, problem)
                    .in_file(file.path())
                    .of_tensor(tensor)
                    .with_hint("shards lie beside the index; a path that may leave the folder is not followed"));
            }
        }
        Ok(Some(Index { file, weight_map, total_size }))
    }

    /// The names of the shards, sorted.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

struct RawIndex {
    weight_map: BTreeMap<String, String>,
    total_size: Option<u64>,
}

impl<'de> Deserialize<'de> for RawIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(IndexVisitor)
    }
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = RawIndex;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawIndex, A::Error> {
        let mut weight_map: Option<UniqueMap<String>> = None;
        let mut metadata: Option<Option<UniqueMap<Skipped>>> = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "weight_map" => fill_once(&mut weight_map, &key, map.next_value()?)?,
                "metadata" => fill_once(&mut metadata, &key, map.next_value()?)?,
                _ => {
                    map.next_value::<Skipped>()?;
                }
            }
        }
        let UniqueMap(weight_map) = weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))?;
        let total_size = metadata.flatten().and_then(|UniqueMap(fields)| fields.get("total_size")?.unsigned);
        Ok(RawIndex { weight_map, total_size })
    }
}
