//! Phi-3-small. Differs from Llama:
//! - q, k and v are one linear, in which each key/value head lies behind the query heads that share it; layer norms with
//!   biases, biases everywhere
//! - but for every `dense_attention_every_n_layers`-th layer, attention sees some blocks of positions alone
//! - "gegelu": gate and up alternate in one linear, both are clamped, and up is raised by one
//! - muP factors on the embedding, the scores and the logits; `mup_use_scaling` divides scores by head_dim, not its root
//! - tokens that the tokenizer never makes are masked in the logits; which ones says the class, from the tokenizer's
//!   list, or a `dummy_token_indices` in the config
//! - rope of base `rope_embedding_base` over positions times `rope_position_scale`; or longrope, once called `su`, which
//!   ignores that scale and has a factor on cosine and sine for each of its two lists
//! - the head is tied where the config does not say
//!
//! Reference: `modeling_phi3_small.py`, `positional_embedding.py` and `triton_flash_blocksparse_attn.py` of
//! `microsoft/Phi-3-small-8k-instruct`; no code in `transformers`.

use std::ops::Range;

use serde_json::Value;

use super::gpt::{self, Frame, Heads, layer_norm};
use crate::{
    BlockSparsity, Config, DecoderSpec, Error, Layer, Linear, Mixer, Mlp, Position, Residual, Result, Rope, RopeId,
    RopeScaling, RotaryHead, TensorPattern,
};

pub(super) fn describe(config: &Config) -> Result<DecoderSpec> {
    // The class names its rope's base so; everything else that it calls as others do keeps its name.
    let config = &config.with_names(&[("rope_theta", "rope_embedding_base")]);
    config.only("hidden_act", "gegelu")?;
    // Training, rounding, and the tiles of the kernel that the model was trained with.
    for key in ["embedding_dropout_prob", "attention_dropout_prob", "ffn_dropout_prob", "reorder_and_upcast_attn"] {
        config.ignore(key);
    }
    let hidden_size = config.usize("hidden_size")?;
    let num_layers = config.usize("num_hidden_layers")?;
    let max_position_embeddings = config.opt_usize("max_position_embeddings")?.unwrap_or(8192);
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let inner = inner_size(config, hidden_size)?;
    let limit = or_null(config, "gegelu_limit", 20.0)?.map(|limit| limit as f32);
    let mut heads = Heads::new(config, hidden_size, config.usize("num_attention_heads")?)?;
    heads.num_kv_heads = config.opt_usize("num_key_value_heads")?.unwrap_or(8);
    if !heads.num_heads.is_multiple_of(heads.num_kv_heads) {
        let expected = format!("a divisor of num_attention_heads ({})", heads.num_heads);
        return Err(Error::invalid(config.path("num_key_value_heads"), expected, heads.num_kv_heads));
    }
    let rope = rope(config, heads.head_dim, max_position_embeddings)?;
    let blocks = blocks(config, heads.num_heads)?;
    let dense = dense_interval(config)?;
    let by_width = config.bool_or("mup_use_scaling", true)?;
    let multiplier = config.positive_or("mup_attn_multiplier", 1.0)?;

    let layer = |index: usize| {
        let path = format!("model.layers.{index}");
        let qkv = heads.grouped(&format!("{path}.self_attn.query_key_value"), true);
        let o = Linear::whole(format!("{path}.self_attn.dense"), hidden_size, hidden_size, true);
        let mut attention = heads.attention(qkv, o, Position::Rope(RopeId(0)));
        if by_width {
            attention.scale = (multiplier / heads.head_dim as f64) as f32;
        }
        let is_dense = dense.is_some_and(|interval| (index + 1).is_multiple_of(interval));
        attention.blocks = (!is_dense).then_some(blocks);
        let gate_up = Linear::whole(format!("{path}.mlp.up_proj"), 2 * inner, hidden_size, true);
        let down = Linear::whole(format!("{path}.mlp.down_proj"), hidden_size, inner, true);
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let [mixer_norm, mlp_norm] = norms.map(|name| layer_norm(format!("{path}.{name}"), eps));
        Layer {
            mixer: Mixer::Attention(attention),
            mlp: Mlp::ClampedGate { gate_up, down, limit },
            residual: Residual::PreNorm { mixer_norm, mlp_norm, scale: None },
        }
    };
    let mut embedding = gpt::embedding("model.embed_tokens");
    // Zero and null are how the class writes that there is no factor.
    embedding.scale = factor(config, "mup_embedding_multiplier", 10.0)?.map(|factor| factor as f32);
    let frame = Frame {
        vocab_size: config.opt_usize("vocab_size")?.unwrap_or(100_352),
        context_length: rope.context_length(max_position_embeddings),
        embedding,
        final_norm: layer_norm("model.final_layernorm", eps),
        tied: config.bool_or("tie_word_embeddings", true)?,
    };
    let masked_tokens = masked_tokens(config, frame.vocab_size)?;
    let mut spec = gpt::decoder(hidden_size, frame, (0..num_layers).map(layer).collect());
    spec.ropes = vec![rope];
    spec.logit_scale = factor(config, "mup_width_multiplier", 8.0)?.map(|width| (1.0 / width) as f32);
    spec.masked_tokens = masked_tokens;
    // A buffer of older versions of the code.
    spec.unused_tensors = vec![TensorPattern::Ends(".rotary_emb.inv_freq")];
    Ok(spec)
}

