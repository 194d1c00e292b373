//! The pipeline, from a request to a package.

use std::{collections::BTreeMap, path::Path};

use genai_architectures::{Config, DecoderSpec, describe};
use genai_checkpoint::Checkpoint;
use serde_json::Value;

use crate::{
    Error, Interface, Output, Plan, Result, RuntimeConfig, Settings,
    accounting::{Accounting, account},
    genai_config::{GenaiConfig, Sources},
    lower_with_adapters,
    manifest::{Manifest, inputs},
    materialize::{Limits, Package, check_constants, check_copies, materialize},
    output::{self, LAST, StagedOutput},
    sidecar::Sidecars,
};

/// A package that is wanted, every default decided.
#[derive(Debug)]
pub struct Request {
    pub settings: Settings,
    /// Name of the graph's file, without folders; the data file is called the same with `.data` added.
    pub filename: String,
    /// The package is to hold no model: only what the runtime and its clients read beside one.
    pub config_only: bool,
    /// Names of tensors that may be left out, with `*` for any text.
    pub allow_unused: Vec<String>,
    /// Whether weight files are hashed for the manifest where the Hub cache does not tell their hashes.
    pub hash_inputs: bool,
    /// What is added to `genai_config.json`.
    pub runtime_config: RuntimeConfig,
}

/// A finished package that is not in its place yet; dropped without a commit, it is gone.
#[derive(Debug)]
pub struct Built {
    output: StagedOutput,
    manifest: Manifest,
    plan: Plan,
}

/// What a build made.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    /// Every file of the package with its size in bytes.
    pub files: Vec<(String, u64)>,
}

/// Says what a checkpoint's model is and how each package of it would be. Reads no weight.
///
/// # Errors
/// What makes the build impossible: an unsupported model, or tensors that do not fit the config.
pub fn plan(checkpoint: &Checkpoint, requests: &[Request]) -> Result<(DecoderSpec, Vec<Plan>)> {
    let Planned { spec, parts, .. } = planned(checkpoint, requests.iter())?;
    Ok((spec, parts.into_iter().map(|part| part.plan).collect()))
}

/// Builds packages beside their places, which were claimed on one disk, reading each weight once for all of them.
/// `progress` is told the bytes of the data files that are done, and how many there will be.
///
/// Returns what the model is, and the packages in the order of the requests.
///
/// # Errors
/// Nothing is left behind then, and the outputs are as they were.
pub fn build(
    checkpoint: &Checkpoint,
    wanted: Vec<(&Request, Output)>,
    limits: &Limits,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(DecoderSpec, Vec<Built>)> {
    let (requests, outputs): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let Planned { checkpoint, spec, parts } = planned(checkpoint, requests.iter().copied())?;
    let sidecars = Sidecars::read(&checkpoint, spec.context_length)?;
    let sources = Sources {
        config: checkpoint.config(),
        generation_config: checkpoint.generation_config(),
        tokenizer: &sidecars.facts,
    };
    let mut packages = Vec::with_capacity(parts.len());
    for (request, Part { spec, plan, accounting }) in requests.iter().copied().zip(parts) {
        let positions = plan.graph.inputs.iter().any(|input| plan.graph.name(*input) == "position_ids");
        let genai_config = GenaiConfig::new(&spec, &request.settings, &request.filename, positions, &sources)?;
        let genai_config = genai_config.to_json(&request.settings, &request.runtime_config)?;
        let model = if request.config_only { None } else { Some(plan.model_bytes()) };
        packages.push(Started { request, spec, plan, accounting, model, genai_config });
    }

    let with_model = packages.iter().filter(|package| package.model.is_some());
    let mut copies: Vec<_> = with_model.clone().flat_map(|package| &package.accounting.copies).collect();
    copies.sort();
    copies.dedup();
    check_copies(&copies, &checkpoint)?;
    if with_model.count() > 0 {
        check_constants(&spec.constants, &checkpoint)?;
    }
    let inputs = inputs(&checkpoint, &sidecars.inputs, requests.iter().any(|request| request.hash_inputs))?;
    let mut staged = Vec::with_capacity(packages.len());
    for (package, output) in packages.iter().zip(outputs) {
        let model = package.model.as_ref().map_or(0, |model| package.plan.all_data_bytes() + model.len() as u64);
        let output = output.stage(model + sidecars.bytes() + package.genai_config.len() as u64)?;
        let mut files = Vec::new();
        if package.model.is_some() {
            files.push(output.create(&package.plan.data_file, package.plan.data_bytes)?);
            for adapter in &package.plan.adapters {
                let file = output.create(&adapter.data.data_file, adapter.data.data_bytes)?;
                adapter.frame().iter().try_for_each(|(offset, bytes)| file.write_at(bytes, *offset))?;
                files.push(file);
            }
        }
        staged.push((output, files));
    }
    let filled = packages.iter().zip(&staged).flat_map(|(package, (_, files))| package.plan.with_adapters().zip(files));
    let filled: Vec<Package> = filled.map(|(plan, file)| Package { plan, file }).collect();
    let total = filled.iter().map(|package| package.plan.data_bytes).sum();
    materialize(&filled, &checkpoint, limits, &|done| progress(done, total))?;
    // Stretches between initializers are nobody's work.
    progress(total, total);
    for (package, (output, files)) in packages.iter().zip(&mut staged) {
        for (plan, file) in package.plan.with_adapters().zip(files.iter()) {
            output.finish(&plan.data_file, file)?;
        }
    }
    checkpoint.verify_unchanged()?;
    let mut built = Vec::with_capacity(packages.len());
    for (package, (mut output, _)) in packages.into_iter().zip(staged) {
        let Started { request, spec, plan, accounting, model, genai_config } = package;
        if let Some(model) = model {
            output.write(&request.filename, &model)?;
        }
        sidecars.write(&mut output)?;
        output.write(LAST, genai_config.as_bytes())?;
        let manifest = Manifest::new(&spec, &plan, accounting, request, &checkpoint, inputs.clone());
        built.push(Built { output, manifest, plan });
    }
    Ok((spec, built))
}

impl Built {
    /// Where the package is until it is committed.
    pub fn folder(&self) -> &Path {
        self.output.folder()
    }
}

/// Puts packages in their places, with their manifests, which record their parity where there is some.
///
/// Returns those that are in place. Where that fails with one, those before it are there, and its own output and those
/// after it are as they were.
pub fn commit(packages: Vec<(Built, Option<Value>)>) -> (Vec<Report>, Result<()>) {
    let (mut outputs, mut plans) = (Vec::with_capacity(packages.len()), Vec::with_capacity(packages.len()));
    for (Built { mut output, manifest, plan }, parity) in packages {
        let manifest = manifest.finish(output.files(), parity);
        if let Err(error) = output.seal(&manifest) {
            return (Vec::new(), Err(error));
        }
        outputs.push(output);
        plans.push(plan);
    }
    let (files, result) = output::commit(outputs);
    (plans.into_iter().zip(files).map(|(plan, files)| Report { plan, files }).collect(), result)
}

/// A package of which no weight is read yet.
struct Started<'a> {
    request: &'a Request,
    spec: DecoderSpec,
    plan: Plan,
    accounting: Accounting,
    /// The graph's file; `None` where the package is to hold no model.
    model: Option<Vec<u8>>,
    genai_config: String,
}

