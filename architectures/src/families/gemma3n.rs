//! Gemma 3n, text. Differs from Gemma 3:
//! - the norms multiply by the stored weight, and values have a norm without one; scores are not divided
//! - every fifth layer is global where `layer_types` does not say
//! - the last `num_kv_shared_layers` layers read the keys and values of earlier ones
//! - `altup_num_inputs` streams, of which `altup_active_idx` goes through the layers, and a residual of low rank
//!   (`laurel_rank`) beside attention
//! - each layer adds what it makes of an input of its own to the streams but the first
//! - `intermediate_size` and `activation_sparsity_pattern` may have a value for each layer; of a sparse MLP only the
//!   gate's values above that quantile of a normal distribution go on
//!
//! Reference: `transformers` 5.23, `models/gemma3n/modeling_gemma3n.py`.

use super::{gemma3, layer_inputs, llama, text_part};
use crate::{AltUp, Config, DecoderSpec, Error, Linear, LowRank, Mlp, Norm, Residual, Result, Streams, TensorPattern};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // Of training, and keys of Gemma 3 that the first configs carried along.
    for key in ["altup_coef_clip", "altup_lr_multiplier", "query_pre_attn_scalar", "_sliding_window_pattern"] {
        config.ignore(key);
    }
    let config = config.with_defaults([
        ("vocab_size", 262_400.into()),
        ("hidden_size", 2048.into()),
        ("intermediate_size", 16_384.into()),
        ("num_hidden_layers", 35.into()),
        ("num_attention_heads", 8.into()),
        ("num_key_value_heads", 2.into()),
        ("head_dim", 256.into()),
        ("max_position_embeddings", 32_768.into()),
        ("sliding_window", 512.into()),
        ("rope_theta", 1e6.into()),
        ("rope_local_base_freq", 1e4.into()),
        ("final_logit_softcapping", 30.0.into()),
        ("vocab_size_per_layer_input", 262_144.into()),
        ("hidden_size_per_layer_input", 256.into()),
        ("num_kv_shared_layers", 15.into()),
    ]);
    let num_layers = config.usize("num_hidden_layers")?;
    let widths = config.usizes("intermediate_size", num_layers)?;
    let mut spec = layer_inputs::decoder(&config.with("intermediate_size", widths[0].into()))?;
    gemma3::local_layers(&mut spec, &config, 5)?;
    layer_inputs::share_keys(&mut spec, &config)?;
    let cutoffs = cutoffs(&config, num_layers)?;
    for ((layer, width), of_layer) in spec.layers.iter_mut().zip(widths).zip(cutoffs) {
        llama::widen(&mut layer.mlp, |_| width);
        if let Mlp::Gated { cutoff, .. } = &mut layer.mlp {
            *cutoff = of_layer;
        }
    }
    spec.layer_inputs = layer_inputs::read(&spec, &config)?;
    streams(&mut spec, &config)?;
    Ok(spec)
}

/// The text part of `Gemma3nForConditionalGeneration`.
pub(super) fn describe_text_part(config: &Config) -> Result<DecoderSpec> {
    text_part::describe_tied(config, describe)
}

/// The cutoff of each MLP, from the share of its gate's values that are to fall away.
fn cutoffs(config: &Config, num_layers: usize) -> Result<Vec<Option<f32>>> {
    const KEY: &str = "activation_sparsity_pattern";
    let sparse = if num_layers > 10 { 10 } else { 0 };
    let default = || (0..num_layers).map(|layer| if layer < sparse { 0.95 } else { 0.0 }).collect();
    let shares = config.opt_f64s(KEY)?.unwrap_or_else(default);
    if shares.len() != num_layers || shares.iter().any(|share| !(0.0..1.0).contains(share)) {
        let expected = format!("{num_layers} numbers from 0 to below 1, one for each of num_hidden_layers");
        return Err(Error::invalid(config.path(KEY), expected, format!("{shares:?}")));
    }
    Ok(shares.into_iter().map(|share| (share > 0.0).then(|| normal_quantile(share))).collect())
}

