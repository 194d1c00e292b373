//! InternLM2 and 2.5. Differs from Llama:
//! - q, k and v are one tensor, in which each key/value head lies behind the query heads that share it
//! - `bias`, on where the config does not say, covers that tensor and `wo`; no MLP biases
//! - module names of its own
//!
//! Reference: `modeling_internlm2.py` of `internlm/internlm2_5-7b-chat`; no code in `transformers`.

use super::{
    gpt::Heads,
    llama::{self, Biases, Defaults},
};
use crate::{Attention, Config, DecoderSpec, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let bias = config.bool_or("bias", true)?;
    let defaults = Defaults::default();
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    let hidden_size = spec.hidden_size;
    for (index, attention) in spec.attentions_mut().enumerate() {
        let &mut Attention { num_heads, num_kv_heads, head_dim, .. } = attention;
        let heads = Heads { hidden_size, num_heads, num_kv_heads, head_dim };
        let path = format!("model.layers.{index}.attention.wqkv");
        attention.set_qkv(heads.grouped(&path, bias));
    }
    spec.rename(&[
        ("model.embed_tokens", "model.tok_embeddings"),
        ("lm_head", "output"),
        (".self_attn.o_proj", ".attention.wo"),
        (".mlp.gate_proj", ".feed_forward.w1"),
        (".mlp.up_proj", ".feed_forward.w3"),
        (".mlp.down_proj", ".feed_forward.w2"),
        (".input_layernorm", ".attention_norm"),
        (".post_attention_layernorm", ".ffn_norm"),
    ]);
    Ok(spec)
}
