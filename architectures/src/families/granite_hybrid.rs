//! Granite 4.0 without experts and without Mamba layers (the dense micro, 1B and 350M). Differs from Granite:
//! - the MLP is called `shared_mlp` and its width `shared_intermediate_size`; gate and up are one tensor
//! - layers know no positions unless `position_embedding_type` is `rope`
//!
//! Reference: `transformers` 5.23, `models/granitemoehybrid/modeling_granitemoehybrid.py`.

use std::iter::once;

use super::granite;
use crate::{Config, DecoderSpec, Error, Linear, Mlp, Position, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let (num_layers, experts) = (config.usize("num_hidden_layers")?, config.opt_index("num_local_experts")?);
    if experts != Some(0) {
        let value = experts.map_or("8, by default".to_owned(), |experts| experts.to_string());
        return Err(Error::Unsupported { key: config.path("num_local_experts"), value, supported: "0".to_owned() });
    }
    attention_alone(config, num_layers)?;
    // Of Mamba layers, of experts, and of training.
    for key in [
        "num_experts_per_tok",
        "mamba_n_heads",
        "mamba_n_groups",
        "mamba_d_state",
        "mamba_d_head",
        "mamba_d_conv",
        "mamba_expand",
        "mamba_chunk_size",
        "mamba_conv_bias",
        "mamba_proj_bias",
        "time_step_limit",
        "init_method",
        "intermediate_size",
    ] {
        config.ignore(key);
    }
    config.only("normalization_function", "rmsnorm")?;
    // Of a null, PyTorch makes the root of head_dim or an error, by the kernel.
    if config.has("attention_multiplier") {
        config.positive("attention_multiplier")?;
    }
    let rotates = match config.opt_str("position_embedding_type")?.as_deref() {
        Some("rope") => true,
        None | Some("nope") => false,
        Some(other) => {
            let (key, supported) = (config.path("position_embedding_type"), "rope, nope".to_owned());
            return Err(Error::Unsupported { key, value: other.to_owned(), supported });
        }
    };
    let config = config
        .with_names(&[("intermediate_size", "shared_intermediate_size")])
        .with_defaults([("intermediate_size", 1024.into())]);
    let mut spec = granite::describe(&config)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Gated { gate, up, down, .. } = &mut layer.mlp {
            let (width, hidden_size) = (gate.out_features, gate.in_features);
            let path = format!("model.layers.{index}.shared_mlp");
            let fused = format!("{path}.input_linear");
            *gate = Linear::rows(fused.clone(), once(0..width), 2 * width, hidden_size, gate.bias);
            *up = Linear::rows(fused, once(width..2 * width), 2 * width, hidden_size, up.bias);
            down.path = format!("{path}.output_linear");
        }
    }
    if !rotates {
        spec.ropes.clear();
        for attention in spec.attentions_mut() {
            attention.position = Position::None;
        }
    }
    Ok(spec)
}

/// Published configs call the kinds of layers `attention` and `mamba`, as transformers did before 5.
fn attention_alone(config: &Config, num_layers: usize) -> Result<()> {
    let key = if config.has("layer_types") { "layer_types" } else { "layers_block_type" };
    let kinds = config.opt_strings(key)?.ok_or_else(|| {
        // The class has Mamba layers where nothing is said.
        config.missing(key, "a list with full_attention for each layer")
    })?;
    if kinds.len() != num_layers {
        let expected = format!("{num_layers} entries, one for each of num_hidden_layers");
        return Err(Error::invalid(config.path(key), expected, format!("{} entries", kinds.len())));
    }
    match kinds.into_iter().find(|kind| kind != "full_attention" && kind != "attention") {
        None => Ok(()),
        Some(value) => {
            Err(Error::Unsupported { key: config.path(key), value, supported: "full_attention, attention".to_owned() })
        }
    }
}
