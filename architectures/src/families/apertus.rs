//! Apertus. Differs from Llama:
//! - no gate; the activation is xIELU, with two learned numbers in each layer
//! - RMS norm on each query and key head before the rotation
//! - the layer's norms are called `attention_layernorm` and `feedforward_layernorm`
//! - `attention_bias` covers q, k, v and o; no MLP biases
//! - an epsilon of 1e-5 and a `llama3` rope over the base 12000000 where the config does not say
//!
//! Reference: `transformers` 5.23, `models/apertus/modeling_apertus.py`, `activations.py`.

use serde_json::json;

use super::llama::{self, Biases, Defaults};
use crate::{Activation, Config, DecoderSpec, Mlp, NormOrder, Result, Rope, RopeId, RotaryHead};

// Of xIELU; checkpoints store them, but no training changes them.
const BETA: f32 = 0.5;
const EPS: f32 = -1e-6;

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    config.only("hidden_act", "xielu")?;
    config.only("qk_norm", true)?;
    config.only("post_norm", false)?;
    config.only("mlp_bias", false)?;
    let bias = config.bool_or("attention_bias", false)?;
    let rotary = |head_dim, context| RotaryHead { theta: 12e6, ..RotaryHead::whole(head_dim, context) };
    let defaults = Defaults { eps: ("rms_norm_eps", 1e-5), rotary, ..Defaults::default() };
    // xIELU is not a name that stands for a function: it has weights.
    let unnamed = config.with_names(&[("hidden_act", "activation without weights")]);
    let mut spec = llama::decoder(&unnamed, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    let has_rope = config.object("rope_scaling")?.is_some_and(|scaling| !scaling.is_empty())
        || config.object("rope_parameters")?.is_some();
    if !has_rope {
        let parameters = json!({
            "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        });
        let head = rotary(spec.rope(RopeId(0)).dim, config.usize("max_position_embeddings")?);
        spec.ropes = vec![Rope::from_parameters(config, Some(&Config::from_json(parameters)?), &head)?];
    }
    llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
    llama::without_gate(&mut spec, "up_proj", "down_proj");
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Plain { activation, .. } = &mut layer.mlp {
            let path = format!("model.layers.{index}.mlp.act_fn");
            spec.constants.extend([(format!("{path}.beta"), BETA), (format!("{path}.eps"), EPS)]);
            *activation = Activation::XIelu { path, beta: BETA, eps: EPS };
        }
    }
    spec.rename(&[
        (".input_layernorm", ".attention_layernorm"),
        (".post_attention_layernorm", ".feedforward_layernorm"),
    ]);
    Ok(spec)
}
