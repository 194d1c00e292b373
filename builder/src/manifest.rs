//! `genai-build.json`, the record of a build, and `SHA256SUMS`, which `sha256sum -c` reads.
//!
//! Of the same input and options both have the same bytes: no time, no path, nothing of the machine. README.md has the
//! fields.

use std::{collections::BTreeMap, fs, path::Path};

use genai_architectures::DecoderSpec;
use genai_checkpoint::Checkpoint;
use genai_quantize::{IntScheme, Method, ScaleDtype};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Cache, Error, Fusion, Interface, Logits, Operators, Plan, Request, Result,
    accounting::Accounting,
    digest::Digest,
    plan::{CodeLayout, Job, Sink},
    recipe::Rule,
};

pub(crate) const MANIFEST: &str = "genai-build.json";
pub(crate) const SUMS: &str = "SHA256SUMS";

/// Of the manifest: fields may be added, and none changes its meaning, under one number.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize)]
pub(crate) struct Manifest {
    format: u32,
    tool: Tool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Origin>,
    inputs: Vec<Input>,
    model: Model,
    options: Options,
    accounting: Counts,
    weights: Vec<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<Value>,
    files: Vec<OutputFile>,
}

#[derive(Debug, Serialize)]
struct Tool {
    name: &'static str,
    version: &'static str,
    /// How weights are rounded.
    quantizer: &'static str,
}

#[derive(Debug, Serialize)]
struct Origin {
    repository: String,
    commit: String,
}

#[derive(Debug, Serialize)]
struct Input {
    name: String,
    bytes: u64,
    /// Absent where the file was not hashed and the Hub cache does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

#[derive(Debug, Serialize)]
struct Model {
    architecture: &'static str,
    parameters: u64,
    layers: usize,
    context_length: usize,
}

#[derive(Debug, Serialize)]
struct Options {
    precision: &'static str,
    execution_provider: &'static str,
    filename: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_symmetric: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_level: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algo_config: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_types_to_quantize: Option<Vec<&'static str>>,
    /// Selectors or nodes, and bits, in the order of the rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    matmul_mixed_precision: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes_to_exclude: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_embeddings: Option<bool>,
    /// Where it is not the whole model.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Ends>,
    /// Where it is not what the target has.
    #[serde(skip_serializing_if = "Option::is_none")]
    fusion: Option<Fused>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    config_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_cache: Option<CacheOptions>,
    allow_unused: Vec<String>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    runtime_config: serde_json::Map<String, Value>,
    /// LoRA adapters by name, and what became of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    adapters: BTreeMap<String, &'static str>,
}

/// An [`Interface`].
#[derive(Debug, Serialize)]
struct Ends {
    layers: Option<usize>,
    inputs_embeds: bool,
    logits: &'static str,
    hidden_states: bool,
    aux_hidden_states: Vec<usize>,
}

/// A [`Fusion`].
#[derive(Debug, Serialize)]
struct Fused {
    qkv: bool,
    head_norms: bool,
    gate_up: bool,
}

/// Where the cache is not as it is by default.
#[derive(Debug, Serialize)]
struct CacheOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    quant_scheme: Option<&'static str>,
    /// Of the file of scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    scales_sha256: Option<String>,
    windowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    paged_block_size: Option<u64>,
}

impl CacheOptions {
    fn of(cache: &Cache) -> Option<Self> {
        let quantization = cache.quantization.as_ref();
        (quantization.is_some() || cache.windowed || cache.paged.is_some()).then(|| Self {
            quant_scheme: quantization.map(|quantization| quantization.scheme.name()),
            scales_sha256: quantization.map(|quantization| quantization.scales.sha256().to_owned()),
            windowed: cache.windowed,
            paged_block_size: cache.paged.map(|paged| paged.block_size),
        })
    }
}

/// What became of every tensor of the checkpoint.
#[derive(Debug, Serialize)]
struct Counts {
    tensors: usize,
    /// Stored in the package.
    used: usize,
    /// Of the same bytes as another that is used.
    copies: Vec<String>,
    /// Of the model and not of the package, whose interface leaves them out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    /// No part of the model, as its family knows.
    not_of_the_model: Vec<String>,
    /// Left out since `--allow-unused` said so, by the pattern.
    allowed_unused: BTreeMap<String, String>,
}

