//! The operators that masks and factors are made with, on small tensors.

use std::rc::Rc;

use super::tensor::{MOST_AXES, Tensor, common};
use crate::graph::{Attribute, ElementType, Node};

type Inputs<'a> = &'a [Option<Rc<Tensor>>];

/// Whether [`apply`] may know it: what is before other operators is then not looked at.
pub(super) fn is_known(op_type: &str) -> bool {
    binary(op_type).is_some()
        || unary(op_type).is_some()
        || matches!(
            op_type,
            "Identity"
                | "Cast"
                | "Where"
                | "Reshape"
                | "Squeeze"
                | "Unsqueeze"
                | "Expand"
                | "Transpose"
                | "Concat"
                | "Gather"
                | "GatherND"
                | "Slice"
                | "Range"
                | "ConstantOfShape"
                | "Trilu"
                | "CumSum"
                | "ReduceSum"
                | "ReduceMax"
                | "ReduceMin"
        )
}

/// What an operator gives; `None` where it, or an attribute, is not known here, or its inputs do not go together.
pub(super) fn apply(node: &Node, inputs: Inputs<'_>) -> Option<Tensor> {
    let input = |index: usize| inputs.get(index).and_then(Option::as_deref);
    let op_type = node.op_type.as_str();
    if let Some(combine) = binary(op_type) {
        return inputs.iter().skip(1).try_fold(input(0)?.clone(), |a, b| pairwise(op_type, &a, b.as_deref()?, combine));
    }
    if let Some(change) = unary(op_type) {
        let x = input(0)?;
        return Tensor::new(x.shape.clone(), x.values.iter().map(|value| change(*value)).collect(), x.whole);
    }
    let x = input(0)?;
    let axis = |axis: i64, rank: usize| axis_of(axis, rank);
    let own_axis = |default: i64| axis(node.int("axis").unwrap_or(default), x.shape.len());
    match op_type {
        "Identity" => Some(x.clone()),
        "Cast" => cast(x, node.int("to")?),
        "Where" => {
            let (yes, no) = (input(1)?, input(2)?);
            let shape = common(&[&x.shape, &yes.shape, &no.shape])?;
            let [test, a, b] = [x, yes, no].map(|tensor| tensor.expanded(&shape));
            let (test, a, b) = (test?, a?, b?);
            let pairs = test.values.iter().zip(a.values.iter().zip(&b.values));
            let values = pairs.map(|(test, (a, b))| if *test == 0.0 { *b } else { *a }).collect();
            Tensor::new(shape, values, yes.whole)
        }
        "Reshape" => x.reshaped(target(x, input(1)?, node.int("allowzero") == Some(1))?),
        "Squeeze" => {
            let axes = axes(node, input(1), x.shape.len())?;
            let kept = x.shape.iter().enumerate().filter(|(axis, size)| match &axes {
                Some(axes) => !axes.contains(axis),
                None => **size != 1,
            });
            x.reshaped(kept.map(|(_, size)| *size).collect())
        }
        "Unsqueeze" => {
            let listed = listed(node, input(1)).filter(|listed| listed.len() <= MOST_AXES)?;
            let rank = x.shape.len() + listed.len();
            let places = listed.iter().map(|place| axis(*place, rank)).collect::<Option<Vec<_>>>()?;
            let mut sizes = x.shape.iter();
            let shape = (0..rank).map(|place| if places.contains(&place) { Some(1) } else { sizes.next().copied() });
            x.reshaped(shape.collect::<Option<_>>()?)
        }
        "Expand" => {
            let wanted = whole_sizes(input(1)?)?;
            x.expanded(&common(&[&x.shape, &wanted])?)
        }
        "Transpose" => {
            let order = match node.ints("perm") {
                Some(order) => order.iter().map(|axis| usize::try_from(*axis).ok()).collect::<Option<Vec<_>>>()?,
                None => (0..x.shape.len()).rev().collect(),
            };
            x.transposed(&order)
        }
        "Concat" => {
            let parts = inputs.iter().map(Option::as_deref).collect::<Option<Vec<_>>>()?;
            Tensor::joined(&parts, axis(node.int("axis")?, x.shape.len())?)
        }
        "Gather" => x.gathered(own_axis(0)?, input(1)?),
        "GatherND" if node.int("batch_dims").unwrap_or(0) == 0 => x.gathered_at(input(1)?),
        "Slice" => slice(x, inputs),
        "Range" => {
            let (start, end, step) = (x.uniform()?, input(1)?.uniform()?, input(2)?.uniform()?);
            #[allow(clippy::as_conversions)] // Saturates.
            let count = ((end - start) / step).ceil() as usize;
            let sized = Tensor::filled(vec![count], 0.0, x.whole)?;
            let mut next = start - step;
            let values = sized.values.iter().map(|_| {
                next += step;
                next
            });
            Tensor::new(vec![count], values.collect(), x.whole)
        }
        "ConstantOfShape" => {
            let value = match node.attributes.get("value") {
                None => 0.0,
                Some(Attribute::Number(value)) => f64::from(*value),
                Some(_) => return None,
            };
            Tensor::filled(whole_sizes(x)?, value, value.fract() == 0.0)
        }
        "Trilu" => trilu(x, input(1), node.int("upper") != Some(0)),
        "CumSum" => {
            if node.int("exclusive") == Some(1) || node.int("reverse") == Some(1) {
                return None;
            }
            let running = |line: &[f64]| {
                let mut sum = 0.0;
                let add = |value: &f64| {
                    sum += value;
                    sum
                };
                line.iter().map(add).collect()
            };
            x.by_line(axis(input(1)?.one_integer()?, x.shape.len())?, true, running)
        }
        "ReduceSum" | "ReduceMax" | "ReduceMin" => reduce(node, x, input(1)),
        _ => None,
    }
}

