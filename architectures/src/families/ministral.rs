//! Ministral (the first generation). Differs from Mistral:
//! - `layer_types` names the local layers; where it is absent, all are
//!
//! Reference: `transformers` 5.23, `models/ministral/modeling_ministral.py`.

use super::{layer_type::layer_types, mistral};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = mistral::describe(config)?;
    let Some(kinds) = layer_types(config, spec.layers.len())? else { return Ok(spec) };
    for (attention, kind) in spec.attentions_mut().zip(kinds) {
        attention.window = kind.window(config, attention.window)?;
    }
    Ok(spec)
}
