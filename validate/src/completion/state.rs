//! A context as a value: to be put away and taken up again, in another process too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::engine::common;
use crate::sampling::{SamplerState, SamplingOptions};
use crate::{Error, Result, Tensor, TensorValues};

/// What the metadata of a stored state says it is.
const FORMAT: &str = "genai-validate state 1";

/// A context with its cache, the logits behind it, and the state of [`Llm::sample`].
#[derive(Clone, Debug, PartialEq)]
pub struct LlmState {
    pub(super) tokens: Vec<u32>,
    pub(super) logits: Vec<f32>,
    pub(super) sampler: SamplerState,
    /// By the names of the graph's inputs.
    pub(super) cache: Vec<(String, Tensor)>,
    /// Of the package, see [`fingerprint`].
    pub(super) model: String,
}

impl LlmState {
    /// The tokens of the context.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Of memory, but for a few hundred.
    pub fn size_in_bytes(&self) -> usize {
        let cache: usize =
            self.cache.iter().map(|(_, tensor)| bytes_of(tensor).map_or(0, |(_, data)| data.len())).sum();
        cache + 4 * (self.tokens.len() + self.logits.len() + self.sampler.words.len())
    }

    /// A safetensors file: `tokens`, `logits`, `sampler.words`, and `cache.NAME` for each cache input of the graph, as
    /// it was in memory.
    ///
    /// # Errors
    /// [`Error::Execution`] if safetensors cannot write it.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let doing = "writing a state";
        let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let logits: Vec<u8> = self.logits.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![
            ("tokens".to_owned(), Dtype::U32, vec![self.tokens.len()], words(&self.tokens)),
            ("logits".to_owned(), Dtype::F32, vec![self.logits.len()], logits),
            ("sampler.words".to_owned(), Dtype::U32, vec![self.sampler.words.len()], words(&self.sampler.words)),
        ];
        for (name, tensor) in &self.cache {
            let (dtype, data) = bytes_of(tensor)?;
            tensors.push((format!("cache.{name}"), dtype, tensor.shape.clone(), data));
        }
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            TensorView::new(*dtype, shape.clone(), data).map(|view| (name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(Error::execution(doing))?;
        let SamplerState { options, used, .. } = &self.sampler;
        let SamplingOptions { temperature, top_k, top_p, seed } = options;
        let sampler = json!({"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "used": used});
        // In one entry: safetensors writes several in any order.
        let state = json!({"format": FORMAT, "model": self.model, "sampler": sampler});
        let told = HashMap::from([("state".to_owned(), state.to_string())]);
        safetensors::serialize(views, Some(told)).map_err(Error::execution(doing))
    }

    /// # Errors
    /// [`Error::Argument`] for what [`Self::to_bytes`] did not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |problem: String| Error::argument("a stored state", problem, "what LlmState::to_bytes wrote");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| refuse(error.to_string()))?;
        let told = header.metadata().as_ref().and_then(|told| told.get("state"));
        let told: Value = told.and_then(|told| serde_json::from_str(told).ok()).unwrap_or_default();
        let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("format") != FORMAT {
            return Err(refuse(format!("of format {:?}", text("format"))));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| refuse(error.to_string()))?;
        let words = |name: &str, dtype: Dtype| {
            let view = file.tensor(name).map_err(|error| refuse(error.to_string()))?;
            if view.dtype() != dtype || view.shape().len() != 1 {
                return Err(refuse(format!("with `{name}` of {:?} {:?}", view.dtype(), view.shape())));
            }
            let chunks = view.data().chunks_exact(4);
            Ok(chunks.map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default())).collect::<Vec<u32>>())
        };
        let sampler = told.get("sampler").and_then(sampler_of);
        let (options, used) = sampler.ok_or_else(|| refuse("without a sampler".to_owned()))?;
        let sampler = SamplerState { options, words: words("sampler.words", Dtype::U32)?, used };
        let mut cache = Vec::new();
        for (name, view) in file.iter() {
            if let Some(name) = name.strip_prefix("cache.") {
                cache.push((
                    name.to_owned(),
                    tensor_of(&view).map_err(|problem| refuse(format!("`{name}` {problem}")))?,
                ));
            }
        }
        cache.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Self {
            tokens: words("tokens", Dtype::U32)?,
            logits: words("logits", Dtype::F32)?.into_iter().map(f32::from_bits).collect(),
            sampler,
            cache,
            model: text("model").to_owned(),
        })
    }
}

