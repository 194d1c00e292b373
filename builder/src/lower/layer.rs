//! One decoder layer: how attention and MLP join the residual stream.

use genai_architectures::{Layer, Mixer, Norm, Residual};

use super::{Lowering, mask::Lengths, norm::Stream};
use crate::{
    Result,
    graph::{
        Value,
        ops::{Add, Mul},
    },
};

impl Lowering<'_> {
    /// Returns the stream after the layer, and its present key and value.
    pub(super) fn layer(
        &mut self,
        index: usize,
        layer: &Layer,
        stream: Stream,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Stream, (Value, Value))> {
        let path = format!("/model/layers.{index}");
        let at = |part: &str| format!("{path}/{part}");
        let Mixer::Attention(attention) = &layer.mixer;
        match &layer.residual {
            Residual::PreNorm { mixer_norm, mlp_norm, scale } => {
                let (normed, residual) = self.norm(stream, mixer_norm, &at("input_layernorm"))?;
                let (mixed, present) = self.attention(index, &at("attn"), attention, normed, past, lengths)?;
                let update = self.scaled(&at("attn/residual"), mixed, *scale)?;
                let stream = Stream { residual, update: Some(update) };
                let (normed, residual) = self.norm(stream, mlp_norm, &at("post_attention_layernorm"))?;
                let output = self.mlp(&at("mlp"), &layer.mlp, normed)?;
                let update = self.scaled(&at("mlp/residual"), output, *scale)?;
                Ok((Stream { residual, update: Some(update) }, present))
            }
            Residual::PostNorm { mixer_norm, mlp_norm } => {
                let residual = self.sum(stream, &at("input"))?;
                let input = self.in_activation_dtype(&at("input"), residual)?;
                let (mixed, present) = self.attention(index, &at("attn"), attention, input, past, lengths)?;
                let update = self.update_norm(mixed, mixer_norm, &at("post_attention_layernorm"))?;
                let residual = self.sum(Stream { residual, update: Some(update) }, &at("mlp/input"))?;
                let input = self.in_activation_dtype(&at("mlp/input"), residual)?;
                let output = self.mlp(&at("mlp"), &layer.mlp, input)?;
                let update = self.update_norm(output, mlp_norm, &at("post_feedforward_layernorm"))?;
                Ok((Stream { residual, update: Some(update) }, present))
            }
            Residual::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post } => {
                let norms = [mixer_pre, mixer_post, mlp_pre, mlp_post];
                self.sandwich(index, layer, norms, stream, past, lengths)
            }
            Residual::ScaledSandwich { mixer_pre, mixer_post, mlp_pre, mlp_post, input, scale } => {
                let norms = [mixer_pre, mixer_post, mlp_pre, mlp_post];
                let (mut stream, present) = self.sandwich(index, layer, norms, stream, past, lengths)?;
                if let Some(input) = input {
                    let residual = self.sum(stream, &at("mlp"))?;
                    let update = self.layer_input(&at("per_layer"), index, input, residual)?;
                    stream = Stream { residual, update: Some(update) };
                }
                let sum = self.sum(stream, &at("output"))?;
                let name = format!("model.layers.{index}.layer_scalar");
                let dtype = self.stream_dtype();
                let scale = self.parameter_as(&name, scale.clone(), &[1], 0.0, dtype)?;
                let scaled = self.graph.add(&at("output/Mul"), &Mul(sum, scale))?;
                Ok((Stream::new(scaled), present))
            }
            Residual::AltUp(altup) => {
                let streams = self.sum(stream, &at("input"))?;
                let (streams, present) = self.altup(index, altup, layer, streams, past, lengths)?;
                Ok((Stream::new(streams), present))
            }
            Residual::Parallel { mixer_norm, mlp_norm } => {
                let (normed, residual) = self.norm(stream, mixer_norm, &at("input_layernorm"))?;
                let (mixed, present) = self.attention(index, &at("attn"), attention, normed, past, lengths)?;
                let input = match mlp_norm {
                    Some(norm) => self.plain_norm(residual, norm, &at("post_attention_layernorm"))?,
                    None => normed,
                };
                let output = self.mlp(&at("mlp"), &layer.mlp, input)?;
                let update = self.graph.add(&at("parallel/Add"), &Add(mixed, output))?;
                let update = self.cast(&at("parallel"), update, self.stream_dtype())?;
                Ok((Stream { residual, update: Some(update) }, present))
            }
        }
    }

    /// A layer with norms `[mixer_pre, mixer_post, mlp_pre, mlp_post]`.
    fn sandwich(
        &mut self,
        index: usize,
        layer: &Layer,
        [mixer_pre, mixer_post, mlp_pre, mlp_post]: [&Norm; 4],
        stream: Stream,
        past: (Value, Value),
        lengths: &Lengths,
    ) -> Result<(Stream, (Value, Value))> {
        let at = |part: &str| format!("/model/layers.{index}/{part}");
        let Mixer::Attention(attention) = &layer.mixer;
        let (normed, residual) = self.norm(stream, mixer_pre, &at("input_layernorm"))?;
        let (mixed, present) = self.attention(index, &at("attn"), attention, normed, past, lengths)?;
        let update = self.update_norm(mixed, mixer_post, &at("post_attention_layernorm"))?;
        let stream = Stream { residual, update: Some(update) };
        let (normed, residual) = self.norm(stream, mlp_pre, &at("pre_feedforward_layernorm"))?;
        let output = self.mlp(&at("mlp"), &layer.mlp, normed)?;
        let update = self.update_norm(output, mlp_post, &at("post_feedforward_layernorm"))?;
        Ok((Stream { residual, update: Some(update) }, present))
    }

    /// An update with its factor, in the dtype of the stream.
    fn scaled(&mut self, path: &str, value: Value, scale: Option<f32>) -> Result<Value> {
        let scaled = match scale {
            None => value,
            Some(scale) => {
                let scale = self.scalar(scale)?;
                self.graph.add(&format!("{path}/Mul"), &Mul(value, scale))?
            }
        };
        self.cast(path, scaled, self.stream_dtype())
    }
}
