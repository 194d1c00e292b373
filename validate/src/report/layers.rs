//! Errors between the layers, seen layer by layer.

use super::LayerError;

/// What one layer shows at all its taps, by the worst of them.
#[derive(Clone, Copy)]
pub(super) struct Peak<'a> {
    pub(super) worst: &'a LayerError,
    pub(super) beyond: bool,
}

/// In the order of computation. Taps of one layer stand together.
pub(super) fn peaks(layers: &[LayerError]) -> Vec<Peak<'_>> {
    layers
        .chunk_by(|a, b| a.layer.is_some() && a.layer == b.layer)
        .filter_map(|taps| {
            // `total_cmp` puts a NaN, which is the worst that there is, above all numbers.
            let worst = taps.iter().max_by(|a, b| a.relative_rms.abs().total_cmp(&b.relative_rms.abs()))?;
            Some(Peak { worst, beyond: taps.iter().any(|tap| tap.beyond) })
        })
        .collect()
}

/// Where the difference begins.
pub(super) fn first_beyond(layers: &[LayerError]) -> Option<&LayerError> {
    layers.iter().find(|tap| tap.beyond)
}

/// `layer 7`, or the tap itself where it is of no layer.
pub(super) fn place(tap: &LayerError) -> String {
    tap.layer.map_or_else(|| tap.tap.clone(), |layer| format!("layer {layer}"))
}
