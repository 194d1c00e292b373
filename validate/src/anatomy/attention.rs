//! Attention: its heads, scale and window, what it reads and what it keeps.

use genai_architectures::{Attention, HeadNorm, KeyValue, Norm, NormSpan, Position, RopeLayout};

use super::Examination;
use super::expected::Part;
use super::scores::{Mask, Scores};
use super::trail::{Branch, Factor, Point, Product, SeenNorm};
use crate::graph::Node;
use crate::report::Severity;

/// Which input of an operator is what.
pub(super) struct Slots {
    pub(super) past: [usize; 2],
    tables: Option<[usize; 2]>,
    /// Norms of queries and keys.
    norms: Option<[usize; 2]>,
    /// The last filled position of each row, and the longest length.
    lengths: Option<[usize; 2]>,
    positions: Option<usize>,
    sinks: Option<usize>,
}

/// What lies between attention and the product that its queries, keys or values come from.
struct Heads<'a> {
    product: Product<'a>,
    norms: Vec<SeenNorm<'a>>,
    rotary: Option<&'a Node>,
    /// The part of a product that several share: the node that divides it, and which output.
    share: Option<(&'a Node, usize)>,
    /// On what attention reads, behind the norm; `None` where one cannot be read.
    factor: Option<Factor>,
}

const FUSED: [&str; 3] = ["GroupQueryAttention", "MultiHeadAttention", "PagedAttention"];

