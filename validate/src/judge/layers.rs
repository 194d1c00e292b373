//! Where, from layer to layer, a package leaves its reference: keys and values first, then the stream between layers.

use super::load::Loaded;
use super::tolerance::layer_limit;
use super::{Recording, taps};
use crate::interpreter::LayerTrace;
use crate::model::CachedTensor;
use crate::report::{Finding, LayerError, Severity, Stage, StageReport};
use crate::{Error, Matrix, Result, Verdict};

/// The layers of the interpreter in the order of a package's caches. A layer that reads another's keys has no cache, and
/// its stream stays with the last one that has.
pub(super) fn numbered_by_cache(traces: Vec<LayerTrace>) -> Vec<LayerTrace> {
    traces.into_iter().filter(|trace| trace.key.is_some()).collect()
}

/// Compares what the package gives of its layers with the recording's.
pub(super) fn check(loaded: &Loaded, recording: &Recording) -> (StageReport, Vec<LayerError>) {
    let not_run = |why: String| (StageReport::not_run(Stage::Layers, why), Vec::new());
    let Some(prompt) = recording.reference.prompts.first().filter(|_| !recording.layers.is_empty()) else {
        return not_run("the reference knows nothing of the layers".to_owned());
    };
    let found = match of_package(loaded, &prompt.input_ids) {
        Ok(found) => found,
        Err(error) => return not_run(error.to_string()),
    };
    let mut errors = Vec::new();
    let mut findings = Vec::new();
    if found.len() != recording.layers.len() {
        let message =
            format!("the package has caches for {} layers, the reference {}", found.len(), recording.layers.len());
        findings.push(Finding::new(Severity::Error, "layers", "present.*", message));
    }
    let limit = layer_limit(loaded.precision);
    for (layer, (found, expected)) in found.iter().zip(&recording.layers).enumerate() {
        for (tap, found, expected) in [
            ("residual", &found.residual, &expected.residual),
            ("key", &found.key, &expected.key),
            ("value", &found.value, &expected.value),
        ] {
            let (Some(found), Some(expected)) = (found, expected) else { continue };
            match difference(expected, found) {
                Some(error) => {
                    let within = error.relative_rms <= limit;
                    errors.push(LayerError { layer: Some(layer), tap: tap.to_owned(), beyond: !within, ..error });
                }
                None => {
                    let size = |matrix: &Matrix| format!("[{}, {}]", matrix.rows(), matrix.cols());
                    let message = format!("is {}, expected {}", size(found), size(expected));
                    let at = format!("layer {layer}, {tap}");
                    // Heads may be padded to what a kernel takes: where the padding lies cannot be known.
                    let severity = if found.cols() > expected.cols() { Severity::Info } else { Severity::Error };
                    findings.push(Finding::new(severity, "layer-shape", at, message));
                }
            }
        }
    }
    if errors.is_empty() && findings.is_empty() {
        return not_run("neither caches nor the stream between layers can be read in this graph".to_owned());
    }
    findings.extend(first_bad(&errors, limit));
    (StageReport::judged(Stage::Layers, errors.len(), findings), errors)
}

/// The first layer that is off, and what of it.
fn first_bad(errors: &[LayerError], limit: f64) -> Option<Finding> {
    let first = errors.iter().find(|error| error.beyond)?;
    let layer = first.layer?;
    let of = |tap: &str| errors.iter().find(|error| error.layer == Some(layer) && error.tap == tap);
    let bad = |tap: &str| of(tap).map(|error| error.beyond);
    let before = layer.saturating_sub(1);
    let last = of_last_layer(errors, layer);
    let cause = match (bad("residual"), bad("key"), bad("value")) {
        (Some(true), ..) if layer == 0 => {
            "the stream is wrong before the first layer: the embedding, or its scale".to_owned()
        }
        (Some(true), ..) => format!(
            "keys and values of layer {before} are right, so what comes behind them there: queries, attention, o_proj, \
             norms or MLP of layer {before}"
        ),
        (_, Some(true), Some(false)) => {
            format!("the values are right, so k_proj, its norm or the rotary embedding of layer {layer}")
        }
        (_, Some(false), Some(true)) => format!("the keys are right, so v_proj of layer {layer}"),
        (Some(false), Some(true), _) => {
            format!("the stream before is right, so the input norm or projections of layer {layer}")
        }
        _ if layer == 0 => "the embedding, or the input norm or projections of layer 0".to_owned(),
        _ => format!("anything behind the keys and values of layer {before}, up to those of layer {layer}"),
    };
    let message = format!(
        "the first tensor that is off, by {:.1e} of its size (relative RMS), expected at most {limit:.0e}{last}",
        first.relative_rms
    );
    let finding = Finding::new(Severity::Error, "first-bad-layer", format!("layer {layer}, {}", first.tap), message);
    Some(finding.with_hint(cause))
}

