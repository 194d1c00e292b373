//! The rotation of heads in standard operators.
//!
//! ```text
//! position_ids ─► Gather cos, sin ─► Unsqueeze                        [batch, sequence, 1, rotated / 2]
//!
//! halves      x ─► Split a, b, rest ─► a cos - b sin, b cos + a sin, rest ─► Concat
//! neighbours  x ─► Split x, rest ─► Reshape [.., rotated / 2, 2] ─► Split a, b ─► the same ─► Concat, Reshape
//! ```

use genai_architectures::Attention;

use super::Lowering;
use crate::{
    Result,
    graph::{
        Constant, Dim, Value,
        ops::{Add, Concat, Gather, Mul, Place, Reshape, Rotation, Split, Sub, Unsqueeze},
    },
};

impl Lowering<'_> {
    /// Heads `[batch, sequence, heads * head_dim]` with the first `rotated` dimensions of each turned.
    pub(super) fn standard_rotation(
        &mut self,
        path: &str,
        input: Value,
        num_heads: usize,
        attention: &Attention,
        rotated: usize,
        rotation: Rotation,
    ) -> Result<Value> {
        let (head_dim, half) = (attention.head_dim, rotated / 2);
        let at = |part: &str| format!("{path}/{part}");
        let (cos, sin) = self.rotary_rows(rotation)?;
        let apart = self.apart(&at("Reshape_1"), input, num_heads, head_dim)?;
        let (turning, rest) = self.cut(&at("rest"), apart, rotated, head_dim)?;
        let mut parts = if rotation.interleaved {
            let mut shape = self.graph.fact(turning).shape.clone();
            shape.pop();
            shape.extend([Dim::Known(half as u64), Dim::Known(2)]);
            let pairs = [0, 0, num_heads as i64, half as i64, 2];
            let target = self.graph.constant(Constant::Int64s(pairs.to_vec()))?;
            let paired = self.graph.add(&at("pairs/Reshape"), &Reshape { input: turning, target, shape })?;
            let axes = self.graph.constant(Constant::Int64s(vec![4]))?;
            let mut wide =
                |name: &str, input: Value| self.graph.add(&at(name), &Unsqueeze { input, axes, place: Place::End });
            let (cos, sin) = (wide("cos/Unsqueeze", cos)?, wide("sin/Unsqueeze", sin)?);
            let (a, b) = self.cut(&at("pairs"), paired, 1, 2)?;
            let turned = self.turned(path, a, b.unwrap_or(a), cos, sin)?;
            let paired =
                self.graph.add(&at("pairs/Concat"), &Concat { inputs: turned.into(), axis: 4, total: None })?;
            let mut shape = self.graph.fact(apart).shape.clone();
            shape[3] = Dim::Known(rotated as u64);
            let target = vec![0, 0, num_heads as i64, rotated as i64];
            let target = self.graph.constant(Constant::Int64s(target))?;
            vec![self.graph.add(&at("whole/Reshape"), &Reshape { input: paired, target, shape })?]
        } else {
            let (a, b) = self.cut(&at("halves"), turning, half, rotated)?;
            self.turned(path, a, b.unwrap_or(a), cos, sin)?.into()
        };
        parts.extend(rest);
        let whole = match parts.as_slice() {
            [whole] => *whole,
            _ => self.graph.add(&at("Concat"), &Concat { inputs: parts, axis: 3, total: None })?,
        };
        self.together(&at("Reshape_2"), whole, num_heads * head_dim)
    }

    /// The cosines and sines of the tokens; gathered once for each table.
    fn rotary_rows(&mut self, rotation: Rotation) -> Result<(Value, Value)> {
        if let Some(rows) = self.rotary_rows.get(&rotation.cos) {
            return Ok(*rows);
        }
        let indices = self.positions()?;
        let suffix = match self.rotary_rows.len() {
            0 => String::new(),
            number => format!("_{number}"),
        };
        let axes = self.graph.constant(Constant::Int64s(vec![2]))?;
        let mut rows = |part: &str, data: Value| -> Result<Value> {
            let path = format!("/model/rotary_rows{suffix}/{part}");
            let rows = self.graph.add(&format!("{path}/Gather"), &Gather { data, indices })?;
            let place = Place::Axes(&[2]);
            self.graph.add(&format!("{path}/Unsqueeze"), &Unsqueeze { input: rows, axes, place })
        };
        let rows = (rows("cos", rotation.cos)?, rows("sin", rotation.sin)?);
        self.rotary_rows.insert(rotation.cos, rows);
        Ok(rows)
    }

    /// The last dimension cut behind its first `size`, where something is left of it.
    fn cut(&mut self, path: &str, input: Value, size: usize, whole: usize) -> Result<(Value, Option<Value>)> {
        if size == whole {
            return Ok((input, None));
        }
        let sizes = [size, whole - size];
        let split = self.graph.constant(Constant::Int64s(sizes.map(|size| size as i64).to_vec()))?;
        let name = format!("{path}/Split");
        let split = Split { input, split, sizes: sizes.map(|size| size as u64).to_vec() };
        let parts = self.graph.wire(&name, &name, &split)?;
        Ok((parts[0], Some(parts[1])))
    }

    /// `a cos - b sin` and `b cos + a sin`.
    fn turned(&mut self, path: &str, a: Value, b: Value, cos: Value, sin: Value) -> Result<[Value; 2]> {
        let at = |part: &str| format!("{path}/{part}");
        let graph = &mut self.graph;
        let a_cos = graph.add(&at("a_cos/Mul"), &Mul(a, cos))?;
        let b_sin = graph.add(&at("b_sin/Mul"), &Mul(b, sin))?;
        let first = graph.add(&at("Sub"), &Sub(a_cos, b_sin))?;
        let b_cos = graph.add(&at("b_cos/Mul"), &Mul(b, cos))?;
        let a_sin = graph.add(&at("a_sin/Mul"), &Mul(a, sin))?;
        Ok([first, graph.add(&at("Add"), &Add(b_cos, a_sin))?])
    }
}
