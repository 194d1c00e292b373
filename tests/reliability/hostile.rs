//! The checkpoints of the table, each one fixture with something wrong or odd.

use std::fs;

use serde_json::{Map, Value, json};

use crate::support::{Altered, Stored, Tensors, fixture, read_tensors, safetensors_bytes};

pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const SHARD: &str = "model-00002-of-00003.safetensors";

pub(super) fn default() -> Altered {
    Altered::copy_of("llama-default")
}

pub(super) fn sharded() -> Altered {
    Altered::copy_of("llama-mha")
}

/// The fixture with other bytes for its weights.
pub(super) fn weights(bytes: &[u8]) -> Altered {
    default().with(WEIGHTS, bytes)
}

pub(super) fn header(text: &str) -> Altered {
    weights(&small_file(text.as_bytes(), 8))
}

/// A safetensors file of this header and as many bytes of data.
pub(super) fn small_file(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; data]].concat()
}

/// A file that declares a header of that length and has two bytes of it.
pub(super) fn length(bytes: u64) -> Vec<u8> {
    [&bytes.to_le_bytes()[..], b"{}"].concat()
}

pub(super) fn sparse(header: u64) -> Altered {
    let altered = weights(&length(header));
    let file = fs::OpenOptions::new().write(true).open(altered.path().join(WEIGHTS)).unwrap();
    file.set_len(2 * header).unwrap();
    altered
}

/// The fixture without the last bytes of its weights.
pub(super) fn cut(bytes: usize) -> Altered {
    let whole = fs::read(fixture("llama-default").join(WEIGHTS)).unwrap();
    weights(&whole[..whole.len() - bytes])
}

pub(super) fn shaped(shape: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#)
}

pub(super) fn pair(a: [u64; 2], b: [u64; 2]) -> String {
    json!({
        "a": {"dtype": "F32", "shape": [2], "data_offsets": a},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": b},
    })
    .to_string()
}

/// The same tensor twice, of these dtypes.
pub(super) fn doubled(first: &str, second: &str) -> String {
    let entry = |dtype: &str| format!(r#""a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,8]}}"#);
    format!("{{{},{}}}", entry(first), entry(second))
}

pub(super) fn many_tensors(count: usize) -> Vec<u8> {
    let entries: Vec<String> = (0..count)
        .map(|at| format!(r#""t{at}":{{"dtype":"U8","shape":[],"data_offsets":[{at},{}]}}"#, at + 1))
        .collect();
    small_file(format!("{{{}}}", entries.join(",")).as_bytes(), count)
}

/// The fixture with one tensor more, of this name.
pub(super) fn renamed(name: &str) -> Altered {
    default().tensors(|tensors| add(tensors, name))
}

pub(super) fn add(tensors: &mut Tensors, name: &str) {
    let Stored { dtype, shape, data } = &tensors["model.norm.weight"];
    let copy = Stored { dtype: *dtype, shape: shape.clone(), data: data.clone() };
    tensors.insert(name.to_owned(), copy);
}

/// A header of odd length, so that no tensor is aligned.
pub(super) fn padded() -> Altered {
    let whole = fs::read(fixture("llama-default").join(WEIGHTS)).unwrap();
    let (length, rest) = whole.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let odd = if header.len() % 2 == 0 { "     " } else { "    " };
    weights(&[&((header.len() + odd.len()) as u64).to_le_bytes(), header, odd.as_bytes(), data].concat())
}

pub(super) fn map(index: &mut Map<String, Value>) -> &mut Map<String, Value> {
    index["weight_map"].as_object_mut().unwrap()
}

/// The sharded fixture with a tensor that its index says is elsewhere.
pub(super) fn mapped_to(shard: &str) -> Altered {
    sharded().json(INDEX, |index| drop(map(index).insert("lm_head.weight".to_owned(), json!(shard))))
}

pub(super) fn doubled_in_shards() -> Altered {
    let altered = sharded();
    let mut tensors = read_tensors(&altered.path().join(SHARD));
    let lent = read_tensors(&altered.path().join("model-00001-of-00003.safetensors"));
    tensors.extend(lent.into_iter().filter(|(name, _)| name == "lm_head.weight"));
    let bytes = safetensors_bytes(tensors.iter());
    altered.with(SHARD, bytes)
}

/// The third value of a matrix as these bits of bf16.
pub(super) fn poisoned(bits: u16) -> Altered {
    default().tensors(|tensors| {
        tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().data[4..6].copy_from_slice(&bits.to_le_bytes());
    })
}

pub(super) fn zeroed() -> Altered {
    default().tensors(|tensors| tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().data.fill(0))
}

pub(super) fn added(tokenizer: &mut Map<String, Value>, name: &str) {
    let token = json!({"id": 330, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
}

/// The fixture with each of its tensors in a file of its own.
pub(super) fn scattered() -> Altered {
    let mut altered = default();
    let tensors = read_tensors(&altered.path().join(WEIGHTS));
    assert!(tensors.len() >= 30);
    altered = altered.without(WEIGHTS);
    let mut map = Map::new();
    for (at, (name, tensor)) in tensors.iter().enumerate() {
        let file = format!("part-{at}.safetensors");
        altered = altered.with(&file, safetensors_bytes([(name, tensor)].into_iter()));
        map.insert(name.clone(), json!(file));
    }
    altered.with(INDEX, json!({"metadata": {}, "weight_map": map}).to_string())
}
