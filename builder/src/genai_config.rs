//! `genai_config.json`: what onnxruntime-genai needs to know to run the graph.
//!
//! Schema: the parser of onnxruntime-genai 0.18. Unknown objects are fatal to it, and so are `\u` escapes, which
//! serde_json does not write for printable text.

use std::collections::BTreeMap;

use genai_architectures::{DecoderSpec, Layer, Mixer};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Error, Logits, Paged, Pool, Result, RuntimeConfig, Settings, cache::WindowedCaches, sidecar::TokenizerFacts,
};

#[derive(Debug, Serialize)]
pub(crate) struct GenaiConfig {
    model: Model,
    search: Search,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<Engine>,
}

/// What lends pages of a cache to sequences.
#[derive(Debug, Serialize)]
struct Engine {
    dynamic_batching: DynamicBatching,
}

#[derive(Debug, Serialize)]
struct DynamicBatching {
    block_size: u64,
    max_batch_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_utilization_factor: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_blocks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_scheduled_tokens: Option<u64>,
}

/// Layers whose states are of one kind.
#[derive(Debug, Serialize)]
struct StateGroup {
    kind: &'static str,
    layer_ids: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Model {
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token_id: Option<u64>,
    context_length: usize,
    decoder: Decoder,
    eos_token_id: OneOrMore,
    pad_token_id: u64,
    r#type: &'static str,
    vocab_size: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u64),
    More(Vec<u64>),
}

#[derive(Debug, Serialize)]
struct Decoder {
    session_options: SessionOptions,
    filename: String,
    head_size: usize,
    hidden_size: usize,
    inputs: BTreeMap<&'static str, &'static str>,
    outputs: BTreeMap<&'static str, &'static str>,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    sliding_window: Option<SlidingWindow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_groups: Option<Vec<StateGroup>>,
}

/// Caches that keep a window alone; the runtime would take an empty list for all of them.
#[derive(Debug, Serialize)]
struct SlidingWindow {
    window_size: usize,
    slide_key_value_cache: bool,
    slide_inputs: bool,
    layers: Vec<usize>,
    /// Tokens kept beyond the window; 0 leaves it to the runtime.
    cache_slack: usize,
}

#[derive(Debug, Serialize)]
struct SessionOptions {
    log_id: &'static str,
    provider_options: Vec<BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>>,
    #[serde(flatten)]
    entries: BTreeMap<&'static str, &'static str>,
}

#[derive(Debug, Serialize)]
struct Search {
    diversity_penalty: f64,
    do_sample: bool,
    early_stopping: bool,
    length_penalty: f64,
    max_length: usize,
    min_length: usize,
    no_repeat_ngram_size: u64,
    num_beams: usize,
    num_return_sequences: usize,
    past_present_share_buffer: bool,
    repetition_penalty: f64,
    temperature: f64,
    top_k: u64,
    top_p: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_size: Option<u64>,
}

/// What the files of the checkpoint say of tokens and sampling.
pub(crate) struct Sources<'a> {
    pub(crate) config: &'a Value,
    pub(crate) generation_config: Option<&'a Value>,
    pub(crate) tokenizer: &'a TokenizerFacts,
}

