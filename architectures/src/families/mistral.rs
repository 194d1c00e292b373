//! Mistral. Differs from Llama:
//! - `sliding_window` limits every layer; an absent key means 4096, an explicit null means no window
//! - 8 key/value heads where the config does not say
//! - no biases
//!
//! Reference: `transformers` 5.23, `models/mistral/modeling_mistral.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let defaults = Defaults { num_kv_heads: Some(8), ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: false, o: false, mlp: false })?;
    let window = if config.has("sliding_window") { config.opt_usize("sliding_window")? } else { Some(4096) };
    for attention in spec.attentions_mut() {
        attention.window = window;
    }
    Ok(spec)
}