/// Where logits are wrong and nothing that can be seen of the layers is: what is left.
pub(super) fn behind(stage: &StageReport, errors: &[LayerError]) -> Option<Finding> {
    let last = errors.iter().filter_map(|error| error.layer).max()?;
    if stage.verdict() != Some(Verdict::Pass) {
        return None;
    }
    let message = "all that can be seen of the layers is right, and the logits are not";
    let cause = format!(
        "what comes behind the keys and values of layer {last}: queries, attention, o_proj, norms or MLP there, the final \
         norm, the head or a softcap"
    );
    Some(Finding::new(Severity::Info, "behind-the-layers", format!("layer {last}"), message).with_hint(cause))
}

fn of_last_layer(errors: &[LayerError], layer: usize) -> String {
    let before = errors.iter().filter(|error| error.layer.is_some_and(|other| other < layer));
    let worst = before.map(|error| error.relative_rms).fold(0.0, f64::max);
    if layer == 0 { String::new() } else { format!("; layers before it are within {worst:.1e}") }
}

/// What a package gives of its layers for a prompt: caches where they can be read, and the stream between layers where it
/// is found in the graph.
pub(super) fn of_package(loaded: &Loaded, ids: &[u32]) -> Result<Vec<LayerTrace>> {
    if ids.is_empty() {
        return Err(Error::argument("the number of tokens", 0, "at least 1"));
    }
    let tapped = taps::residuals(loaded, ids);
    let mut sequence = loaded.sequence(ids.len())?;
    sequence.append(ids)?;
    let mut layers = Vec::new();
    match sequence.cached() {
        Ok(cached) => {
            for pair in cached.chunks_exact(2) {
                let [key, value] = pair else { continue };
                layers.push(LayerTrace { key: by_token(key)?, value: by_token(value)?, residual: None });
            }
        }
        // Codes of a quantized cache, or one that is not given back: the stream may be enough.
        Err(error) if tapped.as_ref().is_ok_and(|taps| !taps.is_empty()) => drop(error),
        Err(error) => return Err(error),
    }
    for (layer, residual) in tapped.unwrap_or_default().into_iter().enumerate() {
        if layers.len() <= layer {
            layers.push(LayerTrace::default());
        }
        if let Some(trace) = layers.get_mut(layer) {
            trace.residual = residual;
        }
    }
    Ok(layers)
}

/// `[1, heads, tokens, size]` as `[tokens, heads * size]`; `None` where it is no cache of tokens.
fn by_token(cached: &CachedTensor) -> Result<Option<Matrix>> {
    let [1, heads, tokens, size] = cached.shape[..] else { return Ok(None) };
    let mut matrix = Matrix::zeros(tokens, heads.saturating_mul(size));
    if size == 0 || tokens == 0 {
        return Ok(None);
    }
    for (index, values) in cached.values.chunks_exact(size).enumerate() {
        let (head, token) = (index / tokens, index % tokens);
        if let Some(row) = matrix.row_mut(token).get_mut(head * size..(head + 1) * size) {
            row.copy_from_slice(values);
        }
    }
    Ok(Some(matrix))
}

