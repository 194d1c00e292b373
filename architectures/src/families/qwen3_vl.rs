//! The text part of Qwen3-VL. Differs from Qwen3:
//! - base 500000 where the config does not say
//! - multimodal rope, which for text is plain rope; so the package runs as a plain Qwen3, without images
//!
//! Reference: `transformers` 5.23, `models/qwen3_vl/modeling_qwen3_vl.py`.

use super::{qwen3, text_part};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    text_part::describe(config, |text| qwen3::describe(&text.with_defaults([("rope_theta", 5e5.into())])))
}
