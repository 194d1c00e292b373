//! Packages without ONNX Runtime: what is built is sound, and its matrices are read as what they are.

use genai_validate::Verdict;
use genai_validate::graph::{Graph, Use, Weight};
use genai_validate::report::Severity;
use genai_validate::structure::check;

use crate::support::{Outcome, build, fixture, for_each};

/// A checkpoint of each kind that the checks had to learn about.
const CASES: [(&str, &str); 9] = [
    ("llama-default", "fp32"),
    ("qwen3-tied", "int4"),
    ("phi3-longrope", "int4"),
    ("gemma2-default", "fp16"),
    ("gemma3n-default", "int4"),
    ("gemma4-default", "int4"),
    ("cohere2-listed", "int8"),
    ("gpt2-scaled", "fp32"),
    ("tales-llama", "int4"),
];

#[test]
fn packages_of_this_tool_are_sound() {
    for_each(
        &CASES,
        |(name, precision)| format!("{name} {precision}"),
        |(name, precision)| {
            let package = build(&fixture(name), precision, "cpu", &[])?;
            let report = check(package.path());
            // These checkpoints pad with an id that ends texts, and one ends turns with a token that does not.
            let known = ["pad", "chat-template"];
            let told: Vec<_> = report
                .findings
                .iter()
                .filter(|finding| finding.severity > Severity::Info && !known.contains(&finding.check))
                .collect();
            match (report.verdict(), told.as_slice()) {
                (Some(Verdict::Pass), []) => Ok(()),
                _ => Err(format!("{told:#?}").into()),
            }
        },
    );
}

/// How matrices may be stored, and the error that this may leave.
const STORED: [(&str, &[&str], f64); 5] = [
    ("int4", &["int4_is_symmetric=true"], 0.12),
    ("int4", &["int4_is_symmetric=false", "int4_block_size=16"], 0.12),
    ("int8", &[], 0.01),
    ("int4", &["use_qdq=true"], 0.12),
    ("fp16", &[], 1e-3),
];

#[test]
fn matrices_are_read_alike_however_they_are_stored() {
    let plain = build(&fixture("qwen3-tied"), "fp32", "cpu", &[]).unwrap();
    let plain = Graph::open(plain.path(), "model.onnx").unwrap();
    let expected = plain.weights().matrices;
    for_each(
        &STORED,
        |case| format!("{case:?}"),
        |(precision, options, limit)| {
            let package = build(&fixture("qwen3-tied"), precision, "cpu", options)?;
            let graph = Graph::open(package.path(), "model.onnx")?;
            let weights = graph.weights();
            assert_eq!(weights.problems, []);
            assert_eq!(weights.matrices.len(), expected.len());
            for weight in &weights.matrices {
                let same = |other: &&Weight| match weight.used {
                    Use::Embedding => other.used == Use::Embedding,
                    _ => other.node == weight.node.trim_end_matches("_Q4").trim_end_matches("_Q8"),
                };
                let other = expected.iter().find(same).ok_or_else(|| format!("{weight:?}"))?;
                let error = relative_error((&graph, weight), (&plain, other))?;
                if error > *limit {
                    return Err(format!("{} as {}: {error}", weight.node, weight.stored).into());
                }
            }
            Ok(())
        },
    );
}

/// Root of the mean squared difference, over that of `expected`.
fn relative_error(found: (&Graph, &Weight), expected: (&Graph, &Weight)) -> Outcome<f64> {
    let k = expected.1.k;
    assert_eq!(found.1.n, expected.1.n);
    let (mut rows, mut differences, mut squares) = (Vec::new(), 0.0, 0.0);
    found.1.for_each_rows(found.0, 4096, |first, values| {
        let count = values.len() / found.1.k;
        expected.1.rows(expected.0, first..first + count, &mut rows)?;
        // Embeddings of codes end with the block.
        for (row, wanted) in values.chunks(found.1.k).zip(rows.chunks(k)) {
            for (value, wanted) in row.iter().zip(wanted) {
                differences += f64::from(value - wanted).powi(2);
                squares += f64::from(*wanted).powi(2);
            }
        }
        Ok(())
    })?;
    Ok((differences / squares).sqrt())
}
