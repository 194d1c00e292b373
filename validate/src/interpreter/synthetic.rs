//! Weights and a spec to test with.

use genai_architectures::{
    Activation, Attention, DecoderSpec, Embedding, HeadNorm, KeyValue, Layer, Linear, LmHead, Mixer, Mlp, Norm,
    NormKind, NormOrder, NormSpan, NormWeight, Position, Residual, Rope, RopeId, RopeLayout, RopeScaling,
};
use std::collections::HashMap;

use super::Weights;
use crate::{Error, Result};

/// Tensors written down, each with its shape.
pub(super) struct Tensors(HashMap<&'static str, (Vec<usize>, Vec<f32>)>);

impl Tensors {
    pub(super) fn of<'a>(tensors: impl IntoIterator<Item = (&'static str, &'a [usize], Vec<f32>)>) -> Self {
        Self(tensors.into_iter().map(|(name, shape, values)| (name, (shape.to_vec(), values))).collect())
    }
}

impl Weights for Tensors {
    fn read(&self, name: &str, expected_shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        let (shape, values) = self.0.get(name).ok_or_else(|| Error::weight(name, "is not there"))?;
        assert_eq!(shape, expected_shape, "{name}");
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        out.copy_from_slice(&values[first..first + out.len()]);
        Ok(())
    }
}

pub(super) const HIDDEN: usize = 6;
pub(super) const HEADS: usize = 4;
pub(super) const KV_HEADS: usize = 2;
pub(super) const HEAD_DIM: usize = 4;
pub(super) const INNER: usize = 5;
pub(super) const VOCAB: usize = 9;
pub(super) const EPS: f32 = 1e-5;

/// Tensors of every shape that is asked for, filled from their names.
pub(super) struct Synthetic;

impl Synthetic {
    pub(super) fn tensor(name: &str, shape: &[usize]) -> Vec<f64> {
        let mut state = name.bytes().fold(17u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // A multiple of 2^-20, exact in f32 too.
            (state >> 44) as f64 / f64::from(1 << 20) * 2.0 - 1.0
        };
        (0..shape.iter().product()).map(|_| next()).collect()
    }
}

impl Weights for Synthetic {
    fn read(&self, name: &str, shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        for (out, value) in out.iter_mut().zip(&Self::tensor(name, shape)[first..]) {
            *out = *value as f32;
        }
        Ok(())
    }
}

pub(super) fn norm_spec(path: &str) -> Norm {
    Norm { path: path.to_owned(), kind: NormKind::Rms, weight: NormWeight::Plain, bias: false, eps: EPS }
}

pub(super) fn rope() -> Rope {
    Rope { dim: HEAD_DIM, theta: 100.0, layout: RopeLayout::Half, scaling: RopeScaling::None }
}

/// Biases, head norms, a head width that is not hidden / heads, and a head of its own.
pub(super) fn spec(window: Option<usize>) -> DecoderSpec {
    let attention = Attention {
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        q: Linear::whole("q", HEADS * HEAD_DIM, HIDDEN, true),
        key_value: KeyValue::Own {
            k: Linear::whole("k", KV_HEADS * HEAD_DIM, HIDDEN, true),
            v: Linear::whole("v", KV_HEADS * HEAD_DIM, HIDDEN, true),
        },
        o: Linear::whole("o", HIDDEN, HEADS * HEAD_DIM, false),
        clip_qkv: None,
        q_norm: Some(HeadNorm { norm: norm_spec("q_norm"), span: NormSpan::Head }),
        k_norm: Some(HeadNorm { norm: norm_spec("k_norm"), span: NormSpan::Head }),
        v_norm: None,
        norm_order: NormOrder::BeforeRotation,
        position: Position::Rope(RopeId(0)),
        query_scaling: None,
        scale: 0.5,
        softcap: None,
        window,
        blocks: None,
    };
    let mlp = Mlp::Gated {
        gate: Linear::whole("gate", INNER, HIDDEN, false),
        up: Linear::whole("up", INNER, HIDDEN, false),
        down: Linear::whole("down", HIDDEN, INNER, true),
        activation: Activation::Silu,
        cutoff: None,
    };
    let residual =
        Residual::PreNorm { mixer_norm: norm_spec("mixer_norm"), mlp_norm: norm_spec("mlp_norm"), scale: None };
    DecoderSpec {
        architecture: "SyntheticForCausalLM",
        runtime_type: "synthetic",
        hidden_size: HIDDEN,
        vocab_size: VOCAB,
        context_length: 16,
        embedding: Embedding { path: "embedding".to_owned(), scale: None, positions: None, norm: None },
        ropes: vec![rope()],
        layers: vec![Layer { mixer: Mixer::Attention(attention), mlp, residual }],
        final_norm: norm_spec("final_norm"),
        lm_head: LmHead::Own(Linear::whole("head", VOCAB, HIDDEN, false)),
        logit_scale: None,
        logit_softcap: None,
        masked_tokens: vec![],
        wide_residual: false,
        prefixes: vec![],
        unused_tensors: vec![],
        copies: vec![],
        constants: vec![],
        layer_inputs: None,
        streams: None,
    }
}
