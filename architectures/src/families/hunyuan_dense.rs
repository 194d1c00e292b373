//! HunYuan dense. Differs from Llama:
//! - RMS norm on each query and key head after the rotation
//! - rope `dynamic` with an `alpha` does not depend on the length: the base is multiplied by `alpha^(d / (d - 2))`
//! - `attention_bias` covers q, k, v and o; no MLP biases
//! - an epsilon of 1e-5 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, NormOrder, Result, Rope, RopeScaling};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // The publisher's own code has more variants than transformers and its checkpoints.
    config.only("use_qk_norm", true)?;
    config.only("use_rotary_pos_emb", true)?;
    config.only("norm_type", "rms")?;
    config.only("use_cla", false)?;
    config.only("mlp_bias", false)?;
    for key in ["cla_share_factor", "attention_head_dim", "num_media_embeds"] {
        config.ignore(key);
    }
    let bias = config.bool_or("attention_bias", false)?;
    let defaults = Defaults { eps: ("rms_norm_eps", 1e-5), ..Defaults::default() };
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    llama::norm_heads(&mut spec, NormOrder::AfterRotation, "query_layernorm", "key_layernorm");
    let alpha = alpha(config)?;
    let max_position_embeddings = config.usize("max_position_embeddings")?;
    for rope in &mut spec.ropes {
        if let (RopeScaling::Dynamic { .. }, Some(alpha)) = (&rope.scaling, alpha) {
            let dim = rope.dim as f64;
            let theta = rope.theta * libm::pow(alpha, dim / (dim - 2.0));
            *rope = Rope { theta, scaling: RopeScaling::None, ..rope.clone() };
            spec.context_length = max_position_embeddings;
        }
    }
    Ok(spec)
}

fn alpha(config: &Config) -> Result<Option<f64>> {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(parameters) = config.object(key)? else { continue };
        // Left over from yarn; `dynamic` has no use for them.
        for unused in ["beta_fast", "beta_slow", "mscale", "mscale_all_dim"] {
            parameters.opt_f64(unused)?;
        }
        if let Some(alpha) = parameters.opt_f64("alpha")?.filter(|alpha| *alpha != 0.0) {
            return parameters.positive("alpha").map(|_| Some(alpha));
        }
    }
    Ok(None)
}
