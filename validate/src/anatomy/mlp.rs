//! Feed-forward parts: which linears there are, and what bends their outputs.

use genai_architectures::{Activation, Mlp, Norm};

use super::Examination;
use super::expected::Part;
use super::trail::{Branch, Point, Product};
use crate::graph::Node;
use crate::report::Severity;

/// A function that a graph applies, as far as it is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    Silu,
    Sigmoid,
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    ReluSquared,
    Tanh,
}

impl<'a> Examination<'a> {
    pub(super) fn feed_forward(
        &mut self,
        index: usize,
        mlp: &'a Mlp,
        branch: &Branch<'a>,
        pre: Option<&'a Norm>,
        stream: Point<'a>,
    ) {
        let name = format!("the MLP of layer {index}");
        let (down, inner) = (branch.product.node.label(), branch.product.input);
        let unknown = "its inner part is spelled in a way that is not known here";
        match mlp {
            Mlp::Gated { activation, cutoff: None, .. } => {
                let Some((bent, other)) = self.gate(inner) else {
                    if let Some([a, b]) = self.two_products(inner) {
                        let message = || {
                            format!(
                                "{name} multiplies `{}` with `{}` without an activation, expected {}",
                                a.node.label(),
                                b.node.label(),
                                called(activation)
                            )
                        };
                        self.expect(false, "activation", down, message);
                        return;
                    }
                    return self.tell(Severity::Info, "not-recognised", down, unknown);
                };
                let (curve, gated, at) = bent;
                self.check_curve(curve, activation, &name, at);
                match (self.trail.product(gated), self.trail.product(other)) {
                    (Some(gate), Some(up)) => {
                        self.assign(gate.matrix, Part::Gate(index));
                        self.assign(up.matrix, Part::Up(index));
                        for (product, part, which) in [(&gate, Part::Gate(index), "gate"), (&up, Part::Up(index), "up")]
                        {
                            let label = product.node.label();
                            self.check_bias(product, part, label);
                            self.check_read(product.input, pre, stream, &format!("{which} of {name}"), label);
                        }
                    }
                    _ => self.fused(index, gated, other, &name, pre, stream),
                }
            }
            Mlp::Plain { activation, .. } => {
                let Some((curve, inner, at)) = self.curve(inner) else {
                    return self.tell(Severity::Info, "not-recognised", down, unknown);
                };
                self.check_curve(curve, activation, &name, at);
                let Some(up) = self.trail.product(inner) else {
                    return self.tell(Severity::Info, "not-recognised", down, unknown);
                };
                let label = up.node.label();
                self.assign(up.matrix, Part::Up(index));
                self.check_bias(&up, Part::Up(index), label);
                self.check_read(up.input, pre, stream, &name, label);
            }
            Mlp::Gated { .. } | Mlp::ClampedGate { .. } => self.tell(Severity::Info, "not-recognised", down, unknown),
        }
    }

    /// Gate and up in one matrix, divided behind it.
    fn fused(
        &mut self,
        index: usize,
        gated: &'a str,
        other: &'a str,
        name: &str,
        pre: Option<&'a Norm>,
        stream: Point<'a>,
    ) {
        let halves = [gated, other].map(|name| (self.trail.origin(name), self.trail.maker(name)));
        let [(gate, Some(split)), (up, Some(other))] = halves else { return };
        let product = split.input(0).and_then(|name| self.trail.product(name));
        let (Some(product), true) = (product, std::ptr::eq(split, other)) else {
            return self.tell(Severity::Info, "not-recognised", split.label(), "gate and up are not known here");
        };
        let order = (split.output(0), split.output(1)) == (Some(gate), Some(up));
        let message = || format!("{name} takes the gate from the second half and up from the first: they are swapped");
        self.expect(order, "wiring", split.label(), message);
        self.assign(product.matrix, Part::GateUp(index));
        let label = product.node.label();
        self.check_bias(&product, Part::GateUp(index), label);
        self.check_read(product.input, pre, stream, name, label);
    }

