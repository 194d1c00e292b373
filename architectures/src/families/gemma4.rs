//! Gemma 4, dense text. Differs from Gemma 3:
//! - the norms multiply by the stored weight, and values have a norm without one; scores are not divided
//! - the global layers have heads of their own size (`global_head_dim`) and, with `attention_k_eq_v`, their own number of
//!   key/value heads (`num_global_key_value_heads`) and one linear for keys and values; transformers 5 writes both as
//!   `per_layer_config`
//! - the rope of the global layers turns a share of the pairs of a whole head
//! - the last layer is global whatever the config says
//! - the last `num_kv_shared_layers` layers read the keys and values of earlier ones, and with `use_double_wide_mlp` their
//!   MLPs are twice as wide
//! - with `hidden_size_per_layer_input`, each layer adds what it makes of an input of its own
//! - the stream is multiplied by a stored number after each layer
//!
//! The mixture of experts of the 26B is not this model. Images alone attend both ways under `use_bidirectional_attention:
//! vision`.
//!
//! Reference: `transformers` 5.23, `models/gemma4/modeling_gemma4.py`, `models/gemma4_unified`.

use serde_json::json;

use super::{layer_inputs, layer_type, llama, text_part};
use crate::{
    Activation, Attention, Config, DecoderSpec, Error, KeyValue, Norm, Position, Residual, Result, Rope, RopeId,
    RotaryHead,
};

const GLOBAL: RopeId = RopeId(0);
const LOCAL: RopeId = RopeId(1);

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    of(&config.with_defaults([
        ("sliding_window", 512.into()),
        ("max_position_embeddings", 131_072.into()),
        ("vocab_size_per_layer_input", 262_144.into()),
        ("hidden_size_per_layer_input", 256.into()),
    ]))
}

/// The text part of `Gemma4ForConditionalGeneration`.
pub(super) fn describe_text_part(config: &Config) -> Result<DecoderSpec> {
    text_part::describe_tied(config, describe)
}

/// Without inputs of the layers' own.
pub(super) fn describe_unified(config: &Config) -> Result<DecoderSpec> {
    of(&config.with_defaults([("sliding_window", 1024.into()), ("max_position_embeddings", 262_144.into())]))
}

/// The text part of `Gemma4UnifiedForConditionalGeneration`.
pub(super) fn describe_unified_text_part(config: &Config) -> Result<DecoderSpec> {
    text_part::describe_tied(config, describe_unified)
}

fn of(config: &Config) -> Result<DecoderSpec> {
    let config = config.with_defaults([
        ("vocab_size", 262_144.into()),
        ("hidden_size", 2304.into()),
        ("intermediate_size", 9216.into()),
        ("num_hidden_layers", 30.into()),
        ("num_attention_heads", 8.into()),
        ("num_key_value_heads", 4.into()),
        ("head_dim", 256.into()),
        ("rope_parameters", default_ropes()),
    ]);
    config.only("enable_moe_block", false)?;
    for key in ["num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size"] {
        config.ignore(key);
    }
    if config.opt_str("use_bidirectional_attention")?.is_some_and(|kind| kind != "vision") {
        config.only("use_bidirectional_attention", "vision")?;
    }
    let mut spec = layer_inputs::decoder(&config)?;
    let mut windows = layer_type::windows(&config, spec.layers.len(), config.opt_usize("sliding_window")?, 6)?;
    if let Some(last) = windows.last_mut() {
        *last = None;
    }
    let heads = heads(&config, &windows)?;
    let context = config.usize("max_position_embeddings")?;
    let rope = |kind: &str, global: bool| {
        let layer = windows.iter().position(|window| window.is_none() == global);
        let head_dim = layer.map_or(config.usize("head_dim")?, |layer| heads[layer].head_dim);
        let rope = Rope::read_for(&config, kind, &RotaryHead::whole(head_dim, context))?;
        rope.ok_or_else(|| config.missing("rope_parameters", &format!("an object `{kind}`")))
    };
    spec.ropes = vec![rope("full_attention", true)?, rope("sliding_attention", false)?];
    for (index, attention) in spec.attentions_mut().enumerate() {
        attention.window = windows[index];
        attention.position = Position::Rope(if windows[index].is_some() { LOCAL } else { GLOBAL });
        heads[index].shape(attention);
    }
    let first_shared = layer_inputs::share_keys(&mut spec, &config)?;
    if config.bool_or("use_double_wide_mlp", false)? {
        for layer in &mut spec.layers[first_shared..] {
            llama::widen(&mut layer.mlp, |width| 2 * width);
        }
    }
    spec.layer_inputs = layer_inputs::read(&spec, &config)?;
    scaled_sandwich(&mut spec, &layer_inputs::activation(&config)?);
    Ok(spec)
}

