//! Norms and biases: small vectors, compared whole.

use genai_architectures::{HeadNorm, Norm, NormKind, NormWeight};

use super::Examination;
use super::expected::Part;
use super::trail::{Product, SeenNorm, rounding};
use crate::report::Severity;

impl<'a> Examination<'a> {
    /// Kind, epsilon, weight and bias of a norm over `width` values.
    pub(super) fn check_norm(&mut self, found: &SeenNorm<'a>, spec: &Norm, width: usize, name: &str) {
        let at = found.node.label();
        let centred = spec.kind == NormKind::Layer;
        self.expect(found.centred == centred, "norm", at, || {
            let called = |centred| if centred { "a layer norm (the mean taken away)" } else { "an RMS norm" };
            format!("{name} is {}, expected {}", called(found.centred), called(centred))
        });
        self.check_eps(found.eps, spec.eps, at, name);
        let plus = if spec.weight == NormWeight::OnePlus { 1.0 } else { 0.0 };
        let expected = match spec.weight {
            NormWeight::None => Some(vec![1.0; width]),
            NormWeight::Plain | NormWeight::OnePlus => self.stored(&spec.weight(), width, plus),
        };
        if let (Some(weight), Some(expected)) = (found.weight, expected) {
            self.check_vector(weight, &expected, "norm", at, name, &spec.path);
        }
        self.check_norm_bias(found, spec, width, at, name);
    }

    fn check_norm_bias(&mut self, found: &SeenNorm<'a>, spec: &Norm, width: usize, at: &str, name: &str) {
        match (found.bias, spec.bias) {
            (Some(bias), true) => {
                if let Some(expected) = self.stored(&spec.bias_name(), width, 0.0) {
                    self.check_vector(bias, &expected, "norm", at, &format!("the bias of {name}"), &spec.path);
                }
            }
            // A bias of zeros is none.
            (Some(bias), false) => {
                self.check_vector(bias, &vec![0.0; width], "norm", at, &format!("the bias of {name}"), &spec.path);
            }
            (None, true) => {
                let message = || format!("{name} has no bias, expected `{}`", spec.bias_name());
                self.expect(false, "norm", at, message);
            }
            (None, false) => {}
        }
    }

    /// The norm of queries or keys, over heads.
    pub(super) fn check_head_norm(
        &mut self,
        weight: Option<&'a str>,
        eps: Option<f32>,
        spec: &HeadNorm,
        heads: (usize, usize),
        at: &str,
        name: &str,
    ) {
        if let Some(eps) = eps {
            self.check_eps(eps, spec.norm.eps, at, name);
        }
        let plus = if spec.norm.weight == NormWeight::OnePlus { 1.0 } else { 0.0 };
        let Some(weight) = weight.filter(|_| spec.norm.weight != NormWeight::None) else { return };
        let mut expected = Vec::new();
        for (tensor, shape) in spec.weights(heads.0, heads.1) {
            let mut values = vec![0.0; shape.iter().product()];
            if let Err(error) = self.weights.read(&tensor, &shape, 0, &mut values) {
                return self.tell(Severity::Info, "not-compared", &tensor, error.to_string());
            }
            expected.extend(values.into_iter().map(|value| value + plus));
        }
        self.check_vector(weight, &expected, "norm", at, name, &spec.norm.path);
    }

    fn check_eps(&mut self, found: f32, expected: f32, at: &str, name: &str) {
        let close = (found - expected).abs() <= 1e-3 * expected.abs();
        self.expect(close, "norm-epsilon", at, || format!("epsilon of {name} is {found:e}, expected {expected:e}"));
    }

    /// The bias of a product whose matrix does `part`.
    pub(super) fn check_bias(&mut self, product: &Product<'a>, part: Part, at: &str) {
        let tensors = self.tensors(product.matrix, part);
        let (mut expected, mut any) = (Vec::new(), false);
        for tensor in &tensors {
            match tensor.bias(self.weights) {
                Ok(Some(bias)) => {
                    any = true;
                    expected.extend(bias);
                }
                Ok(None) => expected.resize(expected.len() + tensor.rows(), 0.0),
                Err(error) => return self.tell(Severity::Info, "not-compared", at, error.to_string()),
            }
        }
        let names = tensors.iter().map(|tensor| tensor.path()).collect::<Vec<_>>().join(", ");
        match product.bias {
            None => {
                let zero = expected.iter().all(|value| *value == 0.0);
                let message = || format!("has no bias, expected that of {names}");
                self.expect(!any || zero, "bias", at, message);
            }
            Some(bias) if !tensors.is_empty() => {
                self.check_vector(bias, &expected, "bias", at, &format!("the bias of {names}"), &names);
            }
            Some(_) => {}
        }
    }

