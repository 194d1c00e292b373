//! The tables of the README, printed from the tables in code. A test holds the README to them.

use std::fmt::Write;

use genai_architectures::families::FAMILIES;
use genai_builder::{Precision, TARGETS, target::Cell};

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
    let mut tests: Vec<&str> = Vec::new();
    let mut text = format!("| precision | {} |\n", providers.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(providers.len()));
    for precision in Precision::ALL {
        let cells = TARGETS.iter().map(|target| match target.cell(precision) {
            Some(Cell { activations, computed_by: Some(test), .. }) => {
                format!("{} ({})", activations.name().to_lowercase(), letter(&mut tests, test))
            }
            Some(cell) => format!("{} (graph checked only)", cell.activations.name().to_lowercase()),
            None => "no kernels".to_owned(),
        });
        let _ = writeln!(text, "| {} | {} |", precision.name(), cells.collect::<Vec<_>>().join(" | "));
    }
    text.push_str("\nA test computes with such packages, on the CPU provider:\n\n");
    for test in tests.clone() {
        let _ = writeln!(text, "- ({}) `{test}`", letter(&mut tests, test));
    }
    print(&text)
}

/// The letter that stands for a test in the table.
fn letter<'a>(tests: &mut Vec<&'a str>, test: &'a str) -> char {
    let index = tests.iter().position(|known| *known == test).unwrap_or_else(|| {
        tests.push(test);
        tests.len() - 1
    });
    ('a'..='z').nth(index).unwrap_or('?')
}
