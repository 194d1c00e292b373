//! Steps from a value of a graph to what it was made from.

use std::collections::BTreeMap;

use crate::graph::{ElementType, Graph, Node, Weight};

/// More steps than lie between two modules of any decoder: a circle in a damaged graph ends here.
const MAX_STEPS: usize = 64;

#[derive(Clone)]
pub(super) struct Trail<'a> {
    graph: &'a Graph,
    /// The matrix that a node multiplies with or picks rows from, by the node's first output.
    matrices: BTreeMap<&'a str, usize>,
}

/// A factor, and what the rounding of its constants may have changed it by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    pub(super) by: f64,
    pub(super) grain: f64,
}

impl Factor {
    pub(super) const ONE: Self = Self::of(1.0);

    pub(super) const fn of(by: f64) -> Self {
        Self { by, grain: 0.0 }
    }

    pub(super) fn times(self, other: Self) -> Self {
        Self { by: self.by * other.by, grain: self.grain + other.grain }
    }
}

/// A point of the residual stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point<'a> {
    /// What a node adds up: an `Add`, or a norm that adds first.
    Sum { node: &'a Node, terms: [&'a str; 2] },
    /// Anything else.
    Value(&'a str),
}

/// A norm, and what it norms.
#[derive(Clone, Debug)]
pub(super) struct SeenNorm<'a> {
    pub(super) node: &'a Node,
    pub(super) input: Point<'a>,
    pub(super) weight: Option<&'a str>,
    pub(super) bias: Option<&'a str>,
    pub(super) eps: f32,
    /// Whether the mean is taken away first.
    pub(super) centred: bool,
}

/// A product with a matrix of the graph.
#[derive(Clone, Debug)]
pub(super) struct Product<'a> {
    pub(super) node: &'a Node,
    pub(super) input: &'a str,
    /// Index of the matrix.
    pub(super) matrix: usize,
    /// Constants that are added to the outputs.
    pub(super) bias: Option<&'a str>,
}

/// A product, and what is done with it before it is added to the stream.
#[derive(Clone, Debug)]
pub(super) struct Branch<'a> {
    pub(super) product: Product<'a>,
    pub(super) norm: Option<SeenNorm<'a>>,
    /// All factors on it.
    pub(super) factor: f64,
}

