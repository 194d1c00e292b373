//! `genai_config.json`: checked against the whole schema of onnxruntime-genai 0.18, and read as far as running a package
//! of one decoder needs it.
//!
//! ```text
//!  bytes ─ document: strict JSON ─► Value ─ schema: every key and type ─► fields: ranges, defaults ─► Config
//!                                     ▲
//!                     overlay, providers: change the document, then read it anew
//! ```
//!
//! Stricter than the peer where it fails late or in silence: required fields are required here, name templates are
//! parsed, a key that appears twice, text behind the object and ids below a list's are errors.

mod document;
mod engine;
mod fields;
mod names;
mod paths;
mod schema;
mod session;
mod template;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use engine::{Engine, Speculative};
use fields::Fields;
pub use names::{Inputs, Outputs};
pub use paths::resolve_inside;
pub use session::{DeviceFilter, OptimizationLevel, ProviderOptions, SessionOptions};
pub use template::Template;

use crate::{Error, Result, SearchOptions};

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
    pub sep_token_id: Option<u32>,
    pub decoder_start_token_id: Option<u32>,
    /// Begins a call of a tool, as the next ends it; the last two are of what a model thinks.
    pub bot_token_id: Option<u32>,
    pub eot_token_id: Option<u32>,
    pub bor_token_id: Option<u32>,
    pub eor_token_id: Option<u32>,
    pub decoder: Decoder,
    /// The package's own defaults for generation; `max_length` is at most the context length, and not 0.
    pub search: SearchOptions,
    pub engine: Option<Engine>,
    pub speculative: Speculative,
    /// What works otherwise than it reads, in this tool or in onnxruntime-genai.
    pub warnings: Vec<ConfigWarning>,
    /// What all of this was read from.
    document: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// The ONNX file, inside the folder. Where [`Decoder::beyond_plain`] names parts, this and the sizes may be left out
    /// of the file: then they are the folder, and 0.
    pub model: PathBuf,
    pub head_size: usize,
    pub num_hidden_layers: usize,
    pub num_key_value_heads: usize,
    pub inputs: Inputs,
    pub outputs: Outputs,
    pub session: SessionOptions,
    /// Entries of ONNX Runtime's own for each run.
    pub run_options: Vec<(String, String)>,
    /// Kinds of layers, where the package lists them; else empty.
    pub layer_types: Vec<String>,
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
    /// Tokens kept beyond the window; 0 leaves it to the runtime.
    pub slack: usize,
    /// The runtime moves the cache by itself, in tensors of its own shape; and feeds the inputs in windows.
    pub slides_cache: bool,
    pub slides_inputs: bool,
}

/// A part of the file that works otherwise than it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The JSON path, or the line.
    pub key: String,
    pub problem: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{CONFIG_FILE}: {}: {}", self.key, self.problem)
    }
}

impl Config {
    /// # Errors
    /// Names the file and the JSON path of what is missing, unknown or of the wrong kind.
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
        let parsed = document::parse(config).map_err(|problem| Error::package(&folder.join(CONFIG_FILE), problem));
        let mut config_of_file = Self::read(parsed?, folder)?;
        config_of_file.warnings.extend(document::warnings(config));
        Ok(config_of_file)
    }

    /// Changes the configuration as by RFC 7386: objects are merged key by key, null removes a key, all else takes the
    /// place of what was there. Then all is read anew, so that this is what [`Config::parse`] of the merged text would
    /// give; what a caller changed in the fields of this value is lost. After an error nothing has changed.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn overlay(&mut self, patch: &Value) -> Result<()> {
        let mut merged = self.document.clone();
        document::merge(&mut merged, patch);
        self.replace(merged)
    }

    /// The same as onnxruntime-genai 0.18 reads an overlay: lists such as `eos_token_id` grow, providers are merged by
    /// their names, `run_options`, `sliding_window` and session options beside the decoder's begin anew, and null is of
    /// the wrong type.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn overlay_as_peer(&mut self, patch: &Value) -> Result<()> {
        let mut merged = self.document.clone();
        document::merge_as_peer(&mut merged, patch, "");
        self.replace(merged)
    }

    /// The document as it stands, overlays included.
    pub fn document(&self) -> &Value {
        &self.document
    }

    fn replace(&mut self, document: Value) -> Result<()> {
        let mut read = Self::read(document, &self.folder)?;
        // What is of the text, and of no key, stays.
        read.warnings.extend(self.warnings.iter().filter(|warning| warning.key.starts_with("line ")).cloned());
        *self = read;
        Ok(())
    }

    fn read(document: Value, folder: &Path) -> Result<Self> {
        let file = folder.join(CONFIG_FILE);
        let mut warnings = schema::check(&document, &file)?;
        let root = Fields::root(&document, &file)?;
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
        let decoder = Decoder::read(&model, folder)?;
        for provider in &decoder.session.providers {
            if session::known_provider(&provider.name).is_none() {
                let key = format!("model.decoder.session_options.provider_options.{}", provider.name);
                let problem =
                    "is no provider that onnxruntime-genai 0.18 knows: it asks ONNX Runtime for it by this name";
                warnings.push(ConfigWarning { key, problem: problem.into() });
            }
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            model_type: model.text("type")?.to_owned(),
            vocab_size: model.count("vocab_size")?,
            context_length,
            bos_token_id: model.token("bos_token_id")?,
            eos_token_ids,
            pad_token_id,
            sep_token_id: model.token("sep_token_id")?,
            decoder_start_token_id: model.token("decoder_start_token_id")?,
            bot_token_id: model.token("bot_token_id")?,
            eot_token_id: model.token("eot_token_id")?,
            bor_token_id: model.token("bor_token_id")?,
            eor_token_id: model.token("eor_token_id")?,
            tokenizer_folder: match model.optional_text("tokenizer_dir")? {
                None | Some("") => folder.to_path_buf(),
                Some(_) => folder.join(model.path("tokenizer_dir")?),
            },
            decoder,
            search: read_search(&root, context_length)?,
            engine: Engine::read(&root)?,
            speculative: Speculative::read(&root)?,
            warnings,
            document: document.clone(),
        })
    }
}