impl GenaiConfig {
    /// `filename` is the graph's, beside the config; `positions` says whether the graph takes `position_ids`.
    pub(crate) fn new(
        spec: &DecoderSpec,
        settings: &Settings,
        filename: &str,
        positions: bool,
        sources: &Sources,
    ) -> Result<Self> {
        let Some(Mixer::Attention(attention)) = spec.layers.first().map(|layer| &layer.mixer) else {
            return Err(Error::graph("genai_config.json", "the model has no layers"));
        };
        // The runtime counts layers to find their caches.
        let has_cache = |layer: &&Layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            attention.key_value.is_own()
        };
        let form = settings.attention.of(spec);
        let num_caches = spec.layers.iter().filter(has_cache).count();
        let interface = &settings.interface;
        let context_length = settings.context_length(spec);
        let tokens = if interface.inputs_embeds { "inputs_embeds" } else { "input_ids" };
        let mut inputs = BTreeMap::from([
            (tokens, tokens),
            ("past_key_names", "past_key_values.%d.key"),
            ("past_value_names", "past_key_values.%d.value"),
        ]);
        let paged = settings.cache.paged;
        let lengths = match paged {
            None if settings.is_fixed() => &[][..],
            None => &["attention_mask"],
            Some(_) => &["block_table", "cumulative_sequence_lengths", "past_sequence_lengths", "attention_metadata"],
        };
        inputs.extend(lengths.iter().map(|name| (*name, *name)));
        if positions {
            inputs.insert("position_ids", "position_ids");
        }
        let mut outputs =
            BTreeMap::from([("present_key_names", "present.%d.key"), ("present_value_names", "present.%d.value")]);
        for (name, given) in [("logits", interface.logits != Logits::None), ("hidden_states", interface.hidden_states)]
        {
            if given {
                outputs.insert(name, name);
            }
        }
        let eos = sources.eos(spec.vocab_size)?;
        Ok(Self {
            model: Model {
                bos_token_id: sources.token("bos_token_id", sources.tokenizer.bos, spec.vocab_size)?,
                context_length,
                decoder: Decoder {
                    session_options: SessionOptions {
                        log_id: "onnxruntime-genai",
                        provider_options: provider_options(&Settings { attention: form, ..settings.clone() }),
                        entries: settings.session.entries.clone(),
                    },
                    filename: filename.to_owned(),
                    head_size: form.padded_head_dim(attention.head_dim),
                    hidden_size: spec.hidden_size,
                    inputs,
                    outputs,
                    num_attention_heads: attention.num_heads,
                    num_hidden_layers: num_caches,
                    num_key_value_heads: attention.num_kv_heads,
                    sliding_window: WindowedCaches::of(spec, &settings.cache)?.map(|windowed| SlidingWindow {
                        window_size: windowed.window,
                        slide_key_value_cache: false,
                        slide_inputs: false,
                        layers: windowed.caches,
                        cache_slack: 0,
                    }),
                    state_groups: paged
                        .map(|_| vec![StateGroup { kind: "paged_kv", layer_ids: (0..num_caches).collect() }]),
                },
                pad_token_id: sources.token("pad_token_id", sources.tokenizer.pad, spec.vocab_size)?.unwrap_or(eos[0]),
                eos_token_id: if eos.len() == 1 { OneOrMore::One(eos[0]) } else { OneOrMore::More(eos) },
                r#type: spec.runtime_type,
                vocab_size: spec.vocab_size,
            },
            search: Search {
                diversity_penalty: 0.0,
                do_sample: sources.setting("do_sample", Value::as_bool)?.unwrap_or(false),
                early_stopping: true,
                length_penalty: 1.0,
                max_length: context_length,
                min_length: 0,
                no_repeat_ngram_size: 0,
                num_beams: 1,
                num_return_sequences: 1,
                past_present_share_buffer: form.shares_buffer(),
                repetition_penalty: sources.setting("repetition_penalty", Value::as_f64)?.unwrap_or(1.0),
                temperature: sources.setting("temperature", Value::as_f64)?.unwrap_or(1.0),
                top_k: sources.setting("top_k", Value::as_u64)?.unwrap_or(50),
                top_p: sources.setting("top_p", Value::as_f64)?.unwrap_or(1.0),
                chunk_size: if settings.is_fixed() { Some(1) } else { paged.and_then(|paged| paged.chunk_size) },
            },
            engine: paged.map(|paged| Engine { dynamic_batching: DynamicBatching::new(paged) }),
        })
    }

    /// The file, with what the user adds to it.
    pub(crate) fn to_json(&self, settings: &Settings, runtime: &RuntimeConfig) -> Result<String> {
        // Serializing plain structs of numbers and strings does not fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        runtime.merge_into(&mut value, settings)?;
        Ok(format!("{value:#}\n"))
    }
}