    fn stored(&mut self, tensor: &str, width: usize, plus: f32) -> Option<Vec<f32>> {
        let mut values = vec![0.0; width];
        match self.weights.read(tensor, &[width], 0, &mut values) {
            Ok(()) => Some(values.into_iter().map(|value| value + plus).collect()),
            Err(error) => {
                self.tell(Severity::Info, "not-compared", tensor, error.to_string());
                None
            }
        }
    }

    /// A vector of the graph, by value.
    fn check_vector(
        &mut self,
        tensor: &'a str,
        expected: &[f32],
        check: &'static str,
        at: &str,
        name: &str,
        path: &str,
    ) {
        let tensor = self.trail.origin(tensor);
        if self.graph.initializer(tensor).is_none() {
            return self.tell(Severity::Info, "not-recognised", at, format!("{name} is computed and not compared"));
        }
        let found = match self.graph.values_of(tensor) {
            Ok(found) => found,
            Err(error) => {
                self.expect(false, check, tensor, || format!("{name} cannot be read: {error}"));
                return;
            }
        };
        let message = || format!("{name} has {} values, expected {}", found.len(), expected.len());
        if !self.expect(found.len() == expected.len(), check, tensor, message) {
            return;
        }
        let rounding = self.graph.initializer(tensor).map_or(0.0, |tensor| rounding(tensor.dtype));
        let off = |expected: &[f32]| worst(&found, expected);
        let (worst_at, error) = off(expected);
        if error <= rounding {
            self.checks += 1;
            return;
        }
        let values = || {
            let pick = |values: &[f32]| values.get(worst_at).copied().unwrap_or(f32::NAN);
            format!("value {worst_at} is {}, expected {}", pick(&found), pick(expected))
        };
        let near = |values: Vec<f32>| off(&values).1 <= 10.0 * rounding.max(1e-6);
        let cause = if !found.iter().all(|value| value.is_finite()) {
            "it holds what is no number".to_owned()
        } else if near(expected.iter().map(|value| value - 1.0).collect()) {
            "it is the stored weight, without the 1 that this family adds to it".to_owned()
        } else if near(expected.iter().map(|value| value + 1.0).collect()) {
            "it is one more than it should be: the 1 of other families was added".to_owned()
        } else if let Some(other) = self.norm_like(&found, path, 10.0 * rounding.max(1e-6)) {
            format!("it is that of `{other}`")
        } else if error < 1e-2 {
            // Such as one plus the weight, added in bfloat16 before it was widened.
            self.checks += 1;
            let message = format!("{name} (`{path}`) is rounded more than its type asks for: {}", values());
            return self.rounded.push((tensor.to_owned(), message));
        } else {
            let far = found.iter().zip(expected).filter(|(a, b)| distance(**a, **b) > rounding).count();
            format!("{far} of {} values differ", expected.len())
        };
        self.expect(false, check, tensor, || format!("{name} (`{path}`) is wrong: {cause}; {}", values()));
    }

    /// The norm of the model that has these values.
    fn norm_like(&self, found: &[f32], path: &str, rounding: f32) -> Option<String> {
        let spec = self.spec;
        let layers = spec.layers.iter().flat_map(|layer| {
            let genai_architectures::Mixer::Attention(attention) = &layer.mixer;
            let heads = [&attention.q_norm, &attention.k_norm].into_iter().flatten().map(|norm| &norm.norm);
            layer.residual.norms().into_iter().chain(heads)
        });
        let mut norms = layers.chain([&spec.final_norm]).filter(|norm| norm.path != path);
        let other = norms.find(|norm| {
            let plus = if norm.weight == NormWeight::OnePlus { 1.0 } else { 0.0 };
            let mut values = vec![0.0; found.len()];
            self.weights.read(&norm.weight(), &[found.len()], 0, &mut values).is_ok() && {
                values.iter_mut().for_each(|value| *value += plus);
                worst(found, &values).1 <= rounding
            }
        });
        other.map(|norm| norm.path.clone())
    }
}

/// Relative to the value, or to 1 where that is more.
fn distance(found: f32, expected: f32) -> f32 {
    let distance = (found - expected).abs() / expected.abs().max(1.0);
    if distance.is_nan() { f32::INFINITY } else { distance }
}

fn worst(found: &[f32], expected: &[f32]) -> (usize, f32) {
    let pairs = found.iter().zip(expected).map(|(a, b)| distance(*a, *b)).enumerate();
    pairs.fold((0, 0.0), |worst, (index, error)| if error > worst.1 { (index, error) } else { worst })
}
