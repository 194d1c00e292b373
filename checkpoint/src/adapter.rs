//! LoRA adapters as PEFT saves them: low-rank updates of the linears of a checkpoint.
//!
//! ```text
//! adapter_config.json          how large the updates are: ranks, scales ───────────┐
//! adapter_model.safetensors    base_model.model.MODULE.lora_A.weight  [rank, in]  ─┼─► MODULE: W + scale · B · A
//!                              base_model.model.MODULE.lora_B.weight  [out, rank] ─┘
//! ```
//!
//! The reference is PEFT 0.21.2: `tuners/lora/layer.py` has the scale, `utils/other.py` how patterns are matched.
//! Whatever key is neither read here nor known to leave the maths alone must be off: new variants come with a new key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, listed, printable, quoted};
use crate::folder::Folder;
use crate::json_file;
use crate::source_file::SourceFile;
use crate::tensor::Tensor;
use crate::weights::{self, Weights};

pub(crate) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// How PEFT names what it wraps.
const PREFIX: &str = "base_model.model.";

/// Keys that say how an adapter was trained or what for, and not what it computes. Which modules it changes is said by
/// its tensors.
const NEUTRAL: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Keys that are read.
const READ: &[&str] =
    &["alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"];

/// Ways to begin a training that leave the weights of the base as they are. The others store an adapter to a changed
/// base, unless PEFT converted it, and then it writes `true` here.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// An adapter of a [`Checkpoint`](crate::Checkpoint), which reads its tensors.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// What the user calls it.
    name: String,
    updates: BTreeMap<String, LowRankUpdate>,
    pub(crate) folder: Folder,
}

/// What an adapter adds to the weight `[out, in]` of a linear: `scale · B · A`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankUpdate {
    /// At least 1.
    pub rank: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub scale: f32,
    /// The tensors of the checkpoint: A is `[rank, in_features]`, B `[out_features, rank]`.
    pub a: String,
    pub b: String,
}

/// An adapter before it is joined to a checkpoint.
pub(crate) struct Opened {
    pub(crate) adapter: Adapter,
    pub(crate) config: SourceFile,
    pub(crate) weights: Weights,
}

impl Adapter {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Updates by the module that they change, named as in the checkpoint that the adapter was trained on.
    pub fn updates(&self) -> impl Iterator<Item = (&str, &LowRankUpdate)> {
        self.updates.iter().map(|(module, update)| (module.as_str(), update))
    }

    /// The path of a file beside its weights, where there is one that may be read.
    pub fn file_path(&self, name: &str) -> Option<PathBuf> {
        matches!(self.folder.open_file(name), Ok(Some(_))).then(|| self.folder.dir().join(name))
    }

    /// The name of one of its files for the record of a build.
    pub(crate) fn file_label(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }
}

/// Opens the adapter in `dir`; its tensors get `NAME/` before the names that they have in the file.
pub(crate) fn open(name: &str, dir: &Path) -> Result<Opened> {
    let folder = Folder::open(dir)?;
    let (config, config_file) = json_file::read_object(&folder, CONFIG)?.ok_or_else(|| {
        Error::new(ErrorKind::Incomplete, format!("holds no {CONFIG}"))
            .in_file(dir)
            .with_hint(format!("a LoRA adapter as PEFT saves it has {CONFIG} and {WEIGHTS}"))
    })?;
    let config = config.as_object().cloned().unwrap_or_default();
    let scales = Scales::read(&config).map_err(|error| error.in_file(config_file.path()))?;
    if !folder.contains(WEIGHTS)? {
        let pickle = folder.contains(PICKLE)?;
        let (kind, problem) = if pickle {
            (ErrorKind::Refused, format!("holds no {WEIGHTS}, only {}: pickle is not read", quoted(PICKLE)))
        } else {
            (ErrorKind::Incomplete, format!("holds no {WEIGHTS}"))
        };
        return Err(Error::new(kind, problem)
            .in_file(dir)
            .with_hint("save the adapter with PEFT's save_pretrained, which writes safetensors"));
    }
    let mut weights = weights::open_files(&folder, &[WEIGHTS])?;
    let path = weights.files.first().map_or(dir, |file| file.path()).to_owned();
    let updates = updates(&weights.tensors, &scales, name).map_err(|error| error.in_file(&path))?;
    for tensor in &mut weights.tensors {
        tensor.name = format!("{name}/{}", tensor.name);
    }
    Ok(Opened { adapter: Adapter { name: name.to_owned(), updates, folder }, config: config_file, weights })
}

