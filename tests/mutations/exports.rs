//! Packages of another exporter, `torch.onnx`, as they are and damaged: nothing right is told to be wrong.

use std::path::Path;

use genai_onnx::TensorProto;
use genai_validate::Verdict;
use genai_validate::report::Severity;

use super::{judged, told};
use crate::parts::Parts;
use crate::support::{Outcome, fixture, for_each};

/// The number that a constant holds, by how many bytes it has.
enum Number {
    Whole(i64),
    Float(f32),
}

impl Number {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Whole(value) => value.to_le_bytes().to_vec(),
            Self::Float(value) => value.to_le_bytes().to_vec(),
        }
    }
}

#[test]
fn exports_of_pytorch_are_read_and_right() {
    let exports = ["cohere2-default", "gemma2-default", "mistral-window", "neox-parallel"];
    for_each(
        &exports,
        |name| (*name).to_owned(),
        |name| {
            let reports = judged(&fixture("exports").join(name), name)?;
            let anatomy = reports.last().ok_or("no anatomy")?;
            let tables = "the tables of cosines and sines are computed and not compared";
            let told_more = anatomy.findings.iter().any(|finding| !finding.message.ends_with(tables));
            // More than what is told of the head alone.
            if told_more || anatomy.verdict() != Some(Verdict::Pass) || anatomy.checks < 100 {
                return Err(format!("{} checks\n{:#?}", anatomy.checks, anatomy.findings).into());
            }
            Ok(())
        },
    );
}

#[test]
fn damaged_exports_of_pytorch_are_told() {
    use Number::{Float, Whole};
    let damages = [
        ("mistral-window", Whole(16), Whole(17), "attention-window", "layer 0: the mask lets a token see 17 positions"),
        ("gemma2-default", Whole(16), Whole(12), "attention-window", "12 positions, expected 16"),
        ("gemma2-default", Float(1.5), Float(20.0), "attention-softcap", "layer 3: the softcap of the scores is 20"),
        (
            "gemma2-default",
            Float(0.204_124_15),
            Float(0.25),
            "attention-scale",
            "layer 2: the scale of the scores is 0.25",
        ),
        ("cohere2-default", Whole(16), Whole(64), "attention-window", "64 positions, expected 16"),
    ];
    for_each(
        &damages,
        |(name, .., says)| format!("{name}: {says}"),
        |(name, before, after, check, says)| {
            let mut parts = Parts::read(&fixture("exports").join(name))?;
            let (before, after) = (before.bytes(), after.bytes());
            let same = |tensor: &&mut TensorProto| tensor.raw_data.as_deref() == Some(before.as_slice());
            let changed = parts.graph().initializer.iter_mut().filter(same);
            assert!(changed.map(|tensor| tensor.raw_data = Some(after.clone())).count() > 0, "no such constant");
            let folder = tempfile::tempdir()?;
            parts.write(folder.path())?;
            caught(folder.path(), name, check, says)
        },
    );
}

fn caught(package: &Path, checkpoint: &str, check: &str, says: &str) -> Outcome {
    let reports = judged(package, checkpoint)?;
    let named = reports
        .iter()
        .flat_map(|report| &report.findings)
        .any(|finding| finding.severity == Severity::Error && finding.check == check && finding.message.contains(says));
    if named { Ok(()) } else { Err(told(&reports).into()) }
}