impl<'a> Examination<'a> {
    /// The operator that mixes positions, of which a product reads the output.
    pub(super) fn mixing_node(&self, input: &'a str) -> Option<&'a Node> {
        let mut node = self.trail.maker(input)?;
        // Heads that were filled up to a size that a kernel has are cut off again.
        for _ in 0..4 {
            if matches!(node.op_type.as_str(), "Slice" | "Split") {
                node = self.trail.maker(node.input(0)?)?;
            }
        }
        let fused =
            FUSED.contains(&node.op_type.as_str()) || matches!(node.op_type.as_str(), "Attention" | "SparseAttention");
        let spelled = node.op_type == "MatMul" && node.output(0).is_some_and(|name| self.trail.product(name).is_none());
        (fused || spelled).then_some(node)
    }

    pub(super) fn attention(
        &mut self,
        index: usize,
        spec: &'a Attention,
        branch: &Branch<'a>,
        pre: Option<&'a Norm>,
        stream: Point<'a>,
    ) -> Option<()> {
        let node = self.mixing_node(branch.product.input)?;
        let name = format!("layer {index}");
        self.check_caches(index, spec, node);
        let slots = slots(node);
        let scores = match slots {
            None if node.op_type == "MatMul" => node.input(0).and_then(|shares| self.scores(shares)),
            _ => None,
        };
        let inputs = match (&slots, &scores) {
            (Some(_), _) => [node.input(0), node.input(1), node.input(2)],
            (None, Some(scores)) => [scores.node.input(0), scores.node.input(1), node.input(1)],
            (None, None) => self.spelled_inputs(node),
        };
        let Some(query) = inputs.first().copied().flatten().and_then(|name| self.heads(name)) else {
            let message = format!("{name}: attention is spelled in a way that is not known here ({})", node.op_type);
            self.tell(Severity::Info, "not-recognised", node.label(), message);
            return Some(());
        };
        let [_, key, value] = inputs.map(|name| name.and_then(|name| self.heads(name)));
        self.check_products(index, spec, node, [Some(&query), key.as_ref(), value.as_ref()]);
        for heads in [Some(&query), key.as_ref(), value.as_ref()].into_iter().flatten() {
            let label = heads.product.node.label();
            self.check_read(heads.product.input, pre, stream, &format!("attention of {name}"), label);
        }
        let factor = match (query.factor, key.as_ref()) {
            (Some(query), Some(key)) => key.factor.map(|key| query.times(key)),
            // Of a packed product.
            (query, None) => query.filter(|_| slots.is_some()),
            (None, _) => None,
        };
        match &slots {
            Some(slots) => self.check_fused(&name, spec, node, slots, factor),
            None => self.check_spelled(&name, spec, node, scores.as_ref(), factor),
        }
        self.check_rotation(&name, spec, node, slots.as_ref(), [Some(&query), key.as_ref()]);
        let norms = slots.as_ref().and_then(|slots| slots.norms);
        let own_keys = spec.key_value.is_own();
        let queries = (&query, spec.q_norm.as_ref(), spec.num_heads, "queries", norms.map(|norms| norms[0]));
        let keys =
            key.as_ref().map(|key| (key, spec.k_norm.as_ref(), spec.num_kv_heads, "keys", norms.map(|norms| norms[1])));
        for (heads, expected, count, what, slot) in [Some(queries), keys.filter(|_| own_keys)].into_iter().flatten() {
            let inside = slot.and_then(|slot| node.input(slot)).map(|weight| (weight, node.float("qk_norm_epsilon")));
            self.check_norm_of_heads(
                heads,
                expected,
                (count, spec.head_dim),
                &format!("the norm of {what} of {name}"),
                node,
                inside,
            );
        }
        Some(())
    }

    fn check_spelled(
        &mut self,
        name: &str,
        spec: &Attention,
        node: &'a Node,
        scores: Option<&Scores<'a>>,
        factor: Option<Factor>,
    ) {
        let Some(scores) = scores else {
            return self.not_compared(name, node.label(), "what is done to the scores (scale, softcap, window)");
        };
        self.check_scores(name, spec, scores, factor);
        self.check_masks(name, spec, scores.node.label(), &scores.masks, false);
    }

    /// Attributes of attention in one operator.
    fn check_fused(&mut self, name: &str, spec: &Attention, node: &'a Node, slots: &Slots, factor: Option<Factor>) {
        let at = node.label();
        let standard = !node.is_contrib();
        let heads = match node.op_type.as_str() {
            "MultiHeadAttention" => vec![("num_heads", spec.num_heads)],
            // They may be an axis of the inputs.
            "Attention" if node.int("q_num_heads").is_none() => Vec::new(),
            "Attention" => vec![("q_num_heads", spec.num_heads), ("kv_num_heads", spec.num_kv_heads)],
            _ => vec![("num_heads", spec.num_heads), ("kv_num_heads", spec.num_kv_heads)],
        };
        for (attribute, expected) in heads {
            let found = node.int(attribute).unwrap_or(0);
            let message = || format!("{name}: {attribute} is {found}, expected {expected}");
            self.expect(usize::try_from(found) == Ok(expected), "attention", at, message);
        }
        #[allow(clippy::as_conversions)] // A head has far fewer than 2^53 dimensions.
        let default = 1.0 / (spec.head_dim as f64).sqrt();
        let scale = node.float("scale").map(f64::from).filter(|scale| *scale != 0.0).unwrap_or(default);
        match factor {
            Some(factor) => {
                let what = format!("{name}: the scale of the scores");
                let scale = factor.times(Factor::of(scale));
                self.expect_rounded("attention-scale", at, &what, scale, spec.scale.into());
            }
            None => self.not_compared(name, at, "the scale of the scores"),
        }
        if node.op_type == "MultiHeadAttention" {
            return;
        }
        let softcap = node.float("softcap").filter(|cap| *cap != 0.0).map(|cap| Factor::of(cap.into()));
        self.check_softcap(name, at, spec.softcap, softcap);
        if standard {
            let masks: Vec<Mask<'a>> = node.input(3).map(Mask::OfEither).into_iter().collect();
            // Without a mask, tokens are told apart by their order or not at all.
            if !masks.is_empty() {
                self.check_masks(name, spec, at, &masks, node.int("is_causal") == Some(1));
            } else if spec.window.is_some() {
                self.not_compared(name, at, "the window");
            }
            return;
        }
        let window = usize::try_from(node.int("local_window_size").unwrap_or(-1)).ok().filter(|window| *window > 0);
        // A window past the longest text hides nothing.
        let hides = |window: Option<usize>| window.filter(|window| *window < self.spec.context_length);
        let same = hides(window) == hides(spec.window);
        self.expect(same, "attention-window", at, || {
            let called = |window: Option<usize>| {
                window.map_or("all positions".to_owned(), |window| format!("{window} positions"))
            };
            format!("{name}: local_window_size lets a token see {}, expected {}", called(window), called(spec.window))
        });
        let sinks = slots.sinks.and_then(|slot| node.input(slot)).is_some() || node.int("smooth_softmax") == Some(1);
        let message = || format!("{name}: the softmax has sinks, the checkpoint has none");
        self.expect(!sinks, "attention", at, message);
        if let Some([filled, total]) = slots.lengths {
            self.check_lengths(name, node, filled, total);
        }
        if let Some(positions) = slots.positions.and_then(|slot| node.input(slot)) {
            self.check_positions(name, positions, at);
        }
    }

    /// Which matrices make queries, keys and values.
    fn check_products(&mut self, index: usize, spec: &Attention, node: &'a Node, heads: [Option<&Heads<'a>>; 3]) {
        let packed = node.input(1).is_none() && slots(node).is_some();
        let one = |a: Option<&Heads<'a>>, b: Option<&Heads<'a>>| match (a, b) {
            (Some(a), Some(b)) => a.product.matrix == b.product.matrix,
            _ => false,
        };
        let [query, key, value] = heads;
        let parts = if packed || one(query, key) && one(key, value) && matches!(spec.key_value, KeyValue::Own { .. }) {
            let shares = heads.map(|heads| heads.and_then(|heads| heads.share));
            if let [Some((split, q)), Some((_, k)), Some((_, v))] = shares {
                let message = || {
                    format!(
                        "layer {index}: queries, keys and values are parts {q}, {k} and {v} of one product, expected 0, 1 and 2: they are swapped"
                    )
                };
                self.expect((q, k, v) == (0, 1, 2), "wiring", split.label(), message);
            }
            vec![(query, Part::Qkv(index))]
        } else if matches!(spec.key_value, KeyValue::OfLayer(_)) {
            vec![(query, Part::Query(index))]
        } else if matches!(spec.key_value, KeyValue::Same(_)) {
            vec![(query, Part::Query(index)), (key, Part::Key(index))]
        } else {
            vec![(query, Part::Query(index)), (key, Part::Key(index)), (value, Part::Value(index))]
        };
        for (heads, part) in parts {
            let Some(heads) = heads else { continue };
            self.assign(heads.product.matrix, part);
            self.check_bias(&heads.product, part, heads.product.node.label());
        }
    }