/// `ff_intermediate_size`, or `ff_dim_multiplier` times two thirds of the hidden size: just one of them is a number.
fn inner_size(config: &Config, hidden_size: usize) -> Result<usize> {
    let given =
        if config.has("ff_intermediate_size") { config.opt_usize("ff_intermediate_size")? } else { Some(14336) };
    let multiplier = config.opt_usize("ff_dim_multiplier")?;
    let padded = config.bool_or("gegelu_pad_to_256", true)?;
    match (given, multiplier) {
        (Some(size), None) => Ok(size),
        (None, Some(multiplier)) => {
            let size = multiplier * (hidden_size / 3) * 2;
            Ok(if padded { size.next_multiple_of(256) } else { size })
        }
        (Some(size), Some(_)) => {
            let expected = format!("null beside an ff_intermediate_size, which is or defaults to {size}");
            Err(Error::invalid(config.path("ff_dim_multiplier"), expected, "a number"))
        }
        (None, None) => {
            Err(config.missing("ff_dim_multiplier", "a positive integer where ff_intermediate_size is null"))
        }
    }
}

fn blocks(config: &Config, num_heads: usize) -> Result<BlockSparsity> {
    let size = |key, default| Ok(config.opt_usize(key)?.unwrap_or(default));
    let stride = size("blocksparse_vert_stride", 8)?;
    let alike = config.bool_or("blocksparse_homo_head_pattern", false)?;
    Ok(BlockSparsity {
        size: size("blocksparse_block_size", 64)?,
        local: size("blocksparse_num_local_blocks", 16)?,
        stride,
        head_step: if alike { 0 } else { (stride / num_heads).max(1) },
    })
}

/// Every how many layers one is dense; zero and an explicit null make none dense.
fn dense_interval(config: &Config) -> Result<Option<usize>> {
    const KEY: &str = "dense_attention_every_n_layers";
    if !config.has(KEY) {
        return Ok(Some(2));
    }
    Ok(config.opt_index(KEY)?.filter(|interval| *interval > 0))
}

fn rope(config: &Config, head_dim: usize, max_position_embeddings: usize) -> Result<Rope> {
    let head = RotaryHead { theta: 1e6, ..RotaryHead::whole(head_dim, max_position_embeddings) };
    let mut rope = Rope::read(config, &head)?;
    let stretch = config.positive_or("rope_position_scale", 1.0)?;
    let parameters = Rope::parameters(config)?;
    match (&mut rope.scaling, &parameters) {
        (RopeScaling::None, _) if stretch == 1.0 => {}
        (scaling @ RopeScaling::None, _) => *scaling = RopeScaling::Linear { factor: 1.0 / stretch },
        (RopeScaling::LongRope { short_attention_factor, long_attention_factor, .. }, Some(parameters)) => {
            for key in ["factor", "attention_factor"] {
                parameters.only(key, Value::Null)?;
            }
            // The class reads this one, and no other beside it.
            const CONTEXT: &str = "original_max_position_embeddings";
            config.only(CONTEXT, parameters.usize(CONTEXT)?)?;
            // Where a factor is absent or not positive, that of `long` comes from the stretch, and `short` has none.
            let own = |key, default: f32| -> Result<f32> {
                Ok(parameters.opt_f64(key)?.filter(|factor| *factor > 0.0).map_or(default, |factor| factor as f32))
            };
            *short_attention_factor = own("short_mscale", 1.0)?;
            *long_attention_factor = own("long_mscale", *long_attention_factor)?;
        }
        (other, _) => {
            return Err(Error::Unsupported {
                key: config.path("rope_scaling"),
                value: other.kind().to_owned(),
                supported: "none, longrope, su".to_owned(),
            });
        }
    }
    Ok(rope)
}

/// The tokens of `dummy_token_indices`, or those that the tokenizer of the published models never makes: what fills up
/// its vocabulary, and four special tokens without a use.
fn masked_tokens(config: &Config, vocab_size: usize) -> Result<Vec<Range<usize>>> {
    const KEY: &str = "dummy_token_indices";
    const PUBLISHED: [Range<usize>; 4] = [100_256..100_257, 100_258..100_261, 100_264..100_266, 100_267..100_352];
    let Some(mut tokens) = config.opt_indices(KEY)? else {
        if vocab_size < PUBLISHED[3].end {
            let expected = format!("at least {}, the tokens of the class, or a {KEY} beside it", PUBLISHED[3].end);
            return Err(Error::invalid(config.path("vocab_size"), expected, vocab_size));
        }
        return Ok(PUBLISHED.to_vec());
    };
    tokens.sort_unstable();
    tokens.dedup();
    if let Some(token) = tokens.last().filter(|token| **token >= vocab_size) {
        return Err(Error::invalid(config.path(KEY), format!("tokens below vocab_size, {vocab_size}"), token));
    }
    let runs = tokens.chunk_by(|token, next| token + 1 == *next);
    Ok(runs.filter_map(|run| Some(*run.first()?..run.last()? + 1)).collect())
}

/// A factor that an explicit zero or null turns off.
fn factor(config: &Config, key: &str, default: f64) -> Result<Option<f64>> {
    if !config.has(key) {
        return Ok(Some(default));
    }
    match config.opt_f64(key)? {
        None | Some(0.0) => Ok(None),
        Some(_) => config.positive(key).map(Some),
    }
}

/// A number above zero that an explicit null turns off.
fn or_null(config: &Config, key: &str, default: f64) -> Result<Option<f64>> {
    if config.has(key) { config.opt_positive(key) } else { Ok(Some(default)) }
}
