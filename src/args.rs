//! The command line as typed: names, short texts, no defaults that depend on one another.

mod validate;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::console::{Mode, ProgressArg};
pub(crate) use validate::{ChildArgs, LevelArg, ProviderArg, ToleranceArg, ValidateArgs};

const AFTER_HELP: &str = "\
Examples:
  genai-build -i ./Llama-3.2-1B -p int4 -e cpu -o out/llama --validate
  genai-build -i ./Llama-3.2-1B --target int4:cpu --target fp16:cuda=out/gpu -o out
  genai-build plan -i ./Llama-3.2-1B -p fp16 -e cuda
  genai-build run out/llama --prompt \"Once upon a time\"

The flags of a build are those of onnxruntime-genai's model builder, so that
`python -m onnxruntime_genai.models.builder ARGS` becomes `genai-build ARGS`.

Exit codes: 0 done, 1 defect of this tool, 2 usage, 3 unsupported, 4 malformed input,
5 incomplete or contradictory input, 6 network, or not in the cache, 7 the Hub wants a token, 8 disk, memory or IO,
9 output in the way, 10 validation failed, 11 wrong checksum, 12 refused, 13 validation could not run,
14 the packages differ, 128 + N stopped by signal N.";

/// Turns a Hugging Face checkpoint into an ONNX package for onnxruntime-genai, and checks that it is right.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, infer_long_args = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Tell events of the libraries on stderr: `debug`, or levels of targets such as `genai::hit_eos=debug`
    /// [default: GENAI_BUILD_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,

    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a package (what happens without a command, too)
    Build(BuildArgs),
    /// Print what a build would make: sizes, operators, memory. Reads no weight and writes nothing
    Plan(PlanArgs),
    /// Print what a checkpoint is: family, layers, tensors
    Inspect(InspectArgs),
    /// Continue a text with a package
    Run(RunArgs),
    /// Talk with a package, by its chat template. Ctrl-C stops an answer, the end of the input ends the chat
    Chat(ChatArgs),
    /// Check a package: by itself, and against a checkpoint, recorded logits or another package
    Validate(ValidateArgs),
    /// Print speed and memory of a package, for `validate`
    #[command(hide = true)]
    Measure(ChildArgs),
    /// Write the logits of a package, for `validate`
    #[command(hide = true)]
    Record(ChildArgs),
    /// Check that the files of a package are those that were written
    Verify(VerifyArgs),
    /// Say how two packages differ: files, settings, graph, and weights by their values
    Diff(DiffArgs),
    /// Print the supported model families
    Families,
    /// Print the execution providers and what they run each precision in
    Targets,
    /// Print what --extra_options may set
    Options,
    /// Find or fetch the ONNX Runtime library that `run` and `validate` need
    #[command(subcommand)]
    Runtime(RuntimeCommand),
}

/// Where the model comes from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Model: a folder, or ORG/NAME[@REVISION] on the Hugging Face Hub
    #[arg(short, long = "model_name", alias = "model-name", value_name = "MODEL")]
    pub(crate) model_name: Option<String>,

    /// Folder with the checkpoint; wins over --model_name
    #[arg(short, long, value_name = "DIR")]
    pub(crate) input: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

/// How a model on the Hub is had.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// Branch, tag, refs/pr/N or commit of the model on the Hub [default: main]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,

    /// Hub cache to look in and download to [default: HF_HUB_CACHE, HF_HOME/hub]
    #[arg(short, long = "cache_dir", alias = "cache-dir", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// What is made of it.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Storage of the weights
    #[arg(short, long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,

    /// Execution provider that the package is for; `genai-build targets` lists them
    #[arg(
        short,
        long = "execution_provider",
        visible_alias = "ep",
        alias = "execution-provider",
        value_name = "PROVIDER"
    )]
    pub(crate) execution_provider: Option<String>,

    /// A package to build, instead of -p and -e; once for each of several, which are built together, reading each weight
    /// once. Without DIR it goes to OUTPUT/PRECISION-EP
    #[arg(
        long = "target",
        value_name = "PRECISION:EP[=DIR]",
        conflicts_with_all = ["precision", "execution_provider"]
    )]
    pub(crate) targets: Vec<String>,

    /// Further settings, as of onnxruntime-genai's model builder; `genai-build options` lists them
    #[arg(long = "extra_options", alias = "extra-options", num_args = 1.., value_name = "KEY=VALUE")]
    pub(crate) extra_options: Vec<String>,

    /// Leave out extra options of unknown names, with a warning
    #[arg(long = "lenient-options", alias = "lenient_options")]
    pub(crate) lenient_options: bool,

    #[command(flatten)]
    pub(crate) envelope: EnvelopeArgs,
    /// LoRA adapter as PEFT saves it, to be written as NAME.onnx_adapter, which onnxruntime-genai's Adapters loads; the
    /// package runs without it too. Can be repeated. `adapter_path` of --extra_options bakes one in instead
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub(crate) adapters: Vec<String>,

    /// Tensors that may be left out, by name; * stands for any text. Without it a tensor that is no part of the model
    /// is an error
    #[arg(long = "allow-unused", alias = "allow_unused", value_name = "PATTERN")]
    pub(crate) allow_unused: Vec<String>,

    /// Hash the weight files for the manifest; those of the Hub cache are known without, and with it they are checked
    #[arg(long = "hash-inputs", alias = "hash_inputs")]
    pub(crate) hash_inputs: bool,

    /// Memory for weights in flight, such as 512M or 2G
    #[arg(long = "max-memory", alias = "max_memory", default_value = "512M", value_name = "SIZE")]
    pub(crate) max_memory: String,

    /// Worker threads [default: one per core]
    #[arg(short = 'j', long)]
    pub(crate) threads: Option<usize>,
}

