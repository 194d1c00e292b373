//! Ministral 3. Differs from Mistral:
//! - queries grow with their position, by `llama_4_scaling_beta` for every `original_max_position_embeddings`
//! - yarn where the config has no rope parameters
//! - no window and a head_dim of 128 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/ministral3/modeling_ministral3.py`.

use serde_json::{Value, json};

use super::mistral;
use crate::{Config, DecoderSpec, QueryScaling, Result, Rope};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut defaults = vec![
        ("head_dim", 128.into()),
        ("max_position_embeddings", 262_144.into()),
        ("rms_norm_eps", 1e-5.into()),
        ("sliding_window", Value::Null),
    ];
    if Rope::parameters(config)?.is_none() {
        let yarn = json!({
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16_384,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        });
        defaults.push(("rope_parameters", yarn));
    }
    let config = &config.with_defaults(defaults);
    let mut spec = mistral::describe(config)?;
    let Some(parameters) = Rope::parameters(config)? else { return Ok(spec) };
    // A copy of the outer key, which the reference does not read.
    parameters.ignore("max_position_embeddings");
    let Some(beta) = parameters.opt_f64("llama_4_scaling_beta")? else { return Ok(spec) };
    let context = match parameters.opt_usize("original_max_position_embeddings")? {
        Some(context) => context,
        None => config.usize("max_position_embeddings")?,
    };
    for attention in spec.attentions_mut() {
        attention.query_scaling = Some(QueryScaling { beta: beta as f32, context });
    }
    Ok(spec)
}
