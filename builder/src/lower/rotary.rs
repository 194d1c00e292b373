//! Tables of cosines and sines, `[positions, rotated / 2]`: stored, or computed where they depend on the length.

use genai_architectures::{Mixer, Rope, RopeId, RopeLayout, RopeScaling};

use super::{Lowering, mask::Lengths};
use crate::{
    Result,
    graph::{
        Constant, Dtype, Value,
        ops::{Add, Cast, Cos, Div, Max, Mul, Pow, Range, Sin, Unsqueeze},
    },
    plan::{Job, RotaryPart, Rows, Sink},
};

impl Lowering<'_> {
    /// Whether any layer needs positions as an input of the graph.
    pub(super) fn rotates_outside_attention(&self) -> bool {
        self.spec.layers.iter().any(|layer| {
            let Mixer::Attention(attention) = &layer.mixer;
            !self.rotates_inside_attention(attention)
        })
    }

    /// Cosines and sines of a rope; made once.
    pub(super) fn rotary_tables(&mut self, id: RopeId, lengths: &Lengths) -> Result<(Value, Value)> {
        if let Some(tables) = self.rotary.get(&id.0) {
            return Ok(*tables);
        }
        let spec = self.spec;
        let rope = spec.rope(id);
        let RopeLayout::Half = rope.layout;
        let suffix = if id.0 == 0 { String::new() } else { format!("_{}", id.0) };
        let tables = match rope.scaling {
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } | RopeScaling::Llama3 { .. } => {
                let cos = self.stored_table(&format!("cos_cache{suffix}"), rope, RotaryPart::Cos)?;
                let sin = self.stored_table(&format!("sin_cache{suffix}"), rope, RotaryPart::Sin)?;
                (cos, sin)
            }
            RopeScaling::Dynamic { factor, original_context } => {
                let path = format!("/model/rotary_emb{suffix}");
                self.dynamic_tables(&path, rope, factor, original_context, lengths.total_sequence_length)?
            }
        };
        self.rotary.insert(id.0, tables);
        Ok(tables)
    }

    fn stored_table(&mut self, name: &str, rope: &Rope, part: RotaryPart) -> Result<Value> {
        let (n, k) = (self.spec.context_length, rope.dim / 2);
        let (value, slot) = self.stored(name, self.dtype, &[n, k])?;
        let rows = Rows::Rotary { rope: rope.clone(), part };
        self.jobs.push(Job { rows, n, k, sink: Sink::Dense { slot, dtype: self.dtype } });
        Ok(value)
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
        let exponents = graph.constant(Constant::Floats(exponents))?;
        let wavelengths = graph.add(&at("wavelengths/Pow"), &Pow(base, exponents))?;
        let (zero, one) = (graph.constant(Constant::Float(0.0))?, graph.constant(Constant::Float(1.0))?);
        let range = Range { start: zero, limit: length, delta: one, length: "total_sequence_length" };
        let positions = graph.add(&at("positions/Range"), &range)?;
        let axis = graph.constant(Constant::Int64s(vec![1]))?;
        let positions = graph.add(&at("positions/Unsqueeze"), &Unsqueeze { input: positions, axes: axis })?;
        let angles = graph.add(&at("angles/Div"), &Div(positions, wavelengths))?;
        let cos = graph.add(&at("Cos"), &Cos(angles))?;
        let sin = graph.add(&at("Sin"), &Sin(angles))?;
        if self.dtype == Dtype::F32 {
            return Ok((cos, sin));
        }
        let cos = graph.add(&at("cos/Cast"), &Cast { input: cos, to: self.dtype })?;
        let sin = graph.add(&at("sin/Cast"), &Cast { input: sin, to: self.dtype })?;
        Ok((cos, sin))
    }
}