/// The structured options of onnxruntime-genai's model builder. Each is a JSON object, or the path of a file with one.
#[derive(Debug, Default, Args)]
pub(crate) struct EnvelopeArgs {
    /// What the package is, as a JSON object or a file with one: quant_config, attention, optimizations
    #[arg(long = "target_options", alias = "target-options", value_name = "JSON")]
    pub(crate) target_options: Option<String>,

    /// What is added to genai_config.json: search, model, engine, speculative, runtime_profiles
    #[arg(long = "runtime_config", alias = "runtime-config", value_name = "JSON")]
    pub(crate) runtime_config: Option<String>,

    /// The same as `search` of --runtime_config
    #[arg(long, value_name = "JSON")]
    pub(crate) search: Option<String>,

    /// For decoding with drafts: aux_hidden_state_layers
    #[arg(long = "speculative_options", alias = "speculative-options", value_name = "JSON")]
    pub(crate) speculative_options: Option<String>,

    /// No drafter is supported: drafter_type must be none
    #[arg(long = "drafter_options", alias = "drafter-options", value_name = "JSON")]
    pub(crate) drafter_options: Option<String>,

    /// The version of these options: 2, or 1 where there are none
    #[arg(long = "builder_config_version", alias = "builder-config-version", value_name = "VERSION")]
    pub(crate) builder_config_version: Option<u8>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,

    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Folder for the package, or for those of --target
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Run the package before it is put in place, and compare its logits with the checkpoint's
    #[arg(long)]
    pub(crate) validate: bool,

    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,

    /// Print the result as one JSON object, that of a failure too
    #[arg(long)]
    pub(crate) json: bool,

    /// How progress is told on stderr: a bar where that is a terminal, or events as lines of JSON
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto)]
    pub(crate) progress: ProgressArg,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,

    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// Never use the network
    #[arg(long)]
    pub(crate) offline: bool,

    /// Accepted so that a build's flags can be pasted; nothing is written
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Print the plan as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A folder, or ORG/NAME[@REVISION] on the Hugging Face Hub
    pub(crate) checkpoint: String,

    #[command(flatten)]
    pub(crate) hub: HubArgs,

    /// Never use the network
    #[arg(long)]
    pub(crate) offline: bool,
}

/// How ONNX Runtime is found.
#[derive(Debug, Clone, Args)]
pub(crate) struct RuntimeArgs {
    /// The ONNX Runtime library to use
    #[arg(long = "ort-lib", alias = "ort_lib", value_name = "FILE")]
    pub(crate) ort_lib: Option<PathBuf>,

    /// Never use the network
    #[arg(long)]
    pub(crate) offline: bool,
}

/// How a text is generated; what is left open is the package's own setting.
#[derive(Debug, Args)]
pub(crate) struct GenerationArgs {
    /// Generate with the LoRA adapter in NAME.onnx_adapter of the package
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,

    /// The most tokens to generate [default: as many as fit in `--search max_length`; without that 64, or in a chat as fit in 4096 tokens in all]
    #[arg(short = 'n', long = "max-tokens")]
    pub(crate) max_tokens: Option<usize>,

    /// Softens (above 1) or sharpens (below 1) the choice of tokens; turns sampling on
    #[arg(allow_negative_numbers = true, long)]
    pub(crate) temperature: Option<f32>,

    /// Sample among this many likeliest tokens; turns sampling on
    #[arg(long = "top-k", alias = "top_k")]
    pub(crate) top_k: Option<usize>,

    /// Sample among the likeliest tokens that make up this share; turns sampling on
    #[arg(allow_negative_numbers = true, long = "top-p", alias = "top_p")]
    pub(crate) top_p: Option<f32>,

