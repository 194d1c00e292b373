//! The text part of Qwen2-VL and Qwen2.5-VL. Differs from Qwen2:
//! - base 1000000, 8 key/value heads, `max_window_layers` 80 and an epsilon of 1e-5 where the config does not say
//! - multimodal rope, which for text is plain rope; so the package runs as a plain Qwen2, without images
//!
//! Reference: `transformers` 5.23, `models/qwen2_vl/modeling_qwen2_vl.py` and `models/qwen2_5_vl`.

use super::{qwen2, text_part};
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    text_part::describe(config, |text| {
        qwen2::describe(&text.with_defaults([
            ("rope_theta", 1e6.into()),
            ("num_key_value_heads", 8.into()),
            ("max_window_layers", 80.into()),
            ("rms_norm_eps", 1e-5.into()),
        ]))
    })
}