/// A matrix of the package: rows that were made together.
#[derive(Debug, Serialize)]
struct Weight {
    /// Names of the checkpoint; empty for tables that are computed.
    tensors: Vec<String>,
    rows: usize,
    columns: usize,
    stored: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct OutputFile {
    name: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    pub(crate) fn new(
        spec: &DecoderSpec,
        plan: &Plan,
        accounting: Accounting,
        request: &Request,
        checkpoint: &Checkpoint,
        inputs: Vec<genai_checkpoint::Input>,
    ) -> Self {
        let settings = &request.settings;
        let recipe = &settings.recipe;
        let scheme = recipe.base();
        Self {
            format: FORMAT,
            tool: Tool {
                name: "genai-build",
                version: env!("CARGO_PKG_VERSION"),
                quantizer: quantizer(recipe.base().map(IntScheme::method).unwrap_or_default()),
            },
            source: checkpoint
                .revision()
                .map(|revision| Origin { repository: revision.repo.clone(), commit: revision.commit.clone() }),
            inputs: inputs
                .into_iter()
                .map(|input| Input {
                    name: input.name,
                    bytes: input.bytes,
                    sha256: input.sha256.or(input.recorded_sha256),
                })
                .collect(),
            model: Model {
                architecture: spec.architecture,
                parameters: spec.num_parameters(),
                layers: spec.layers.len(),
                context_length: spec.context_length,
            },
            options: Options {
                precision: settings.precision.name(),
                execution_provider: settings.target.provider,
                filename: request.filename.clone(),
                block_size: scheme.map(|scheme| scheme.block_size()),
                is_symmetric: scheme.map(|scheme| scheme.is_symmetric()),
                accuracy_level: scheme.map(|_| settings.accuracy_level),
                algo_config: scheme.map(|scheme| scheme.method().name()),
                op_types_to_quantize: scheme.map(|_| op_types(recipe.operators())),
                matmul_mixed_precision: recipe.rules().iter().filter_map(mixed).collect(),
                nodes_to_exclude: recipe.rules().iter().filter_map(excluded).collect(),
                shared_embeddings: recipe.shared_embeddings(),
                interface: (settings.interface != Interface::default()).then(|| Ends::of(&settings.interface)),
                fusion: (settings.fusion != Fusion::of(settings.attention)).then(|| Fused::of(settings.fusion)),
                config_only: request.config_only,
                kv_cache: CacheOptions::of(&settings.cache),
                allow_unused: request.allow_unused.clone(),
                runtime_config: request.runtime_config.object.clone(),
                adapters: checkpoint
                    .adapters()
                    .iter()
                    .map(|a| (a.name().to_owned(), settings.adaptation.name()))
                    .collect(),
            },
            accounting: Counts {
                tensors: checkpoint.tensors().len(),
                used: if request.config_only { 0 } else { plan.tensors.len() },
                copies: accounting.copies.into_iter().map(|copy| stored_name(checkpoint, &copy.copy)).collect(),
                left_out: accounting.left_out,
                not_of_the_model: accounting.known,
                allowed_unused: accounting.allowed.into_iter().collect(),
            },
            weights: match request.config_only {
                true => Vec::new(),
                false => plan.all_jobs().map(|job| Weight::of(job, checkpoint)).collect(),
            },
            parity: None,
            files: Vec::new(),
        }
    }

    /// The manifest of a package with these files.
    pub(crate) fn finish(mut self, files: &BTreeMap<String, Digest>, parity: Option<Value>) -> Vec<u8> {
        self.parity = parity;
        self.files = files
            .iter()
            .map(|(name, digest)| OutputFile { name: name.clone(), bytes: digest.bytes, sha256: digest.sha256.clone() })
            .collect();
        let mut text = serde_json::to_vec_pretty(&self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

fn quantizer(method: Method) -> &'static str {
    match method {
        Method::Default => "round to nearest, as MatMulNBits quantizer of ONNX Runtime",
        Method::Rtn => "round to nearest, as RTN of ONNX Runtime's MatMulNBits quantizer",
        Method::KQuant => "search, as k_quant of ONNX Runtime's MatMulNBits quantizer",
    }
}

fn op_types(operators: Operators) -> Vec<&'static str> {
    [("MatMul", operators.products), ("Gather", operators.lookups)]
        .into_iter()
        .filter_map(|(name, asked)| asked.then_some(name))
        .collect()
}

fn mixed(rule: &Rule) -> Option<String> {
    rule.scheme.map(|scheme| format!("{}:int{}", rule.matrices.name(), scheme.bits()))
}

fn excluded(rule: &Rule) -> Option<String> {
    rule.scheme.is_none().then(|| rule.matrices.name().to_owned())
}

impl Ends {
    fn of(interface: &Interface) -> Self {
        let Interface { layers, inputs_embeds, logits, hidden_states, aux_hidden_states } = interface.clone();
        let logits = match logits {
            Logits::All => "all",
            Logits::Last => "last",
            Logits::None => "none",
        };
        Self { layers, inputs_embeds, logits, hidden_states, aux_hidden_states }
    }
}

impl Fused {
    fn of(Fusion { qkv, head_norms, gate_up }: Fusion) -> Self {
        Self { qkv, head_norms, gate_up }
    }
}

impl Weight {
    fn of(job: &Job, checkpoint: &Checkpoint) -> Self {
        let mut tensors = Vec::new();
        for name in job.rows.tensors() {
            let name = stored_name(checkpoint, name);
            if !tensors.contains(&name) {
                tensors.push(name);
            }
        }
        let stored = match job.sink {
            Sink::Dense { dtype, .. } | Sink::Transposed { dtype, .. } => dtype.name().to_ascii_lowercase(),
            Sink::Blocks { scheme, layout, scale_dtype, .. } => {
                let sign = if scheme.is_symmetric() { "symmetric" } else { "asymmetric" };
                let scales = match scale_dtype {
                    ScaleDtype::F32 => "float",
                    ScaleDtype::F16 => "float16",
                    ScaleDtype::Bf16 => "bfloat16",
                };
                let form = match layout {
                    CodeLayout::Blocks | CodeLayout::BlocksWithZeroPoints => "",
                    CodeLayout::Flat => ", flat",
                };
                format!("int{} {sign}, blocks of {}, scales {scales}{form}", scheme.bits(), scheme.block_size())
            }
        };
        Self { tensors, rows: job.n, columns: job.k, stored, bytes: job.n as u64 * job.stored_row_bytes() }
    }
}

fn stored_name(checkpoint: &Checkpoint, name: &str) -> String {
    checkpoint.tensor(name).map_or(name, |tensor| tensor.stored_name()).to_owned()
}

/// Every file that the build reads, with its hash where that is known. Weights are hashed only where `hash` says so:
/// it takes a second pass over them.
///
/// # Errors
/// [`Error::Checksum`] where a file of the Hub cache is not what its name says.
pub(crate) fn inputs(checkpoint: &Checkpoint, sidecars: &[String], hash: bool) -> Result<Vec<genai_checkpoint::Input>> {
    let mut inputs = checkpoint.weight_inputs(hash)?;
    let configs = ["config.json", "generation_config.json", "model.safetensors.index.json"];
    for name in configs.into_iter().chain(sidecars.iter().map(String::as_str)) {
        inputs.extend(checkpoint.input(name)?);
    }
    inputs.extend(checkpoint.adapter_configs()?);
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    for input in &inputs {
        if let (Some(found), Some(recorded)) = (&input.sha256, &input.recorded_sha256)
            && found != recorded
        {
            let (found, recorded) = (found.clone(), recorded.clone());
            return Err(Error::Checksum { file: input.name.clone(), found, recorded });
        }
    }
    Ok(inputs)
}

/// The lines of `SHA256SUMS` for files in the order of their names.
pub(crate) fn sums(files: &BTreeMap<String, Digest>) -> String {
    files.iter().map(|(name, digest)| format!("{}  {name}\n", digest.sha256)).collect()
}

/// The files of a package that is in place, as its manifest lists them; none where there is no manifest to be read.
pub(crate) fn listed_files(manifest: &Path) -> Vec<String> {
    const LARGEST: u64 = 64 << 20;
    let listed = || {
        if !fs::symlink_metadata(manifest).ok()?.is_file() || fs::metadata(manifest).ok()?.len() > LARGEST {
            return None;
        }
        let value: Value = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
        let files = value.get("files")?.as_array()?;
        let mut names: Vec<String> =
            files.iter().map(|file| Some(file.get("name")?.as_str()?.to_owned())).collect::<Option<_>>()?;
        names.extend([MANIFEST, SUMS].map(str::to_owned));
        Some(names)
    };
    listed().unwrap_or_default()
}
