//! What goes into the graph and comes out of it, and what it computes together.

use std::collections::BTreeSet;

use super::{Row, Wrong, boolean};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    pub(crate) num_hidden_layers: Option<usize>,
    pub(crate) exclude_embeds: Option<bool>,
    pub(crate) exclude_lm_head: Option<bool>,
    pub(crate) include_hidden_states: Option<bool>,
    pub(crate) prune_lm_head: Option<bool>,
    /// Empty where not given.
    pub(crate) aux_hidden_state_layers: Vec<usize>,
    pub(crate) config_only: Option<bool>,
    pub(crate) fuse_mlp_gate_up: Option<bool>,
    pub(crate) fuse_qk_norm_gqa: Option<bool>,
    pub(crate) fuse_qkv: Option<bool>,
    pub(crate) disable_qkv_fusion: Option<bool>,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        key: "num_hidden_layers",
        values: "a number from 1 to that of the model",
        default: "all layers",
        applies: "models whose layers have no inputs of their own from a table for all of them",
        about: "How many layers the package has, counted from the first. The tensors of the others are not read; the \
                record of the build lists them.",
        set: |options, value| {
            options.graph.num_hidden_layers = Some(value.parse().ok().filter(|count| *count > 0).ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    switch!(
        graph.exclude_embeds,
        "false",
        "models whose layers look up no token ids of their own",
        "The graph takes `inputs_embeds` `[batch, sequence, hidden]` in the dtype of activations in place of \
         `input_ids`: rows of the embedding table, times the model's factor on them where it has one. \
         Learned positions and a norm of the embedding stay in the graph. The table is left out unless the head shares \
         it. onnxruntime-genai feeds such a graph only as a part of a larger model."
    ),
    switch!(
        graph.exclude_lm_head,
        "false",
        "",
        "The graph gives `hidden_states` `[batch, sequence, hidden]`, the final norm's output in the dtype of \
         activations, in place of `logits`. Not with include_hidden_states or prune_lm_head."
    ),
    switch!(
        graph.include_hidden_states,
        "false",
        "",
        "The graph gives `hidden_states` beside `logits`: the final norm's output, `[batch, sequence, hidden]` in the \
         dtype of activations."
    ),
    switch!(
        graph.prune_lm_head,
        "false",
        "",
        "Logits `[batch, 1, vocab]`, of the last token of each row alone, which saves the product with the head for all \
         others of a prompt. In a batch padded on the right, as onnxruntime-genai pads, that is each row's own last \
         token; onnxruntime-genai's builder takes the last column there, which may be padding."
    ),
    Row {
        key: "aux_hidden_state_layers",
        values: "layers apart by commas, each once and at least 1, such as 1,3",
        default: "none",
        applies: "models with one residual",
        about: "The graph gives `aux_hidden_states` `[batch, sequence, count * hidden]`: the residuals that enter these \
                layers, side by side in this order, in the dtype of activations. Layers count from 0.",
        set: |options, value| {
            let layers: Option<Vec<usize>> = value.split(',').map(|layer| layer.trim().parse().ok()).collect();
            let layers = layers.filter(|layers| {
                let unique: BTreeSet<_> = layers.iter().collect();
                unique.len() == layers.len() && !layers.contains(&0)
            });
            options.graph.aux_hidden_state_layers = layers.ok_or(Wrong::Value)?;
            Ok(())
        },
    },
    switch!(
        graph.config_only,
        "false",
        "",
        "No graph and no weights: `genai_config.json`, the tokenizer's files and the record of the build alone."
    ),
    switch!(
        graph.fuse_qkv,
        "false for dml, else true",
        "",
        "Whether one product `qkv_proj` makes q, k and v; otherwise `q_proj`, `k_proj` and `v_proj` make one each, and \
         attention takes them apart."
    ),
    switch!(
        graph.fuse_qk_norm_gqa,
        "false",
        "cuda and webgpu, models with RMS norms of each head before the rotation",
        "Whether attention norms the heads of q and k itself, by inputs of GroupQueryAttention for their weights; \
         otherwise nodes before it do. onnxruntime-genai's builder has it on. Here it is off: the CPU's kernel refuses \
         such packages, so that `run` and `validate` cannot look at them, and those for cuda were never run. Those for \
         webgpu were, on ONNX Runtime 1.30, with the logits that they have without."
    ),
    switch!(
        graph.fuse_mlp_gate_up,
        "false",
        "models with a gated MLP",
        "Whether one product `gate_up_proj` makes the gate of an MLP and what it gates, which a Split takes apart; \
         otherwise `gate_proj` and `up_proj` make one each."
    ),
    Row {
        key: "disable_qkv_fusion",
        values: "true or false",
        default: "false",
        applies: "",
        about: "The former name of `fuse_qkv`, the other way round. Accepted, with a note.",
        set: |options, value| {
            options.graph.disable_qkv_fusion = Some(boolean(value)?);
            options.notes.push("extra option disable_qkv_fusion is fuse_qkv by now, the other way round".to_owned());
            Ok(())
        },
    },
];
