//! CodeGen. Differs from GPT-J:
//! - queries, values and keys, in this order, are one linear of four parts, each with a quarter of the heads
//!
//! Reference: `transformers` 5.23, `models/codegen/modeling_codegen.py`.

use super::gptj;
use crate::{Config, DecoderSpec, Error, Linear, Result};

/// How many cores of a TPU the training split the weight over.
const PARTS: usize = 4;

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // Another name of the context, which decides nothing.
    config.ignore("n_ctx");
    gptj::decoder(config, |heads, path| {
        if !heads.num_heads.is_multiple_of(PARTS) {
            let expected = format!("a multiple of {PARTS}, the parts of qkv_proj");
            return Err(Error::invalid(config.path("n_head"), expected, heads.num_heads));
        }
        let (size, path) = (heads.hidden_size, format!("{path}.qkv_proj"));
        let width = size / PARTS;
        let of_each_part = |place: usize| {
            let ranges = (0..PARTS).map(|part| (3 * part + place) * width..(3 * part + place + 1) * width);
            Linear::rows(path.clone(), ranges, 3 * size, size, false)
        };
        Ok([of_each_part(0), of_each_part(2), of_each_part(1)])
    })
}