fn binary(op_type: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match op_type {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Mod" => |a, b| a - b * (a / b).floor(),
        "Pow" => libm::pow,
        "Min" => f64::min,
        "Max" => f64::max,
        "Equal" => |a, b| f64::from(a == b),
        "Less" => |a, b| f64::from(a < b),
        "LessOrEqual" => |a, b| f64::from(a <= b),
        "Greater" => |a, b| f64::from(a > b),
        "GreaterOrEqual" => |a, b| f64::from(a >= b),
        "And" => |a, b| f64::from(a != 0.0 && b != 0.0),
        "Or" => |a, b| f64::from(a != 0.0 || b != 0.0),
        "Xor" => |a, b| f64::from((a != 0.0) != (b != 0.0)),
        _ => return None,
    })
}

fn pairwise(op_type: &str, a: &Tensor, b: &Tensor, combine: fn(f64, f64) -> f64) -> Option<Tensor> {
    let shape = common(&[&a.shape, &b.shape])?;
    let (x, y) = (a.expanded(&shape)?, b.expanded(&shape)?);
    let whole = a.whole && b.whole;
    // What is left of a division of whole numbers is cut off, and none divides by zero.
    let divides = whole && matches!(op_type, "Div" | "Mod");
    if divides && y.values.contains(&0.0) {
        return None;
    }
    let values = x.values.iter().zip(&y.values).map(|(a, b)| {
        let value = combine(*a, *b);
        if divides { value.trunc() } else { value }
    });
    let compared = matches!(op_type, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual");
    Tensor::new(shape, values.collect(), whole || compared)
}

fn unary(op_type: &str) -> Option<fn(f64) -> f64> {
    Some(match op_type {
        "Not" => |x| f64::from(x == 0.0),
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Sqrt" => f64::sqrt,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Log" => libm::log,
        "Exp" => libm::exp,
        "Reciprocal" => |x| 1.0 / x,
        _ => return None,
    })
}

fn cast(x: &Tensor, to: i64) -> Option<Tensor> {
    let to = ElementType::try_from(i32::try_from(to).ok()?).ok()?;
    let to_truth = |value: &f64| f64::from(*value != 0.0);
    use ElementType as T;
    let (values, whole): (Vec<f64>, bool) = match to {
        T::Bool => (x.values.iter().map(to_truth).collect(), true),
        T::Float | T::Float16 | T::Bfloat16 | T::Double => (x.values.clone(), false),
        T::Int64 | T::Int32 | T::Uint64 | T::Uint32 | T::Int16 | T::Int8 | T::Uint8 => {
            (x.values.iter().map(|value| value.trunc()).collect(), true)
        }
        _ => return None,
    };
    Tensor::new(x.shape.clone(), values, whole)
}

fn slice(x: &Tensor, inputs: Inputs<'_>) -> Option<Tensor> {
    let list = |index: usize| inputs.get(index).and_then(Option::as_deref).map(|t| t.integers().collect::<Vec<_>>());
    let (starts, ends) = (list(1)?, list(2)?);
    let axes = list(3).unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = list(4).unwrap_or_else(|| vec![1; starts.len()]);
    let mut out = x.clone();
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        out = out.sliced(axis_of(axis, x.shape.len())?, start, end, step)?;
    }
    Some(out)
}

