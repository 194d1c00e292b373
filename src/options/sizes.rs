//! Sizes of graphs that have none open.

use super::{Row, Wrong};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) static_context_length: Option<usize>,
}

pub(super) const ROWS: &[Row] = &[Row {
    key: "static_context_length",
    values: "a number from 1 on, at most the model's context length",
    default: "4096, or the model's context length where that is less",
    applies: "qnn, whose graphs have no open sizes",
    about: "Tokens of the longest sequence, prompt included: the length of the cache, all of which is computed over in each \
            step. It becomes `model.context_length`.",
    set: |options, value| {
        let tokens = value.parse().ok().filter(|tokens| *tokens > 0);
        options.sizes.static_context_length = Some(tokens.ok_or(Wrong::Value)?);
        Ok(())
    },
}];
