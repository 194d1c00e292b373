//! The text part of Mistral 3 (Mistral Small 3.1, Magistral, Ministral 3, Devstral 2): Mistral, or Ministral 3 where the
//! nested config says so.
//!
//! Reference: `transformers` 5.23, `models/mistral3/modeling_mistral3.py`.

use super::{ministral3, mistral, text_part};
use crate::{Config, DecoderSpec, Error, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    text_part::describe(config, |text| match text.opt_str("model_type")?.as_deref() {
        None | Some("mistral") => mistral::describe(text),
        Some("ministral3") => ministral3::describe(text),
        Some(other) => Err(Error::Unsupported {
            key: text.path("model_type"),
            value: other.to_owned(),
            supported: "mistral, ministral3".to_owned(),
        }),
    })
}
