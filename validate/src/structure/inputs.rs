//! Types and sizes of what goes in and comes out.

use super::package::CONFIG;
use super::{Findings, Package};
use crate::graph::{Dimension, ElementType};

pub(super) fn integer_types(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let named = |key: &'static str| {
        let name = package.name_or(&format!("model.decoder.inputs.{key}"), key);
        part.graph.input(name)
    };
    for input in [named("input_ids"), named("attention_mask"), named("position_ids")].into_iter().flatten() {
        if !matches!(input.dtype, ElementType::Int32 | ElementType::Int64) {
            let message = format!("has elements of {}, expected INT32 or INT64", input.dtype.as_str_name());
            findings.error("integer-inputs", format!("{}: {}", part.file, input.name), message);
        }
    }
    if let (Some(mask), Some(positions)) = (named("attention_mask"), named("position_ids"))
        && mask.dtype != positions.dtype
    {
        findings
            .error(
                "integer-inputs",
                format!("{}: {}", part.file, positions.name),
                format!(
                    "has elements of {}, those of `{}` are {}",
                    positions.dtype.as_str_name(),
                    mask.name,
                    mask.dtype.as_str_name()
                ),
            )
            .hint("onnxruntime-genai makes both of one type");
    }
}

pub(super) fn sizes(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let name = package.name_or("model.decoder.inputs.input_ids", "input_ids");
    let Some([batch, rest @ ..]) = part.graph.input(name).and_then(|ids| ids.shape.as_deref()) else { return };
    let at = || format!("{}: {name}", part.file);
    if let (Dimension::Fixed(batch), [_, ..]) = (batch, rest) {
        findings.info("sizes", at(), format!("takes {batch} sequences at a time, no other number"));
    }
    if let [Dimension::Fixed(length)] = rest {
        findings
            .info("sizes", at(), format!("takes {length} tokens at a time, no other number"))
            .hint("search.chunk_size feeds a prompt in such pieces");
    }
}

pub(super) fn logits(package: &Package, findings: &mut Findings) {
    let Some(part) = package.decoder() else { return };
    let name = package.name_or("model.decoder.outputs.logits", "logits");
    let Some(logits) = part.graph.output(name) else { return };
    let at = || format!("{}: {name}", part.file);
    if !matches!(logits.dtype, ElementType::Float | ElementType::Float16 | ElementType::Bfloat16) {
        let message = format!("has elements of {}, expected FLOAT, FLOAT16 or BFLOAT16", logits.dtype.as_str_name());
        findings.error("logits", at(), message);
    }
    if let Some([_, Dimension::Fixed(1), _]) = logits.shape.as_deref() {
        findings
            .info("logits", at(), "gives the logits of the last token alone")
            .hint("what is measured along a text takes a run for each token");
    }
    if part.graph.inputs.iter().any(|input| input.name == "num_logits_to_keep") {
        findings.info("logits", at(), "gives the last `num_logits_to_keep` rows, all of them for 0");
    }
    let width = logits.shape.as_deref().and_then(|shape| shape.last());
    let vocabulary = package.number("model.vocab_size");
    if let (Some(&Dimension::Fixed(width)), Some(vocabulary)) = (width, vocabulary)
        && width != vocabulary
    {
        findings
            .error(
                "vocabulary",
                format!("{CONFIG}: model.vocab_size"),
                format!("is {vocabulary}, the logits are {width} wide"),
            )
            .hint("onnxruntime-genai fails at its first run with invalid dimensions");
    }
}