    /// Makes sampling repeatable; turns sampling on
    #[arg(long)]
    pub(crate) seed: Option<u32>,

    /// Above 1, tokens that were seen become unlikelier
    #[arg(allow_negative_numbers = true, long = "repetition-penalty", alias = "repetition_penalty")]
    pub(crate) repetition_penalty: Option<f32>,

    /// More than 1 searches with so many beams
    #[arg(long = "num-beams", alias = "num_beams")]
    pub(crate) num_beams: Option<usize>,

    /// Any search option of genai_config.json by its name, such as no_repeat_ngram_size=3; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) search: Vec<String>,

    /// The text is JSON that this schema allows: an object, or a file with one
    #[arg(long = "json-schema", alias = "json_schema", value_name = "JSON", group = "guidance")]
    pub(crate) json_schema: Option<String>,

    /// The text is a whole match of this regular expression
    #[arg(long, value_name = "REGEX", group = "guidance")]
    pub(crate) regex: Option<String>,

    /// The text is of the grammar in this file, in llguidance's dialect of Lark
    #[arg(long, value_name = "FILE", group = "guidance")]
    pub(crate) grammar: Option<PathBuf>,

    /// End the text where this would come; can be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// A JSON object, or a file with one, that is merged into genai_config.json; null removes a key
    #[arg(long, value_name = "JSON")]
    pub(crate) overlay: Option<String>,

    /// Open the model as the package asks: provider, threads, optimisation
    #[arg(long = "package-session", alias = "package_session")]
    pub(crate) package_session: bool,

    /// Threads within an operator [default: one per core, 16 at most]
    #[arg(long)]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Folder of the package
    pub(crate) package: PathBuf,

    /// Text to continue; - reads it from stdin
    #[arg(long, required_unless_present = "prompt_file")]
    pub(crate) prompt: Option<String>,

    /// File with the text to continue
    #[arg(long = "prompt-file", alias = "prompt_file", value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompt_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) generation: GenerationArgs,

    /// Print ids, text, reason of the end, usage and timings as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Folder of the package, with a chat template
    pub(crate) package: PathBuf,

    /// What the assistant is told before the first message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// Say this, print the answer, and end
    #[arg(long, value_name = "TEXT")]
    pub(crate) once: Option<String>,

    /// Variables of the chat template, such as {"enable_thinking": false}, as a JSON object or a file with one
    #[arg(long = "template-variables", alias = "template_variables", value_name = "JSON")]
    pub(crate) template_variables: Option<String>,

    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Folder of the package
    pub(crate) package: PathBuf,

    /// Fail where the folder holds files that are not of the package
    #[arg(long)]
    pub(crate) strict: bool,

    /// Print the result as one JSON object, that of a failure too
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Folder of a package
    pub(crate) a: PathBuf,

    /// Folder of the other
    pub(crate) b: PathBuf,

    /// Compare names, shapes and types of weights, but read none
    #[arg(long = "no-weights", alias = "no_weights")]
    pub(crate) no_weights: bool,

    /// Print the result as one JSON object, also where the packages differ
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuntimeCommand {
    /// Say which ONNX Runtime library would be used
    Show(RuntimeArgs),
    /// Fetch ONNX Runtime into this tool's cache, with pip
    Install,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PrecisionArg {
    Fp32,
    Fp16,
    Bf16,
    Int8,
    Int4,
}

impl Cli {
    /// The verb, whether it prints JSON, and how it tells progress.
    pub(crate) fn mode(&self) -> Mode {
        let quiet = |command, json| Mode { command, json, progress: ProgressArg::Auto };
        let build = |args: &BuildArgs| Mode { progress: args.progress, ..quiet("build", args.json) };
        match &self.command {
            None => build(&self.build),
            Some(Command::Build(args)) => build(args),
            Some(Command::Plan(args)) => quiet("plan", args.json),
            Some(Command::Inspect(_)) => quiet("inspect", false),
            Some(Command::Run(args)) => quiet("run", args.json),
            Some(Command::Chat(_)) => quiet("chat", false),
            Some(Command::Validate(args)) => quiet("validate", args.json),
            Some(Command::Measure(_)) => quiet("measure", false),
            Some(Command::Record(_)) => quiet("record", false),
            Some(Command::Verify(args)) => quiet("verify", args.json),
            Some(Command::Diff(args)) => quiet("diff", args.json),
            Some(Command::Families) => quiet("families", false),
            Some(Command::Targets) => quiet("targets", false),
            Some(Command::Options) => quiet("options", false),
            Some(Command::Runtime(_)) => quiet("runtime", false),
        }
    }
}