fn trilu(x: &Tensor, shift: Option<&Tensor>, upper: bool) -> Option<Tensor> {
    let shift = shift.map_or(Some(0), Tensor::one_integer)?;
    let [.., rows, columns] = x.shape.as_slice() else { return None };
    let (rows, columns) = (i64::try_from(*rows).ok()?, i64::try_from(*columns).ok()?);
    let keep = |index: i64| {
        let (row, column) = (index.checked_div(columns)?.checked_rem(rows)?, index.checked_rem(columns)?);
        let over = (column - row).saturating_sub(shift);
        Some(if upper { over >= 0 } else { over <= 0 })
    };
    let values = (0_i64..).zip(&x.values).map(|(index, value)| keep(index).map(|kept| if kept { *value } else { 0.0 }));
    Tensor::new(x.shape.clone(), values.collect::<Option<_>>()?, x.whole)
}

fn reduce(node: &Node, x: &Tensor, listed: Option<&Tensor>) -> Option<Tensor> {
    let rank = x.shape.len();
    let mut axes = axes(node, listed, rank)?.unwrap_or_else(|| (0..rank).collect());
    axes.sort_unstable();
    let keep = node.int("keepdims") != Some(0);
    // From the last on, so that those before keep their places.
    axes.iter().rev().try_fold(x.clone(), |x, axis| {
        x.by_line(*axis, keep, |line| {
            vec![match node.op_type.as_str() {
                "ReduceSum" => line.iter().sum(),
                "ReduceMax" => line.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                _ => line.iter().copied().fold(f64::INFINITY, f64::min),
            }]
        })
    })
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

/// Axes as an input, or as the attribute of older operators.
fn listed(node: &Node, input: Option<&Tensor>) -> Option<Vec<i64>> {
    input.map(|axes| axes.integers().collect()).or_else(|| node.ints("axes").map(<[i64]>::to_vec))
}

/// The same, counted from the front; inside, `None` where none are listed.
#[allow(clippy::option_option)] // Unreadable, and not listed.
fn axes(node: &Node, input: Option<&Tensor>, rank: usize) -> Option<Option<Vec<usize>>> {
    let Some(listed) = listed(node, input) else { return Some(None) };
    if listed.len() > MOST_AXES {
        return None;
    }
    Some(Some(listed.iter().map(|axis| axis_of(*axis, rank)).collect::<Option<_>>()?))
}

fn whole_sizes(shape: &Tensor) -> Option<Vec<usize>> {
    shape.integers().map(|size| usize::try_from(size).ok()).collect()
}

/// The shape that `Reshape` gives.
fn target(x: &Tensor, wanted: &Tensor, zero_is_zero: bool) -> Option<Vec<usize>> {
    let mut shape = Vec::new();
    let mut open = None;
    for (place, size) in wanted.integers().enumerate() {
        shape.push(match size {
            0 if !zero_is_zero => *x.shape.get(place)?,
            -1 => {
                open = Some(place);
                1
            }
            size => usize::try_from(size).ok()?,
        });
    }
    if let Some(place) = open {
        let others = super::tensor::count(&shape)?;
        *shape.get_mut(place)? = x.values.len().checked_div(others)?;
    }
    Some(shape)
}
