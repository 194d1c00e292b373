//! The tables of the README, printed from the tables in code. A test holds the README to them.

use std::fmt::Write;

use genai_architectures::families::FAMILIES;
use genai_builder::{Precision, TARGETS};

use crate::console::print;
use crate::failure::Failure;
use crate::options;

pub(crate) fn families() -> Result<(), Failure> {
    let mut text = "| architecture | onnxruntime-genai type | checked against |\n| --- | --- | --- |\n".to_owned();
    for family in FAMILIES {
        let _ = writeln!(text, "| {} | {} | {} |", family.architecture, family.runtime_type, family.reference);
    }
    print(&text)
}

pub(crate) fn options() -> Result<(), Failure> {
    print(options::reference().trim_end())
}

pub(crate) fn targets() -> Result<(), Failure> {
    let providers: Vec<_> = TARGETS.iter().map(|target| target.provider).collect();
    let mut text = format!("| precision | {} |\n", providers.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(providers.len()));
    for precision in Precision::ALL {
        let cells = TARGETS.iter().map(|target| match target.cell(precision) {
            Some(cell) => cell.activations.name().to_lowercase(),
            None => "no kernels".to_owned(),
        });
        let _ = writeln!(text, "| {} | {} |", precision.name(), cells.collect::<Vec<_>>().join(" | "));
    }
    print(&text)
}