/// How many standard deviations above the mean the share `p` of a normal distribution ends, as the reference computes it:
/// `sqrt(2) * erfinv(2p - 1)`, with `2p - 1` in f32.
fn normal_quantile(p: f64) -> f32 {
    let target = f64::from(2.0 * p as f32 - 1.0);
    // erf is concave above 0, so Newton's steps from there rise to the root and stop when they no longer do.
    let mut x = 0.0;
    loop {
        let step = (target.abs() - libm::erf(x)) * libm::exp(x * x) * (std::f64::consts::PI.sqrt() / 2.0);
        if step <= 1e-15 {
            return (std::f64::consts::SQRT_2 * x.copysign(target)) as f32;
        }
        x += step;
    }
}

fn streams(spec: &mut DecoderSpec, config: &Config) -> Result<()> {
    let Some(width) = spec.layer_inputs.as_ref().map(|inputs| inputs.width) else {
        return Err(Error::invalid(config.path("hidden_size_per_layer_input"), "at least 1", 0));
    };
    let activation = layer_inputs::activation(config)?;
    let hidden_size = spec.hidden_size;
    let count = config.opt_usize("altup_num_inputs")?.unwrap_or(4);
    let active = config.opt_index("altup_active_idx")?.unwrap_or(0);
    let rank = config.opt_usize("laurel_rank")?.unwrap_or(64);
    let output_scaled = config.bool_or("altup_correct_scale", true)?;
    // A description holds every stream.
    const MOST_STREAMS: usize = 64;
    if !(2..=MOST_STREAMS).contains(&count) || active >= count {
        let expected = format!("2 to {MOST_STREAMS}, and more than altup_active_idx ({active})");
        return Err(Error::invalid(config.path("altup_num_inputs"), expected, count));
    }
    let square = |name: &str| {
        let linear = |index| Linear::whole(format!("model.{name}.{index}"), hidden_size, hidden_size, false);
        (0..count - 1).map(linear).collect()
    };
    let (expand, merge) = (square("altup_projections"), square("altup_unembed_projections"));
    spec.streams = Some(Streams { count, active, expand, merge });
    if !output_scaled {
        spec.unused_tensors.push(TensorPattern::Ends(".altup.correct_output_scale"));
    }
    for index in 0..spec.layers.len() {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let norm = |name: &str| Norm { path: at(name), ..spec.final_norm.clone() };
        let linear = |name: &str, out, inner| Linear::whole(at(name), out, inner, false);
        let residual = Residual::AltUp(Box::new(AltUp {
            router_norm: norm("altup.router_norm"),
            router: linear("altup.modality_router", count, hidden_size),
            router_scale: 1.0 / hidden_size as f32,
            prediction: linear("altup.prediction_coefs", count * count, count),
            correction: linear("altup.correction_coefs", count, count),
            output_scale: output_scaled.then(|| at("altup.correct_output_scale")),
            laurel: LowRank {
                left: linear("laurel.linear_left", rank, hidden_size),
                right: linear("laurel.linear_right", hidden_size, rank),
                norm: norm("laurel.post_laurel_norm"),
            },
            mixer_pre: norm("input_layernorm"),
            mixer_post: norm("post_attention_layernorm"),
            mlp_pre: norm("pre_feedforward_layernorm"),
            mlp_post: norm("post_feedforward_layernorm"),
            input: layer_inputs::layer_input(spec, index, width, &activation),
        }));
        spec.layers[index].residual = residual;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_torch() {
        // torch 2: distributions.Normal(0, 1).icdf(p), in f32.
        for (p, expected) in [(0.95, 1.644_853_6), (0.5, 0.0), (0.3, -0.524_400_5), (0.999, 3.090_236_2)] {
            let found = normal_quantile(p);
            assert!((found - expected).abs() <= 3e-7 * f32::abs(expected).max(1.0), "{p}: {found}");
        }
    }
}