/// What the layers of one kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heads {
    head_dim: usize,
    num_kv_heads: usize,
    /// Whether one linear gives keys and values.
    same: bool,
}

impl Heads {
    fn shape(self, attention: &mut Attention) {
        let (queries, keys) = (attention.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        (attention.head_dim, attention.num_kv_heads) = (self.head_dim, self.num_kv_heads);
        attention.q.out_features = queries;
        attention.o.in_features = queries;
        for linear in attention.key_value.linears_mut() {
            linear.out_features = keys;
        }
        if let (true, KeyValue::Own { k, .. }) = (self.same, &attention.key_value) {
            attention.key_value = KeyValue::Same(k.clone());
        }
    }
}

/// The heads of each layer, alike in the layers of one kind.
fn heads(config: &Config, windows: &[Option<usize>]) -> Result<Vec<Heads>> {
    let same = config.bool_or("attention_k_eq_v", false)?;
    let local =
        Heads { head_dim: config.usize("head_dim")?, num_kv_heads: config.usize("num_key_value_heads")?, same: false };
    let global_kv_heads = config.opt_usize("num_global_key_value_heads")?.filter(|_| same);
    let global = Heads {
        head_dim: config.opt_usize("global_head_dim")?.unwrap_or(512),
        num_kv_heads: global_kv_heads.unwrap_or(local.num_kv_heads),
        same,
    };
    let overrides = config.object("per_layer_config")?;
    let of_layer = |(index, window): (usize, &Option<usize>)| match &overrides {
        None => Ok(if window.is_some() { local } else { global }),
        Some(overrides) => {
            let own = overrides.object(&index.to_string())?;
            let own =
                |key, default| Ok(own.as_ref().map(|own| own.opt_usize(key)).transpose()?.flatten().unwrap_or(default));
            Ok(Heads {
                head_dim: own("head_dim", local.head_dim)?,
                num_kv_heads: own("num_key_value_heads", local.num_kv_heads)?,
                same: same && window.is_none(),
            })
        }
    };
    let heads: Vec<Heads> = windows.iter().enumerate().map(of_layer).collect::<Result<_>>()?;
    let kinds = || windows.iter().zip(&heads);
    let differs = |(window, heads): &(&Option<usize>, &Heads)| {
        kinds().any(|(other, others)| window.is_none() == other.is_none() && *heads != others)
    };
    match kinds().position(|layer| differs(&layer)) {
        None => Ok(heads),
        Some(index) => {
            let expected = format!("the heads of layer {index} in every layer of its kind");
            Err(Error::invalid(config.path("per_layer_config"), expected, "others"))
        }
    }
}

fn scaled_sandwich(spec: &mut DecoderSpec, activation: &Activation) {
    let width = spec.layer_inputs.as_ref().map(|inputs| inputs.width);
    for index in 0..spec.layers.len() {
        let norm = |name: &str| Norm { path: format!("model.layers.{index}.{name}"), ..spec.final_norm.clone() };
        let input = width.map(|width| Box::new(layer_inputs::layer_input(spec, index, width, activation)));
        let residual = Residual::ScaledSandwich {
            mixer_pre: norm("input_layernorm"),
            mixer_post: norm("post_attention_layernorm"),
            mlp_pre: norm("pre_feedforward_layernorm"),
            mlp_post: norm("post_feedforward_layernorm"),
            input,
            scale: format!("model.layers.{index}.layer_scalar"),
        };
        spec.layers[index].residual = residual;
    }
}

fn default_ropes() -> serde_json::Value {
    json!({
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    })
}
