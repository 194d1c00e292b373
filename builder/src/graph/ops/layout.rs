//! Operators of the standard domain that move values and compute none.

use super::{Facts, expect_dtype, expect_last, expect_shape, one, same_dtype};
use crate::graph::{Attribute, Dim, Dtype, Fact, Graph, Op, Value};

/// Rows of `data` along its first dimension.
#[derive(Debug, Clone, Copy)]
pub struct Gather {
    pub data: Value,
    pub indices: Value,
}

impl Op for Gather {
    const TYPE: &'static str = "Gather";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.data), Some(self.indices)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(0))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let data = graph.fact(self.data);
        let rest = data.shape.get(1..).ok_or("data is a scalar")?;
        let shape = [graph.fact(self.indices).shape.as_slice(), rest].concat();
        one(Fact::new(data.dtype, shape))
    }
}

/// A stretch of one dimension, to a shape that the caller knows.
#[derive(Debug, Clone)]
pub struct Slice {
    pub data: Value,
    /// `[1]`
    pub starts: Value,
    /// `[1]`
    pub ends: Value,
    /// `[1]`
    pub axes: Value,
    pub shape: Vec<Dim>,
}

impl Op for Slice {
    const TYPE: &'static str = "Slice";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.data), Some(self.starts), Some(self.ends), Some(self.axes)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let data = graph.fact(self.data);
        if data.shape.len() != self.shape.len() {
            return Err(format!("{data} does not slice to {:?}", self.shape));
        }
        one(Fact::new(data.dtype, self.shape.clone()))
    }
}

/// Zeros behind the last dimension, which becomes `width` long.
#[derive(Debug, Clone, Copy)]
pub struct Pad {
    pub input: Value,
    /// int64 `[2 * rank]`: zeros before and behind each dimension.
    pub pads: Value,
    pub width: u64,
}

impl Op for Pad {
    const TYPE: &'static str = "Pad";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.pads)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).with_last(self.width))
    }
}

/// The dimensions of a value, `[rank]` int64.
#[derive(Debug, Clone, Copy)]
pub struct Shape(pub Value);

impl Op for Shape {
    const TYPE: &'static str = "Shape";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let rank = graph.fact(self.0).shape.len() as u64;
        one(Fact::new(Dtype::I64, vec![Dim::Known(rank)]))
    }
}

/// Where the greatest value of the last dimension is first found, int64, without that dimension.
#[derive(Debug, Clone, Copy)]
pub struct ArgMax(pub Value);

impl Op for ArgMax {
    const TYPE: &'static str = "ArgMax";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(-1)), ("keepdims", Attribute::Int(0))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let mut shape = graph.fact(self.0).shape.clone();
        shape.pop().ok_or("input is a scalar")?;
        one(Fact::new(Dtype::I64, shape))
    }
}

/// One entry of each row of a batch: `[batch, size, …]` by int64 `[batch, 1, 1]` gives `[batch, 1, …]`.
#[derive(Debug, Clone, Copy)]
pub struct GatherNd {
    pub data: Value,
    pub indices: Value,
}

impl Op for GatherNd {
    const TYPE: &'static str = "GatherND";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.data), Some(self.indices)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("batch_dims", Attribute::Int(1))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        expect_dtype(graph, self.indices, Dtype::I64)?;
        let mut fact = graph.fact(self.data).clone();
        let [batch, size, ..] = &mut fact.shape[..] else {
            return Err(format!("data is {fact}, expected rank 2 or more"));
        };
        expect_shape(graph, self.indices, &[batch.clone(), Dim::Known(1), Dim::Known(1)])?;
        *size = Dim::Known(1);
        one(fact)
    }
}

/// Values of one rank, one after another in a dimension.
#[derive(Debug, Clone)]
pub struct Concat {
    pub inputs: Vec<Value>,
    pub axis: usize,
    /// What their sizes come to, where these are not known.
    pub total: Option<&'static str>,
}

impl Op for Concat {
    const TYPE: &'static str = "Concat";

    fn inputs(&self) -> Vec<Option<Value>> {
        self.inputs.iter().copied().map(Some).collect()
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(self.axis as i64))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let Some(first) = self.inputs.first() else { return Err("no inputs".to_owned()) };
        let mut whole = graph.fact(*first).clone();
        let mut size = 0;
        for input in &self.inputs {
            same_dtype(graph, *first, *input)?;
            let fact = graph.fact(*input);
            match (fact.shape.get(self.axis), self.total) {
                (Some(Dim::Known(part)), None) => size += part,
                (Some(_), Some(_)) => {}
                _ => return Err(format!("{fact} has no known size in dimension {}", self.axis)),
            }
            let mut like = fact.shape.clone();
            like[self.axis] = whole.shape[self.axis].clone();
            if like != whole.shape {
                return Err(format!("{fact} does not join {whole} in dimension {}", self.axis));
            }
        }
        whole.shape[self.axis] = self.total.map_or(Dim::Known(size), Dim::Symbol);
        one(whole)
    }
}

