//! Tables of cosines and sines, `[positions, rotated / 2]`: stored, or computed where they depend on the length.

use genai_architectures::{Mixer, Position, Rope, RopeId, RopeScaling};

use super::{Lowering, mask::Lengths};
use crate::{
    Error, Result,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{Add, Cast, Cos, Div, Greater, Max, Mul, Place, Pow, Range, Sin, Slice, Unsqueeze},
    },
    plan::{Job, RotaryPart, RotaryTable, Rows, Sink},
};

impl Lowering<'_> {
    /// Whether the graph takes positions as an input.
    pub(super) fn needs_positions(&self) -> bool {
        let in_layers = self.spec.layers.iter().any(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            let rotates = matches!(attention.position, Position::Rope(_));
            (rotates && !self.rotates_inside(attention)) || attention.query_scaling.is_some()
        });
        in_layers || self.spec.embedding.positions.is_some() || self.settings.attention.is_standard()
    }

    pub(super) fn positions(&self) -> Result<Value> {
        self.position_ids.ok_or_else(|| Error::graph("position_ids", "the graph has no such input"))
    }

    /// Cosines and sines of a rope; made once.
    pub(super) fn rotary_tables(&mut self, id: RopeId, lengths: &Lengths) -> Result<(Value, Value)> {
        if let Some(tables) = self.rotary.get(&id.0) {
            return Ok(*tables);
        }
        let spec = self.spec;
        let rope = spec.rope(id);
        let context_length = self.settings.context_length(spec);
        let suffix = if id.0 == 0 { String::new() } else { format!("_{}", id.0) };
        let path = format!("/model/rotary_emb{suffix}");
        let tables = match rope.scaling {
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Proportional { .. }
            | RopeScaling::Yarn { .. }
            | RopeScaling::Llama3 { .. } => {
                let table = RotaryTable { length: context_length, rows: context_length };
                self.stored_tables(&suffix, rope, &[table])?
            }
            RopeScaling::LongRope { original_context, .. } if original_context < context_length => {
                let short = RotaryTable { length: original_context, rows: original_context };
                let long = RotaryTable { length: context_length, rows: context_length };
                let (cos, sin) = self.stored_tables(&suffix, rope, &[short, long])?;
                self.chosen_tables(&path, cos, sin, original_context, lengths.rows()?.total_sequence_length)?
            }
            // A fixed cache ends before the rope changes, see `check_fixed`.
            RopeScaling::Dynamic { .. } if self.settings.is_fixed() => {
                let table = RotaryTable { length: context_length, rows: context_length };
                self.stored_tables(&suffix, rope, &[table])?
            }
            RopeScaling::LongRope { .. } => {
                let table = RotaryTable { length: context_length, rows: context_length };
                self.stored_tables(&suffix, rope, &[table])?
            }
            RopeScaling::Dynamic { factor, original_context } => {
                self.dynamic_tables(&path, rope, factor, original_context, lengths.rows()?.total_sequence_length)?
            }
        };
        self.rotary.insert(id.0, tables);
        Ok(tables)
    }

    fn stored_tables(&mut self, suffix: &str, rope: &Rope, tables: &[RotaryTable]) -> Result<(Value, Value)> {
        let (n, k) = (tables.iter().map(|table| table.rows).sum(), rope.dim / 2);
        let mut stored = |name: &str, part: RotaryPart| -> Result<Value> {
            let (value, slot) = self.stored(&format!("{name}{suffix}"), self.dtype, &[n, k])?;
            let rows = Rows::Rotary { rope: rope.clone(), part, tables: tables.to_vec() };
            self.jobs.push(Job { rows, n, k, sink: Sink::Dense { slot, dtype: self.dtype } });
            Ok(value)
        };
        Ok((stored("cos_cache", RotaryPart::Cos)?, stored("sin_cache", RotaryPart::Sin)?))
    }

    /// Of two tables one behind the other: the first up to `first_rows` tokens, the second for longer sequences.
    ///
    /// ```text
    /// start = total > first_rows ? first_rows : 0;  table[start .. start + total]
    /// ```
    fn chosen_tables(
        &mut self,
        path: &str,
        cos: Value,
        sin: Value,
        first_rows: usize,
        total: Value,
    ) -> Result<(Value, Value)> {
        let graph = &mut self.graph;
        let at = |name: &str| format!("{path}/{name}");
        let total = graph.add(&at("total/Cast"), &Cast { input: total, to: Dtype::I64 })?;
        let boundary = graph.constant(Constant::Int64(first_rows as i64))?;
        let is_long = graph.add(&at("Greater"), &Greater(total, boundary))?;
        let is_long = graph.add(&at("Greater/Cast"), &Cast { input: is_long, to: Dtype::I64 })?;
        let start = graph.add(&at("start/Mul"), &Mul(is_long, boundary))?;
        let end = graph.add(&at("end/Add"), &Add(start, total))?;
        let front = graph.constant(Constant::Int64s(vec![0]))?;
        let starts = Unsqueeze { input: start, axes: front, place: Place::Front };
        let starts = graph.add(&at("start/Unsqueeze"), &starts)?;
        let ends = graph.add(&at("end/Unsqueeze"), &Unsqueeze { input: end, axes: front, place: Place::Front })?;
        let mut slice = |name: &str, data: Value| {
            let mut shape = graph.fact(data).shape.clone();
            shape[0] = Dim::Symbol("total_sequence_length");
            graph.add(&at(name), &Slice { data, starts, ends, axes: front, shape })
        };
        Ok((slice("cos/Slice", cos)?, slice("sin/Slice", sin)?))
    }

    /// The table for a sequence of `length` tokens, as [`Rope::inverse_frequencies`] defines it:
    ///
    /// ```text
    /// stretch = factor * max(length, context) / context - (factor - 1)
    /// base    = theta * stretch ^ (dim / (dim - 2))
    /// angle   = position * base ^ (-2 * pair / dim)
    /// ```
    fn dynamic_tables(
        &mut self,
        path: &str,
        rope: &Rope,
        factor: f64,
        original_context: usize,
        length: Value,
    ) -> Result<(Value, Value)> {
        let graph = &mut self.graph;
        let (dim, context) = (rope.dim as f64, original_context as f64);
        let at = |name: &str| format!("{path}/{name}");

        let length = graph.add(&at("length/Cast"), &Cast { input: length, to: Dtype::F32 })?;
        let shortest = graph.constant(Constant::Float(context as f32))?;
        let at_least = graph.add(&at("Max"), &Max(length, shortest))?;
        let slope = graph.constant(Constant::Float((factor / context) as f32))?;
        let slope = graph.add(&at("stretch/Mul"), &Mul(at_least, slope))?;
        let offset = graph.constant(Constant::Float((1.0 - factor) as f32))?;
        let stretch = graph.add(&at("stretch/Add"), &Add(slope, offset))?;
        let exponent = graph.constant(Constant::Float((dim / (dim - 2.0)) as f32))?;
        let growth = graph.add(&at("base/Pow"), &Pow(stretch, exponent))?;
        let theta = graph.constant(Constant::Float(rope.theta as f32))?;
        let base = graph.add(&at("base/Mul"), &Mul(growth, theta))?;

        let exponents = (0..rope.dim / 2).map(|pair| ((2 * pair) as f64 / dim) as f32).collect();
        let exponents = graph.constant(Constant::Floats { values: exponents, dims: vec![rope.dim / 2] })?;
        let wavelengths = graph.add(&at("wavelengths/Pow"), &Pow(base, exponents))?;
        let (zero, one) = (graph.constant(Constant::Float(0.0))?, graph.constant(Constant::Float(1.0))?);
        let range = Range { start: zero, limit: length, delta: one, length: "total_sequence_length" };
        let positions = graph.add(&at("positions/Range"), &range)?;
        let axis = graph.constant(Constant::Int64s(vec![1]))?;
        let positions =
            graph.add(&at("positions/Unsqueeze"), &Unsqueeze { input: positions, axes: axis, place: Place::End })?;
        let angles = graph.add(&at("angles/Div"), &Div(positions, wavelengths))?;
        let cos = graph.add(&at("Cos"), &Cos(angles))?;
        let sin = graph.add(&at("Sin"), &Sin(angles))?;
        let cos = self.in_activation_dtype(&at("cos"), cos)?;
        let sin = self.in_activation_dtype(&at("sin"), sin)?;
        Ok((cos, sin))
    }
}
