//! A decoder layer: its parts, and how they join the residual stream.

use super::{AltUp, Attention, LayerInput, Linear, Mlp, Norm};

/// One decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub mixer: Mixer,
    pub mlp: Mlp,
    pub residual: Residual,
}

/// What mixes information between positions.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    Attention(Attention),
}

/// How a layer's parts join the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Residual {
    /// `x += scale * mixer(mixer_norm(x)); x += scale * mlp(mlp_norm(x))`
    PreNorm { mixer_norm: Norm, mlp_norm: Norm, scale: Option<f32> },
    /// `x += mixer_norm(mixer(x)); x += mlp_norm(mlp(x))`
    PostNorm { mixer_norm: Norm, mlp_norm: Norm },
    /// `x += mixer_post(mixer(mixer_pre(x))); x += mlp_post(mlp(mlp_pre(x)))`
    Sandwich { mixer_pre: Norm, mixer_post: Norm, mlp_pre: Norm, mlp_post: Norm },
    /// A sandwich, then the layer's own input where it has one, then the factor `scale`, a tensor of one element:
    /// `x += input_norm(projection(activation(gate(x)) * input)); x *= scale`
    ScaledSandwich {
        mixer_pre: Norm,
        mixer_post: Norm,
        mlp_pre: Norm,
        mlp_post: Norm,
        input: Option<Box<LayerInput>>,
        scale: String,
    },
    /// Several streams, of which one goes through the layer.
    AltUp(Box<AltUp>),
    /// `x += mixer(mixer_norm(x)) + mlp(mlp_norm(x))`; without `mlp_norm` both read the same normed value.
    Parallel { mixer_norm: Norm, mlp_norm: Option<Norm> },
}

impl Layer {
    pub(super) fn num_parameters(&self, hidden_size: usize) -> u64 {
        let Mixer::Attention(attention) = &self.mixer;
        self.residual.norms().into_iter().map(|norm| norm.num_parameters(hidden_size)).sum::<u64>()
            + self.residual.other_parameters(hidden_size)
            + attention.num_parameters()
            + self.mlp.num_parameters()
    }
}

impl Residual {
    /// The norms of the layer itself, each over the hidden state.
    pub fn norms(&self) -> Vec<&Norm> {
        match self {
            Self::PreNorm { mixer_norm, mlp_norm, .. } | Self::PostNorm { mixer_norm, mlp_norm } => {
                vec![mixer_norm, mlp_norm]
            }
            Self::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post } => {
                vec![mixer_pre, mixer_post, mlp_pre, mlp_post]
            }
            Self::ScaledSandwich { mixer_pre, mixer_post, mlp_pre, mlp_post, input, .. } => {
                let input_norm = input.as_ref().map(|input| &input.norm);
                [mixer_pre, mixer_post, mlp_pre, mlp_post].into_iter().chain(input_norm).collect()
            }
            Self::AltUp(altup) => {
                let AltUp { router_norm, mixer_pre, mixer_post, mlp_pre, mlp_post, laurel, input, .. } = &**altup;
                vec![router_norm, mixer_pre, mixer_post, mlp_pre, mlp_post, &laurel.norm, &input.norm]
            }
            Self::Parallel { mixer_norm, mlp_norm } => std::iter::once(mixer_norm).chain(mlp_norm).collect(),
        }
    }

    pub(crate) fn norms_mut(&mut self) -> Vec<&mut Norm> {
        match self {
            Self::PreNorm { mixer_norm, mlp_norm, .. } | Self::PostNorm { mixer_norm, mlp_norm } => {
                vec![mixer_norm, mlp_norm]
            }
            Self::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post } => {
                vec![mixer_pre, mixer_post, mlp_pre, mlp_post]
            }
            Self::ScaledSandwich { mixer_pre, mixer_post, mlp_pre, mlp_post, input, .. } => {
                let input_norm = input.as_mut().map(|input| &mut input.norm);
                [mixer_pre, mixer_post, mlp_pre, mlp_post].into_iter().chain(input_norm).collect()
            }
            Self::AltUp(altup) => {
                let AltUp { router_norm, mixer_pre, mixer_post, mlp_pre, mlp_post, laurel, input, .. } = &mut **altup;
                vec![router_norm, mixer_pre, mixer_post, mlp_pre, mlp_post, &mut laurel.norm, &mut input.norm]
            }
            Self::Parallel { mixer_norm, mlp_norm } => std::iter::once(mixer_norm).chain(mlp_norm).collect(),
        }
    }

    /// The linears of the layer itself, beside those of its mixer and MLP.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::PreNorm { .. } | Self::PostNorm { .. } | Self::Sandwich { .. } | Self::Parallel { .. } => Vec::new(),
            Self::ScaledSandwich { input, .. } => input.as_mut().map_or_else(Vec::new, |input| input.linears_mut()),
            Self::AltUp(altup) => altup.linears_mut(),
        }
    }

    /// The tensors of the layer itself that belong to no linear and no norm.
    pub(crate) fn tensors_mut(&mut self) -> Vec<&mut String> {
        match self {
            Self::PreNorm { .. } | Self::PostNorm { .. } | Self::Sandwich { .. } | Self::Parallel { .. } => Vec::new(),
            Self::ScaledSandwich { scale, .. } => vec![scale],
            Self::AltUp(altup) => altup.output_scale.iter_mut().collect(),
        }
    }

    /// Learned parameters beside the norms.
    fn other_parameters(&self, hidden_size: usize) -> u64 {
        match self {
            Self::PreNorm { .. } | Self::PostNorm { .. } | Self::Sandwich { .. } | Self::Parallel { .. } => 0,
            Self::ScaledSandwich { input, .. } => 1 + input.as_ref().map_or(0, |input| input.num_parameters()),
            Self::AltUp(altup) => altup.num_parameters(hidden_size),
        }
    }
}
