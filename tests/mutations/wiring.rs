//! Wrong graphs: attributes, and who reads what.

use super::{Damage, Made, STANDARD, constant, fp32, gqa, int4, node, of_graph};

const LLAMA: Made = fp32("llama-default");
const GEMMA: Made = fp32("gemma2-default");

pub(super) const ALL: &[Damage] = &[
    of_graph(
        "scores without their softcap",
        int4("gemma2-default"),
        |p| *p.float(&gqa(2), "softcap") = 0.0,
        "attention-softcap",
        "/model/layers.2/attn",
        &["layer 2", "no softcap, expected"],
    ),
    of_graph(
        "a softcap on the scores",
        LLAMA,
        |p| *p.float(&gqa(0), "softcap") = 20.0,
        "attention-softcap",
        "/model/layers.0/attn",
        &["layer 0", "softcap of 20, the checkpoint has none"],
    ),
    of_graph(
        "logits without their softcap",
        GEMMA,
        |p| {
            let logits = p.node("/lm_head/softcap/Mul");
            logits.op_type = Some("Identity".to_owned());
            logits.input = vec!["/lm_head/MatMul/output_0".to_owned()];
        },
        "logit-softcap",
        "/lm_head",
        &["no softcap, expected 12"],
    ),
    of_graph(
        "window one longer",
        fp32("mistral-window"),
        |p| *p.int(&gqa(0), "local_window_size") += 1,
        "attention-window",
        "/model/layers.0/attn",
        &["layer 0", "17 positions, expected 16"],
    ),
    of_graph(
        "window on a layer without",
        GEMMA,
        |p| *p.int(&gqa(1), "local_window_size") = 16,
        "attention-window",
        "/model/layers.1/attn",
        &["layer 1", "16 positions, expected all positions"],
    ),
    of_graph(
        "window left out",
        GEMMA,
        |p| *p.int(&gqa(2), "local_window_size") = -1,
        "attention-window",
        "/model/layers.2/attn",
        &["layer 2", "all positions, expected 16"],
    ),
    of_graph(
        "scale of the scores 2 % up",
        LLAMA,
        |p| *p.float(&gqa(1), "scale") *= 1.02,
        "attention-scale",
        "/model/layers.1/attn",
        &["layer 1", "is 0.25", "expected 0.25"],
    ),
    of_graph(
        "neighbours rotated",
        LLAMA,
        |p| *p.int(&gqa(0), "rotary_interleaved") = 1,
        "rotation",
        "/model/layers.0/attn",
        &["layer 0", "neighbours (interleaved), expected half a head apart"],
    ),
    of_graph(
        "cosines and sines change places",
        LLAMA,
        |p| p.node(&gqa(2)).input.swap(7, 8),
        "rotation",
        "sin_cache",
        &["layer 2", "cosines and sines have changed places"],
    ),
    of_graph(
        "no rotation",
        LLAMA,
        |p| *p.int(&gqa(0), "do_rotary") = 0,
        "rotation",
        "/model/layers.0/attn",
        &["layer 0", "not rotated"],
    ),
    of_graph(
        "half of a head rotated",
        LLAMA,
        |p| ["cos_cache", "sin_cache"].iter().for_each(|table| p.initializer(table).dims = vec![512, 4]),
        "rotation",
        "cos_cache",
        &["8 dimensions of a head, expected 16"],
    ),
    of_graph(
        "positions off by one",
        fp32("llama-heads"),
        |p| {
            p.graph().initializer.push(constant("one", 1));
            for head in ["q", "k"] {
                p.node(&format!("/model/layers.0/attn/{head}_rotary/RotaryEmbedding")).input[1] = "late".to_owned();
            }
            p.insert(node("Add", &["position_ids", "one"], "late"));
        },
        "position-ids",
        "/model/layers.0/attn",
        &["layer 0", "`position_ids` +1", "off by 1"],
    ),
    of_graph(
        "counts of the cache off by one",
        LLAMA,
        |p| {
            let sub = p.node("/model/attn_mask_reformat/attn_mask_subgraph/Sub");
            sub.op_type = Some("Identity".to_owned());
            sub.input.truncate(1);
        },
        "position-ids",
        "/attn/GroupQueryAttention",
        &["seqlens_k is the count of tokens +0, expected -1"],
    ),
    of_graph(
        "mask ignored",
        LLAMA,
        |p| {
            let sub = p.node("/model/attn_mask_reformat/attn_mask_subgraph/Sub");
            sub.input[0] = "/model/attn_mask_reformat/attn_mask_subgraph/Gather/output_0".to_owned();
        },
        "attention-mask",
        "/attn/GroupQueryAttention",
        &["shape of `attention_mask`", "the mask is ignored"],
    ),
    of_graph(
        "two kv heads read as one",
        LLAMA,
        |p| *p.int(&gqa(0), "kv_num_heads") = 1,
        "attention",
        "/model/layers.0/attn",
        &["layer 0", "kv_num_heads is 1, expected 2"],
    ),
    of_graph(
        "past not connected",
        LLAMA,
        |p| p.node(&gqa(1)).input[3..5].iter_mut().for_each(String::clear),
        "kv-cache",
        "/model/layers.1/attn",
        &["layer 1", "no past keys", "forgotten"],
    ),
    of_graph(
        "past keys and values change places",
        LLAMA,
        |p| p.node(&gqa(0)).input.swap(3, 4),
        "kv-cache",
        "/model/layers.0/attn",
        &["reads `past_key_values.0.value` as the past keys, expected `past_key_values.0.key`"],
    ),
    of_graph(
        "the past of another layer",
        LLAMA,
        |p| p.node(&gqa(0)).input[3] = p.node(&gqa(1)).input[3].clone(),
        "kv-cache",
        "/model/layers.0/attn",
        &["layer 0", "reads `past_key_values.1.key`"],
    ),
    of_graph(
        "a stale cache",
        LLAMA,
        |p| {
            p.node(&gqa(1)).output[1] = "lost".to_owned();
            p.graph().node.push(node("Identity", &["past_key_values.1.key"], "present.1.key"));
        },
        "kv-cache",
        "present.1.key",
        &["layer 1", "`past_key_values.1.key` as it came in", "stale"],
    ),
    of_graph(
        "a stale cache, of standard operators",
        STANDARD,
        |p| {
            p.node("/model/layers.1/attn/k_cache/Concat").output[0] = "kept".to_owned();
            p.node("/model/layers.1/attn/k_cache/Transpose").input[0] = "kept".to_owned();
            p.graph().node.push(node("Identity", &["past_key_values.1.key"], "present.1.key"));
        },
        "kv-cache",
        "present.1.key",
        &["layer 1", "stale"],
    ),
    of_graph(
        "presents of two layers change places",
        LLAMA,
        |p| {
            p.node(&gqa(0)).output[1] = "present.1.key".to_owned();
            p.node(&gqa(1)).output[1] = "present.0.key".to_owned();
        },
        "kv-cache",
        "present.0.key",
        &["layer 0", "is output 1 of `/model/layers.1/attn/GroupQueryAttention`"],
    ),
    of_graph(
        "a residual skipped",
        fp32("qwen2-default"),
        |p| {
            let skip = p.node("/model/layers.1/post_attention_layernorm/SkipLayerNorm");
            skip.input[0] = skip.input[1].clone();
        },
        "residual",
        "/model/layers.1/post_attention_layernorm",
        &["layer 1", "the residual of attention", "skipped"],
    ),
    of_graph(
        "a residual taken from behind the norm",
        LLAMA,
        |p| {
            let normed = p.node("/model/layers.1/input_layernorm/SkipLayerNorm").output[0].clone();
            p.node("/model/layers.1/post_attention_layernorm/SkipLayerNorm").input[0] = normed;
        },
        "residual",
        "/model/layers.1/input_layernorm",
        &["behind the norm"],
    ),
    of_graph(
        "a module left out",
        LLAMA,
        |p| {
            let stream = "/model/layers.0/post_attention_layernorm/output_3".to_owned();
            let attention = "/model/layers.0/attn/o_proj/MatMul/output_0".to_owned();
            let next = p.node("/model/layers.1/input_layernorm/SkipLayerNorm");
            (next.input[0], next.input[1]) = (stream, attention);
        },
        "residual",
        "/model/layers.1/input_layernorm",
        &["layer 0", "adds attention", "the MLP is expected"],
    ),
    of_graph(
        "a norm of another stream",
        LLAMA,
        |p| {
            let other = "/model/layers.1/input_layernorm/output_0".to_owned();
            p.node("/model/layers.1/mlp/gate_proj/MatMul").input[0] = other;
        },
        "wiring",
        "/model/layers.1/input_layernorm",
        &["the norm before gate of the MLP of layer 1 reads"],
    ),
    of_graph(
        "epsilon doubled",
        LLAMA,
        |p| *p.float("/model/layers.1/input_layernorm/SkipLayerNorm", "epsilon") *= 2.0,
        "norm-epsilon",
        "/model/layers.1/input_layernorm",
        &["the norm before attention of layer 1", "1e-2, expected 5e-3"],
    ),
    of_graph(
        "no final norm",
        LLAMA,
        |p| p.node("/lm_head/MatMul").input[0] = "/model/layers.2/mlp/down_proj/MatMul/output_0".to_owned(),
        "wiring",
        "/lm_head/MatMul",
        &["not normed, expected the final norm"],
    ),
    of_graph(
        "another activation",
        GEMMA,
        |p| p.attribute("/model/layers.0/mlp/act_fn/Gelu", "approximate").s = Some(b"none".to_vec()),
        "activation",
        "/model/layers.0/mlp/act_fn",
        &["MLP of layer 0 is Gelu, expected GeluTanh"],
    ),
    of_graph(
        "SiLU without its linear part",
        LLAMA,
        |p| {
            let activation = p.node("/model/layers.2/mlp/act_fn/Mul");
            activation.op_type = Some("Identity".to_owned());
            activation.input.remove(0);
        },
        "activation",
        "/model/layers.2/mlp/act_fn",
        &["MLP of layer 2 is Sigmoid, expected Silu"],
    ),
    of_graph(
        "no activation",
        LLAMA,
        |p| {
            let activation = p.node("/model/layers.2/mlp/act_fn/Mul");
            activation.op_type = Some("Identity".to_owned());
            activation.input.remove(1);
        },
        "activation",
        "/model/layers.2/mlp/down_proj",
        &["without an activation, expected Silu"],
    ),
    of_graph(
        "bias of q, k and v left out",
        fp32("qwen2-default"),
        |p| p.remove_add("/model/layers.0/attn/qkv_proj/Add"),
        "bias",
        "/model/layers.0/attn/qkv_proj",
        &["no bias, expected that of model.layers.0.self_attn.q_proj"],
    ),
    of_graph(
        "queries and values change places in the graph",
        fp32("llama-heads"),
        |p| p.node("/model/layers.1/attn/qkv_proj/Split").output.swap(1, 2),
        "wiring",
        "/model/layers.1/attn/qkv_proj/Split",
        &["layer 1", "parts 0, 2 and 1 of one product", "swapped"],
    ),
    of_graph(
        "norm of the queries left out",
        fp32("qwen3-default"),
        |p| {
            let norm = p.node("/model/layers.0/attn/q_norm/SimplifiedLayerNormalization");
            norm.op_type = Some("Identity".to_owned());
            norm.input.truncate(1);
            norm.attribute.clear();
        },
        "norm",
        "/model/layers.0/attn",
        &["the norm of queries of layer 0 is missing"],
    ),
    of_graph(
        "rows of the embedding not scaled",
        GEMMA,
        |p| {
            let scale = p.node("/model/embed_tokens/Mul");
            scale.op_type = Some("Identity".to_owned());
            scale.input.truncate(1);
        },
        "embedding-scale",
        "/model/embed_tokens",
        &["is 1, expected 6.32"],
    ),
    of_graph(
        "one matrix for two layers",
        LLAMA,
        |p| {
            let other = p.node("/model/layers.1/mlp/up_proj/MatMul").input[1].clone();
            p.node("/model/layers.0/mlp/up_proj/MatMul").input[1] = other;
        },
        "weights",
        "/model/layers.0/mlp/up_proj",
        &["`model.layers.0.mlp.up_proj`", "holds `model.layers.1.mlp.up_proj`"],
    ),
];
