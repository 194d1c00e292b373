//! The operators that lowering emits: required inputs are fields, optional ones are `Option` fields.

mod contrib;
mod layout;
mod paged;
mod standard;

pub use contrib::{
    CacheCodes, FusedMatMul, GatherBlockQuantized, GroupQueryAttention, HeadNorms, MatMulNBits, PAST_SLIDING,
    RotaryEmbedding, Rotation, SkipLayerNormalization, SkipSimplifiedLayerNormalization,
};
pub use layout::{
    ArgMax, Concat, Gather, GatherNd, Pad, Place, Range, Reshape, Shape, Slice, Split, Transpose, Unsqueeze,
};
pub use paged::PagedAttention;
pub use standard::{
    Add, And, Cast, Clip, Cos, CumSum, DequantizeLinear, Div, Equal, Exp, Floor, Gelu, Greater, LayerNormalization,
    Log, MatMul, Max, Min, Mod, Mul, Pow, ReduceMax, ReduceMean, ReduceSum, Relu, Sigmoid,
    SimplifiedLayerNormalization, Sin, Softmax, Softplus, Sqrt, Sub, Tanh, Where,
};

use super::{Dim, Dtype, Fact, Graph, Value};

type Facts = Result<Vec<Option<Fact>>, String>;

fn one(fact: Fact) -> Facts {
    Ok(vec![Some(fact)])
}

fn same_dtype(graph: &Graph, a: Value, b: Value) -> Result<Dtype, String> {
    let (a, b) = (graph.fact(a), graph.fact(b));
    if a.dtype == b.dtype { Ok(a.dtype) } else { Err(format!("inputs are {a} and {b}, expected one dtype")) }
}

fn expect_dtype(graph: &Graph, value: Value, dtype: Dtype) -> Result<(), String> {
    let fact = graph.fact(value);
    if fact.dtype == dtype { Ok(()) } else { Err(format!("input is {fact}, expected {}", dtype.name())) }
}

fn expect_shape(graph: &Graph, value: Value, shape: &[Dim]) -> Result<(), String> {
    let fact = graph.fact(value);
    if fact.shape == shape { Ok(()) } else { Err(format!("input is {fact}, expected shape {shape:?}")) }
}

fn expect_last(graph: &Graph, value: Value, size: u64) -> Result<(), String> {
    let fact = graph.fact(value);
    if fact.last() == Some(&Dim::Known(size)) {
        Ok(())
    } else {
        Err(format!("input is {fact}, expected {size} in the last dimension"))
    }
}

/// The shape of two values broadcast together, by NumPy's rule.
fn broadcast(graph: &Graph, a: Value, b: Value) -> Facts {
    same_dtype(graph, a, b)?;
    one(broadcast_facts(graph.fact(a), graph.fact(b))?)
}

/// The same of facts, in the dtype of the first.
fn broadcast_facts(a: &Fact, b: &Fact) -> Result<Fact, String> {
    let rank = a.shape.len().max(b.shape.len());
    let at = |fact: &Fact, index: usize| (index + fact.shape.len()).checked_sub(rank).map(|i| fact.shape[i].clone());
    let mut shape = Vec::with_capacity(rank);
    for index in 0..rank {
        shape.push(match (at(a, index), at(b, index)) {
            (Some(dim), None) | (None, Some(dim)) => dim,
            (Some(Dim::Known(1)), Some(dim)) | (Some(dim), Some(Dim::Known(1))) => dim,
            (Some(left), Some(right)) if left == right => left,
            _ => return Err(format!("{a} and {b} do not broadcast")),
        });
    }
    Ok(Fact::new(a.dtype, shape))
}
