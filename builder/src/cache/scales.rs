//! Files of scales for keys and values, as the peer's `kv_cache_calibration` writes them:
//!
//! ```json
//! {"scales": {"k_scales": [[0.02], …], "v_scales": [[0.01], …]}, "layer_ids": [0, …], "qmax": 128}
//! ```
//!
//! The object may stand under the name of the graph's file without its ending. An entry is one number, or one for each
//! dimension of each head; `layer_ids` names the layers of the entries, which else are the first ones; scales that were
//! made for another `qmax` than the scheme's are stretched.

use std::collections::{BTreeMap, BTreeSet};

use genai_architectures::{Attention, DecoderSpec, Mixer};
use serde_json::{Map, Value};

use super::{CacheScheme, ScaleSpan};
use crate::{Error, Result, digest::Digest};

/// Scales by layer, all finite and positive.
#[derive(Debug, Clone)]
pub struct CacheScales {
    /// The file that they come from, without folders.
    file: String,
    sha256: String,
    layers: BTreeMap<usize, LayerScales>,
}

#[derive(Debug, Clone)]
pub(crate) struct LayerScales {
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
}

impl CacheScales {
    /// Reads the text of `file` for a scheme. `section` is the name of the graph's file without its ending.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a text that is no such file, or a scale that is none.
    pub fn parse(file: &str, text: &[u8], section: &str, scheme: CacheScheme) -> Result<Self> {
        let malformed = |reason: String| Error::Malformed { file: file.to_owned(), reason };
        let root: Value = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        let root = root.get(section).unwrap_or(&root);
        let root = root.as_object().ok_or_else(|| malformed("expected an object".to_owned()))?;
        let stretch = stretch(root, scheme).map_err(malformed)?;
        let keys = entries(root, "k_scales", stretch).map_err(malformed)?;
        let values = entries(root, "v_scales", stretch).map_err(malformed)?;
        if keys.len() != values.len() {
            let (keys, values) = (keys.len(), values.len());
            return Err(malformed(format!("`k_scales` has {keys} layers, `v_scales` has {values}")));
        }
        let ids = layer_ids(root, keys.len()).map_err(malformed)?;
        let scales = keys.into_iter().zip(values).map(|(key, value)| LayerScales { key, value });
        Ok(Self {
            file: file.to_owned(),
            sha256: Digest::of(text).sha256,
            layers: ids.into_iter().zip(scales).collect(),
        })
    }