impl Decoder {
    fn read(model: &Fields, folder: &Path) -> Result<Self> {
        let decoder = model.object("decoder")?;
        let inputs = decoder.object_or_empty("inputs")?;
        let outputs = decoder.object_or_empty("outputs")?;
        let beyond_plain = beyond_plain(model, &decoder)?;
        // Other kinds of models may have their sizes elsewhere; what they are is the better message.
        let needed = |key: &str| beyond_plain.is_empty() || decoder.has(key);
        let count = |key: &str| if needed(key) { decoder.count(key) } else { Ok(0) };
        Ok(Self {
            model: if needed("filename") { folder.join(decoder.path("filename")?) } else { folder.to_path_buf() },
            head_size: count("head_size")?,
            num_hidden_layers: count("num_hidden_layers")?,
            num_key_value_heads: count("num_key_value_heads")?,
            beyond_plain,
            inputs: Inputs::read(&inputs)?,
            outputs: Outputs::read(&outputs)?,
            session: SessionOptions::read(&decoder.object_or_empty("session_options")?)?,
            run_options: decoder.object_or_empty("run_options")?.texts_but(&[]),
            layer_types: decoder.texts("layer_types")?,
            window: CacheWindow::read(&decoder)?,
        })
    }
}

impl CacheWindow {
    fn read(decoder: &Fields) -> Result<Option<Self>> {
        let window = decoder.object_or_empty("sliding_window")?;
        match window.optional_integer("window_size")? {
            None | Some(0) => Ok(None),
            Some(size) => Ok(Some(Self {
                size,
                layers: window.indices("layers")?,
                slack: window.optional_integer("cache_slack")?.unwrap_or(0),
                slides_cache: window.flag("slide_key_value_cache")?.unwrap_or(true),
                slides_inputs: window.flag("slide_inputs")?.unwrap_or(true),
            })),
        }
    }

    /// The window of a cache, by its number.
    pub fn of(&self, layer: usize) -> Option<usize> {
        (self.layers.is_empty() || self.layers.contains(&layer)).then_some(self.size)
    }
}

fn read_search(root: &Fields, context_length: usize) -> Result<SearchOptions> {
    let fields = root.object_or_empty("search")?;
    let mut search = SearchOptions::default();
    for (key, value) in fields.entries().filter(|(key, _)| SearchOptions::NAMES.contains(key)) {
        search.set(key, value).map_err(|error| match error {
            Error::Argument { value, expected, .. } => fields.error(key, format!("is {value}, expected {expected}")),
            other => other,
        })?;
    }
    // 0 means the whole context; a larger value would be refused by the peer when it generates.
    match search.max_length {
        0 => search.max_length = context_length,
        length if length > context_length => {
            let problem = format!("is {length}, expected at most model.context_length {context_length}");
            return Err(fields.error("max_length", problem));
        }
        _ => {}
    }
    Ok(search)
}

impl SearchOptions {
    /// What the package itself asks for.
    pub fn of(package: &Config) -> Self {
        package.search.clone()
    }
}

/// What the peer would run by other means than one decoder graph with a full-length cache per layer.
fn beyond_plain(model: &Fields, decoder: &Fields) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for key in ["encoder", "embedding", "vision", "speech", "joiner", "vad", "audio_output", "draft"] {
        found.extend(model.has(key).then(|| format!("model.{key}")));
    }
    found.extend(decoder.has("pipeline").then(|| "model.decoder.pipeline".into()));
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
