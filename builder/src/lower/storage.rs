//! How each matrix is stored, and whether the recipe was about this model at all.

use genai_architectures::Mixer;
use genai_quantize::IntScheme;

use super::Lowering;
use crate::{
    Error, Result, Role,
    plan::{Job, Sink},
    recipe::{Matrices, Matrix, Place, Rule, Selector},
    target::MatrixForm,
};

/// What became of a recipe.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Nodes that read a matrix which is quantized unless a rule says otherwise.
    nodes: Vec<String>,
    /// Rules, by their index, that were about some matrix.
    rules: Vec<bool>,
    /// Whether the embedding table could be quantized.
    lookup: bool,
}

impl Lowering<'_> {
    /// The scheme of the matrix that a node reads, or `None` where it stays float. The node is called as in a float
    /// package.
    pub(super) fn scheme(&mut self, node: &str, role: Role) -> Option<IntScheme> {
        let recipe = &self.settings.recipe;
        let looked_up = match role {
            Role::EmbeddingTable | Role::LayerInputTable => true,
            Role::QkvProj
            | Role::QkProj
            | Role::VProj
            | Role::OProj
            | Role::GateProj
            | Role::UpProj
            | Role::DownProj
            | Role::LayerInput
            | Role::Stream
            | Role::Router
            | Role::LmHead => false,
        };
        if !recipe.quantizes(role) || looked_up && !self.looks_up_integers() {
            return None;
        }
        let matrix = self.matrix(node, role);
        let scheme = recipe.scheme(&matrix);
        let met = recipe.rules().iter().map(|rule| rule.matrices.contain(&matrix)).collect();
        self.note(node, met);
        self.asked.lookup |= role == Role::EmbeddingTable;
        scheme
    }

    /// Whether there is an operator that looks up quantized rows.
    pub(super) fn looks_up_integers(&self) -> bool {
        match self.settings.form.matrices {
            MatrixForm::NBits { .. } => true,
            MatrixForm::Qdq => false,
        }
    }

    /// Whether a rule keeps what this node reads float.
    pub(super) fn keeps(&mut self, node: &str, role: Role) -> bool {
        let matrix = self.matrix(node, role);
        let rules = self.settings.recipe.rules().iter();
        let met: Vec<bool> = rules.map(|rule| rule.scheme.is_none() && rule.matrices.contain(&matrix)).collect();
        let keeps = met.contains(&true);
        self.note(node, met);
        keeps
    }

    fn matrix<'n>(&self, node: &'n str, role: Role) -> Matrix<'n> {
        let layers = &self.spec.layers;
        let layer = self.within.and_then(|index| {
            let linear_attention = match &layers.get(index)?.mixer {
                Mixer::Attention(_) => false,
            };
            Some(Place { index, layers: layers.len(), linear_attention })
        });
        Matrix { node, role, layer }
    }

    fn note(&mut self, node: &str, met: Vec<bool>) {
        self.asked.nodes.push(node.to_owned());
        self.asked.rules.resize(met.len(), false);
        self.asked.rules.iter_mut().zip(met).for_each(|(rule, met)| *rule |= met);
    }

    /// # Errors
    /// `Unsupported` for a rule that is about nothing in the model, and for a recipe that quantizes nothing.
    pub(super) fn check_recipe(&self) -> Result<()> {
        let recipe = &self.settings.recipe;
        let met = |index: usize| self.asked.rules.get(index).copied().unwrap_or(false);
        let mut rules = recipe.rules().iter().enumerate();
        if let Some((_, rule)) = rules.find(|(index, _)| !met(*index)) {
            return Err(self.about_nothing(rule));
        }
        if recipe.base().is_some() && recipe.operators().lookups && !self.asked.lookup {
            return Err(Error::Unsupported {
                what: "op_types_to_quantize has Gather, but this package looks up no quantized table".to_owned(),
                hint: match self.looks_up_integers() {
                    true => "the package has no embedding; leave Gather out".to_owned(),
                    false => "standard operators look up float rows alone; leave Gather out".to_owned(),
                },
            });
        }
        let quantized = |job: &Job| matches!(job.sink, Sink::Blocks { .. });
        if recipe.base().is_some() && !self.jobs.iter().any(quantized) {
            return Err(Error::Unsupported {
                what: format!("no matrix is left to be quantized in an {} package", self.settings.precision.name()),
                hint: "op_types_to_quantize and nodes_to_exclude leave none; -p fp32 or fp16 keeps all float"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn about_nothing(&self, rule: &Rule) -> Error {
        match &rule.matrices {
            Matrices::Node(node) => {
                let closest = closest(&self.asked.nodes, node);
                let option = if rule.scheme.is_none() { "nodes_to_exclude" } else { "matmul_mixed_precision" };
                Error::Unsupported {
                    what: format!("{option} names {node:?}, which reads no matrix that would be quantized"),
                    hint: closest.map_or_else(String::new, |closest| format!("the closest name is {closest}")),
                }
            }
            Matrices::Selected(selector) => {
                let why = match selector {
                    Selector::LastMatmul => "the package has no head to quantize",
                    Selector::MixedLayers => "no linear of a layer is quantized",
                    Selector::LinearAttention => "the model has no layers of linear attention",
                };
                Error::Unsupported {
                    what: format!("matmul_mixed_precision has {}, but {why}", selector.name()),
                    hint: format!("leave {} out", selector.name()),
                }
            }
        }
    }
}

/// The name that has the typed one in it, or starts and ends most alike.
fn closest<'a>(names: &'a [String], typed: &str) -> Option<&'a String> {
    let alike = |name: &String| {
        let shorter = name.len().min(typed.len());
        let start = name.bytes().zip(typed.bytes()).take_while(|(a, b)| a == b).count();
        let end = name.bytes().rev().zip(typed.bytes().rev()).take_while(|(a, b)| a == b).count();
        if name.contains(typed) { usize::MAX } else { start + end.min(shorter - start) }
    };
    // Of equals the first.
    names.iter().rev().max_by_key(|name| alike(name))
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn the_closest_name_starts_and_ends_alike() {
        let names = ["/model/layers.0/mlp/up_proj/MatMul", "/model/layers.0/mlp/down_proj/MatMul", "/lm_head/MatMul"];
        let names = names.map(str::to_owned);
        for (typed, expected) in [
            ("/model/layers.0/mlp/down/MatMul", 1),
            ("/model/layers.7/mlp/down_proj/MatMul", 1),
            ("/lm_head/MatMul_Q4", 2),
            ("lm_head", 2),
        ] {
            assert_eq!(closest(&names, typed), Some(&names[expected]), "{typed}");
        }
        assert_eq!(closest(&[], "x"), None);
    }
}