impl<'a> Trail<'a> {
    pub(super) fn new(graph: &'a Graph, matrices: &'a [Weight]) -> Self {
        let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, matrix) in matrices.iter().enumerate() {
            by_node.entry(matrix.node.as_str()).or_insert(index);
        }
        let of_output =
            graph.nodes.iter().filter_map(|node| Some((node.output(0)?, *by_node.get(node.label())?))).collect();
        Self { graph, matrices: of_output }
    }

    /// The value before steps that change types and shapes alone.
    pub(super) fn origin(&self, mut name: &'a str) -> &'a str {
        for _ in 0..MAX_STEPS {
            let Some(node) = self.graph.producer(name).filter(|node| is_shape_only(node)) else { return name };
            let Some(input) = node.input(0) else { return name };
            name = input;
        }
        name
    }

    /// The node that makes a value, behind such steps.
    pub(super) fn maker(&self, name: &'a str) -> Option<&'a Node> {
        self.graph.producer(self.origin(name))
    }

    /// The number that a constant is.
    pub(super) fn scalar(&self, name: &'a str) -> Option<f64> {
        let name = self.origin(name);
        let constant = self.graph.initializer(name).filter(|tensor| tensor.elements == 1)?;
        let values = self.graph.values_of(&constant.name).ok()?;
        values.first().map(|value| f64::from(*value))
    }

    pub(super) fn is_constant(&self, name: &'a str) -> bool {
        self.graph.initializer(self.origin(name)).is_some()
    }

    /// The factor by which a node scales its other input.
    pub(super) fn factor(&self, node: &'a Node) -> Option<(&'a str, f64)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        match node.op_type.as_str() {
            "Mul" => match (self.scalar(a), self.scalar(b)) {
                (None, Some(factor)) => Some((a, factor)),
                (Some(factor), None) => Some((b, factor)),
                _ => None,
            },
            "Div" => self.scalar(b).map(|divisor| (a, 1.0 / divisor)),
            _ => None,
        }
    }

    /// The same, with what the type of the constant rounds away.
    pub(super) fn rounded_factor(&self, node: &'a Node) -> Option<(&'a str, Factor)> {
        let (inner, by) = self.factor(node)?;
        let constants = node.inputs.iter().filter_map(|input| self.graph.initializer(self.origin(input)));
        let grain = constants.map(|tensor| f64::from(rounding(tensor.dtype))).fold(0.0, f64::max);
        Some((inner, Factor { by, grain }))
    }

    pub(super) fn point(&self, name: &'a str) -> Point<'a> {
        let name = self.origin(name);
        let Some(node) = self.graph.producer(name) else { return Point::Value(name) };
        let adds = match node.op_type.as_str() {
            "Add" => !node.inputs.iter().any(|input| self.is_constant(input)),
            "SkipSimplifiedLayerNormalization" | "SkipLayerNormalization" => node.output(3) == Some(name),
            _ => false,
        };
        match (node.input(0), node.input(1)) {
            (Some(a), Some(b)) if adds => Point::Sum { node, terms: [a, b] },
            _ => Point::Value(name),
        }
    }

    pub(super) fn norm(&self, name: &'a str) -> Option<SeenNorm<'a>> {
        let name = self.origin(name);
        let node = self.graph.producer(name)?;
        let eps = |default: f32| node.float("epsilon").unwrap_or(default);
        let plain = |weight, bias, eps, centred| {
            Some(SeenNorm { node, input: self.point(node.input(0)?), weight, bias, eps, centred })
        };
        match node.op_type.as_str() {
            "SimplifiedLayerNormalization" | "RMSNormalization" => plain(node.input(1), None, eps(1e-5), false),
            "LayerNormalization" => plain(node.input(1), node.input(2), eps(1e-5), true),
            "SkipSimplifiedLayerNormalization" | "SkipLayerNormalization" if node.output(0) == Some(name) => {
                let centred = node.op_type == "SkipLayerNormalization";
                let terms = [node.input(0)?, node.input(1)?];
                let bias = if centred { node.input(3) } else { None };
                let input = Point::Sum { node, terms };
                Some(SeenNorm { node, input, weight: node.input(2), bias, eps: eps(1e-12), centred })
            }
            "Mul" => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                let weighed = |normed, weight| {
                    let seen = self.plain_rms(normed).filter(|_| self.is_weight(weight))?;
                    Some(SeenNorm { weight: Some(weight), node, ..seen })
                };
                weighed(b, a).or_else(|| weighed(a, b)).or_else(|| self.plain_rms(name))
            }
            "Div" => self.plain_rms(name),
            _ => None,
        }
    }

    /// A constant, or one more than it.
    fn is_weight(&self, name: &'a str) -> bool {
        let of_constants =
            |node: &'a Node| node.op_type == "Add" && node.inputs.iter().all(|input| self.is_constant(input));
        self.is_constant(name) || self.maker(name).is_some_and(of_constants)
    }

    /// `x / sqrt(mean(x²) + eps)`, in as many nodes.
    fn plain_rms(&self, name: &'a str) -> Option<SeenNorm<'a>> {
        let node = self.maker(name)?;
        let (a, b) = (node.input(0)?, node.input(1)?);
        let (input, root) = match node.op_type.as_str() {
            "Div" => (a, self.maker(b)?),
            "Mul" => match (self.inverted(a), self.inverted(b)) {
                (Some(root), None) => (b, root),
                (None, Some(root)) => (a, root),
                _ => return None,
            },
            _ => return None,
        };
        let root = Some(root).filter(|node| node.op_type == "Sqrt")?;
        let sum = self.maker(root.input(0)?).filter(|node| node.op_type == "Add")?;
        let (a, b) = (sum.input(0)?, sum.input(1)?);
        let (mean, eps) = match self.scalar(b) {
            Some(eps) => (a, eps),
            None => (b, self.scalar(a)?),
        };
        self.maker(mean).filter(|node| node.op_type == "ReduceMean")?;
        let centred = self.centred(input);
        let input = self.point(centred.unwrap_or(input));
        #[allow(clippy::as_conversions)] // It was stored as f32.
        let eps = eps as f32;
        Some(SeenNorm { node, input, weight: None, bias: None, eps, centred: centred.is_some() })
    }

    /// What the mean was taken from to make a value.
    fn centred(&self, name: &'a str) -> Option<&'a str> {
        let node = self.maker(name).filter(|node| node.op_type == "Sub")?;
        let mean = self.maker(node.input(1)?).filter(|node| node.op_type == "ReduceMean")?;
        let (whole, averaged) = (node.input(0)?, mean.input(0)?);
        (self.origin(whole) == self.origin(averaged)).then_some(whole)
    }

    /// The node whose output a value is one over.
    fn inverted(&self, name: &'a str) -> Option<&'a Node> {
        let node = self.maker(name)?;
        match node.op_type.as_str() {
            "Reciprocal" => self.maker(node.input(0)?),
            "Div" if self.scalar(node.input(0)?) == Some(1.0) => self.maker(node.input(1)?),
            _ => None,
        }
    }

    /// Whether a value is known to be something else than a norm: the stream, or the output of a module.
    pub(super) fn is_not_normed(&self, name: &'a str) -> bool {
        matches!(self.point(name), Point::Sum { .. }) || self.branch(name).is_some()
    }

    pub(super) fn product(&self, name: &'a str) -> Option<Product<'a>> {
        let name = self.origin(name);
        if let Some(product) = self.bare_product(name) {
            return Some(product);
        }
        let node = self.graph.producer(name).filter(|node| node.op_type == "Add")?;
        let (a, b) = (node.input(0)?, node.input(1)?);
        let (inner, bias) = if self.is_constant(b) { (a, b) } else { (b, a) };
        let product = self.bare_product(self.origin(inner))?;
        let free = product.bias.is_none() && self.is_constant(bias);
        free.then(|| Product { bias: Some(self.origin(bias)), ..product })
    }

    fn bare_product(&self, name: &'a str) -> Option<Product<'a>> {
        let node = self.graph.producer(name)?;
        let matrix = *self.matrices.get(name)?;
        let bias = match node.op_type.as_str() {
            "MatMulNBits" => node.input(5),
            "Gemm" => node.input(2),
            "MatMul" | "FusedMatMul" => None,
            _ => return None,
        };
        Some(Product { node, input: node.input(0)?, matrix, bias })
    }

    /// The matrix that rows are picked from by a node.
    pub(super) fn table(&self, node: &'a Node) -> Option<usize> {
        let picks = matches!(node.op_type.as_str(), "Gather" | "GatherBlockQuantized");
        self.matrices.get(node.output(0)?).copied().filter(|_| picks)
    }

    /// The product that a value is, but for a norm and factors.
    pub(super) fn branch(&self, mut name: &'a str) -> Option<Branch<'a>> {
        let (mut norm, mut factor) = (None, 1.0);
        for _ in 0..MAX_STEPS {
            if let Some(product) = self.product(name) {
                return Some(Branch { product, norm, factor });
            }
            if let Some(seen) = self.norm(name) {
                let Point::Value(input) = seen.input else { return None };
                if norm.is_some() {
                    return None;
                }
                (norm, name) = (Some(seen), input);
                continue;
            }
            let (scaled, by) = self.factor(self.maker(name)?)?;
            (name, factor) = (scaled, factor * by);
        }
        None
    }

    /// Whether a value depends on another, through whatever nodes.
    pub(super) fn depends(&self, name: &'a str, on: &str) -> bool {
        let (mut open, mut seen) = (vec![name], std::collections::BTreeSet::new());
        while let Some(name) = open.pop() {
            if name == on {
                return true;
            }
            if !seen.insert(name) {
                continue;
            }
            open.extend(self.graph.producer(name).into_iter().flat_map(|node| node.inputs.iter().map(String::as_str)));
        }
        false
    }
}

impl Point<'_> {
    /// What to call it.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Sum { node, .. } => node.label(),
            Self::Value(name) => name,
        }
    }

    pub(super) fn is(&self, other: &Point<'_>) -> bool {
        match (*self, *other) {
            (Self::Sum { node: a, .. }, Point::Sum { node: b, .. }) => std::ptr::eq::<Node>(a, b),
            (Self::Value(a), Point::Value(b)) => str::eq(a, b),
            _ => false,
        }
    }
}

fn is_shape_only(node: &Node) -> bool {
    node.domain.is_empty()
        && matches!(
            node.op_type.as_str(),
            "Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Dropout"
        )
}

/// What storing a value in a type may change it by.
pub(super) fn rounding(dtype: ElementType) -> f32 {
    use ElementType as T;
    match dtype {
        T::Float16 => 1e-3,
        T::Bfloat16 => 8e-3,
        _ => 1e-6,
    }
}

#[cfg(test)]
mod tests {
    use genai_onnx::tensor_proto::DataType;
    use genai_onnx::{GraphProto, NodeProto};

    use super::*;
    use crate::graph::sample::{floats, node, tensor, value, write};

    fn opened(node: Vec<NodeProto>) -> Graph {
        let folder = tempfile::tempdir().unwrap();
        let half = |value: f32| half::f16::from_f32(value).to_le_bytes().to_vec();
        let graph = GraphProto {
            node,
            initializer: vec![
                floats("one", &[], &[1.0]),
                floats("eps", &[], &[0.25]),
                floats("w", &[2], &[1.0, 2.0]),
                tensor("third", DataType::Float16, &[], half(1.0 / 3.0)),
            ],
            input: vec![value("x", DataType::Float, &["tokens", "2"])],
            ..GraphProto::default()
        };
        write(folder.path(), graph);
        Graph::open(folder.path(), "model.onnx").unwrap()
    }

    /// `1 / sqrt(mean(of²) + eps)`, up to the root.
    fn root(of: &str) -> Vec<NodeProto> {
        vec![
            node("Mul", &[of, of], &["square"], vec![]),
            node("ReduceMean", &["square"], &["mean"], vec![]),
            node("Add", &["eps", "mean"], &["sum"], vec![]),
            node("Sqrt", &["sum"], &["root"], vec![]),
        ]
    }

    #[test]
    fn norms_are_known_however_they_are_spelled() {
        let one_more = node("Add", &["w", "one"], &["weight"], vec![]);
        let ends = [
            vec![node("Div", &["x", "root"], &["n"], vec![]), node("Mul", &["n", "w"], &["y"], vec![])],
            vec![
                node("Reciprocal", &["root"], &["r"], vec![]),
                node("Mul", &["x", "r"], &["n"], vec![]),
                node("Mul", &["w", "n"], &["y"], vec![]),
            ],
            vec![
                node("Div", &["one", "root"], &["r"], vec![]),
                node("Mul", &["r", "x"], &["n"], vec![]),
                one_more,
                node("Mul", &["n", "weight"], &["y"], vec![]),
            ],
        ];
        for end in ends {
            let graph = opened([root("x"), end].concat());
            let trail = Trail::new(&graph, &[]);
            let norm = trail.norm("y").unwrap();
            assert!(matches!(norm.input, Point::Value("x")) && norm.eps == 0.25 && !norm.centred, "{norm:?}");
            assert!(norm.weight.is_some() && trail.norm("n").is_some_and(|norm| norm.weight.is_none()));
        }
    }

    #[test]
    fn a_norm_of_what_has_no_mean_is_a_layer_norm() {
        let centred = vec![
            node("ReduceMean", &["x"], &["middle"], vec![]),
            node("Sub", &["x", "middle"], &["c"], vec![]),
            node("Div", &["c", "root"], &["y"], vec![]),
        ];
        let graph = opened([centred, root("c")].concat());
        let norm = Trail::new(&graph, &[]).norm("y").unwrap();
        assert!(norm.centred && matches!(norm.input, Point::Value("x")), "{norm:?}");
    }

    #[test]
    fn what_may_be_a_norm_is_not_told_to_be_none() {
        let graph =
            opened(vec![node("Pow", &["x", "eps"], &["odd"], vec![]), node("Add", &["x", "odd"], &["stream"], vec![])]);
        let trail = Trail::new(&graph, &[]);
        assert!(trail.is_not_normed("stream") && !trail.is_not_normed("odd"));
        assert!(trail.norm("stream").is_none() && trail.norm("odd").is_none());
    }

    #[test]
    fn factors_know_how_their_constants_are_rounded() {
        let graph = opened(vec![
            node("Mul", &["third", "x"], &["a"], vec![]),
            node("Div", &["a", "eps"], &["b"], vec![]),
            node("Mul", &["b", "w"], &["c"], vec![]),
        ]);
        let trail = Trail::new(&graph, &[]);
        let factor = |name| trail.rounded_factor(trail.maker(name).unwrap());
        let (inner, third) = factor("a").unwrap();
        assert!(inner == "x" && (third.by - 1.0 / 3.0).abs() < third.grain / 3.0 && third.grain > 1e-4, "{third:?}");
        let (_, four) = factor("b").unwrap();
        assert!(four.by == 4.0 && four.grain < 1e-5);
        assert!(factor("c").is_none(), "a vector is no factor");
        assert!(third.times(four).grain >= third.grain);
    }

    #[test]
    fn a_circle_of_reshapes_ends() {
        let graph = opened(vec![node("Reshape", &["b"], &["a"], vec![]), node("Cast", &["a"], &["b"], vec![])]);
        let trail = Trail::new(&graph, &[]);
        assert!(["a", "b"].contains(&trail.origin("a")));
        assert!(trail.branch("a").is_none() && !trail.depends("a", "x"));
    }
}
