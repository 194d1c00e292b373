//! The pipeline, from a request to a package.

use std::path::Path;

use genai_architectures::{Config, DecoderSpec, describe};
use genai_checkpoint::Checkpoint;
use serde_json::Value;

use crate::{
    Error, Output, Plan, Result, Settings,
    accounting::{Accounting, account},
    genai_config::{GenaiConfig, Sources},
    lower_with_adapters,
    manifest::{Manifest, inputs},
    materialize::{Limits, check_constants, check_copies, materialize},
    output::{LAST, StagedOutput},
    sidecar::Sidecars,
};

/// A build, every default decided.
#[derive(Debug)]
pub struct Request {
    pub settings: Settings,
    /// Name of the graph's file, without folders; the data file is called the same with `.data` added.
    pub filename: String,
    pub limits: Limits,
    /// Names of tensors that may be left out, with `*` for any text.
    pub allow_unused: Vec<String>,
    /// Whether weight files are hashed for the manifest where the Hub cache does not tell their hashes.
    pub hash_inputs: bool,
}

/// A finished package that is not in its place yet; dropped without a commit, it is gone.
#[derive(Debug)]
pub struct Built {
    output: StagedOutput,
    manifest: Manifest,
    spec: DecoderSpec,
    plan: Plan,
}

/// What a build made.
#[derive(Debug)]
pub struct Report {
    pub spec: DecoderSpec,
    pub plan: Plan,
    /// Every file of the package with its size in bytes.
    pub files: Vec<(String, u64)>,
}

/// Says what a checkpoint's model is and how it would be packaged. Reads no weight.
///
/// # Errors
/// What makes the build impossible: an unsupported model, or tensors that do not fit the config.
pub fn plan(checkpoint: &Checkpoint, request: &Request) -> Result<(DecoderSpec, Plan)> {
    let Planned { spec, plan, .. } = planned(checkpoint, request)?;
    Ok((spec, plan))
}

/// Builds a package beside its place. `progress` is told the bytes of the data file that are done, and how many there
/// will be.
///
/// # Errors
/// Nothing is left behind then, and the output is as it was.
pub fn build(
    checkpoint: &Checkpoint,
    request: &Request,
    output: Output,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Built> {
    let Planned { checkpoint, spec, plan, accounting } = planned(checkpoint, request)?;
    let sidecars = Sidecars::read(&checkpoint, spec.context_length)?;
    let sources = Sources {
        config: checkpoint.config(),
        generation_config: checkpoint.generation_config(),
        tokenizer: &sidecars.facts,
    };
    let positions = plan.graph.inputs.iter().any(|input| plan.graph.name(*input) == "position_ids");
    let genai_config = GenaiConfig::new(&spec, &request.settings, &request.filename, positions, &sources)?;
    let genai_config = genai_config.to_json();

    check_copies(&accounting.copies, &checkpoint)?;
    check_constants(&spec.constants, &checkpoint)?;
    let inputs = inputs(&checkpoint, &sidecars.inputs, request.hash_inputs)?;
    let model = plan.model_bytes();
    let data_bytes = plan.data_bytes + plan.adapters.iter().map(|adapter| adapter.data.data_bytes).sum::<u64>();
    let bytes = data_bytes + sidecars.bytes() + (model.len() + genai_config.len()) as u64;
    let mut output = output.stage(bytes)?;
    let data = output.create(&plan.data_file, plan.data_bytes)?;
    materialize(&plan, &checkpoint, &data, &request.limits, &|done| progress(done, data_bytes))?;
    output.finish(&plan.data_file, &data)?;
    let mut before = plan.data_bytes;
    for adapter in &plan.adapters {
        let Plan { data_file, data_bytes: length, .. } = &adapter.data;
        let file = output.create(data_file, *length)?;
        adapter.frame().iter().try_for_each(|(offset, bytes)| file.write_at(bytes, *offset))?;
        materialize(&adapter.data, &checkpoint, &file, &request.limits, &|done| progress(before + done, data_bytes))?;
        output.finish(data_file, &file)?;
        before += length;
    }
    // Stretches between initializers are nobody's work.
    progress(data_bytes, data_bytes);
    checkpoint.verify_unchanged()?;
    output.write(&request.filename, &model)?;
    sidecars.write(&mut output)?;
    output.write(LAST, genai_config.as_bytes())?;
    let manifest = Manifest::new(&spec, &plan, accounting, request, &checkpoint, inputs);
    Ok(Built { output, manifest, spec, plan })
}

impl Built {
    /// Where the package is until it is committed.
    pub fn folder(&self) -> &Path {
        self.output.folder()
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Puts the package in its place, with its manifest, which records `parity` where there is some.
    ///
    /// # Errors
    /// The output is as it was then.
    pub fn commit(self, parity: Option<Value>) -> Result<Report> {
        let manifest = self.manifest.finish(self.output.files(), parity);
        let files = self.output.commit(&manifest)?;
        Ok(Report { spec: self.spec, plan: self.plan, files })
    }
}

struct Planned {
    /// Its tensors under the names of the spec.
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    plan: Plan,
    accounting: Accounting,
}

fn planned(checkpoint: &Checkpoint, request: &Request) -> Result<Planned> {
    refuse_quantized(checkpoint)?;
    let spec = describe(&Config::from_json(checkpoint.config().clone())?)?;
    let data_file = format!("{}.data", request.filename);
    let plan = lower_with_adapters(&spec, checkpoint.adapters(), &request.settings, &data_file)?;
    let checkpoint = checkpoint.renamed(|stored| spec.name_of(stored))?;
    let accounting = account(&plan, &spec, &checkpoint, &request.allow_unused)?;
    Ok(Planned { checkpoint, spec, plan, accounting })
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