    /// Of the file.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn layer(&self, layer: usize) -> Option<&LayerScales> {
        self.layers.get(&layer)
    }

    /// Fails unless these are scales for just the caches of a model.
    pub(crate) fn expect_fit(&self, spec: &DecoderSpec, span: ScaleSpan) -> Result<()> {
        let wrong = |reason: String, hint: &str| Error::Sidecar {
            file: self.file.clone(),
            reason,
            hint: Some(hint.to_owned()),
        };
        let caches: BTreeMap<usize, &Attention> = spec
            .layers
            .iter()
            .map(|layer| {
                let Mixer::Attention(attention) = &layer.mixer;
                attention
            })
            .enumerate()
            .filter(|(_, attention)| attention.key_value.is_own())
            .collect();
        let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (self.layers.keys().collect(), caches.keys().collect());
        if found != expected {
            let reason = format!("has scales for the layers {found:?}, the model has caches in {expected:?}");
            return Err(wrong(reason, "`layer_ids` says which layers the entries are for"));
        }
        for (layer, scales) in &self.layers {
            let Some(attention) = caches.get(layer) else { continue };
            let expected = match span {
                ScaleSpan::Tensor => 1,
                ScaleSpan::Channel => attention.num_kv_heads * attention.head_dim,
            };
            for (part, scales) in [("k_scales", &scales.key), ("v_scales", &scales.value)] {
                if scales.len() != expected {
                    return Err(wrong(
                        format!("`{part}` of layer {layer} has {} numbers, expected {expected}", scales.len()),
                        "a scheme per_tensor takes one number, per_channel one for each dimension of each key head",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What turns scales of the file into scales of the scheme.
fn stretch(root: &Map<String, Value>, scheme: CacheScheme) -> Result<f64, String> {
    let Some(value) = root.get("qmax").filter(|value| !value.is_null()) else { return Ok(1.0) };
    let qmax = value.as_f64().filter(|qmax| qmax.is_finite() && *qmax > 0.0);
    let qmax = qmax.ok_or_else(|| format!("`qmax` is {value}, expected a positive number"))?;
    Ok(qmax / scheme.code.qmax())
}

fn entries(root: &Map<String, Value>, part: &str, stretch: f64) -> Result<Vec<Vec<f32>>, String> {
    let entries = root.get("scales").and_then(|scales| scales.get(part)).and_then(Value::as_array);
    let entries = entries.ok_or_else(|| format!("has no list `scales.{part}`"))?;
    let read = |(index, entry): (usize, &Value)| {
        let mut scales = Vec::new();
        flatten(entry, &mut scales).map_err(|value| format!("`{part}[{index}]` holds {value}, expected numbers"))?;
        // The file's own numbers are floats of 32 bits.
        let scales = scales.into_iter().map(|scale| (f64::from(scale as f32) * stretch) as f32).collect::<Vec<_>>();
        match scales.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
            Some(scale) => Err(format!("`{part}[{index}]` has a scale of {scale}, expected a positive float")),
            None => Ok(scales),
        }
    };
    entries.iter().enumerate().map(read).collect()
}

/// The numbers of lists within lists, in order; fails with a value that is neither.
fn flatten(value: &Value, numbers: &mut Vec<f64>) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| flatten(item, numbers)),
        value => {
            numbers.push(value.as_f64().ok_or_else(|| value.to_string())?);
            Ok(())
        }
    }
}

fn layer_ids(root: &Map<String, Value>, count: usize) -> Result<Vec<usize>, String> {
    let Some(value) = root.get("layer_ids").filter(|value| !value.is_null()) else { return Ok((0..count).collect()) };
    let wrong = || format!("`layer_ids` is {value}, expected {count} different layers");
    let ids = value.as_array().ok_or_else(wrong)?.iter();
    let ids: Option<Vec<usize>> = ids.map(|id| usize::try_from(id.as_u64()?).ok()).collect();
    let ids = ids.filter(|ids| ids.len() == count && ids.iter().collect::<BTreeSet<_>>().len() == count);
    ids.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, scheme: &str) -> Result<CacheScales, String> {
        let scheme = CacheScheme::named(scheme).unwrap();
        CacheScales::parse("scales.json", text.as_bytes(), "model", scheme).map_err(|error| error.to_string())
    }

    #[test]
    fn entries_may_be_nested_and_layers_named() {
        let text =
            r#"{"scales": {"k_scales": [[[1], [2]], [[3, 4]]], "v_scales": [[5, 6], [7, 8]]}, "layer_ids": [3, 1]}"#;
        let scales = parse(text, "int8_per_channel").unwrap();
        assert_eq!(scales.layer(3).unwrap().key, [1.0, 2.0]);
        assert_eq!(scales.layer(1).unwrap().value, [7.0, 8.0]);
        assert!(scales.layer(0).is_none());
    }

    #[test]
    fn a_section_of_the_graphs_name_goes_first() {
        let section = r#"{"scales": {"k_scales": [2], "v_scales": [3]}}"#;
        let text = format!(r#"{{"model": {section}, "scales": {{"k_scales": [9], "v_scales": [9]}}}}"#);
        assert_eq!(parse(&text, "int8_per_tensor").unwrap().layer(0).unwrap().key, [2.0]);
    }

    #[test]
    fn scales_for_another_width_are_stretched() {
        let text = r#"{"scales": {"k_scales": [0.5], "v_scales": [0.25]}, "qmax": 128}"#;
        assert_eq!(parse(text, "int8_per_tensor").unwrap().layer(0).unwrap().key, [0.5]);
        assert_eq!(parse(text, "int4_per_tensor").unwrap().layer(0).unwrap().key, [8.0]);
        assert_eq!(parse(text, "fp8_per_tensor").unwrap().layer(0).unwrap().value, [0.25 * 128.0 / 448.0]);
    }

    #[test]
    fn what_is_no_scale_file_is_told() {
        let file = |rest: &str| format!(r#"{{"scales": {{"k_scales": [[1]], "v_scales": [[1]]}}{rest}}}"#);
        for (text, says) in [
            ("[".to_owned(), "EOF"),
            ("[]".to_owned(), "expected an object"),
            (r#"{"model": 3}"#.to_owned(), "expected an object"),
            ("{}".to_owned(), "no list `scales.k_scales`"),
            (r#"{"scales": {"k_scales": [1]}}"#.to_owned(), "no list `scales.v_scales`"),
            (r#"{"scales": {"k_scales": [1, 1], "v_scales": [1]}}"#.to_owned(), "has 2 layers, `v_scales` has 1"),
            (file(r#", "qmax": 0"#), "`qmax` is 0"),
            (file(r#", "qmax": "128""#), "`qmax` is \"128\""),
            (file(r#", "layer_ids": [0, 1]"#), "expected 1 different layers"),
            (file(r#", "layer_ids": [-1]"#), "expected 1 different layers"),
            (file(r#", "layer_ids": 0"#), "expected 1 different layers"),
            (r#"{"scales": {"k_scales": [[0]], "v_scales": [[1]]}}"#.to_owned(), "`k_scales[0]` has a scale of 0"),
            (r#"{"scales": {"k_scales": [[1]], "v_scales": [[-1]]}}"#.to_owned(), "`v_scales[0]` has a scale of -1"),
            (r#"{"scales": {"k_scales": [[1e39]], "v_scales": [[1]]}}"#.to_owned(), "a scale of inf"),
            (r#"{"scales": {"k_scales": [[1e-46]], "v_scales": [[1]]}}"#.to_owned(), "a scale of 0"),
            (r#"{"scales": {"k_scales": [["1"]], "v_scales": [[1]]}}"#.to_owned(), "holds \"1\""),
        ] {
            let error = parse(&text, "int8_per_tensor").unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let huge = r#"{"scales": {"k_scales": [1e38], "v_scales": [1]}, "qmax": 1e5}"#;
        assert!(parse(huge, "int4_per_tensor").unwrap_err().contains("inf"));
        let twice = r#"{"scales": {"k_scales": [1, 1], "v_scales": [1, 1]}, "layer_ids": [1, 1]}"#;
        assert!(parse(twice, "int8_per_tensor").unwrap_err().contains("2 different layers"));
    }
}
