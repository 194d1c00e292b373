//! What a command says at the end: a few lines for people, or one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;

use genai_architectures::DecoderSpec;
use genai_builder::{Plan, Report};
use genai_validate::ParityReport;
pub(crate) use genai_validate::report::bytes;
use serde::Serialize;

use crate::{args::TargetArgs, targets::Wanted};

/// The package that was asked for, or the list of those that --target asked for, be it one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Packages<T> {
    One(T),
    Several { packages: Vec<T> },
}

impl<T> Packages<T> {
    pub(crate) fn of(mut packages: Vec<T>, args: &TargetArgs) -> Self {
        match packages.pop() {
            Some(one) if args.targets.is_empty() => Self::One(one),
            last => {
                packages.extend(last);
                Self::Several { packages }
            }
        }
    }

    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several { packages } => packages,
        }
    }
}

/// The result of a build.
#[derive(Debug, Serialize)]
pub(crate) struct BuildReport {
    architecture: &'static str,
    parameters: u64,
    #[serde(flatten)]
    packages: Packages<PackageReport>,
    seconds: f64,
    /// The most resident memory of the process so far, in bytes, where the system tells.
    peak_memory: Option<u64>,
}

/// A package that is in place.
#[derive(Debug, Serialize)]
pub(crate) struct PackageReport {
    precision: &'static str,
    execution_provider: &'static str,
    output: String,
    files: Vec<FileReport>,
    bytes: u64,
    /// Absent where there are no weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_weight: Option<f64>,
    tensors: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<ParityReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continuation: Option<Continuation>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    name: String,
    bytes: u64,
}

/// What the package makes of a prompt, greedily.
#[derive(Debug, Serialize)]
pub(crate) struct Continuation {
    pub(crate) prompt: String,
    pub(crate) text: String,
}

pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) peak_memory: Option<u64>,
}

impl PackageReport {
    pub(crate) fn new(
        report: &Report,
        wanted: &Wanted,
        output: &std::path::Path,
        validation: Option<(ParityReport, Continuation)>,
    ) -> Self {
        let (parity, continuation) = validation.unzip();
        let has_weights = report.files.iter().any(|(name, _)| *name == report.plan.data_file);
        Self {
            precision: wanted.precision.name(),
            execution_provider: wanted.target.provider,
            output: output.display().to_string(),
            files: report.files.iter().map(|(name, bytes)| FileReport { name: name.clone(), bytes: *bytes }).collect(),
            bytes: report.files.iter().map(|(_, bytes)| bytes).sum(),
            bits_per_weight: has_weights.then(|| report.plan.bits_per_weight()),
            tensors: if has_weights { report.plan.tensors.len() } else { 0 },
            parity,
            continuation,
        }
    }
}

impl BuildReport {
    pub(crate) fn new(spec: &DecoderSpec, packages: Packages<PackageReport>, measured: &Measured) -> Self {
        Self {
            architecture: spec.architecture,
            parameters: spec.num_parameters(),
            packages,
            seconds: measured.seconds,
            peak_memory: measured.peak_memory,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let memory = self.peak_memory.map(|peak| format!(", {} of memory at most", bytes(peak))).unwrap_or_default();
        let took = format!("in {:.2} s{memory}", self.seconds);
        for package in self.packages.as_slice() {
            let _ = writeln!(
                text,
                "{}: {} of {} ({} parameters) for {}",
                package.output,
                package.precision,
                self.architecture,
                grouped(self.parameters),
                package.execution_provider
            );
            for file in &package.files {
                let _ = writeln!(text, "  {:>10}  {}", bytes(file.bytes), file.name);
            }
            let took = match self.packages {
                Packages::One(_) => format!(" {took}"),
                Packages::Several { .. } => String::new(),
            };
            let weights = match package.bits_per_weight {
                Some(bits) => format!("{bits:.2} bits per weight; {} tensors", package.tensors),
                None => "no weights".to_owned(),
            };
            let _ = writeln!(text, "  {:>10}  in all, {weights}{took}", bytes(package.bytes));
            if let Some(parity) = &package.parity {
                let _ = write!(text, "{parity}");
            }
            if let Some(continuation) = &package.continuation {
                let _ = writeln!(text, "greedy: {}{}", continuation.prompt, continuation.text);
            }
        }
        if let Packages::Several { packages } = &self.packages {
            let noun = if packages.len() == 1 { "package" } else { "packages" };
            let _ = writeln!(text, "{} {noun} {took}", packages.len());
        }
        text
    }
}

/// A plan, for `--json` and for people.
#[derive(Debug, Serialize)]
pub(crate) struct PlanReport {
    architecture: &'static str,
    parameters: u64,
    context_length: usize,
    #[serde(flatten)]
    packages: Packages<PackagePlan>,
    /// Bytes of tiles in flight, at most.
    tile_memory: u64,
}

/// A package to be.
#[derive(Debug, Serialize)]
pub(crate) struct PackagePlan {
    precision: &'static str,
    execution_provider: &'static str,
    graph_bytes: u64,
    data_bytes: u64,
    /// Lengths of the files of swappable adapters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    adapters: BTreeMap<String, u64>,
    bits_per_weight: f64,
    operators: BTreeMap<&'static str, usize>,
    tensors: usize,
}

impl PackagePlan {
    pub(crate) fn new(wanted: &Wanted, plan: &Plan) -> Self {
        Self {
            precision: wanted.precision.name(),
            execution_provider: wanted.target.provider,
            graph_bytes: plan.model_bytes().len() as u64,
            data_bytes: plan.data_bytes,
            adapters: plan.adapters.iter().map(|a| (a.data.data_file.clone(), a.data.data_bytes)).collect(),
            bits_per_weight: plan.bits_per_weight(),
            operators: plan.graph.histogram(),
            tensors: plan.tensors.len(),
        }
    }
}

impl PlanReport {
    pub(crate) fn new(spec: &DecoderSpec, packages: Packages<PackagePlan>, tile_memory: u64) -> Self {
        Self {
            architecture: spec.architecture,
            parameters: spec.num_parameters(),
            context_length: spec.context_length,
            packages,
            tile_memory,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "{} with {} parameters, {} tokens of context\n",
            self.architecture,
            grouped(self.parameters),
            grouped(self.context_length as u64)
        );
        let _ = writeln!(text, "  at most {} of memory for weights in flight", bytes(self.tile_memory));
        for package in self.packages.as_slice() {
            let PackagePlan { precision, execution_provider, graph_bytes, data_bytes, .. } = package;
            let _ = writeln!(text, "{precision} for {execution_provider}");
            let _ = writeln!(text, "  graph {} bytes, data {} bytes", grouped(*graph_bytes), grouped(*data_bytes));
            for (file, length) in &package.adapters {
                let _ = writeln!(text, "  {file} {} bytes", grouped(*length));
            }
            let _ =
                writeln!(text, "  {:.2} bits per weight, {} tensors read", package.bits_per_weight, package.tensors);
            let _ = writeln!(text, "  operators");
            for (name, count) in &package.operators {
                let _ = writeln!(text, "  {count:>6}  {name}");
            }
        }
        text
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The most resident memory of this process so far, in bytes.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
    }
}
