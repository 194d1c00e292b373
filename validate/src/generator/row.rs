//! The text of one row.

#[derive(Clone, Debug, Default)]
pub(super) struct RowText {
    /// Without pads, and without a token that ended it.
    pub(super) ids: Vec<u32>,
    /// Where what was generated since the last append begins.
    pub(super) prompt: usize,
    pub(super) finished: bool,
}

impl RowText {
    pub(super) fn generated(&self) -> &[u32] {
        self.ids.get(self.prompt..).unwrap_or_default()
    }
}
