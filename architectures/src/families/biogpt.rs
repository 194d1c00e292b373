//! BioGPT. Differs from OPT:
//! - the embedding is multiplied by the root of its width (`scale_embedding`, on where the config does not say)
//! - GELU where the config does not say
//! - keys and module names of its own
//!
//! Reference: `transformers` 5.23, `models/biogpt/modeling_biogpt.py`.

use super::opt;
use crate::{Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // The reference has norms with PyTorch's epsilon.
    config.ignore("layer_norm_eps");
    let named = config
        .with_names(&[("ffn_dim", "intermediate_size"), ("activation_function", "hidden_act")])
        .with_defaults([("activation_function", "gelu".into())]);
    let mut spec = opt::describe(&named)?;
    if config.bool_or("scale_embedding", true)? {
        spec.embedding.scale = Some((spec.hidden_size as f64).sqrt() as f32);
    }
    spec.rename(&[
        ("model.decoder.final_layer_norm", "biogpt.layer_norm"),
        ("model.decoder.", "biogpt."),
        ("lm_head", "output_projection"),
    ]);
    Ok(spec)
}
