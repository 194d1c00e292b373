//! How matrices are stored: the scheme of the precision, and rules that make exceptions.

use genai_quantize::{IntScheme, Method};

use crate::{Error, Precision, Result, Role};

/// The first rule that is about a matrix decides, then the scheme of the precision.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// `None` in the float precisions.
    base: Option<IntScheme>,
    rules: Vec<Rule>,
    /// Whether linears are quantized, and whether the embedding table is, where it is not the head's.
    operators: Operators,
    /// Whether a tied head and the table are one matrix of the package; `None` leaves it to what they are stored as.
    shared_embeddings: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matrices: Matrices,
    /// `None` where they stay float.
    pub(crate) scheme: Option<IntScheme>,
}

/// What a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matrices {
    /// What the node of this name reads. The name is the one in a float package, such as
    /// `/model/layers.0/mlp/down_proj/MatMul`.
    Node(String),
    Selected(Selector),
}

/// Matrices that rounding costs most, under the names of onnxruntime-genai's model builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// The head.
    LastMatmul,
    /// Of the first and the last eighth of the layers and of every third between: values, with the queries and keys
    /// that one node makes with them, and what leads out of the MLP. After llama.cpp.
    MixedLayers,
    /// Linear attention and the MLP after it.
    LinearAttention,
}

/// Kinds of nodes whose matrices are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operators {
    /// Linears: `MatMul`.
    pub products: bool,
    /// The embedding table: `Gather`.
    pub lookups: bool,
}

/// A matrix of the model, as rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// The node that reads it, as it is called in a float package.
    pub(crate) node: &'a str,
    pub(crate) role: Role,
    /// `None` outside of the layers.
    pub(crate) layer: Option<Place>,
}

/// A layer among the layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) layers: usize,
    pub(crate) linear_attention: bool,
}

impl Selector {
    pub const ALL: [Self; 3] = [Self::LastMatmul, Self::MixedLayers, Self::LinearAttention];

    pub fn name(self) -> &'static str {
        match self {
            Self::LastMatmul => "last_matmul",
            Self::MixedLayers => "mixed_layers",
            Self::LinearAttention => "linear_attn",
        }
    }

    fn selects(self, matrix: &Matrix<'_>) -> bool {
        match (self, matrix.layer) {
            (Self::LastMatmul, _) => matrix.role == Role::LmHead,
            (Self::MixedLayers, Some(place)) => {
                matches!(matrix.role, Role::QkvProj | Role::VProj | Role::DownProj) && place.feels_rounding()
            }
            (Self::LinearAttention, Some(place)) => {
                place.linear_attention
                    && matches!(
                        matrix.role,
                        Role::QkvProj
                            | Role::QkProj
                            | Role::VProj
                            | Role::OProj
                            | Role::GateProj
                            | Role::UpProj
                            | Role::DownProj
                    )
            }
            (Self::MixedLayers | Self::LinearAttention, None) => false,
        }
    }
}

impl Place {
    fn feels_rounding(self) -> bool {
        let Self { index, layers, .. } = self;
        // An eighth, rounded to nearest with ties to even.
        let (whole, rest) = (layers / 8, layers % 8);
        let eighth = whole + usize::from(rest > 4 || rest == 4 && whole % 2 == 1);
        8 * index < layers || 8 * index >= 7 * layers || index.saturating_sub(eighth) % 3 == 2
    }
}

impl Matrices {
    /// Of the node or the selector.
    pub fn name(&self) -> &str {
        match self {
            Self::Node(node) => node,
            Self::Selected(selector) => selector.name(),
        }
    }

    pub(crate) fn contain(&self, matrix: &Matrix<'_>) -> bool {
        match self {
            Self::Node(node) => node == matrix.node,
            Self::Selected(selector) => selector.selects(matrix),
        }
    }
}

impl Recipe {
    /// Every linear alike: quantized where the precision is an integer one, else kept in the activation dtype.
    ///
    /// # Errors
    /// `Unsupported` for a block size that no kernel runs.
    pub fn uniform(precision: Precision, block_size: usize, symmetric: bool) -> Result<Self> {
        let base = precision.bits().map(|bits| IntScheme::new(bits, block_size, symmetric)).transpose();
        let base = base.map_err(|error| Error::Unsupported {
            what: format!("block_size {block_size} is not supported"),
            hint: error.to_string(),
        })?;
        let operators = Operators { products: true, lookups: false };
        Ok(Self { base, rules: Vec::new(), operators, shared_embeddings: None })
    }

    /// With another way to find scales and zero points, in the rules too.
    pub fn with_method(mut self, method: Method) -> Self {
        let schemes = self.rules.iter_mut().map(|rule| &mut rule.scheme).chain([&mut self.base]);
        schemes.flatten().for_each(|scheme| *scheme = scheme.with_method(method));
        self
    }

