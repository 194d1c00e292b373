//! From what a node reads back to the constant that it is made of.

use crate::graph::{Graph, Initializer, Node};

/// A constant, and what is done to it on the way.
pub(super) struct Origin<'a> {
    pub(super) tensor: &'a Initializer,
    pub(super) transposed: bool,
    pub(super) dequantize: Option<&'a Node>,
    /// An axis of the constant, and how much of it is kept: what fills up the last block is cut off.
    pub(super) cut: Option<(usize, usize)>,
}

impl Graph {
    /// The constant that a value is, but for its type, the order of its two axes, and what is cut off.
    pub(super) fn origin(&self, name: &str) -> Option<Origin<'_>> {
        let (mut name, mut transposed, mut dequantize, mut cut) = (name, false, None, None);
        // More steps than any exporter makes: a loop in a damaged graph ends here.
        for _ in 0..8 {
            if let Some(tensor) = self.initializer(name) {
                return Some(Origin { tensor, transposed, dequantize, cut });
            }
            let node = self.producer(name).filter(|node| node.domain.is_empty() || node.is_contrib())?;
            match node.op_type.as_str() {
                "Cast" | "Identity" => {}
                "Transpose" if node.ints("perm").is_none_or(|perm| perm == [1, 0]) => {
                    transposed = !transposed;
                    cut = cut.map(|(axis, end)| (usize::from(axis == 0), end));
                }
                "Slice" if cut.is_none() => cut = Some(self.cut(node)?),
                "DequantizeLinear" if dequantize.is_none() => dequantize = Some(node),
                _ => return None,
            }
            name = node.input(0)?;
        }
        None
    }

    /// The axis and the end of a slice that begins at 0, of a matrix.
    fn cut(&self, node: &Node) -> Option<(usize, usize)> {
        let only = |slot: usize| match self.integers_of(node.input(slot)?).ok()?.as_slice() {
            [value] => Some(*value),
            _ => None,
        };
        let whole_steps = node.input(4).is_none() || only(4) == Some(1);
        let axis = match only(3)? {
            0 | -2 => 0,
            1 | -1 => 1,
            _ => return None,
        };
        let end = usize::try_from(only(2)?).ok().filter(|&end| end > 0)?;
        (whole_steps && only(1) == Some(0)).then_some((axis, end))
    }
}