/// `start, start + delta, …` below `limit`; all scalars.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub start: Value,
    pub limit: Value,
    pub delta: Value,
    /// What to call the length of the result.
    pub length: &'static str,
}

impl Op for Range {
    const TYPE: &'static str = "Range";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.start), Some(self.limit), Some(self.delta)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let dtype = same_dtype(graph, self.start, self.limit)?;
        expect_dtype(graph, self.delta, dtype)?;
        one(Fact::new(dtype, vec![Dim::Symbol(self.length)]))
    }
}

/// Dimensions of one more.
#[derive(Debug, Clone, Copy)]
pub struct Unsqueeze {
    pub input: Value,
    /// Where the new dimensions are to be, in ascending order.
    pub axes: Value,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Front,
    Axes(&'static [usize]),
    End,
}

impl Op for Unsqueeze {
    const TYPE: &'static str = "Unsqueeze";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.axes)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let mut fact = graph.fact(self.input).clone();
        match self.place {
            Place::Front => fact.shape.insert(0, Dim::Known(1)),
            Place::Axes(axes) => {
                for axis in axes {
                    if *axis > fact.shape.len() {
                        return Err(format!("{fact} has no place for a dimension {axis}"));
                    }
                    fact.shape.insert(*axis, Dim::Known(1));
                }
            }
            Place::End => fact.shape.push(Dim::Known(1)),
        }
        one(fact)
    }
}

/// To a shape that the caller knows: a zero in `target` keeps a dimension, a -1 takes the rest.
#[derive(Debug, Clone)]
pub struct Reshape {
    pub input: Value,
    pub target: Value,
    pub shape: Vec<Dim>,
}

impl Op for Reshape {
    const TYPE: &'static str = "Reshape";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.target)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let fact = graph.fact(self.input);
        let known = |shape: &[Dim]| -> u64 {
            shape.iter().map(|dim| if let Dim::Known(size) = dim { *size } else { 1 }).product()
        };
        let (before, after) = (known(&fact.shape), known(&self.shape));
        // A size that is new may be a known one times another.
        let new = |dim: &&Dim| matches!(dim, Dim::Symbol(_)) && !fact.shape.contains(dim);
        let regrouped = self.shape.iter().any(|dim| new(&dim)) && before.is_multiple_of(after);
        let gone = |dim: &Dim| matches!(dim, Dim::Symbol(_)) && !self.shape.contains(dim);
        let ungrouped = fact.shape.iter().any(gone) && after.is_multiple_of(before);
        if before != after && !regrouped && !ungrouped {
            return Err(format!("{fact} does not reshape to {:?}", self.shape));
        }
        one(Fact::new(fact.dtype, self.shape.clone()))
    }
}

/// Dimensions in another order: dimension `i` of the output is dimension `order[i]` of the input.
#[derive(Debug, Clone)]
pub struct Transpose {
    pub input: Value,
    pub order: Vec<usize>,
}

impl Op for Transpose {
    const TYPE: &'static str = "Transpose";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("perm", Attribute::Ints(self.order.iter().map(|axis| *axis as i64).collect()))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let fact = graph.fact(self.input);
        let shape: Option<Vec<Dim>> = self.order.iter().map(|axis| fact.shape.get(*axis).cloned()).collect();
        let shape = shape.filter(|shape| shape.len() == fact.shape.len());
        let shape = shape.ok_or_else(|| format!("{fact} has no order {:?}", self.order))?;
        one(Fact::new(fact.dtype, shape))
    }
}

/// The last dimension cut into pieces.
#[derive(Debug, Clone)]
pub struct Split {
    pub input: Value,
    /// The sizes as an int64 constant.
    pub split: Value,
    pub sizes: Vec<u64>,
}

impl Op for Split {
    const TYPE: &'static str = "Split";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.split)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(-1))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        expect_last(graph, self.input, self.sizes.iter().sum())?;
        let fact = graph.fact(self.input);
        Ok(self.sizes.iter().map(|size| Some(fact.with_last(*size))).collect())
    }
}
