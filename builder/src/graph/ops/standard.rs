//! Operators of the standard domain.

use super::{Facts, broadcast, broadcast_facts, expect_dtype, expect_shape, one, same_dtype};
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
unary! { Sigmoid, Relu, Cos, Sin, Tanh, Exp, Log, Floor, Softplus, Sqrt }

/// `[.., k] × [k, n]`, or a product for each leading index: `[.., m, k] × [.., k, n]`.
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
        let (a, b) = (graph.fact(self.a), graph.fact(self.b));
        let [lead @ .., k, n] = &b.shape[..] else {
            return Err(format!("weight is {b}, expected two dimensions"));
        };
        if !lead.is_empty() && (a.shape.len() != b.shape.len() || !a.shape.starts_with(lead)) {
            return Err(format!("{a} and {b} have other leading dimensions"));
        }
        let [rows @ .., last] = &a.shape[..] else { return Err("a is a scalar".to_owned()) };
        if last != k {
            return Err(format!("{a} does not multiply {b}"));
        }
        one(Fact::new(a.dtype, [rows, std::slice::from_ref(n)].concat()))
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

/// `a = b`, element by element.
#[derive(Debug, Clone, Copy)]
pub struct Equal(pub Value, pub Value);

impl Op for Equal {
    const TYPE: &'static str = "Equal";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0), Some(self.1)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let facts = broadcast(graph, self.0, self.1)?;
        Ok(facts.into_iter().map(|fact| fact.map(|fact| fact.with_dtype(Dtype::Bool))).collect())
    }
}

/// Whether both hold, element by element.
#[derive(Debug, Clone, Copy)]
pub struct And(pub Value, pub Value);

impl Op for And {
    const TYPE: &'static str = "And";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0), Some(self.1)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        expect_dtype(graph, self.0, Dtype::Bool)?;
        broadcast(graph, self.0, self.1)
    }
}

/// Shares of one over the last dimension.
#[derive(Debug, Clone, Copy)]
pub struct Softmax(pub Value);

impl Op for Softmax {
    const TYPE: &'static str = "Softmax";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.0)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(-1))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.0).clone())
    }
}

/// Sums up to and with each element, along one dimension.
#[derive(Debug, Clone, Copy)]
pub struct CumSum {
    pub input: Value,
    /// The dimension, an int64 scalar.
    pub axis: Value,
}

impl Op for CumSum {
    const TYPE: &'static str = "CumSum";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.axis)]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).clone())
    }
}

/// `(codes - zero points) * scales`, with a scale for each block of the last dimension: codes `[n, k]` in 4 or 8 bits,
/// scales and zero points `[n, blocks]`.
#[derive(Debug, Clone, Copy)]
pub struct DequantizeLinear {
    pub codes: Value,
    pub scales: Value,
    pub zero_points: Option<Value>,
    pub block_size: usize,
}

impl Op for DequantizeLinear {
    const TYPE: &'static str = "DequantizeLinear";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.codes), Some(self.scales), self.zero_points]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(1)), ("block_size", Attribute::Int(self.block_size as i64))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let codes = graph.fact(self.codes);
        let [n, Dim::Known(k)] = &codes.shape[..] else { return Err(format!("codes are {codes}, expected a matrix")) };
        let blocks = Dim::Known(k.div_ceil(self.block_size as u64));
        expect_shape(graph, self.scales, &[n.clone(), blocks.clone()])?;
        if let Some(zero_points) = self.zero_points {
            same_dtype(graph, self.codes, zero_points)?;
            expect_shape(graph, zero_points, &[n.clone(), blocks])?;
        }
        one(codes.with_dtype(graph.fact(self.scales).dtype))
    }
}

/// `yes` where the condition holds, else `no`; all three broadcast together.
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
        let dtype = same_dtype(graph, self.yes, self.no)?;
        let [condition, yes, no] = [self.condition, self.yes, self.no].map(|value| graph.fact(value));
        let choice = broadcast_facts(yes, no)?;
        one(broadcast_facts(&condition.with_dtype(dtype), &choice)?)
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
            Dtype::I8 => 3,
            Dtype::I32 => 6,
            Dtype::I64 => 7,
            Dtype::Bool => 9,
            Dtype::F16 => 10,
            Dtype::Bf16 => 16,
            Dtype::U4 => 21,
            Dtype::I4 => 22,
            Dtype::F8E4M3 => 17,
        };
        vec![("to", Attribute::Int(to))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).with_dtype(self.to))
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

/// The greatest of a vector, a scalar.
#[derive(Debug, Clone, Copy)]
pub struct ReduceMax {
    pub input: Value,
    /// `[1]`: 0.
    pub axes: Value,
}

impl Op for ReduceMax {
    const TYPE: &'static str = "ReduceMax";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.axes)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("keepdims", Attribute::Int(0))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        let fact = graph.fact(self.input);
        if fact.shape.len() != 1 {
            return Err(format!("input is {fact}, expected a vector"));
        }
        one(Fact::new(fact.dtype, Vec::new()))
    }
}

/// The mean over the last dimension, which becomes 1.
#[derive(Debug, Clone, Copy)]
pub struct ReduceMean {
    pub input: Value,
    /// `[1]`: -1.
    pub axes: Value,
}

impl Op for ReduceMean {
    const TYPE: &'static str = "ReduceMean";

    fn inputs(&self) -> Vec<Option<Value>> {
        vec![Some(self.input), Some(self.axes)]
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("keepdims", Attribute::Int(1))]
    }

    fn outputs(&self, graph: &Graph) -> Facts {
        one(graph.fact(self.input).with_last(1))
    }
}