/// Contexts of texts that are over.
pub(super) struct PrefixCache {
    /// In bytes.
    capacity: usize,
    /// The one used last is the last.
    states: VecDeque<LlmState>,
}

impl PrefixCache {
    pub(super) fn of(capacity: usize) -> Self {
        Self { capacity, states: VecDeque::new() }
    }

    /// The one that has most of the prompt.
    pub(super) fn find(&mut self, prompt: &[u32]) -> Option<LlmState> {
        let shared = self.states.iter().enumerate().map(|(at, state)| (common(&state.tokens, prompt), at));
        let (_, at) = shared.filter(|(length, _)| *length > 0).max()?;
        let state = self.states.remove(at)?;
        self.states.push_back(state.clone());
        Some(state)
    }

    pub(super) fn keep(&mut self, state: LlmState) {
        self.states.retain(|other| other.tokens != state.tokens);
        self.states.push_back(state);
        let mut size: usize = self.states.iter().map(LlmState::size_in_bytes).sum();
        while size > self.capacity {
            let Some(oldest) = self.states.pop_front() else { return };
            size -= oldest.size_in_bytes();
        }
    }
}

/// The longest file that is read whole for a fingerprint, and how much is read of others at the start, in the midst and at
/// the end.
const WHOLE: u64 = 1 << 20;
const PART: u64 = 64 << 10;

/// Tells packages apart: SHA-256 over the names, sizes and contents of their files, and of the adapter. Of files past a
/// MiB three parts are read, as reading all weights would take longer than computing the context again.
pub(super) fn fingerprint(folder: &Path, adapter: Option<&Path>) -> Result<String> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_file() {
            files.insert(path.file_name().map(|name| name.to_string_lossy().into_owned()), path);
        }
    }
    if let Some(adapter) = adapter {
        files.insert(None, adapter.to_path_buf());
    }
    let mut hash = Sha256::new();
    for (name, path) in files {
        let name = name.unwrap_or_default();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        add(&mut hash, &path).map_err(Error::io(&path))?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn add(hash: &mut Sha256, path: &PathBuf) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};

    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    hash.update(size.to_le_bytes());
    let parts = if size <= WHOLE { vec![(0, size)] } else { vec![(0, PART), (size / 2, PART), (size - PART, PART)] };
    for (from, length) in parts {
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.by_ref().take(length).read_to_end(&mut part)?;
        hash.update(&part);
    }
    Ok(())
}

/// Options, and how many random words are used up.
fn sampler_of(told: &Value) -> Option<(SamplingOptions, usize)> {
    let count = |key: &str| told.get(key)?.as_u64().and_then(|count| usize::try_from(count).ok());
    let number = |key: &str| Some(told.get(key)?.as_f64()? as f32);
    let seed = match told.get("seed")? {
        Value::Null => None,
        seed => Some(u32::try_from(seed.as_u64()?).ok()?),
    };
    let options =
        SamplingOptions { temperature: number("temperature")?, top_k: count("top_k")?, top_p: number("top_p")?, seed };
    Some((options, count("used")?))
}

/// Little-endian.
fn bytes_of(tensor: &Tensor) -> Result<(Dtype, Vec<u8>)> {
    Ok(match &tensor.values {
        TensorValues::Float32(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorValues::Float16(values) => (Dtype::F16, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorValues::Int8(values) => (Dtype::I8, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        TensorValues::Uint8(values) => (Dtype::U8, values.clone()),
        other => return Err(Error::unsupported(format!("a cache of {other:?}"), "float32, float16, int8, uint8")),
    })
}

fn tensor_of(view: &TensorView) -> Result<Tensor, String> {
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => TensorValues::Float32(
            data.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap_or_default())).collect(),
        ),
        Dtype::F16 => TensorValues::Float16(
            data.chunks_exact(2).map(|word| f16::from_le_bytes(word.try_into().unwrap_or_default())).collect(),
        ),
        Dtype::I8 => TensorValues::Int8(data.iter().map(|&byte| byte as i8).collect()),
        Dtype::U8 => TensorValues::Uint8(data.to_vec()),
        other => return Err(format!("is {other:?}")),
    };
    Ok(Tensor { shape: view.shape().to_vec(), values })
}
