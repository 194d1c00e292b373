//! The pipeline, from a request to a package.

use std::path::{Path, PathBuf};

use genai_architectures::{Config, DecoderSpec, describe};
use genai_checkpoint::Checkpoint;

use crate::{
    Error, Plan, Result, Settings,
    accounting::{Copy, account},
    genai_config::{GenaiConfig, Sources},
    lower,
    materialize::{Limits, check_constants, check_copies, materialize},
    output::StagedOutput,
    sidecar::Sidecars,
};

/// A build, every default decided.
#[derive(Debug)]
pub struct Request {
    pub settings: Settings,
    /// Name of the graph's file, without folders; the data file is called the same with `.data` added.
    pub filename: String,
    pub output: PathBuf,
    pub limits: Limits,
}

/// A finished package that is not in its place yet; dropped without a commit, it is gone.
#[derive(Debug)]
pub struct Built {
    output: StagedOutput,
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
pub fn plan(checkpoint: &Checkpoint, settings: &Settings, filename: &str) -> Result<(DecoderSpec, Plan)> {
    let Planned { spec, plan, .. } = planned(checkpoint, settings, filename)?;
    Ok((spec, plan))
}

/// Builds a package beside its place. `progress` is told the bytes of the data file that are done, and how many there
/// will be.
///
/// # Errors
/// Nothing is left behind then.
pub fn build(checkpoint: &Checkpoint, request: &Request, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Built> {
    let Planned { checkpoint, spec, plan, copies } = planned(checkpoint, &request.settings, &request.filename)?;
    let sidecars = Sidecars::read(&checkpoint, spec.context_length)?;
    let sources = Sources {
        config: checkpoint.config(),
        generation_config: checkpoint.generation_config(),
        tokenizer: &sidecars.facts,
    };
    let positions = plan.graph.inputs.iter().any(|input| plan.graph.name(*input) == "position_ids");
    let genai_config = GenaiConfig::new(&spec, &request.settings, &request.filename, positions, &sources)?;

    check_copies(&copies, &checkpoint)?;
    check_constants(&spec.constants, &checkpoint)?;
    let output = StagedOutput::create(&request.output)?;
    let data_file = output.folder().join(&plan.data_file);
    materialize(&plan, &checkpoint, &data_file, &request.limits, &|done| progress(done, plan.data_bytes))?;
    checkpoint.verify_unchanged()?;
    output.write(&request.filename, &plan.model_bytes())?;
    sidecars.write(output.folder())?;
    output.write("genai_config.json", genai_config.to_json().as_bytes())?;
    Ok(Built { output, spec, plan })
}

impl Built {
    /// Where the package is until it is committed.
    pub fn folder(&self) -> &Path {
        self.output.folder()
    }

    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Puts the package in its place.
    pub fn commit(self) -> Result<Report> {
        let files = self.output.commit("genai_config.json")?;
        Ok(Report { spec: self.spec, plan: self.plan, files })
    }
}

struct Planned {
    /// Its tensors under the names of the spec.
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    plan: Plan,
    copies: Vec<Copy>,
}

fn planned(checkpoint: &Checkpoint, settings: &Settings, filename: &str) -> Result<Planned> {
    refuse_quantized(checkpoint)?;
    let spec = describe(&Config::from_json(checkpoint.config().clone())?)?;
    let plan = lower(&spec, settings, &format!("{filename}.data"))?;
    let checkpoint = checkpoint.renamed(|stored| spec.name_of(stored))?;
    let copies = account(&plan, &spec, &checkpoint)?;
    Ok(Planned { checkpoint, spec, plan, copies })
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