/// Ranks and scales as the config gives them.
struct Scales {
    rank: u64,
    alpha: f64,
    /// By expressions; the first one that matches counts.
    ranks: Vec<(Regex, u64)>,
    alphas: Vec<(Regex, f64)>,
    /// Whether updates are divided by the root of the rank and not by the rank.
    by_root: bool,
}

impl Scales {
    fn read(config: &Map<String, Value>) -> Result<Self> {
        for (key, value) in config {
            if NEUTRAL.contains(&key.as_str()) || READ.contains(&key.as_str()) || is_off(value) {
                continue;
            }
            return Err(unsupported(key, value, "null or false: plain LoRA"));
        }
        match config.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            other => return Err(unsupported("peft_type", other.unwrap_or(&Value::Null), "\"LORA\"")),
        }
        match config.get("bias") {
            None | Some(Value::Null) => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(other) => return Err(unsupported("bias", other, "\"none\"")),
        }
        match config.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(start)) if PLAIN_STARTS.contains(&start.as_str()) => {}
            Some(other) => {
                let supported = format!("true, false, {}", PLAIN_STARTS.join(", "));
                return Err(unsupported("init_lora_weights", other, &supported)
                    .with_hint("convert it with save_pretrained(..., path_initial_model_for_weight_conversion=...)"));
            }
        }
        // What PEFT takes where a key is absent.
        const DEFAULT: u32 = 8;
        Ok(Self {
            rank: config.get("r").map_or(Ok(DEFAULT.into()), |value| rank("r", value))?,
            alpha: config.get("lora_alpha").map_or(Ok(DEFAULT.into()), |value| number("lora_alpha", value))?,
            ranks: patterns(config, "rank_pattern", rank)?,
            alphas: patterns(config, "alpha_pattern", number)?,
            by_root: match config.get("use_rslora") {
                None | Some(Value::Null) => false,
                Some(value) => value.as_bool().ok_or_else(|| malformed("use_rslora", value, "true or false"))?,
            },
        })
    }

    fn rank_of(&self, module: &str) -> u64 {
        first_match(&self.ranks, module).unwrap_or(self.rank)
    }

    fn scale_of(&self, module: &str, rank: usize) -> f32 {
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        let rank = f64::from(u32::try_from(rank).unwrap_or(u32::MAX));
        narrowed(alpha / if self.by_root { rank.sqrt() } else { rank })
    }
}

/// Pairs up the tensors of the file; every one of them must belong to a pair.
fn updates(tensors: &[Tensor], scales: &Scales, name: &str) -> Result<BTreeMap<String, LowRankUpdate>> {
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    let mut strangers = Vec::new();
    for tensor in tensors {
        let inner = tensor.name.strip_prefix(PREFIX);
        let part = |ending: &str| inner.and_then(|inner| inner.strip_suffix(ending));
        match (part(".lora_A.weight"), part(".lora_B.weight")) {
            (Some(module), _) => pairs.entry(module).or_default()[0] = Some(tensor),
            (None, Some(module)) => pairs.entry(module).or_default()[1] = Some(tensor),
            (None, None) => strangers.push(&tensor.name),
        }
    }
    if !strangers.is_empty() {
        return Err(stranger(&strangers));
    }
    if pairs.is_empty() {
        return Err(Error::new(ErrorKind::Incomplete, "holds no tensor, expected pairs of lora_A and lora_B"));
    }
    pairs
        .into_iter()
        .map(|(module, [a, b])| {
            let missing = |part: &str| {
                let tensor = format!("{PREFIX}{module}.lora_{part}.weight");
                Error::new(ErrorKind::Incomplete, "is missing, and its other half is there").of_tensor(tensor)
            };
            let (a, b) = (a.ok_or_else(|| missing("A"))?, b.ok_or_else(|| missing("B"))?);
            Ok((module.to_owned(), low_rank(module, a, b, scales, name)?))
        })
        .collect()
}

