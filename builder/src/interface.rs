//! What a package's graph takes and gives: the whole model, unless a part of it is left out or more is asked of it.

use genai_architectures::DecoderSpec;

use crate::{Error, Result};

/// [`Interface::default`] is the whole model: `input_ids` to `logits`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// How many layers, counted from the first; all of them where `None`.
    pub layers: Option<usize>,
    /// Takes `inputs_embeds` `[batch, sequence, hidden]` in place of `input_ids`: what the embedding table gives, times
    /// the model's factor on it where there is one, in the dtype of activations.
    pub inputs_embeds: bool,
    pub logits: Logits,
    /// Gives `hidden_states` `[batch, sequence, hidden]`, the final norm's output, in the dtype of activations.
    pub hidden_states: bool,
    /// Gives `aux_hidden_states` `[batch, sequence, count * hidden]`: the residuals that enter these layers, side by
    /// side in this order, in the dtype of activations.
    pub aux_hidden_states: Vec<usize>,
}

/// Which logits a graph gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Logits {
    /// `[batch, sequence, vocab]`
    #[default]
    All,
    /// `[batch, 1, vocab]`: of each row's last token that is not padding.
    Last,
    /// There is no head.
    None,
}

impl Interface {
    /// The model that the graph is made from: cut to the layers that are asked for.
    ///
    /// # Errors
    /// `Unsupported` where the model cannot be had with this interface.
    pub(crate) fn applied(&self, mut spec: DecoderSpec) -> Result<DecoderSpec> {
        let unsupported = |what: String, hint: &str| Error::Unsupported { what, hint: hint.to_owned() };
        let all = spec.layers.len();
        if let Some(layers) = self.layers.filter(|layers| *layers != all) {
            if !(1..=all).contains(&layers) {
                let what = format!("num_hidden_layers is {layers}, and the model has {all} layers");
                return Err(unsupported(what, &format!("1 to {all} layers can be built")));
            }
            if spec.layer_inputs.is_some() {
                let what = format!(
                    "num_hidden_layers is {layers}: {} makes the inputs of all {all} layers from one table",
                    spec.architecture
                );
                return Err(unsupported(what, "build it with all its layers"));
            }
            spec.layers.truncate(layers);
        }
        if self.inputs_embeds && spec.layer_inputs.is_some() {
            let what =
                format!("exclude_embeds is true: layers of {} look up token ids of their own", spec.architecture);
            return Err(unsupported(what, "build it with its embedding"));
        }
        if self.aux_hidden_states.is_empty() {
            return Ok(spec);
        }
        if spec.streams.is_some() {
            let what = format!("aux_hidden_state_layers: {} has several residuals side by side", spec.architecture);
            return Err(unsupported(what, "a model with one residual has the one that enters a layer"));
        }
        let layers = spec.layers.len();
        match self.aux_hidden_states.iter().find(|layer| !(1..layers).contains(*layer)) {
            Some(layer) => Err(unsupported(
                format!("aux_hidden_state_layers names layer {layer}, and the package has {layers} layers"),
                "a layer that another comes before, counted from 0: what enters the first is the embedding",
            )),
            None => Ok(spec),
        }
    }
}
