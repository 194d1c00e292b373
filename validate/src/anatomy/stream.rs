//! The walk along the residual stream, from the logits back to the embedding.

use genai_architectures::{Layer, Mixer, Norm, Residual};

use super::expected::Part;
use super::trail::{Branch, Point};
use super::{Examination, layer_name};
use crate::report::Severity;

/// What a branch of the stream is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mixer,
    Mlp,
}

impl<'a> Examination<'a> {
    /// Holds every step that is known against the spec, and learns which matrix does what.
    pub(super) fn walk(&mut self) {
        let Some(mut at) = self.end() else { return };
        let spec = self.spec;
        for (index, layer) in spec.layers.iter().enumerate().rev() {
            match self.layer(index, layer, at) {
                Some(before) => at = before,
                None => {
                    let message = format!(
                        "from here back the graph is spelled in a way that is not known here: wiring, norms and attention \
                         of layers 0 to {index} are not all checked"
                    );
                    return self.tell(Severity::Info, "not-recognised", &layer_name(index), message);
                }
            }
        }
        self.beginning(at);
    }

    /// Everything behind the layers. Gives the stream that leaves the last one.
    fn end(&mut self) -> Option<Point<'a>> {
        let graph = self.graph;
        let logits = graph.output(&self.names.logits).map(|value| value.name.as_str());
        let Some(logits) = logits else {
            let at = self.names.logits.clone();
            self.tell(
                Severity::Info,
                "not-recognised",
                &at,
                "the graph has no such output, so its layers are not checked",
            );
            return None;
        };
        let (mut at, mut cap, mut factor, mut steps) = (logits, None, 1.0, 0);
        let product = loop {
            steps += 1;
            match self.trail.product(at) {
                Some(product) => break product,
                None if steps > 32 => return None,
                None => {}
            }
            let node = self.trail.maker(at)?;
            match node.op_type.as_str() {
                "Tanh" => {
                    // What came before was `cap *`, and `/ cap` follows.
                    cap = Some(factor);
                    factor = 1.0;
                    at = node.input(0)?;
                    if let Some((inner, by)) = self.trail.maker(at).and_then(|node| self.trail.factor(node)) {
                        let divisor = 1.0 / by;
                        let name = "what the logits are divided by before the softcap's tanh";
                        self.expect_number("logit-softcap", node.label(), name, divisor, cap.unwrap_or(1.0));
                        at = inner;
                    }
                }
                "Where" => at = node.inputs.get(1..)?.iter().find(|input| !self.trail.is_constant(input))?,
                "Gather" | "Slice" | "GatherND" | "ScatterND" => at = node.input(0)?,
                _ => match self.trail.factor(node) {
                    Some((inner, by)) => (at, factor) = (inner, factor * by),
                    None => {
                        let message = format!("the logits come from a {}, which is not known here", node.op_type);
                        self.tell(Severity::Info, "not-recognised", node.label(), message);
                        return None;
                    }
                },
            }
        };
        let at = product.node.label();
        match (self.spec.logit_softcap, cap) {
            (None, None) => {}
            (Some(expected), Some(found)) => {
                self.expect_number("logit-softcap", at, "the softcap of the logits", found, expected.into());
            }
            (Some(expected), None) => {
                let message = || format!("the logits have no softcap, expected {expected} * tanh(logits / {expected})");
                self.expect(false, "logit-softcap", at, message);
            }
            (None, Some(found)) => {
                let message = || format!("the logits have a softcap of {found}, the checkpoint has none");
                self.expect(false, "logit-softcap", at, message);
            }
        }
        let scale = self.spec.logit_scale.map_or(1.0, f64::from);
        self.expect_number("logit-scale", at, "the factor on the logits", factor, scale);
        self.assign(product.matrix, Part::Head);
        self.check_bias(&product, Part::Head, product.node.label());
        let mut normed = product.input;
        // Of the last token alone.
        for _ in 0..4 {
            let picks = self
                .trail
                .maker(normed)
                .filter(|node| matches!(node.op_type.as_str(), "Gather" | "GatherND" | "Slice"));
            normed = picks.and_then(|node| node.input(0)).unwrap_or(normed);
        }
        let Some(norm) = self.trail.norm(normed) else {
            if self.trail.is_not_normed(normed) {
                let message = || "the head reads what is not normed, expected the final norm".to_owned();
                self.expect(false, "wiring", at, message);
            } else {
                self.not_compared("the head", at, "the final norm");
            }
            return None;
        };
        let spec = &self.spec.final_norm;
        self.check_norm(&norm, spec, self.spec.hidden_size, "the final norm");
        Some(norm.input)
    }

    /// Gives the stream that enters the layer.
    fn layer(&mut self, index: usize, layer: &'a Layer, at: Point<'a>) -> Option<Point<'a>> {
        let name = layer_name(index);
        let (mixer, mlp) = match &layer.residual {
            Residual::PreNorm { mixer_norm, mlp_norm, scale } => {
                let scale = scale.map_or(1.0, f64::from);
                ((Some(mixer_norm), None, scale), (Some(mlp_norm), None, scale))
            }
            Residual::PostNorm { mixer_norm, mlp_norm } => ((None, Some(mixer_norm), 1.0), (None, Some(mlp_norm), 1.0)),
            Residual::Sandwich { mixer_pre, mixer_post, mlp_pre, mlp_post } => {
                ((Some(mixer_pre), Some(mixer_post), 1.0), (Some(mlp_pre), Some(mlp_post), 1.0))
            }
            Residual::Parallel { mixer_norm, mlp_norm } => {
                let (stream, mixed, fed) = self.parallel(at)?;
                self.mlp(index, layer, fed, (Some(mlp_norm.as_ref().unwrap_or(mixer_norm)), None, 1.0), stream)?;
                self.mixer(index, layer, mixed, (Some(mixer_norm), None, 1.0), stream)?;
                return Some(stream);
            }
            Residual::ScaledSandwich { .. } | Residual::AltUp(_) => return None,
        };
        let (between, fed) = self.split(at, Kind::Mlp, &name)?;
        self.mlp(index, layer, fed, mlp, between)?;
        let (before, mixed) = self.split(between, Kind::Mixer, &name)?;
        self.mixer(index, layer, mixed, mixer, before)?;
        Some(before)
    }

    /// Divides a sum of the stream into what went before and what a module adds.
    fn split(&mut self, at: Point<'a>, wanted: Kind, layer: &str) -> Option<(Point<'a>, Branch<'a>)> {
        let module = match wanted {
            Kind::Mixer => "attention",
            Kind::Mlp => "the MLP",
        };
        let (node, [a, b]) = match at {
            Point::Sum { node, terms } => (node, terms),
            Point::Value(name) => {
                if let Some(norm) = self.trail.norm(name) {
                    let message = || {
                        format!(
                            "{layer}: the residual stream behind {module} is taken from behind the norm `{}`, expected what \
                             enters it",
                            norm.node.label()
                        )
                    };
                    self.expect(false, "residual", norm.node.label(), message);
                    let behind = matches!(norm.input, Point::Sum { .. });
                    return if behind { self.split(norm.input, wanted, layer) } else { None };
                }
                if let Some(branch) = self.trail.branch(name) {
                    let label = branch.product.node.label();
                    let message = || format!("{layer}: the output of `{label}` is not added to the residual stream");
                    self.expect(false, "residual", label, message);
                }
                return None;
            }
        };
        let (left, right) = (self.trail.branch(a), self.trail.branch(b));
        let (stream, branch) = match (left, right) {
            (None, Some(branch)) => (a, branch),
            (Some(branch), None) => (b, branch),
            (Some(one), Some(_)) => {
                let label = one.product.node.label();
                let message = || {
                    format!(
                        "{layer}: adds up two outputs of modules and not the residual stream: the residual of {module} \
                         (`{label}`) is skipped"
                    )
                };
                self.expect(false, "residual", node.label(), message);
                return None;
            }
            (None, None) => return None,
        };
        let found = self.kind(&branch);
        let label = branch.product.node.label();
        let holds = self.expect(found == wanted, "residual", node.label(), || {
            let found = if found == Kind::Mixer { "attention" } else { "the MLP" };
            format!("{layer}: adds {found} (`{label}`) where {module} is expected: a module is left out or misplaced")
        });
        holds.then(|| (self.trail.point(stream), branch))
    }

    /// `x + mixer + mlp`, in whatever order it is added up.
    fn parallel(&self, at: Point<'a>) -> Option<(Point<'a>, Branch<'a>, Branch<'a>)> {
        let Point::Sum { terms: [a, b], .. } = at else { return None };
        let ordered = |one: Branch<'a>, other: Branch<'a>| match (self.kind(&one), self.kind(&other)) {
            (Kind::Mixer, Kind::Mlp) => Some((one, other)),
            (Kind::Mlp, Kind::Mixer) => Some((other, one)),
            _ => None,
        };
        for (one, other) in [(a, b), (b, a)] {
            let Point::Sum { terms: [c, d], .. } = self.trail.point(one) else { continue };
            let pair = match (self.trail.branch(c), self.trail.branch(d), self.trail.branch(other)) {
                // x + (mixer + mlp)
                (Some(c), Some(d), None) => ordered(c, d).map(|pair| (other, pair)),
                // (x + mixer) + mlp
                (Some(inner), None, Some(outer)) => ordered(inner, outer).map(|pair| (d, pair)),
                (None, Some(inner), Some(outer)) => ordered(inner, outer).map(|pair| (c, pair)),
                _ => None,
            };
            if let Some((stream, (mixed, fed))) = pair {
                return Some((self.trail.point(stream), mixed, fed));
            }
        }
        None
    }

    fn kind(&self, branch: &Branch<'a>) -> Kind {
        if self.mixing_node(branch.product.input).is_some() { Kind::Mixer } else { Kind::Mlp }
    }

    /// Checks what is around a module: factor, norm behind it. Gives the name for messages.
    pub(super) fn check_branch(
        &mut self,
        branch: &Branch<'a>,
        part: Part,
        name: &str,
        (post, factor): (Option<&'a Norm>, f64),
    ) {
        let label = branch.product.node.label();
        self.assign(branch.product.matrix, part);
        self.check_bias(&branch.product, part, label);
        self.expect_number("residual-scale", label, &format!("the factor on {name}"), branch.factor, factor);
        match (&branch.norm, post) {
            (None, None) => {}
            (Some(found), Some(expected)) => {
                self.check_norm(found, expected, self.spec.hidden_size, &format!("the norm behind {name}"));
            }
            (None, Some(expected)) => {
                let message = || format!("{name} has no norm behind it, expected `{}`", expected.path);
                self.expect(false, "norm", label, message);
            }
            (Some(found), None) => {
                let at = found.node.label().to_owned();
                let message = || format!("{name} has a norm behind it, the checkpoint has none there");
                self.expect(false, "norm", &at, message);
            }
        }
    }

    /// Checks that a module reads the stream through its norm, or as it is where it has none.
    pub(super) fn check_read(
        &mut self,
        input: &'a str,
        pre: Option<&'a Norm>,
        stream: Point<'a>,
        name: &str,
        reader: &str,
    ) {
        let Some(expected) = pre else {
            let found = self.trail.point(input);
            let message =
                || format!("{name} reads `{}`, expected the residual stream, `{}`", found.label(), stream.label());
            self.expect(found.is(&stream), "wiring", reader, message);
            return;
        };
        let Some(norm) = self.trail.norm(input) else {
            if !self.trail.is_not_normed(input) {
                return self.not_compared(name, reader, "the norm before it");
            }
            let message = || format!("{name} reads `{input}`, which is no norm, expected `{}`", expected.path);
            self.expect(false, "norm", reader, message);
            return;
        };
        let (found, at) = (norm.input, norm.node.label().to_owned());
        let message = || {
            format!(
                "the norm before {name} reads `{}`, expected the residual stream, `{}`",
                found.label(),
                stream.label()
            )
        };
        self.expect(found.is(&stream), "wiring", &at, message);
        // Several linears read one norm, which is checked once.
        if self.first_time(format!("norm {at} of {}", expected.path)) {
            self.check_norm(&norm, expected, self.spec.hidden_size, &format!("the norm before {name}"));
        }
    }

    pub(super) fn assign(&mut self, matrix: usize, part: Part) {
        let Some(before) = self.parts.insert(matrix, part).filter(|before| *before != part) else { return };
        let at = self.matrices.get(matrix).map(|matrix| matrix.node.clone()).unwrap_or_default();
        let message = || format!("is used twice: as {before:?} and as {part:?}");
        self.expect(false, "wiring", &at, message);
    }

    /// From the stream that enters the first layer to the token ids.
    fn beginning(&mut self, at: Point<'a>) {
        let spec = self.spec;
        let mut point = at;
        if let Some(expected) = &spec.embedding.norm {
            let Point::Value(name) = point else { return };
            let Some(norm) = self.trail.norm(name) else {
                if self.trail.maker(name).and_then(|node| self.trail.table(node)).is_none() {
                    return self.not_compared("the embedding", name, "its norm");
                }
                let message = || format!("the embedding has no norm, expected `{}`", expected.path);
                self.expect(false, "norm", name, message);
                return;
            };
            self.check_norm(&norm, expected, spec.hidden_size, "the norm of the embedding");
            point = norm.input;
        }
        let mut rows = match point {
            Point::Value(name) => name,
            Point::Sum { terms: [a, b], node } => {
                let message =
                    || "adds to the rows of the embedding, and the checkpoint has no table of positions".to_owned();
                if !self.expect(spec.embedding.positions.is_some(), "embedding", node.label(), message) {
                    return;
                }
                let tokens = |name: &'a str| {
                    self.trail.depends(name, "input_ids") && !self.trail.depends(name, &self.names.position_ids)
                };
                if tokens(a) { a } else { b }
            }
        };
        let mut factor = 1.0;
        for _ in 0..8 {
            let Some(node) = self.trail.maker(rows) else { return };
            if let Some(matrix) = self.trail.table(node) {
                self.assign(matrix, Part::Embedding);
                let expected = spec.embedding.scale.map_or(1.0, f64::from);
                let name = "the factor on the embedding's rows";
                self.expect_number("embedding-scale", node.label(), name, factor, expected);
                return;
            }
            if matches!(node.op_type.as_str(), "Slice" | "Gather" | "GatherBlockQuantized") {
                let Some(input) = node.input(0) else { return };
                if node.op_type != "Slice" {
                    // A table that is spelled in a way that is not known: its numbers are not compared.
                    let message = "the embedding's table is stored in a way that is not known here; it is not compared";
                    return self.tell(Severity::Info, "not-recognised", node.label(), message);
                }
                rows = input;
            } else if let Some((inner, by)) = self.trail.factor(node) {
                (rows, factor) = (inner, factor * by);
            } else {
                let message = format!("the stream begins with a {}, which is not known here", node.op_type);
                return self.tell(Severity::Info, "not-recognised", node.label(), message);
            }
        }
    }

    fn mixer(
        &mut self,
        index: usize,
        layer: &'a Layer,
        branch: Branch<'a>,
        (pre, post, factor): (Option<&'a Norm>, Option<&'a Norm>, f64),
        stream: Point<'a>,
    ) -> Option<()> {
        let Mixer::Attention(attention) = &layer.mixer;
        let name = format!("attention of layer {index}");
        self.check_branch(&branch, Part::Output(index), &name, (post, factor));
        self.attention(index, attention, &branch, pre, stream)
    }

    fn mlp(
        &mut self,
        index: usize,
        layer: &'a Layer,
        branch: Branch<'a>,
        (pre, post, factor): (Option<&'a Norm>, Option<&'a Norm>, f64),
        stream: Point<'a>,
    ) -> Option<()> {
        let name = format!("the MLP of layer {index}");
        self.check_branch(&branch, Part::Down(index), &name, (post, factor));
        self.feed_forward(index, &layer.mlp, &branch, pre, stream);
        Some(())
    }
}
