//! Which node of one graph is which of the other.

use std::collections::{BTreeMap, HashMap};

use crate::graph::{Graph, Node};

/// Nodes with their counterparts, as positions in the lists of nodes. Constants are no nodes here but values.
pub(super) struct Pairs {
    pub(super) pairs: Vec<(usize, usize)>,
    pub(super) only_a: Vec<usize>,
    pub(super) only_b: Vec<usize>,
    /// The counterpart in `b` of a node of `a`.
    pub(super) b_of_a: HashMap<usize, usize>,
}

impl Pairs {
    /// By name, in which the mark of a quantized product does not count; then, of what is left, by the order among
    /// operators of one kind where both have as many.
    pub(super) fn of(a: &Graph, b: &Graph) -> Self {
        let (mut only_a, mut only_b) = (operators(a), operators(b));
        let mut by_name: HashMap<&str, Option<usize>> = HashMap::new();
        for &index in &only_b {
            // A name that stands twice says nothing.
            by_name.entry(unmarked(b.nodes[index].label())).and_modify(|known| *known = None).or_insert(Some(index));
        }
        let mut pairs = Vec::new();
        let mut taken = HashMap::new();
        only_a.retain(|&index| {
            let counterpart = by_name.remove(unmarked(a.nodes[index].label())).flatten();
            if let Some(counterpart) = counterpart {
                pairs.push((index, counterpart));
                taken.insert(counterpart, index);
            }
            counterpart.is_none()
        });
        only_b.retain(|index| !taken.contains_key(index));
        let kinds = |graph: &Graph, left: &[usize]| {
            let mut kinds: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
            for &index in left {
                let node = &graph.nodes[index];
                kinds.entry((node.domain.clone(), node.op_type.clone())).or_default().push(index);
            }
            kinds
        };
        let (left, right) = (kinds(a, &only_a), kinds(b, &only_b));
        for (kind, of_a) in left {
            match right.get(&kind) {
                Some(of_b) if of_a.len() == of_b.len() => pairs.extend(of_a.into_iter().zip(of_b.iter().copied())),
                _ => {}
            }
        }
        pairs.sort_unstable();
        let b_of_a: HashMap<usize, usize> = pairs.iter().copied().collect();
        let of_b: std::collections::HashSet<usize> = b_of_a.values().copied().collect();
        only_a.retain(|index| !b_of_a.contains_key(index));
        only_b.retain(|index| !of_b.contains(index));
        Self { pairs, only_a, only_b, b_of_a }
    }
}

fn operators(graph: &Graph) -> Vec<usize> {
    let is_operator = |node: &Node| !(node.op_type == "Constant" && node.domain.is_empty());
    graph.nodes.iter().enumerate().filter(|(_, node)| is_operator(node)).map(|(index, _)| index).collect()
}

/// A name without the mark that a quantized product or its weight has at its end: `MatMul_Q4`, `weight_Q8`.
pub(super) fn unmarked(name: &str) -> &str {
    match name.rsplit_once("_Q") {
        Some((before, bits)) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => before,
        _ => name,
    }
}

/// A name in which every number that stands by itself is `*`, so that the nodes of all layers have one.
pub(super) fn role(name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut role = String::new();
    let mut rest = name;
    while !rest.is_empty() {
        let (word, behind) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        role.push_str(if is_number { "*" } else { word });
        let (mark, behind) = behind.split_at(behind.find(is_word).unwrap_or(behind.len()));
        role.push_str(mark);
        rest = behind;
    }
    role
}

/// `GroupQueryAttention`, or with its domain where it is not one of ONNX or of ONNX Runtime.
pub(super) fn operator(node: &Node) -> String {
    match node.domain.as_str() {
        "" | "com.microsoft" => node.op_type.clone(),
        domain => format!("{domain}:{}", node.op_type),
    }
}