    fn check_rotation(
        &mut self,
        name: &str,
        spec: &Attention,
        node: &'a Node,
        slots: Option<&Slots>,
        heads: [Option<&Heads<'a>>; 2],
    ) {
        let inside = node.int("do_rotary") == Some(1);
        let apart = heads.map(|heads| heads.and_then(|heads| heads.rotary));
        let at = node.label();
        let Position::Rope(id) = spec.position else {
            let rotates = inside || apart.iter().any(Option::is_some);
            let message = || format!("{name}: rotates its heads, the checkpoint does not");
            self.expect(!rotates, "rotation", at, message);
            return;
        };
        let rope = self.spec.rope(id);
        let interleaved = i64::from(rope.layout == RopeLayout::Interleaved);
        if inside {
            let found = node.int("rotary_interleaved").unwrap_or(0);
            self.check_layout(name, found, interleaved, at);
            let tables = slots.and_then(|slots| slots.tables).map(|slots| slots.map(|slot| node.input(slot)));
            if let Some([Some(cos), Some(sin)]) = tables {
                self.check_tables(name, id, cos, sin, at);
            } else {
                self.expect(false, "rotation", at, || format!("{name}: rotates without tables of cosines and sines"));
            }
            return;
        }
        let mut rotated = false;
        for rotary in apart.into_iter().flatten() {
            rotated = true;
            let at = rotary.label();
            let contrib = rotary.is_contrib();
            let found = rotary.int("interleaved").unwrap_or(0);
            self.check_layout(name, found, interleaved, at);
            let [positions, cos, sin] = if contrib { [1, 2, 3] } else { [3, 1, 2] }.map(|slot| rotary.input(slot));
            if let Some(positions) = positions {
                self.check_positions(name, positions, at);
            }
            if let (Some(cos), Some(sin)) = (cos, sin) {
                self.check_tables(name, id, cos, sin, at);
            }
            if let Some(dim) = rotary.int("rotary_embedding_dim").filter(|dim| *dim > 0) {
                let message = || format!("{name}: {dim} dimensions of a head are rotated, expected {}", rope.dim);
                self.expect(usize::try_from(dim) == Ok(rope.dim), "rotation", at, message);
            }
        }
        // Elsewhere the rotation may be in as many operators.
        if slots.is_some() && node.is_contrib() && !rotated {
            self.expect(false, "rotation", at, || {
                format!(
                    "{name}: heads are not rotated (do_rotary is 0), expected a rotation of {} dimensions",
                    rope.dim
                )
            });
        }
    }

    fn check_layout(&mut self, name: &str, found: i64, expected: i64, at: &str) {
        let message = || {
            let called = |interleaved| if interleaved == 0 { "half a head apart" } else { "neighbours (interleaved)" };
            format!("{name}: rotated pairs are {}, expected {}", called(found), called(expected))
        };
        self.expect(found == expected, "rotation", at, message);
    }

    fn check_norm_of_heads(
        &mut self,
        heads: &Heads<'a>,
        expected: Option<&HeadNorm>,
        size: (usize, usize),
        name: &str,
        node: &'a Node,
        inside: Option<(&'a str, Option<f32>)>,
    ) {
        let at = node.label();
        match (expected, heads.norms.first(), inside) {
            (None, None, None) => {}
            (None, Some(_), _) | (None, _, Some(_)) => {
                self.expect(false, "norm", at, || format!("{name} is there, and the checkpoint has none"));
            }
            // It may be what cannot be read.
            (Some(_), None, None) if heads.factor.is_none() => self.not_compared(name, at, "the norm of heads"),
            (Some(expected), None, None) => {
                self.expect(false, "norm", at, || format!("{name} is missing, expected `{}`", expected.norm.path));
            }
            (Some(expected), None, Some((weight, eps))) => {
                self.check_head_norm(Some(weight), eps, expected, size, at, name);
            }
            (Some(expected), Some(norm), _) => {
                let at = norm.node.label().to_owned();
                // A weight for each head is a factor of its own behind the norm.
                let whole = matches!(expected.span, NormSpan::Head | NormSpan::Whole);
                self.check_head_norm(norm.weight.filter(|_| whole), Some(norm.eps), expected, size, &at, name);
            }
        }
    }

    /// Back from attention to the product that gives its heads.
    fn heads(&mut self, name: &'a str) -> Option<Heads<'a>> {
        let (mut name, mut norms, mut rotary, mut share) = (name, Vec::new(), None, None);
        let (mut factor, mut of_sum) = (Some(Factor::ONE), false);
        for _ in 0..64 {
            if let Some(product) = self.trail.product(name) {
                return Some(Heads { product, norms, rotary, share, factor });
            }
            if let Some(norm) = self.trail.norm(name) {
                let Point::Value(input) = norm.input else { return None };
                norms.push(norm);
                name = input;
                continue;
            }
            let origin = self.trail.origin(name);
            let node = self.graph.producer(origin)?;
            match node.op_type.as_str() {
                "RotaryEmbedding" => rotary = Some(node),
                "Split" => {
                    let part = node.outputs.iter().position(|output| output == origin)?;
                    share = Some((node, part));
                }
                // The terms of a sum are multiplied with cosines and sines.
                "Mul" | "Div" if !of_sum => {
                    if let Some((inner, by)) = self.computed_factor(node) {
                        name = inner;
                        // A norm takes away what was before it.
                        factor = factor.map(|factor| if norms.is_empty() { factor.times(by) } else { factor });
                        continue;
                    }
                    let weighs = node.inputs.iter().any(|input| self.first_value(input).is_some());
                    factor = factor.filter(|_| weighs);
                }
                _ => {}
            }
            of_sum = matches!(node.op_type.as_str(), "Add" | "Sub");
            let mut inputs = node.inputs.iter().map(String::as_str).skip(usize::from(node.op_type == "Where"));
            let past = |input: &&str| self.graph.input(input).is_none() && !self.trail.is_constant(input);
            name = inputs.find(past)?;
        }
        None
    }

    /// Queries, keys and values of attention that is spelled in standard operators: `softmax(q · kᵀ) · v`.
    fn spelled_inputs(&self, node: &'a Node) -> [Option<&'a str>; 3] {
        let mut at = node.input(0);
        for _ in 0..32 {
            let Some(maker) = at.and_then(|name| self.trail.maker(name)) else { break };
            if maker.op_type == "MatMul" {
                return [maker.input(0), maker.input(1), node.input(1)];
            }
            at = maker.inputs.iter().map(String::as_str).find(|input| !self.trail.is_constant(input));
        }
        [None, None, None]
    }
}

pub(super) fn slots(node: &Node) -> Option<Slots> {
    match node.op_type.as_str() {
        "GroupQueryAttention" => Some(Slots {
            past: [3, 4],
            tables: Some([7, 8]),
            norms: Some([14, 15]),
            lengths: Some([5, 6]),
            positions: Some(9),
            sinks: Some(11),
        }),
        // Caches may be joined before it.
        "Attention" if !node.is_contrib() => {
            Some(Slots { past: [4, 5], tables: None, norms: None, lengths: None, positions: None, sinks: None })
        }
        "MultiHeadAttention" => {
            Some(Slots { past: [6, 7], tables: None, norms: None, lengths: None, positions: None, sinks: None })
        }
        "PagedAttention" => Some(Slots {
            past: [3, 4],
            tables: Some([8, 9]),
            norms: Some([12, 13]),
            lengths: None,
            positions: None,
            sinks: Some(11),
        }),
        _ => None,
    }
}
