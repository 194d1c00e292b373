//! Operators of the standard domain.

use super::{Facts, broadcast, expect_dtype, expect_last, expect_shape, one, same_dtype};
use crate::graph::{Attribute, Dim, Dtype, Fact, Graph, Op, Value};

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident),+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(pub Value, pub Value);

        impl Op for $name {
            const TYPE: &'static str = stringify!($name);

            fn inputs(&self) -> Vec<Option<Value>> {
                vec![Some(self.0), Some(self.1)]
            }

            fn outputs(&self, graph: &Graph) -> Facts {
                broadcast(graph, self.0, self.1)
            }
        }
    )+};
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident),+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(pub Value);

        impl Op for $name {
            const TYPE: &'static str = stringify!($name);

            fn inputs(&self) -> Vec<Option<Value>> {
                vec![Some(self.0)]
            }

            fn outputs(&self, graph: &Graph) -> Facts {
                one(graph.fact(self.0).clone())
            }
        }
    )+};
}

binary! { Add, Sub, Mul, Div, Mod, Max, Min, Pow }
unary! { Sigmoid, Relu, Cos, Sin, Tanh, Exp, Log, Floor, Softplus }

/// `[.., k] × [k, n]`
#[derive(Debug, Clone, Copy)]
pub struct MatMul {
    pub a: Value,
    pub b: Value,
}

impl Op for MatMul {
    const TYPE: &'static str = "MatMul";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.a), Some(self.b)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.a, self.b)?;
        let [Dim::Known(k), Dim::Known(n)] = graph.fact(self.b).shape[..] else {
            return Err(format!("weight is {}, expected two known dimensions", graph.fact(self.b)));
        };
        expect_last(graph, self.a, k)?;
        one(graph.fact(self.a).with_last(n))
    }
}

/// Gaussian error unit, exact or by `tanh`.
#[derive(Debug, Clone, Copy)]
pub struct Gelu {
    pub input: Value,
    pub approximate: &'static str,
}

impl Op for Gelu {
    const TYPE: &'static str = "Gelu";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("approximate", Attribute::Text(self.approximate))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).clone())
    }
}

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

/// Every value brought into `min..=max`; both scalars.
#[derive(Debug, Clone, Copy)]
pub struct Clip {
    pub input: Value,
    pub min: Value,
    pub max: Value,
}

impl Op for Clip {
    const TYPE: &'static str = "Clip";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.min), Some(self.max)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.input, self.min)?;
        same_dtype(graph, self.input, self.max)?;
        one(graph.fact(self.input).clone())
    }
}

/// `a > b`, element by element.
#[derive(Debug, Clone, Copy)]
pub struct Greater(pub Value, pub Value);

impl Op for Greater {
    const TYPE: &'static str = "Greater";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0), Some(self.1)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let facts = broadcast(graph, self.0, self.1)?;
        Ok(facts.into_iter().map(|fact| fact.map(|fact| fact.with_dtype(Dtype::Bool))).collect())
    }
}

/// `yes` where the condition holds, else `no`; all of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Where {
    pub condition: Value,
    pub yes: Value,
    pub no: Value,
}

impl Op for Where {
    const TYPE: &'static str = "Where";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.condition), Some(self.yes), Some(self.no)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        expect_dtype(graph, self.condition, Dtype::Bool)?;
        same_dtype(graph, self.yes, self.no)?;
        expect_shape(graph, self.no, &graph.fact(self.yes).shape)?;
        expect_shape(graph, self.condition, &graph.fact(self.yes).shape)?;
        one(graph.fact(self.yes).clone())
    }
}

/// Norm with mean and variance over the last dimension.
#[derive(Debug, Clone, Copy)]
pub struct LayerNormalization {
    pub input: Value,
    pub scale: Value,
    pub bias: Option<Value>,
    pub epsilon: f32,
}

impl Op for LayerNormalization {
    const TYPE: &'static str = "LayerNormalization";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.scale), self.bias]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(self.epsilon)),
            // Mean and variance are taken in float32 whatever the input is.
            ("stash_type", Attribute::Int(1)),
        ]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let input = graph.fact(self.input);
        let width = input.last().cloned().ok_or("input is a scalar")?;
        for weight in std::iter::once(self.scale).chain(self.bias) {
            same_dtype(graph, self.input, weight)?;
            expect_shape(graph, weight, std::slice::from_ref(&width))?;
        }
        one(input.clone())
    }
}

/// RMS norm over the last dimension. Known to ONNX Runtime under the standard domain.
#[derive(Debug, Clone, Copy)]
pub struct SimplifiedLayerNormalization {
    pub input: Value,
    pub scale: Value,
    pub epsilon: f32,
}

impl Op for SimplifiedLayerNormalization {
    const TYPE: &'static str = "SimplifiedLayerNormalization";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.scale)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(self.epsilon)),
            // The mean square is taken in float32 whatever the input is.
            ("stash_type", Attribute::Int(1)),
        ]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        same_dtype(graph, self.input, self.scale)?;
        let input = graph.fact(self.input);
        let width = input.last().cloned().ok_or("input is a scalar")?;
        expect_shape(graph, self.scale, &[width])?;
        one(input.clone())
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Cast {
    pub input: Value,
    pub to: Dtype,
}

impl Op for Cast {
    const TYPE: &'static str = "Cast";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        // Numbers of onnx.TensorProto.DataType.
        let to = match self.to {
            Dtype::F32 => 1,
            Dtype::U8 => 2,
            Dtype::I32 => 6,
            Dtype::I64 => 7,
            Dtype::Bool => 9,
            Dtype::F16 => 10,
            Dtype::Bf16 => 16,
        };
        vec![("to", Attribute::Int(to))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).with_dtype(self.to))
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

/// The sum over the last dimension, which goes away.
#[derive(Debug, Clone, Copy)]
pub struct ReduceSum {
    pub input: Value,
    /// `[1]`, which names the last dimension of a matrix.
    pub axes: Value,
}

impl Op for ReduceSum {
    const TYPE: &'static str = "ReduceSum";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.axes)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("keepdims", Attribute::Int(0))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let mut fact = graph.fact(self.input).clone();
        fact.shape.pop().ok_or("input is a scalar")?;
        one(fact)
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

/// A dimension of one more, in front or at the end.
#[derive(Debug, Clone, Copy)]
pub struct Unsqueeze {
    pub input: Value,
    /// `[1]`: 0, or the rank of the input.
    pub axes: Value,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Front,
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
        if known(&fact.shape) != known(&self.shape) {
            return Err(format!("{fact} does not reshape to {:?}", self.shape));
        }
        one(Fact::new(fact.dtype, self.shape.clone()))
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
