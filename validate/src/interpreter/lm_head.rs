//! From the last hidden state to logits.

use genai_architectures::{DecoderSpec, Linear, LmHead};

use super::product::linear;
use super::{Weights, expect_positive, expect_width, soft_cap};
use crate::{Error, Matrix, Result};

/// `[rows, vocab_size]`
pub(super) fn lm_head(spec: &DecoderSpec, weights: &dyn Weights, hidden: &Matrix) -> Result<Matrix> {
    let mut logits = match &spec.lm_head {
        LmHead::Own(own) => {
            expect_width("lm_head.out_features", own.out_features, spec.vocab_size)?;
            linear(weights, own, hidden)?
        }
        LmHead::Tied => {
            let table = Linear::whole(&spec.embedding.path, spec.vocab_size, spec.hidden_size, false);
            linear(weights, &table, hidden)?
        }
    };
    if let Some(scale) = spec.logit_scale {
        logits.data_mut().iter_mut().for_each(|logit| *logit *= scale);
    }
    if let Some(cap) = spec.logit_softcap {
        expect_positive("logit_softcap", cap)?;
        logits.data_mut().iter_mut().for_each(|logit| *logit = soft_cap(cap, f64::from(*logit)) as f32);
    }
    for tokens in &spec.masked_tokens {
        if tokens.start > tokens.end || tokens.end > spec.vocab_size {
            let expected = format!("within 0..{}, the vocabulary", spec.vocab_size);
            return Err(Error::argument("a range of masked tokens", format!("{tokens:?}"), expected));
        }
        for row in 0..logits.rows() {
            logits.row_mut(row)[tokens.clone()].fill(f32::MIN);
        }
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::synthetic::{self, Tensors};

    #[test]
    fn logits_are_scaled_then_capped() {
        let tensors = Tensors::of([
            ("head.weight", &[3, 2][..], vec![1.0, 2.0, -3.0, 0.5, 40.0, 40.0]),
            ("head.bias", &[3], vec![0.5, -1.0, 0.0]),
            ("embedding.weight", &[3, 2], vec![1.0, 1.0, 0.0, 1.0, 2.0, 0.0]),
        ]);
        let hidden = Matrix::new(1, 2, vec![2.0, 4.0]).unwrap();
        let spec = |lm_head, logit_scale, logit_softcap| DecoderSpec {
            hidden_size: 2,
            vocab_size: 3,
            lm_head,
            logit_scale,
            logit_softcap,
            ..synthetic::spec(None)
        };
        let own = |bias| LmHead::Own(Linear::whole("head", 3, 2, bias));
        let run = |spec: DecoderSpec| lm_head(&spec, &tensors, &hidden).unwrap().data().to_vec();
        assert_eq!(run(spec(own(false), None, None)), [10.0, -4.0, 240.0]);
        assert_eq!(run(spec(own(true), None, None)), [10.5, -5.0, 240.0]);
        assert_eq!(run(spec(LmHead::Tied, None, None)), [6.0, 4.0, 4.0]);
        assert_eq!(run(spec(own(true), Some(0.5), None)), [5.25, -2.5, 120.0]);
        // 4 tanh(5.25 / 4), 4 tanh(-2.5 / 4), 4 tanh(30)
        let capped = run(spec(own(true), Some(0.5), Some(4.0)));
        for (is, expected) in capped.iter().zip([3.459_626_5, -2.218_398_9, 4.0]) {
            assert!((is - expected).abs() < 1e-6, "{is} and {expected}");
        }
        let masked = DecoderSpec { masked_tokens: vec![0..1, 2..3], ..spec(own(true), Some(0.5), None) };
        assert_eq!(run(masked.clone()), [f32::MIN, -2.5, f32::MIN]);
        let masked = DecoderSpec { masked_tokens: std::iter::once(2..4).collect(), ..masked };
        let message = lm_head(&masked, &tensors, &hidden).unwrap_err().to_string();
        assert_eq!(message, "a range of masked tokens is 2..4, expected within 0..3, the vocabulary");
        let message = lm_head(&spec(own(true), None, Some(0.0)), &tensors, &hidden).unwrap_err().to_string();
        assert_eq!(message, "logit_softcap is 0, expected a number above 0");
    }
}
