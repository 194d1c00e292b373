//! Tables of cosines and sines, against the angles that the checkpoint's rope has.

use genai_architectures::{Rope, RopeId, RopeScaling};

use super::Examination;
use crate::graph::ElementType;
use crate::report::Severity;

/// Rows of a table that are read at once.
const ROWS: usize = 1024;

/// A row of a table: which position it is for, and in a text of which length.
type Row = (usize, usize);

impl<'a> Examination<'a> {
    /// Compares a layer's tables, once for all layers that share them.
    pub(super) fn check_tables(&mut self, name: &str, id: RopeId, cos: &'a str, sin: &'a str, at: &str) {
        let key = (cos.to_owned(), sin.to_owned(), id.0);
        if self.tables.contains(&key) {
            return;
        }
        self.tables.push(key);
        let spec = self.spec;
        let rope = spec.rope(id);
        if matches!(rope.scaling, RopeScaling::Dynamic { .. }) {
            return self.tell(
                Severity::Info,
                "not-recognised",
                at,
                format!("{name}: the tables of dynamic rope are computed and not compared"),
            );
        }
        let pairs = self.table_pairs(cos, sin);
        if pairs.is_empty() {
            return self.tell(
                Severity::Info,
                "not-recognised",
                at,
                format!("{name}: the tables of cosines and sines are computed and not compared"),
            );
        }
        // One of several tables is for short texts, the other for long ones.
        let several = pairs.len() > 1;
        for (cos, sin, long) in pairs {
            self.check_table(name, rope, cos, sin, several.then_some(long));
        }
    }