fn low_rank(module: &str, a: &Tensor, b: &Tensor, scales: &Scales, name: &str) -> Result<LowRankUpdate> {
    let (rank, in_features) = matrix(a, "[rank, in]")?;
    let (out_features, of_b) = matrix(b, "[out, rank]")?;
    if rank != of_b {
        let problem = format!("has shape {:?}, expected rank {rank} as that of lora_A", b.shape);
        return Err(Error::new(ErrorKind::Incomplete, problem).of_tensor(&b.name));
    }
    let expected = scales.rank_of(module);
    if u64::try_from(rank) != Ok(expected) {
        let problem = format!("has rank {rank}, {CONFIG} says {expected}");
        return Err(Error::new(ErrorKind::Incomplete, problem).of_tensor(&a.name));
    }
    let scale = scales.scale_of(module, rank);
    if !scale.is_finite() {
        let problem = format!("is scaled by {scale}, expected a finite number");
        return Err(Error::new(ErrorKind::Malformed, problem).of_tensor(&b.name));
    }
    let (a, b) = (format!("{name}/{}", a.name), format!("{name}/{}", b.name));
    Ok(LowRankUpdate { rank, in_features, out_features, scale, a, b })
}

/// What a tensor is that is neither half of an update of a linear.
fn stranger(names: &[&String]) -> Error {
    let kinds = [
        ("lora_embedding_", "changes an embedding table: updates of linears are supported"),
        ("lora_magnitude_vector", "belongs to DoRA, which is not supported: plain LoRA is"),
        (".bias", "is a bias: updates of weights are supported (lora_bias and bias=\"all\" are not)"),
        ("modules_to_save", "replaces a module: updates of linears are supported"),
    ];
    let first = names.first().map_or("", |name| name.as_str());
    let known = kinds.iter().find(|(part, _)| first.contains(part));
    let (kind, mut problem) = match known {
        Some((_, problem)) => (ErrorKind::Unsupported, (*problem).to_owned()),
        None => {
            let names = format!("{PREFIX}MODULE.lora_A.weight and .lora_B.weight");
            (ErrorKind::Unsupported, format!("is no part of an update of a linear, expected {names}"))
        }
    };
    if let Some(rest) = names.get(1..).filter(|rest| !rest.is_empty()) {
        problem.push_str(&format!("; the same goes for {}", listed(rest, 3)));
    }
    Error::new(kind, problem)
        .of_tensor(first)
        .with_hint("merge the adapter into its base (PEFT's merge_and_unload) and build the merged checkpoint")
}

fn matrix(tensor: &Tensor, expected: &str) -> Result<(usize, usize)> {
    match tensor.shape.as_slice() {
        [rows, columns] if *rows > 0 && *columns > 0 => {
            if let (Ok(rows), Ok(columns)) = (usize::try_from(*rows), usize::try_from(*columns)) {
                return Ok((rows, columns));
            }
        }
        _ => {}
    }
    let problem = format!("has shape {:?}, expected {expected}", tensor.shape);
    Err(Error::new(ErrorKind::Unsupported, problem).of_tensor(&tensor.name))
}

/// The expressions of a pattern with their values, in order: an expression stands for the end of a module's name, from
/// a dot on, or for all of it.
fn patterns<T>(
    config: &Map<String, Value>,
    key: &str,
    read: impl Fn(&str, &Value) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let patterns = match config.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(patterns)) => patterns,
        Some(other) => return Err(malformed(key, other, "an object")),
    };
    let pattern = |(pattern, value): (&String, &Value)| {
        let expression = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|_| {
            unsupported(
                key,
                &Value::String(pattern.clone()),
                "names of modules and regular expressions without lookaround",
            )
        })?;
        Ok((expression, read(&format!("{key}.{pattern}"), value)?))
    };
    patterns.iter().map(pattern).collect()
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

fn rank(key: &str, value: &Value) -> Result<u64> {
    value.as_u64().filter(|rank| *rank > 0).ok_or_else(|| malformed(key, value, "a whole number above 0"))
}

fn number(key: &str, value: &Value) -> Result<f64> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| malformed(key, value, "a number"))
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

fn unsupported(key: &str, value: &Value, supported: &str) -> Error {
    let value = printable(&value.to_string(), 80);
    Error::new(
        ErrorKind::Unsupported,
        format!("{} is {value}, which is not supported; supported: {supported}", quoted(key)),
    )
}

fn malformed(key: &str, value: &Value, expected: &str) -> Error {
    let value = printable(&value.to_string(), 80);
    Error::new(ErrorKind::Malformed, format!("{} is {value}, expected {expected}", quoted(key)))
}

#[allow(clippy::as_conversions)] // To the nearest f32, or infinity: there is no other way to say it.
fn narrowed(value: f64) -> f32 {
    value as f32
}