    /// `curve(gate) * up`: the curve with its argument and node, and the other factor.
    #[allow(clippy::type_complexity)] // Two values, of which one is a curve with its parts.
    fn gate(&self, inner: &'a str) -> Option<((Curve, &'a str, &'a Node), &'a str)> {
        let node = self.trail.maker(inner).filter(|node| node.op_type == "Mul")?;
        let (a, b) = (node.input(0)?, node.input(1)?);
        // What is no curve of something else is a factor.
        if self.trail.is_constant(a) || self.trail.is_constant(b) {
            return None;
        }
        let is_own = |curve: &(Curve, &'a str, &'a Node), other: &'a str| {
            // `x * sigmoid(x)` is a curve by itself.
            self.trail.origin(curve.1) != self.trail.origin(other) || curve.0 != Curve::Sigmoid
        };
        match (self.curve(a).filter(|curve| is_own(curve, b)), self.curve(b).filter(|curve| is_own(curve, a))) {
            (Some(curve), _) => Some((curve, b)),
            (None, Some(curve)) => Some((curve, a)),
            (None, None) => None,
        }
    }

    fn two_products(&self, inner: &'a str) -> Option<[Product<'a>; 2]> {
        let node = self.trail.maker(inner).filter(|node| node.op_type == "Mul")?;
        Some([self.trail.product(node.input(0)?)?, self.trail.product(node.input(1)?)?])
    }

    /// The curve that a value is, and of what.
    fn curve(&self, name: &'a str) -> Option<(Curve, &'a str, &'a Node)> {
        self.curve_within(name, 3)
    }

    /// The same, where curves may be made of as many others.
    fn curve_within(&self, name: &'a str, depth: usize) -> Option<(Curve, &'a str, &'a Node)> {
        let depth = depth.checked_sub(1)?;
        let node = self.trail.maker(name)?;
        let input = node.input(0)?;
        let curve = match node.op_type.as_str() {
            "Sigmoid" => Curve::Sigmoid,
            "Tanh" => Curve::Tanh,
            "Swish" | "Silu" => Curve::Silu,
            "QuickGelu" if node.float("alpha").is_some_and(|alpha| (alpha - 1.0).abs() < 1e-6) => Curve::Silu,
            "QuickGelu" => Curve::QuickGelu,
            "Gelu" if node.text("approximate") == Some("tanh") => Curve::GeluTanh,
            "Gelu" => Curve::Gelu,
            "FastGelu" => Curve::GeluTanh,
            "Relu" => Curve::Relu,
            "Pow" => match self.curve_within(input, depth)? {
                (Curve::Relu, inner, _) if self.trail.scalar(node.input(1)?) == Some(2.0) => {
                    return Some((Curve::ReluSquared, inner, node));
                }
                _ => return None,
            },
            "Mul" => {
                let (a, b) = (input, node.input(1)?);
                let same = |x: &'a str, y: &'a str| self.trail.origin(x) == self.trail.origin(y);
                if same(a, b) {
                    let (curve, inner, _) = self.curve_within(a, depth)?;
                    return (curve == Curve::Relu).then_some((Curve::ReluSquared, inner, node));
                }
                for (x, bent) in [(a, b), (b, a)] {
                    if self.trail.is_constant(x) || self.trail.is_constant(bent) {
                        continue;
                    }
                    let Some(maker) = self.trail.maker(bent).filter(|maker| maker.op_type == "Sigmoid") else {
                        continue;
                    };
                    let inner = maker.input(0)?;
                    if same(inner, x) {
                        return Some((Curve::Silu, inner, node));
                    }
                    if let Some((inner, factor)) = self.trail.maker(inner).and_then(|node| self.trail.factor(node))
                        && same(inner, x)
                    {
                        let curve = if (factor - 1.0).abs() < 1e-6 { Curve::Silu } else { Curve::QuickGelu };
                        return Some((curve, inner, node));
                    }
                }
                return self.spelled_gelu(name, node);
            }
            _ => return None,
        };
        Some((curve, input, node))
    }

    /// `0.5 x (1 + erf(x / √2))`, or with tanh, in as many nodes: told by the function in its middle.
    fn spelled_gelu(&self, name: &'a str, node: &'a Node) -> Option<(Curve, &'a str, &'a Node)> {
        let (mut open, mut curve) = (vec![(name, 0)], None);
        let mut argument = None;
        let mut steps = 0;
        while let Some((name, depth)) = open.pop().filter(|_| steps < 256) {
            steps += 1;
            if self.trail.product(name).is_some() {
                // Everything must be made of one product.
                if argument.is_some_and(|known| known != self.trail.origin(name)) {
                    return None;
                }
                argument = Some(self.trail.origin(name));
                continue;
            }
            let Some(maker) = self.trail.maker(name).filter(|_| depth < 12) else { continue };
            match maker.op_type.as_str() {
                "Erf" => curve = Some(Curve::Gelu),
                "Tanh" => curve = Some(Curve::GeluTanh),
                "Add" | "Mul" | "Div" | "Pow" | "Sub" => {}
                _ => return None,
            }
            open.extend(maker.inputs.iter().map(|input| (input.as_str(), depth + 1)));
        }
        Some((curve?, argument?, node))
    }

    fn check_curve(&mut self, found: Curve, expected: &Activation, name: &str, at: &Node) {
        let known = match expected {
            Activation::Silu => Curve::Silu,
            Activation::Gelu => Curve::Gelu,
            Activation::GeluTanh => Curve::GeluTanh,
            Activation::Relu => Curve::Relu,
            Activation::ReluSquared => Curve::ReluSquared,
            Activation::XIelu { .. } => return,
        };
        let message = || format!("the activation of {name} is {found:?}, expected {}", called(expected));
        self.expect(found == known, "activation", at.label(), message);
    }
}

fn called(activation: &Activation) -> &'static str {
    match activation {
        Activation::Silu => "Silu",
        Activation::Gelu => "Gelu",
        Activation::GeluTanh => "GeluTanh",
        Activation::Relu => "Relu",
        Activation::ReluSquared => "ReluSquared",
        Activation::XIelu { .. } => "XIelu",
    }
}