    /// The constants that two values are cut from; of a branch, whether it is for long texts.
    fn table_pairs(&self, cos: &'a str, sin: &'a str) -> Vec<(&'a str, &'a str, bool)> {
        let constant = |mut name: &'a str| {
            for _ in 0..16 {
                name = self.trail.origin(name);
                if self.graph.initializer(name).is_some() {
                    return Ok(name);
                }
                match self.graph.producer(name) {
                    Some(node) if matches!(node.op_type.as_str(), "Slice" | "Gather") => {
                        name = node.input(0).ok_or(None)?;
                    }
                    Some(node) if node.op_type == "If" => return Err(Some(node)),
                    _ => return Err(None),
                }
            }
            Err(None)
        };
        match (constant(cos), constant(sin)) {
            (Ok(cos), Ok(sin)) => vec![(cos, sin, false)],
            (Err(Some(node)), Err(Some(_))) => {
                let of =
                    |value: &'a str| node.outputs.iter().position(|output| output.as_str() == self.trail.origin(value));
                let (Some(c), Some(s)) = (of(cos), of(sin)) else { return Vec::new() };
                let branches = self.graph.branches.iter().filter(|branch| branch.scope.starts_with(node.label()));
                let pairs = branches.filter_map(|branch| {
                    let tensor = |place: usize| {
                        let name = self.trail.origin(branch.outputs.get(place)?.name.as_str());
                        self.graph.initializer(name).map(|tensor| tensor.name.as_str())
                    };
                    // The condition is whether the text is longer than the model's first context.
                    Some((tensor(c)?, tensor(s)?, branch.scope.ends_with("then_branch")))
                });
                pairs.collect()
            }
            _ => Vec::new(),
        }
    }

    fn check_table(&mut self, name: &str, rope: &Rope, cos: &'a str, sin: &'a str, long: Option<bool>) {
        let shape = self.graph.initializer(cos).map(|tensor| (tensor.shape.clone(), tensor.dtype));
        let Some((shape, dtype)) = shape else { return };
        let &[rows, pairs] = shape.as_slice() else { return };
        let message = || {
            format!(
                "{name}: `{cos}` has {pairs} columns, which rotates {} dimensions of a head, expected {}",
                2 * pairs,
                rope.dim
            )
        };
        if !self.expect(2 * pairs == rope.dim, "rotation", cos, message) {
            return;
        }
        let layout = layout(rope, rows, self.spec.context_length, long);
        let enough = layout.as_ref().map(|of| of(rows.saturating_sub(1))).map_or(0, |(position, _)| position + 1);
        // What is for short texts need not be longer.
        if long != Some(false) {
            let context = self.spec.context_length;
            self.checks += 1;
            if enough < context {
                let message =
                    format!("{name}: `{cos}` has rows for {enough} positions, the checkpoint's context is {context}");
                self.tell(Severity::Warning, "rotation", cos, message);
            }
        }
        let Some(layout) = layout else { return };
        match self.worst(rope, cos, sin, (rows, pairs), dtype, &*layout) {
            Ok(None) => self.checks += 1,
            Ok(Some(cause)) => {
                self.expect(false, "rotation", cos, || format!("{name}: {cause}"));
            }
            Err(error) => {
                self.expect(false, "rotation", cos, || format!("{name}: the tables cannot be read: {error}"));
            }
        }
    }

    /// What is wrong with the tables, in words.
    fn worst(
        &self,
        rope: &Rope,
        cos: &str,
        sin: &str,
        (rows, pairs): (usize, usize),
        dtype: ElementType,
        layout: &dyn Fn(usize) -> Row,
    ) -> crate::Result<Option<String>> {
        let (Some(cosines), Some(sines)) = (self.graph.initializer(cos), self.graph.initializer(sin)) else {
            return Ok(None);
        };
        if sines.shape != cosines.shape {
            return Ok(Some(format!(
                "`{sin}` has shape {:?}, expected that of `{cos}`, {:?}",
                sines.shape, cosines.shape
            )));
        }
        let grain = match dtype {
            ElementType::Float16 => 1e-3,
            ElementType::Bfloat16 => 8e-3,
            _ => 1e-5,
        };
        let (mut c, mut s) = (Vec::new(), Vec::new());
        let mut frequencies = (usize::MAX, Vec::new());
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let first = u64::try_from(start * pairs).unwrap_or(u64::MAX);
            self.graph.numbers(cosines, first, count * pairs, &mut c)?;
            self.graph.numbers(sines, first, count * pairs, &mut s)?;
            for (row, (c, s)) in (start..).zip(c.chunks_exact(pairs).zip(s.chunks_exact(pairs))) {
                let (position, length) = layout(row);
                if frequencies.0 != length {
                    frequencies = (length, rope.inverse_frequencies(length));
                }
                let factor = rope.attention_factor(length);
                for (pair, (frequency, (c, s))) in frequencies.1.iter().zip(c.iter().zip(s)).enumerate() {
                    let (cosine, sine, angle) = turn(position, *frequency, factor);
                    // Angles are rounded to f32, in whatever order they are computed.
                    let limit = (grain + 4e-7 * angle) * factor.max(1.0);
                    let wrong = |found: f32, expected: f32| {
                        let error = (found - expected).abs();
                        error.is_nan() || error > limit
                    };
                    if wrong(*c, cosine) || wrong(*s, sine) {
                        let here = format!(
                            "`{cos}` and `{sin}` hold ({c}, {s}) in row {row}, pair {pair}, expected ({cosine}, {sine})"
                        );
                        let cause = self.cause(rope, (cos, sin), (rows, pairs), layout)?;
                        return Ok(Some(format!("{cause}; {here}")));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the tables seem to hold, read from their first rows.
    fn cause(
        &self,
        rope: &Rope,
        (cos, sin): (&str, &str),
        (rows, pairs): (usize, usize),
        layout: &dyn Fn(usize) -> Row,
    ) -> crate::Result<String> {
        let (Some(cosines), Some(sines)) = (self.graph.initializer(cos), self.graph.initializer(sin)) else {
            return Ok("the tables are not those of the checkpoint".to_owned());
        };
        let row = |tensor, row: usize| {
            let mut values = Vec::new();
            let first = u64::try_from(row * pairs).unwrap_or(u64::MAX);
            self.graph.numbers(tensor, first, pairs, &mut values).map(|()| values)
        };
        let close = |a: f32, b: f32| (a - b).abs() < 2e-2;
        let (c0, s0) = (row(cosines, 0)?, row(sines, 0)?);
        let (_, length) = layout(0);
        let factor = rope.attention_factor(length);
        if c0.iter().all(|value| close(*value, 0.0)) && s0.iter().all(|value| close(*value, factor)) {
            return Ok("cosines and sines have changed places".to_owned());
        }
        let all = |cos: &[f32], sin: &[f32], at: usize| {
            let frequencies = rope.inverse_frequencies(length);
            frequencies.iter().zip(cos.iter().zip(sin)).all(|(frequency, (c, s))| {
                let (cosine, sine, _) = turn(at, *frequency, factor);
                close(*c, cosine) && close(*s, sine)
            })
        };
        if all(&c0, &s0, 1) {
            return Ok("the tables begin at position 1 in place of 0: every position is off by one".to_owned());
        }
        let amplitude = c0.first().zip(s0.first()).map_or(f32::NAN, |(c, s)| c.hypot(*s));
        if !close(amplitude, factor) && amplitude > 0.0 {
            return Ok(format!("cosines and sines are multiplied by {amplitude}, expected {factor}"));
        }
        if rows < 2 {
            return Ok("the tables are not those of the checkpoint".to_owned());
        }
        let (c1, s1) = (row(cosines, 1)?, row(sines, 1)?);
        if all(&c1, &s1, 1) {
            return Ok(
                "the first rows are right and later ones are not: the tables are damaged or stop early".to_owned()
            );
        }
        // The angle of position 1 is the frequency itself.
        let found = |pair: usize| Some(f64::from(s1.get(pair)?.atan2(*c1.get(pair)?)));
        let theta = found(1).filter(|angle| *angle > 0.0 && pairs > 1).map(|angle| {
            #[allow(clippy::as_conversions)] // Small counts.
            let dim = rope.dim as f64;
            libm::pow(1.0 / angle, dim / 2.0)
        });
        Ok(match theta {
            Some(theta) if rope.scaling == RopeScaling::None => {
                format!("the angles fit a theta of {theta:.1}, expected {}", rope.theta)
            }
            _ => format!("the angles are not those of `{}` rope with theta {}", rope.scaling.kind(), rope.theta),
        })
    }
}

fn turn(position: usize, frequency: f32, factor: f32) -> (f32, f32, f32) {
    #[allow(clippy::as_conversions)] // As models are trained: positions and angles in f32.
    let angle = position as f32 * frequency;
    let (sine, cosine) = libm::sincos(f64::from(angle));
    #[allow(clippy::as_conversions)]
    let (cosine, sine) = (cosine as f32 * factor, sine as f32 * factor);
    (cosine, sine, angle.abs())
}

/// What the rows of a table are for.
fn layout(rope: &Rope, rows: usize, context: usize, long: Option<bool>) -> Option<Box<dyn Fn(usize) -> Row>> {
    let RopeScaling::LongRope { original_context, .. } = rope.scaling else {
        return Some(Box::new(move |row| (row, context)));
    };
    match long {
        Some(true) => Some(Box::new(move |row| (row, context.max(original_context + 1)))),
        Some(false) => Some(Box::new(move |row| (row, original_context))),
        // Rows for short texts first, then from position 0 on those for long ones.
        None if rows > original_context && rows >= original_context + context.min(rows - original_context) => {
            Some(Box::new(move |row| match row.checked_sub(original_context) {
                Some(row) => (row, context.max(original_context + 1)),
                None => (row, original_context),
            }))
        }
        None => Some(Box::new(move |row| (row, original_context))),
    }
}
