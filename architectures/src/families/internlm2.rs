//! InternLM2 and 2.5. Differs from Llama:
//! - q, k and v are one tensor, in which each key/value head lies behind the query heads that share it
//! - `bias`, on where the config does not say, covers that tensor and `wo`; no MLP biases
//! - module names of its own
//!
//! Reference: `modeling_internlm2.py` of `internlm/internlm2_5-7b-chat`; no code in `transformers`.

use super::llama::{self, Biases, Defaults};
use crate::{Config, DecoderSpec, Linear, Result};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    let bias = config.bool_or("bias", true)?;
    let defaults = Defaults::default();
    let mut spec = llama::decoder(config, &defaults, &Biases { qkv: bias, o: bias, mlp: false })?;
    for (index, attention) in spec.attentions_mut().enumerate() {
        let (heads, kv_heads, head_dim) = (attention.num_heads, attention.num_kv_heads, attention.head_dim);
        let shared = heads / kv_heads;
        let (group, total) = ((shared + 2) * head_dim, (heads + 2 * kv_heads) * head_dim);
        let part = |first: usize, count: usize, like: &Linear| {
            let start = move |kv_head: usize| kv_head * group + first * head_dim;
            let ranges = (0..kv_heads).map(|kv_head| start(kv_head)..start(kv_head) + count * head_dim);
            Linear::rows(format!("model.layers.{index}.attention.wqkv"), ranges, total, like.in_features, bias)
        };
        attention.q = part(0, shared, &attention.q);
        attention.k = part(shared, 1, &attention.k);
        attention.v = part(shared + 1, 1, &attention.v);
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
