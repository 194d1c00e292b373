//! What a command says at the end: a few lines for people, or one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;

use genai_builder::{Plan, Report};
use genai_validate::ParityReport;
use serde::Serialize;

/// The result of a build.
#[derive(Debug, Serialize)]
pub(crate) struct BuildReport {
    architecture: &'static str,
    parameters: u64,
    precision: &'static str,
    execution_provider: &'static str,
    output: String,
    files: Vec<FileReport>,
    bytes: u64,
    bits_per_weight: f64,
    tensors: usize,
    seconds: f64,
    /// The most resident memory of the process so far, in bytes, where the system tells.
    peak_memory: Option<u64>,
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

impl BuildReport {
    pub(crate) fn new(
        report: &Report,
        settings: &genai_builder::Settings,
        output: &std::path::Path,
        measured: Measured,
        validation: Option<(ParityReport, Continuation)>,
    ) -> Self {
        let (parity, continuation) = validation.unzip();
        Self {
            architecture: report.spec.architecture,
            parameters: report.spec.num_parameters(),
            precision: settings.precision.name(),
            execution_provider: settings.target.provider,
            output: output.display().to_string(),
            files: report.files.iter().map(|(name, bytes)| FileReport { name: name.clone(), bytes: *bytes }).collect(),
            bytes: report.files.iter().map(|(_, bytes)| bytes).sum(),
            bits_per_weight: report.plan.bits_per_weight(),
            tensors: report.plan.tensors.len(),
            seconds: measured.seconds,
            peak_memory: measured.peak_memory,
            parity,
            continuation,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "{}: {} of {} ({} parameters) for {}\n",
            self.output,
            self.precision,
            self.architecture,
            grouped(self.parameters),
            self.execution_provider
        );
        for file in &self.files {
            let _ = writeln!(text, "  {:>10}  {}", bytes(file.bytes), file.name);
        }
        let memory = self.peak_memory.map(|peak| format!(", {} of memory at most", bytes(peak))).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:>10}  in all, {:.2} bits per weight; {} tensors in {:.2} s{memory}",
            bytes(self.bytes),
            self.bits_per_weight,
            self.tensors,
            self.seconds
        );
        if let Some(parity) = &self.parity {
            let _ = write!(text, "{parity}");
        }
        if let Some(continuation) = &self.continuation {
            let _ = writeln!(text, "greedy: {}{}", continuation.prompt, continuation.text);
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
    graph_bytes: u64,
    data_bytes: u64,
    /// Lengths of the files of swappable adapters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    adapters: BTreeMap<String, u64>,
    bits_per_weight: f64,
    /// Bytes of tiles in flight, at most.
    tile_memory: u64,
    operators: BTreeMap<&'static str, usize>,
    tensors: usize,
}

impl PlanReport {
    pub(crate) fn new(spec: &genai_architectures::DecoderSpec, plan: &Plan, tile_memory: u64) -> Self {
        Self {
            architecture: spec.architecture,
            parameters: spec.num_parameters(),
            context_length: spec.context_length,
            graph_bytes: plan.model_bytes().len() as u64,
            data_bytes: plan.data_bytes,
            adapters: plan.adapters.iter().map(|a| (a.data.data_file.clone(), a.data.data_bytes)).collect(),
            bits_per_weight: plan.bits_per_weight(),
            tile_memory,
            operators: plan.graph.histogram(),
            tensors: plan.tensors.len(),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "{} with {} parameters, {} tokens of context\n",
            self.architecture,
            grouped(self.parameters),
            grouped(self.context_length as u64)
        );
        let _ = writeln!(text, "  graph {} bytes, data {} bytes", grouped(self.graph_bytes), grouped(self.data_bytes));
        for (file, length) in &self.adapters {
            let _ = writeln!(text, "  {file} {} bytes", grouped(*length));
        }
        let _ = writeln!(text, "  {:.2} bits per weight, {} tensors read", self.bits_per_weight, self.tensors);
        let _ = writeln!(text, "  at most {} of memory for weights in flight", bytes(self.tile_memory));
        let _ = writeln!(text, "operators");
        for (name, count) in &self.operators {
            let _ = writeln!(text, "  {count:>6}  {name}");
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

/// A size for people, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| count >= 1 << shift) {
        Some((unit, shift)) => format!("{:.2} {unit}", count as f64 / (1_u64 << shift) as f64),
        None => format!("{count} B"),
    }
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
