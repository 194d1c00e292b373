//! The kinds of attention layers that a config's `layer_types` names.

use crate::{Config, Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerType {
    Full,
    Sliding,
}

impl LayerType {
    /// The window of such a layer, where `window` is that of the sliding ones.
    pub(super) fn window(self, config: &Config, window: Option<usize>) -> Result<Option<usize>> {
        match (self, window) {
            (Self::Full, _) => Ok(None),
            (Self::Sliding, Some(window)) => Ok(Some(window)),
            (Self::Sliding, None) => {
                let expected = "a window, since layer_types has sliding_attention (and use_sliding_window: true)";
                Err(Error::invalid(config.path("sliding_window"), expected, "off"))
            }
        }
    }
}

/// Reads `layer_types`, one entry for each layer.
pub(super) fn layer_types(config: &Config, num_layers: usize) -> Result<Option<Vec<LayerType>>> {
    let Some(names) = config.opt_strings("layer_types")? else { return Ok(None) };
    if names.len() != num_layers {
        let expected = format!("{num_layers} entries, one for each of num_hidden_layers");
        return Err(Error::invalid(config.path("layer_types"), expected, format!("{} entries", names.len())));
    }
    let kind = |name: String| match name.as_str() {
        "full_attention" => Ok(LayerType::Full),
        "sliding_attention" => Ok(LayerType::Sliding),
        _ => Err(Error::Unsupported {
            key: config.path("layer_types"),
            value: name,
            supported: "full_attention, sliding_attention".to_owned(),
        }),
    };
    names.into_iter().map(kind).collect::<Result<_>>().map(Some)
}

/// The window of each layer: `window` for the sliding ones, which are those that `layer_types` names, or, where it is
/// absent, all but every `pattern`th.
pub(super) fn windows(
    config: &Config,
    num_layers: usize,
    window: Option<usize>,
    pattern: usize,
) -> Result<Vec<Option<usize>>> {
    let kind = |layer: usize| if layer.is_multiple_of(pattern) { LayerType::Full } else { LayerType::Sliding };
    let kinds = layer_types(config, num_layers)?.unwrap_or_else(|| (1..=num_layers).map(kind).collect());
    kinds.into_iter().map(|kind| kind.window(config, window)).collect()
}