    /// With other bits for some matrices. Rules that were added before go first.
    ///
    /// # Errors
    /// `Unsupported` for bits that no kernel runs, or in a float precision.
    pub fn with_bits(mut self, matrices: Matrices, bits: usize) -> Result<Self> {
        let unsupported = |why: String| Error::Unsupported {
            what: format!("{} cannot be stored in {bits} bits: {why}", matrices.name()),
            hint: "4 and 8 bits are supported, in int4 and int8".to_owned(),
        };
        let base = self.base.ok_or_else(|| unsupported("the precision is a float one".to_owned()))?;
        let scheme = base.with_bits(bits).map_err(|error| unsupported(error.to_string()))?;
        self.rules.push(Rule { matrices, scheme: Some(scheme) });
        Ok(self)
    }

    /// With what a node reads kept float, whatever other rules say.
    pub fn keeping(mut self, node: &str) -> Self {
        let kept = self.rules.iter().take_while(|rule| rule.scheme.is_none()).count();
        self.rules.insert(kept, Rule { matrices: Matrices::Node(node.to_owned()), scheme: None });
        self
    }

    pub fn with_operators(self, operators: Operators) -> Self {
        Self { operators, ..self }
    }

    pub fn with_shared_embeddings(self, shared: bool) -> Self {
        Self { shared_embeddings: Some(shared), ..self }
    }

    /// The scheme without exceptions; `None` in the float precisions.
    pub fn base(&self) -> Option<IntScheme> {
        self.base
    }

    pub fn operators(&self) -> Operators {
        self.operators
    }

    pub fn shared_embeddings(&self) -> Option<bool> {
        self.shared_embeddings
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether a matrix is quantized unless a rule says otherwise.
    pub(crate) fn quantizes(&self, role: Role) -> bool {
        let kind = match role {
            Role::QkvProj
            | Role::QkProj
            | Role::VProj
            | Role::OProj
            | Role::GateProj
            | Role::UpProj
            | Role::DownProj
            | Role::LayerInput
            | Role::Stream
            | Role::LmHead => self.operators.products,
            Role::EmbeddingTable => self.operators.lookups,
            Role::LayerInputTable => true,
            Role::Router => false,
        };
        kind && self.base.is_some()
    }

    /// The scheme of a matrix, or `None` where it stays float.
    pub(crate) fn scheme(&self, matrix: &Matrix<'_>) -> Option<IntScheme> {
        if !self.quantizes(matrix.role) {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.matrices.contain(matrix));
        rule.map_or(self.base, |rule| rule.scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgraded(layers: usize) -> Vec<usize> {
        let place = |index| Place { index, layers, linear_attention: false };
        (0..layers).filter(|index| place(*index).feels_rounding()).collect()
    }

    /// As Python's `i < n / 8 or i >= 7 * n / 8 or (i - round(n / 8)) % 3 == 2` gives them.
    #[test]
    fn layers_that_feel_rounding_are_those_of_the_peer() {
        assert_eq!(upgraded(1), [0]);
        assert_eq!(upgraded(4), [0, 2]);
        assert_eq!(upgraded(6), [0, 3]);
        assert_eq!(upgraded(12), [0, 1, 4, 7, 10, 11]);
        assert_eq!(upgraded(20), [0, 1, 2, 4, 7, 10, 13, 16, 18, 19]);
        assert_eq!(upgraded(32), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
    }

    #[test]
    fn the_first_rule_decides_and_the_method_is_everywhere() {
        let recipe = Recipe::uniform(Precision::Int4, 32, true).unwrap();
        let [last, mixed] = [Selector::LastMatmul, Selector::MixedLayers].map(Matrices::Selected);
        let recipe = recipe.with_bits(last, 8).unwrap().with_bits(mixed, 8).unwrap();
        let recipe = recipe.with_bits(Matrices::Node("/model/layers.5/mlp/up_proj/MatMul".to_owned()), 8).unwrap();
        let recipe = recipe.keeping("/model/layers.0/mlp/down_proj/MatMul").with_method(Method::KQuant);
        let scheme = |node: &str, role, index| {
            let layer = Some(Place { index, layers: 32, linear_attention: false });
            recipe.scheme(&Matrix { node, role, layer }).map(|scheme| (scheme.bits(), scheme.method()))
        };
        assert_eq!(scheme("/model/layers.0/mlp/down_proj/MatMul", Role::DownProj, 0), None);
        assert_eq!(scheme("/model/layers.1/mlp/down_proj/MatMul", Role::DownProj, 1), Some((8, Method::KQuant)));
        assert_eq!(scheme("/model/layers.5/mlp/down_proj/MatMul", Role::DownProj, 5), Some((4, Method::KQuant)));
        assert_eq!(scheme("/model/layers.1/mlp/up_proj/MatMul", Role::UpProj, 1), Some((4, Method::KQuant)));
        assert_eq!(scheme("/model/layers.5/mlp/up_proj/MatMul", Role::UpProj, 5), Some((8, Method::KQuant)));
        let head = Matrix { node: "/lm_head/MatMul", role: Role::LmHead, layer: None };
        assert_eq!(recipe.scheme(&head).map(IntScheme::bits), Some(8));
        assert_eq!(recipe.scheme(&Matrix { role: Role::Router, ..head }), None);
    }
}
