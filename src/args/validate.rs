//! What `validate` takes, and the processes that it starts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{HubArgs, RuntimeArgs};

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Folder of the package, of this tool or of another
    pub(crate) package: PathBuf,

    /// What to compare with: recorded logits (.npz, .safetensors), a checkpoint (folder, or ORG/NAME on the Hub), another
    /// package, or none [default: none, to level consistency]
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) reference: Option<String>,

    /// A checkpoint as the reference
    #[arg(long, value_name = "MODEL", conflicts_with = "reference")]
    pub(crate) checkpoint: Option<String>,

    /// The LoRA adapter that was baked into the package
    #[arg(long = "adapter-path", alias = "adapter_path", value_name = "DIR")]
    pub(crate) adapter_path: Option<PathBuf>,

    /// A LoRA adapter that NAME.onnx_adapter of the package was made from; can be repeated. The package is checked
    /// without adapters, then with each
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub(crate) adapters: Vec<String>,

    /// How far to go; each level holds those before it [default: generation with a reference, consistency without]
    #[arg(long, value_enum)]
    pub(crate) level: Option<LevelArg>,

    /// The precision whose tolerances apply; auto is what most of the graph's weights are stored in
    #[arg(short, long, value_enum, default_value_t = ToleranceArg::Auto)]
    pub(crate) precision: ToleranceArg,

    /// Where the package runs
    #[arg(short, long = "execution_provider", visible_alias = "ep", alias = "execution-provider", value_enum, default_value_t = ProviderArg::Cpu)]
    pub(crate) execution_provider: ProviderArg,

    /// Threads of ONNX Runtime [default: one per core, 16 at most]
    #[arg(short = 'j', long)]
    pub(crate) threads: Option<usize>,

    /// A text to read in place of this tool's own; can be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Vec<PathBuf>,

    /// Accept what a check finds, by the word behind the stage in the report: it becomes a warning; can be repeated
    #[arg(long, value_name = "CHECK")]
    pub(crate) allow: Vec<String>,

    /// Write the reference that was compared with, for later: a .safetensors file
    #[arg(long = "save-reference", alias = "save_reference", value_name = "FILE")]
    pub(crate) save_reference: Option<PathBuf>,

    /// Write the result into genai-build.json of the package
    #[arg(long)]
    pub(crate) certify: bool,

    /// Write a page for JUnit viewers
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,

    /// Write one HTML page with pictures
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Print annotations for GitHub, and add a summary to the file that GITHUB_STEP_SUMMARY names
    #[arg(long, conflicts_with = "json")]
    pub(crate) github: bool,

    /// The ONNX Runtime library for a package as the reference [default: the same]
    #[arg(long = "reference-ort-lib", alias = "reference_ort_lib", value_name = "FILE")]
    pub(crate) reference_ort_lib: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// For processes that `validate` starts: one model each.
#[derive(Debug, Args)]
pub(crate) struct ChildArgs {
    pub(crate) package: PathBuf,

    #[arg(long, value_enum, default_value_t = ProviderArg::Cpu)]
    pub(crate) provider: ProviderArg,

    #[arg(long)]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LevelArg {
    Structure,
    Load,
    Consistency,
    Logits,
    Layers,
    Generation,
    Bench,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ProviderArg {
    Cpu,
    Cuda,
    Webgpu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ToleranceArg {
    Auto,
    Fp32,
    Fp16,
    Bf16,
    Int8,
    Int4,
}
