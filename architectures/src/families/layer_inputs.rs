//! What Gemma 3n and 4 have in common: inputs of the layers' own, keys and values of earlier layers, a norm on values.

use super::llama::{self, Biases, Defaults};
use crate::{
    Activation, Config, DecoderSpec, Error, HeadNorm, KeyValue, LayerInput, LayerInputs, Linear, Mixer, Norm,
    NormOrder, NormSpan, NormWeight, Result, TensorPattern,
};

/// The frame: embeddings scaled by the root of `hidden_size`, tied head, scores that are not divided, RMS norms on the
/// heads of q, k and v, of which the last has no weight.
pub(super) fn decoder(config: &Config) -> Result<DecoderSpec> {
    config.ignore("hidden_act");
    let bias = config.bool_or("attention_bias", false)?;
    let defaults = Defaults { activation: Activation::GeluTanh, tied: true, ..Defaults::default() };
    let renamed = config.with_names(&[("hidden_act", "hidden_activation")]);
    let mut spec = llama::decoder(&renamed, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    spec.wide_residual = true;
    spec.embedding.scale = Some((spec.hidden_size as f64).sqrt() as f32);
    spec.logit_softcap = config.opt_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    llama::norm_heads(&mut spec, NormOrder::BeforeRotation, "q_norm", "k_norm");
    let like = Norm { weight: NormWeight::None, ..spec.final_norm.clone() };
    for (index, attention) in spec.attentions_mut().enumerate() {
        let norm = Norm { path: format!("model.layers.{index}.self_attn.v_norm"), ..like.clone() };
        attention.v_norm = Some(HeadNorm { norm, span: NormSpan::Head });
        attention.scale = 1.0;
    }
    Ok(spec)
}

/// Makes the last `num_kv_shared_layers` layers read the keys and values of the last layer of their kind before them.
/// The linears and norms that checkpoints have for their own are unused.
///
/// Returns the index of the first such layer.
pub(super) fn share_keys(spec: &mut DecoderSpec, config: &Config) -> Result<usize> {
    const KEY: &str = "num_kv_shared_layers";
    let (layers, shared) = (spec.layers.len(), config.opt_index(KEY)?.unwrap_or(0));
    let Some(first) = layers.checked_sub(shared).filter(|first| *first > 0) else {
        return Err(Error::invalid(config.path(KEY), format!("less than num_hidden_layers ({layers})"), shared));
    };
    let (own, sharing) = spec.layers.split_at_mut(first);
    for (index, layer) in (first..).zip(sharing) {
        let Mixer::Attention(attention) = &mut layer.mixer;
        let source = own.iter().rposition(|layer| {
            let Mixer::Attention(own) = &layer.mixer;
            own.window == attention.window
                && own.position == attention.position
                && (own.num_kv_heads, own.head_dim) == (attention.num_kv_heads, attention.head_dim)
        });
        let Some(source) = source else {
            let expected = format!("a layer of the kind and the heads of layer {index} before the first shared one");
            return Err(Error::invalid(config.path(KEY), expected, shared));
        };
        attention.key_value = KeyValue::OfLayer(source);
        (attention.k_norm, attention.v_norm) = (None, None);
        let unused = ["k_proj", "v_proj", "k_norm", "v_norm"];
        let module = |name| TensorPattern::Of(format!("model.layers.{index}.self_attn.{name}"));
        spec.unused_tensors.extend(unused.map(module));
    }
    Ok(first)
}

/// The activation of the MLPs, which the layers' inputs pass through too.
pub(super) fn activation(config: &Config) -> Result<Activation> {
    Activation::read(config, "hidden_activation", Activation::GeluTanh)
}

/// Reads the sizes of the layers' inputs; `None` where `hidden_size_per_layer_input` is 0.
pub(super) fn read(spec: &DecoderSpec, config: &Config) -> Result<Option<LayerInputs>> {
    let Some(width) = config.opt_index("hidden_size_per_layer_input")?.filter(|width| *width > 0) else {
        config.ignore("vocab_size_per_layer_input");
        return Ok(None);
    };
    let (hidden_size, all) = (spec.hidden_size, spec.layers.len() * width);
    Ok(Some(LayerInputs {
        width,
        table: "model.embed_tokens_per_layer".to_owned(),
        rows: config.usize("vocab_size_per_layer_input")?,
        table_scale: (width as f64).sqrt() as f32,
        projection: Linear::whole("model.per_layer_model_projection", all, hidden_size, false),
        projection_scale: 1.0 / (hidden_size as f64).sqrt() as f32,
        norm: Norm { path: "model.per_layer_projection_norm".to_owned(), ..spec.final_norm.clone() },
        scale: std::f32::consts::FRAC_1_SQRT_2,
    }))
}

/// What layer `index` makes of its own input of `width`, by the activation of the MLPs.
pub(super) fn layer_input(spec: &DecoderSpec, index: usize, width: usize, activation: &Activation) -> LayerInput {
    let (path, hidden_size) = (format!("model.layers.{index}"), spec.hidden_size);
    LayerInput {
        gate: Linear::whole(format!("{path}.per_layer_input_gate"), width, hidden_size, false),
        activation: activation.clone(),
        projection: Linear::whole(format!("{path}.per_layer_projection"), hidden_size, width, false),
        norm: Norm { path: format!("{path}.post_per_layer_input_norm"), ..spec.final_norm.clone() },
    }
}
