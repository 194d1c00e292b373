//! What goes into the graph and comes out of it, and what it computes together.

use super::{Row, boolean};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    pub(crate) fuse_qkv: Option<bool>,
    pub(crate) disable_qkv_fusion: Option<bool>,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        key: "fuse_qkv",
        values: "true or false",
        default: "false for dml, else true",
        applies: "",
        about: "Whether one product `qkv_proj` makes q, k and v; otherwise `q_proj`, `k_proj` and `v_proj` make one each, \
                and attention takes them apart.",
        set: |options, value| {
            options.graph.fuse_qkv = Some(boolean(value)?);
            Ok(())
        },
    },
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
