//! `genai_config.json` as far as running a decoder-only package needs it.
//!
//! Keys and defaults follow onnxruntime-genai (`src/config.cpp`, 0.18). Stricter than it where it fails late or in
//! silence: required fields are required here, and name templates are parsed.

mod fields;
mod names;
mod template;

use std::path::{Path, PathBuf};

use serde_json::Value;

use fields::Fields;
pub use names::{Inputs, Outputs};
pub use template::Template;

use crate::{Error, Result};

pub(crate) const CONFIG_FILE: &str = "genai_config.json";

/// A configuration is a few KiB; anything larger than this is not one.
const LARGEST_CONFIG: u64 = 16 << 20;

/// A folder made for onnxruntime-genai. Nothing but `genai_config.json` has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub folder: PathBuf,
    /// Such as `llama`; the peer chooses its runtime class by it, this crate does not.
    pub model_type: String,
    pub vocab_size: usize,
    /// In tokens, prompt included.
    pub context_length: usize,
    pub bos_token_id: Option<u32>,
    /// Never empty: the pad id where the file names none, as in the peer.
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
    /// Holds `tokenizer.json`.
    pub tokenizer_folder: PathBuf,
    pub decoder: Decoder,
    pub search: Search,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// The ONNX file, inside the folder.
    pub model: PathBuf,
    pub head_size: usize,
    pub num_hidden_layers: usize,
    pub num_key_value_heads: usize,
    pub inputs: Inputs,
    pub outputs: Outputs,
    /// Caches that keep a window alone.
    pub window: Option<CacheWindow>,
    /// Parts of the file that ask for more than a plain decoder, as JSON paths. [`crate::Model::load`] refuses them.
    pub beyond_plain: Vec<String>,
}

/// Which caches hold no more than the last tokens, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheWindow {
    /// In tokens.
    pub size: usize,
    /// Numbers of the caches, as in their names; none stands for all.
    pub layers: Vec<usize>,
}

/// The package's own defaults for generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub do_sample: bool,
    /// In tokens, prompt included; at most the context length.
    pub max_length: usize,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub repetition_penalty: f32,
    pub past_present_share_buffer: bool,
}

impl Config {
    /// # Errors
    /// Names the file and the JSON path of what is missing or of the wrong kind.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = folder.join(CONFIG_FILE);
        let size = file.metadata().map_err(Error::io(&file))?.len();
        if size > LARGEST_CONFIG {
            return Err(Error::package(&file, format!("has {size} bytes, expected at most {LARGEST_CONFIG}")));
        }
        let bytes = std::fs::read(&file).map_err(Error::io(&file))?;
        Self::parse(&bytes, folder)
    }

    /// The same from the bytes of `genai_config.json`; `folder` is where its relative paths start.
    pub fn parse(config: &[u8], folder: &Path) -> Result<Self> {
        let file = folder.join(CONFIG_FILE);
        let root: Value = serde_json::from_slice(config).map_err(|error| Error::package(&file, error.to_string()))?;
        let root = Fields::root(&root, &file)?;
        let model = root.object("model")?;
        let context_length = model.count("context_length")?;
        let pad_token_id = model.token("pad_token_id")?;
        let eos_token_ids = match (model.tokens("eos_token_id")?, pad_token_id) {
            (Some(ids), _) => ids,
            (None, Some(pad)) => vec![pad],
            (None, None) => {
                return Err(model.error("eos_token_id", "is missing, and there is no pad_token_id to stand in"));
            }
        };
        Ok(Self {
            folder: folder.to_path_buf(),
            model_type: model.text("type")?.to_owned(),
            vocab_size: model.count("vocab_size")?,
            context_length,
            bos_token_id: model.token("bos_token_id")?,
            eos_token_ids,
            pad_token_id,
            tokenizer_folder: match model.optional_text("tokenizer_dir")? {
                None | Some("") => folder.to_path_buf(),
                Some(_) => folder.join(model.path("tokenizer_dir")?),
            },
            decoder: Decoder::read(&model, folder)?,
            search: Search::read(&root, context_length)?,
        })
    }
}

impl Decoder {
    fn read(model: &Fields, folder: &Path) -> Result<Self> {
        let decoder = model.object("decoder")?;
        let inputs = decoder.object_or_empty("inputs")?;
        let outputs = decoder.object_or_empty("outputs")?;
        Ok(Self {
            model: folder.join(decoder.path("filename")?),
            head_size: decoder.count("head_size")?,
            num_hidden_layers: decoder.count("num_hidden_layers")?,
            num_key_value_heads: decoder.count("num_key_value_heads")?,
            beyond_plain: beyond_plain(model, &decoder, &inputs)?,
            inputs: Inputs::read(&inputs)?,
            outputs: Outputs::read(&outputs)?,
            window: CacheWindow::read(&decoder)?,
        })
    }
}

impl CacheWindow {
    fn read(decoder: &Fields) -> Result<Option<Self>> {
        let window = decoder.object_or_empty("sliding_window")?;
        match window.optional_integer("window_size")? {
            None | Some(0) => Ok(None),
            Some(size) => Ok(Some(Self { size, layers: window.indices("layers")? })),
        }
    }

    /// The window of a cache, by its number.
    pub fn of(&self, layer: usize) -> Option<usize> {
        (self.layers.is_empty() || self.layers.contains(&layer)).then_some(self.size)
    }
}

impl Search {
    fn read(root: &Fields, context_length: usize) -> Result<Self> {
        let search = root.object_or_empty("search")?;
        // 0 means the whole context; a larger value would be refused by the peer when it generates.
        let max_length = match search.optional_integer("max_length")? {
            None | Some(0) => context_length,
            Some(length) if length <= context_length => length,
            Some(length) => {
                let problem = format!("is {length}, expected at most model.context_length {context_length}");
                return Err(search.error("max_length", problem));
            }
        };
        Ok(Self {
            do_sample: search.flag("do_sample")?.unwrap_or(false),
            max_length,
            temperature: search.number("temperature")?.unwrap_or(1.0),
            top_k: search.optional_integer("top_k")?.unwrap_or(50),
            top_p: search.number("top_p")?.unwrap_or(0.0),
            repetition_penalty: search.number("repetition_penalty")?.unwrap_or(1.0),
            past_present_share_buffer: search.flag("past_present_share_buffer")?.unwrap_or(false),
        })
    }
}

/// What the peer would run by other means than one decoder graph with a full-length cache per layer.
fn beyond_plain(model: &Fields, decoder: &Fields, inputs: &Fields) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for key in ["encoder", "embedding", "vision", "speech", "joiner", "draft"] {
        found.extend(model.has(key).then(|| format!("model.{key}")));
    }
    found.extend(decoder.has("pipeline").then(|| "model.decoder.pipeline".into()));
    found.extend(inputs.has("past_names").then(|| "model.decoder.inputs.past_names".into()));
    // A window on the cache alone changes memory, not results. Moving the cache or the inputs does; both default to on.
    if decoder.has("sliding_window") {
        let window = decoder.object("sliding_window")?;
        for key in ["slide_key_value_cache", "slide_inputs"] {
            let slides = window.flag(key)?.unwrap_or(true);
            found.extend(slides.then(|| format!("model.decoder.sliding_window.{key}")));
        }
    }
    let session = decoder.object_or_empty("session_options")?;
    // Naming a native library in a package asks for its code to be run.
    found.extend(session.has("custom_ops_library").then(|| "model.decoder.session_options.custom_ops_library".into()));
    Ok(found)
}

#[cfg(test)]
mod tests;
