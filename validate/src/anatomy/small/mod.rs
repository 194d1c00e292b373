//! Values of a graph that are made of lengths, positions and constants alone, computed for one run of few tokens: masks,
//! and factors that an exporter spelled as `1 / sqrt(shape[-1])`.
//!
//! What comes from weights or hidden values is not known here, and neither is what an operator makes of it.

mod operators;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Names;
use crate::graph::{Dimension, Graph, Value};
pub(super) use tensor::Tensor;

/// Deeper than any mask: a circle in a damaged graph ends here.
const MAX_DEPTH: usize = 200;

/// Elements that are held of all values together, so that a graph cannot ask for memory and time without end.
const ROOM: usize = 4 * tensor::MOST;

/// One run of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Tokens that were there before.
    pub(super) past: usize,
    /// Tokens of this run.
    pub(super) tokens: usize,
    /// How many tokens at the beginning are padding.
    pub(super) padding: usize,
}

pub(super) struct Small<'a> {
    graph: &'a Graph,
    inputs: BTreeMap<&'a str, Rc<Tensor>>,
    /// Symbols of shapes.
    sizes: BTreeMap<&'a str, usize>,
    known: BTreeMap<&'a str, Option<Rc<Tensor>>>,
    /// What is left of [`ROOM`]. Without any, nothing more is known.
    room: usize,
}

impl<'a> Small<'a> {
    /// `None` where the graph takes no such run.
    pub(super) fn new(graph: &'a Graph, names: &Names, run: Run) -> Option<Self> {
        let mut this =
            Self { graph, inputs: BTreeMap::new(), sizes: BTreeMap::new(), known: BTreeMap::new(), room: ROOM };
        let total = run.past.checked_add(run.tokens)?;
        let past = names.past.iter().flat_map(|past| [past.name(0), past.name(1)]);
        this.bind(&names.input_ids, &[(0, 1), (1, run.tokens)])?;
        this.bind(&names.attention_mask, &[(0, 1), (1, total)])?;
        for name in past {
            // A cache of fixed size is larger than what is in it.
            let fixed = graph.input(&name).is_some_and(|value| {
                value.shape.as_ref().is_some_and(|shape| matches!(shape.get(2), Some(Dimension::Fixed(_))))
            });
            let sizes = [(0, 1), (2, run.past)];
            this.bind(&name, sizes.get(..if fixed { 1 } else { 2 })?)?;
        }
        let ones = (0..total).map(|place| f64::from(place >= run.padding));
        this.give(&names.attention_mask, &[1, total], ones.collect());
        #[allow(clippy::as_conversions)] // Positions are far below 2^53.
        let positions = (run.past..total).map(|place| place.saturating_sub(run.padding) as f64);
        this.give(&names.position_ids, &[1, run.tokens], positions.collect());
        Some(this)
    }

    /// Learns what the symbols of an input's shape stand for. `None` where the shape is another one.
    fn bind(&mut self, name: &str, sizes: &[(usize, usize)]) -> Option<()> {
        let Some(shape) = self.graph.input(name).and_then(|value| value.shape.as_ref()) else { return Some(()) };
        for (axis, size) in sizes {
            match shape.get(*axis)? {
                Dimension::Fixed(fixed) if u64::try_from(*size) == Ok(*fixed) => {}
                // Without tokens that were there before, some graphs take none at all.
                Dimension::Fixed(_) => return None,
                Dimension::Named(symbol) => {
                    // One name for two sizes says nothing.
                    if *self.sizes.entry(symbol).or_insert(*size) != *size {
                        return None;
                    }
                }
                Dimension::Unknown => {}
            }
        }
        Some(())
    }

    fn give(&mut self, name: &str, shape: &[usize], values: Vec<f64>) {
        let Some(input) = self.graph.input(name) else { return };
        let flat = input.shape.as_ref().is_none_or(|dims| dims.len() == shape.len());
        if let Some(tensor) = Tensor::new(shape.to_vec(), values, true).filter(|_| flat) {
            self.inputs.insert(&input.name, Rc::new(tensor));
        }
    }

    pub(super) fn value(&mut self, name: &'a str) -> Option<Rc<Tensor>> {
        self.at_depth(name, 0)
    }

    fn at_depth(&mut self, name: &'a str, depth: usize) -> Option<Rc<Tensor>> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let value = if depth < MAX_DEPTH && self.room > 0 { self.compute(name, depth) } else { None };
        self.room = self.room.saturating_sub(value.as_ref().map_or(0, |value| value.values.len()));
        self.known.insert(name, value.clone());
        value
    }

    fn compute(&mut self, name: &'a str, depth: usize) -> Option<Rc<Tensor>> {
        if let Some(input) = self.inputs.get(name) {
            return Some(Rc::clone(input));
        }
        if let Some(constant) = self.graph.initializer(name) {
            let count = tensor::count(&constant.shape)?;
            let mut numbers = Vec::new();
            self.graph.numbers(constant, 0, count, &mut numbers).ok()?;
            let whole = !constant.is_float();
            return Tensor::new(constant.shape.clone(), numbers.into_iter().map(f64::from).collect(), whole)
                .map(Rc::new);
        }
        let node = self.graph.producer(name).filter(|node| node.domain.is_empty())?;
        if node.op_type == "Shape" {
            let shape = self.shape(node.input(0)?, depth)?;
            let place = |place: i64| {
                let rank = i64::try_from(shape.len()).ok()?;
                usize::try_from(if place < 0 { place.saturating_add(rank) } else { place }.clamp(0, rank)).ok()
            };
            let (start, end) = (place(node.int("start").unwrap_or(0))?, place(node.int("end").unwrap_or(i64::MAX))?);
            return Some(Rc::new(Tensor::sizes(shape.get(start..end)?)));
        }
        if !operators::is_known(&node.op_type) {
            return None;
        }
        let mut inputs = Vec::new();
        for input in &node.inputs {
            let left_out = input.is_empty();
            inputs.push(if left_out { None } else { Some(self.at_depth(input, depth + 1)?) });
        }
        operators::apply(node, &inputs).map(Rc::new)
    }

    fn shape(&mut self, name: &'a str, depth: usize) -> Option<Vec<usize>> {
        let declared = self.graph.input(name).or_else(|| self.graph.values.get(name));
        let size = |dim: &'a Dimension| match dim {
            Dimension::Fixed(size) => usize::try_from(*size).ok(),
            Dimension::Named(symbol) => self.sizes.get(symbol.as_str()).copied(),
            Dimension::Unknown => None,
        };
        let declared = declared.and_then(|value: &'a Value| value.shape.as_ref()?.iter().map(size).collect());
        match declared {
            Some(shape) => Some(shape),
            None => self.at_depth(name, depth + 1).map(|value| value.shape.clone()),
        }
    }
}