struct Planned {
    /// Its tensors under the names of the spec.
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    /// For each request.
    parts: Vec<Part>,
}

/// What a package has of the model.
struct Part {
    spec: DecoderSpec,
    plan: Plan,
    /// What becomes of the tensors that the plan does not read.
    accounting: Accounting,
}

fn planned<'a>(checkpoint: &Checkpoint, requests: impl Iterator<Item = &'a Request>) -> Result<Planned> {
    refuse_quantized(checkpoint)?;
    let spec = describe(&Config::from_json(checkpoint.config().clone())?)?;
    let checkpoint = checkpoint.renamed(|stored| spec.name_of(stored))?;
    let parts = requests.map(|request| part(&spec, request, &checkpoint)).collect::<Result<_>>()?;
    Ok(Planned { checkpoint, spec, parts })
}

fn part(whole: &DecoderSpec, request: &Request, checkpoint: &Checkpoint) -> Result<Part> {
    let (settings, data_file) = (&request.settings, format!("{}.data", request.filename));
    let spec = settings.interface.applied(whole.clone())?;
    settings.fusion.check(&spec)?;
    let plan = lower_with_adapters(&spec, checkpoint.adapters(), settings, &data_file)?;
    // What the whole model reads and this package does not is left out by its interface, and no stranger.
    let left_out = if settings.interface == Interface::default() {
        BTreeMap::new()
    } else {
        let mut settings = settings.clone();
        settings.interface = Interface::default();
        lower_with_adapters(whole, &[], &settings, &data_file)?.tensors
    };
    let accounting = account(&plan, &spec, &left_out, checkpoint, &request.allow_unused)?;
    Ok(Part { spec, plan, accounting })
}

/// Weights that are quantized already need a reader of their format.
fn refuse_quantized(checkpoint: &Checkpoint) -> Result<()> {
    let Some(config) = checkpoint.config().get("quantization_config").filter(|config| !config.is_null()) else {
        return Ok(());
    };
    let method = config.get("quant_method").and_then(|method| method.as_str()).unwrap_or("unknown");
    Err(Error::Unsupported {
        what: format!(
            "config.json: the checkpoint is quantized already (`quantization_config.quant_method` = {method:?})"
        ),
        hint: "give the checkpoint in bf16, fp16 or fp32 that it was made from".to_owned(),
    })
}