/// `None` where the shapes differ.
fn difference(expected: &Matrix, found: &Matrix) -> Option<LayerError> {
    if (expected.rows(), expected.cols()) != (found.rows(), found.cols()) {
        return None;
    }
    let (mut max_abs, mut error, mut size, mut other, mut product) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for (&expected, &found) in expected.data().iter().zip(found.data()) {
        let (expected, found) = (f64::from(expected), f64::from(found));
        let difference = (expected - found).abs();
        max_abs = if difference.is_nan() { f64::NAN } else { max_abs.max(difference) };
        error += difference * difference;
        size += expected * expected;
        other += found * found;
        product += expected * found;
    }
    let relative_rms = if error == 0.0 { 0.0 } else { (error / size.max(f64::MIN_POSITIVE)).sqrt() };
    let cosine = if error == 0.0 { 1.0 } else { product / (size.sqrt() * other.sqrt()).max(f64::MIN_POSITIVE) };
    Some(LayerError { layer: None, tap: String::new(), max_abs, relative_rms, cosine, beyond: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors of one tap after another, of each layer; 1 is beyond the limit.
    fn hint(layers: &[[f64; 3]]) -> Option<(String, String)> {
        let taps = ["residual", "key", "value"];
        let error = |layer, (tap, relative_rms): (&str, f64)| LayerError {
            layer: Some(layer),
            tap: tap.to_owned(),
            max_abs: 0.0,
            relative_rms,
            cosine: 1.0,
            beyond: relative_rms > 0.5,
        };
        let errors: Vec<LayerError> = layers
            .iter()
            .enumerate()
            .flat_map(|(layer, rms)| taps.into_iter().zip(*rms).map(move |pair| error(layer, pair)))
            .collect();
        first_bad(&errors, 0.5).map(|finding| (finding.at, finding.hint.unwrap()))
    }

    #[test]
    fn what_is_right_before_the_first_bad_tensor_names_the_cause() {
        let right = [0.0; 3];
        let cases = [
            (vec![[1.0, 1.0, 1.0]], "layer 0, residual", "the embedding"),
            (vec![[0.0, 1.0, 0.0], [1.0; 3]], "layer 0, key", "k_proj, its norm or the rotary embedding of layer 0"),
            (vec![right, [0.0, 0.0, 1.0]], "layer 1, value", "v_proj of layer 1"),
            (vec![right, [0.0, 1.0, 1.0]], "layer 1, key", "the input norm or projections of layer 1"),
            (vec![right, [1.0, 1.0, 1.0]], "layer 1, residual", "MLP of layer 0"),
        ];
        for (layers, at, words) in cases {
            let (found, hint) = hint(&layers).unwrap();
            assert!(found == at && hint.contains(words), "{found}: {hint}");
        }
        assert_eq!(hint(&[right, right]), None);
    }

    #[test]
    fn caches_are_turned_to_one_row_for_each_token() {
        // Two heads of three tokens and two dimensions.
        let cached =
            CachedTensor { name: String::new(), shape: vec![1, 2, 3, 2], values: (0..12_u8).map(f32::from).collect() };
        let matrix = by_token(&cached).unwrap().unwrap();
        assert_eq!((matrix.rows(), matrix.cols()), (3, 4));
        assert_eq!(matrix.data(), [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]);
        let of = |shape: &[usize]| {
            by_token(&CachedTensor { name: String::new(), shape: shape.to_vec(), values: Vec::new() }).unwrap()
        };
        assert!(of(&[1, 2, 0, 2]).is_none() && of(&[2, 2, 3, 2]).is_none() && of(&[3]).is_none());
    }

    #[test]
    fn differences_of_numbers_that_are_none_are_not_within() {
        let matrix = |values: &[f32]| Matrix::new(1, values.len(), values.to_vec()).unwrap();
        let same = difference(&matrix(&[3.0, 4.0]), &matrix(&[3.0, 4.0])).unwrap();
        assert_eq!((same.relative_rms, same.cosine, same.max_abs), (0.0, 1.0, 0.0));
        let off = difference(&matrix(&[3.0, 4.0]), &matrix(&[3.0, 4.5])).unwrap();
        assert!((off.relative_rms - 0.1).abs() < 1e-9 && off.max_abs == 0.5);
        let broken = difference(&matrix(&[3.0, 4.0]), &matrix(&[f32::NAN, 4.0])).unwrap();
        assert!(broken.relative_rms.is_nan(), "{broken:?}");
        assert!(difference(&matrix(&[0.0]), &matrix(&[1.0])).unwrap().relative_rms > 1e9);
        assert!(difference(&matrix(&[1.0]), &matrix(&[1.0, 2.0])).is_none());
    }
}
