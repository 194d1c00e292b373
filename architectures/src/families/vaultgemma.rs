//! VaultGemma. Differs from Gemma 2:
//! - no norms after the parts of a layer
//!
//! Reference: `transformers` 5.23, `models/vaultgemma/modeling_vaultgemma.py`.

use super::gemma2;
use crate::{Config, DecoderSpec, Residual, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let mut spec = gemma2::describe(config)?;
    for layer in &mut spec.layers {
        if let Residual::Sandwich { mixer_pre, mlp_pre, .. } = &layer.residual {
            let (mixer_norm, mlp_norm) = (mixer_pre.clone(), mlp_pre.clone());
            layer.residual = Residual::PreNorm { mixer_norm, mlp_norm, scale: None };
        }
    }
    Ok(spec)
}
