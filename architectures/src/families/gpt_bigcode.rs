//! GPT-BigCode: SantaCoder, StarCoder. Differs from GPT-2:
//! - weights are stored `[out, in]`
//! - with `multi_query` (the default) all heads share one key/value head; without it, the fused linear of q, k and v goes
//!   head by head
//!
//! Reference: `transformers` 5.23, `models/gpt_bigcode/modeling_gpt_bigcode.py`.

use super::{gpt::Heads, gpt2};
use crate::{Attention, Config, DecoderSpec, Linear, Mixer, Mlp, Result, View};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // Where the softmax is computed, and what the first serving code wanted.
    for key in ["attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "pre_allocate_kv_cache"] {
        config.ignore(key);
    }
    let multi_query = config.bool_or("multi_query", true)?;
    let mut spec = gpt2::describe(config)?;
    let hidden_size = spec.hidden_size;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let Mixer::Attention(attention) = &mut layer.mixer;
        let &mut Attention { num_heads, head_dim, .. } = attention;
        let num_kv_heads = if multi_query { 1 } else { num_heads };
        // transformers 5 writes the number that follows.
        config.only("num_key_value_heads", num_kv_heads)?;
        attention.num_kv_heads = num_kv_heads;
        let heads = Heads { hidden_size, num_heads, num_kv_heads, head_dim };
        attention.set_qkv(heads.grouped(&format!("transformer.h.{index}.attn.c_attn"), true));
        attention.o.view = View::Whole;
        if let Mlp::Plain { up, down, .. } = &mut layer.mlp {
            for linear in [up, down] {
                *linear = Linear { view: View::Whole, ..linear.clone() };
            }
        }
    }
    Ok(spec)
}
