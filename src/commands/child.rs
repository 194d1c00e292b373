//! Processes of this tool that run one model each: so that the peak of memory is that model's, and so that a reference can
//! run on another ONNX Runtime, of which a process can load only one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use genai_validate::judge::{self, BenchOptions, Recording, Text};
use genai_validate::report::Bench;
use genai_validate::{Error, LoadOptions, Result};

use super::runtime;
use crate::args::{ChildArgs, ProviderArg, RuntimeArgs};
use crate::console::{print, print_bytes};
use crate::failure::{Failure, code};
use crate::report::peak_memory;

/// A process to come.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) package: PathBuf,
    pub(crate) provider: ProviderArg,
    pub(crate) threads: Option<usize>,
    pub(crate) runtime: RuntimeArgs,
}

impl Child {
    /// Speed and memory of the package.
    pub(crate) fn measure(&self) -> Result<Bench> {
        let output = self.run("measure", &[])?;
        serde_json::from_slice(&output).map_err(|error| failed("measure", error.to_string()))
    }

    /// What the package gives for texts.
    pub(crate) fn record(&self, texts: &[Text]) -> Result<Recording> {
        let texts: BTreeMap<&str, &str> = texts.iter().map(|text| (text.name.as_str(), text.text.as_str())).collect();
        let texts = serde_json::to_vec(&texts).map_err(|error| failed("record", error.to_string()))?;
        let name = self.package.file_name().unwrap_or(self.package.as_os_str());
        Recording::from_bytes(&self.run("record", &texts)?, &name.to_string_lossy())
    }

    /// From its standard input to its standard output.
    fn run(&self, verb: &str, input: &[u8]) -> Result<Vec<u8>> {
        let died = |error: io::Error| failed(verb, error.to_string());
        let this = std::env::current_exe().map_err(died)?;
        let mut command = Command::new(this);
        command.arg(verb).arg(&self.package).args(["--provider", self.provider.word()]);
        if let Some(threads) = self.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if let Some(library) = &self.runtime.ort_lib {
            command.arg("--ort-lib").arg(library);
        }
        if self.runtime.offline {
            command.arg("--offline");
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = piped.spawn().map_err(died)?;
        if let Some(mut stdin) = process.stdin.take() {
            // It reads everything before it writes. One that ended before that says why itself.
            let _ = stdin.write_all(input);
        }
        let output = process.wait_with_output().map_err(died)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(verb, format!("{}: {}", output.status, said.trim())))
    }
}

fn failed(verb: &str, problem: String) -> Error {
    Error::Execution { doing: format!("running a process to {verb}"), source: problem.into() }
}

pub(crate) fn measure(args: &ChildArgs) -> std::result::Result<(), Failure> {
    let runtime = runtime::wanted(&args.runtime)?;
    let bench = judge::measure_package(&args.package, &runtime, load_options(args), &BenchOptions::default())?;
    let bench = Bench { peak_memory: peak_memory(), ..bench };
    let text = serde_json::to_string(&bench).map_err(|error| Failure::new(code::INTERNAL, error.to_string()))?;
    print(&text)
}

pub(crate) fn record(args: &ChildArgs) -> std::result::Result<(), Failure> {
    let texts: BTreeMap<String, String> = serde_json::from_reader(io::stdin().lock())
        .map_err(|error| Failure::usage(format!("the texts on standard input: {error}")))?;
    let texts: Vec<Text> = texts.into_iter().map(|(name, text)| Text { name, text }).collect();
    let runtime = runtime::wanted(&args.runtime)?;
    let recording = judge::record(&args.package, &texts, &runtime, load_options(args))?;
    print_bytes(&recording.to_bytes("standard output")?)
}

fn load_options(args: &ChildArgs) -> LoadOptions {
    LoadOptions { provider: args.provider.into(), threads: args.threads, ..LoadOptions::default() }
}

impl ProviderArg {
    fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Webgpu => "webgpu",
        }
    }
}
