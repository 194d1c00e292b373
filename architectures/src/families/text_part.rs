//! The text model inside a multimodal one: its config is nested, and its tensors have longer names.

use super::causal;
use crate::{Config, DecoderSpec, Linear, Result, TensorPattern, TensorPrefix};

/// How multimodal checkpoints name the tensors of their text part: as saved up to transformers 4.51, and since.
const PREFIXES: [TensorPrefix; 3] = [
    TensorPrefix { stored: "language_model.model.", named: "model." },
    TensorPrefix { stored: "language_model.lm_head.", named: "lm_head." },
    TensorPrefix { stored: "model.language_model.", named: "model." },
];

/// The parts that see and hear.
const UNUSED: [TensorPattern; 10] = [
    TensorPattern::Starts("vision_tower."),
    TensorPattern::Starts("model.vision_tower."),
    TensorPattern::Starts("multi_modal_projector."),
    TensorPattern::Starts("model.multi_modal_projector."),
    TensorPattern::Starts("visual."),
    TensorPattern::Starts("model.visual."),
    TensorPattern::Starts("model.audio_tower."),
    TensorPattern::Starts("model.embed_vision."),
    TensorPattern::Starts("model.embed_audio."),
    TensorPattern::Starts("model.vision_embedder."),
];

/// [`describe`] for a family whose head is tied where neither config says.
pub(super) fn describe_tied(config: &Config, text: impl Fn(&Config) -> Result<DecoderSpec>) -> Result<DecoderSpec> {
    let tied = config.bool_or("tie_word_embeddings", true)?;
    describe(config, |nested| text(&nested.with_defaults([("tie_word_embeddings", tied.into())])))
}

/// Describes the text part of a multimodal config by the function of its family. Some old configs have the keys of the
/// text part beside `vision_config`, not nested.
pub(super) fn describe(config: &Config, text: impl Fn(&Config) -> Result<DecoderSpec>) -> Result<DecoderSpec> {
    for key in [
        "vision_config",
        "audio_config",
        "vision_feature_layer",
        "projector_hidden_act",
        "multimodal_projector_bias",
        "vision_soft_tokens_per_image",
        "audio_soft_tokens_per_image",
    ] {
        config.ignore(key);
    }
    let mut spec = match config.has("text_config") {
        true => {
            let nested = config.model("text_config")?;
            // transformers 4.52 to 4.57 saved the keys in both places.
            config.ignore_repeated(&nested);
            causal(&nested)?;
            text(&nested)?
        }
        false => text(config)?,
    };
    // Published configs have the key outside, inside or both, and an outer false may be a default that was written out.
    if config.bool_or("tie_word_embeddings", false)? {
        spec.set_head(Linear::whole("lm_head", spec.vocab_size, spec.hidden_size, false), true);
    }
    spec.prefixes.extend(PREFIXES);
    spec.unused_tensors.extend(UNUSED);
    Ok(spec)
}