impl DynamicBatching {
    fn new(paged: Paged) -> Self {
        let (num_blocks, gpu_utilization_factor) = match paged.pool {
            Pool::Pages(pages) => (Some(pages), None),
            Pool::ShareOfFree(share) => (None, Some(share)),
        };
        Self {
            block_size: paged.block_size,
            max_batch_size: paged.max_batch_size,
            gpu_utilization_factor,
            num_blocks,
            max_scheduled_tokens: paged.max_scheduled_tokens,
        }
    }
}

/// The providers of a session, with the switch for recording steps as it is to stand.
fn provider_options(settings: &Settings) -> Vec<BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>> {
    let capture = settings.target.capture.as_ref().zip(settings.records());
    let capture = capture.map_or(&[][..], |(capture, on)| capture.provider_options[usize::from(on)]);
    let options = settings.target.provider_options.iter();
    let options = options.map(|(provider, options)| {
        let options = options.iter().copied().chain(capture.iter().copied());
        BTreeMap::from([(*provider, options.collect())])
    });
    options.collect()
}

impl Sources<'_> {
    /// The files in order of authority, with their names.
    fn files(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let generation = self.generation_config.map(|config| ("generation_config.json", config));
        let text = self.config.get("text_config").map(|config| ("config.json text_config", config));
        generation.into_iter().chain([("config.json", self.config)]).chain(text)
    }

    /// A token id: from generation_config.json, config.json, or what the tokenizer says.
    ///
    /// A negative id is how older configs write that there is none.
    fn token(&self, key: &str, tokenizer: Option<u64>, vocab_size: usize) -> Result<Option<u64>> {
        for (file, config) in self.files() {
            // Where a family has a list of beginnings, the first is the usual one.
            let value = match config.get(key) {
                Some(Value::Array(items)) => items.first(),
                other => other,
            };
            match value {
                None | Some(Value::Null) => {}
                Some(value) if value.as_i64().is_some_and(|id| id < 0) => {}
                Some(value) => return checked_id(file, key, value, vocab_size).map(Some),
            }
        }
        Ok(tokenizer.filter(|id| *id < vocab_size as u64))
    }

    /// Every id that ends a generation: those of the first file that names any, and the tokenizer's own.
    fn eos(&self, vocab_size: usize) -> Result<Vec<u64>> {
        const KEY: &str = "eos_token_id";
        let mut ids = Vec::new();
        for (file, config) in self.files() {
            let found: Vec<&Value> = match config.get(KEY) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(items)) => items.iter().collect(),
                Some(single) => vec![single],
            };
            for value in found {
                let id = checked_id(file, KEY, value, vocab_size)?;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            if !ids.is_empty() {
                break;
            }
        }
        if let Some(id) = self.tokenizer.eos.filter(|id| *id < vocab_size as u64 && !ids.contains(id)) {
            ids.push(id);
        }
        if ids.is_empty() {
            return Err(Error::Sidecar {
                file: "config.json".to_owned(),
                reason: "no end-of-sequence token: `eos_token_id` is in none of generation_config.json, config.json \
                         and tokenizer_config.json"
                    .to_owned(),
                hint: Some("add \"eos_token_id\" to generation_config.json".to_owned()),
            });
        }
        Ok(ids)
    }

    /// A sampling setting of generation_config.json.
    fn setting<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.generation_config.and_then(|config| config.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| Error::Sidecar {
                file: "generation_config.json".to_owned(),
                reason: format!("`{key}` is {value}, which is not of its type"),
                hint: None,
            }),
        }
    }
}

fn checked_id(file: &str, key: &str, value: &Value, vocab_size: usize) -> Result<u64> {
    value.as_u64().filter(|id| *id < vocab_size as u64).ok_or_else(|| Error::Sidecar {
        file: file.to_owned(),
        reason: format!("`{key}` is {value}, expected token ids from 0 to {}", vocab_size - 1),
        hint: Some("the model has no such token: generation_config.json may name another, or null".to_owned()),
    })
}
