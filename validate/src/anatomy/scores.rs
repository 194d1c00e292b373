//! Attention in standard operators: what is done to the products of queries and keys before the softmax.
//!
//! ```text
//! q · kᵀ ─► * scale ─► (/ cap ─► tanh ─► * cap) ─► + mask ─► Softmax ─► · v
//! ```
//!
//! Factors may stand on queries and keys too. A mask is computed for two short runs, and must let a token see what the
//! checkpoint's window says. What cannot be read is told as not compared.

use std::collections::BTreeSet;
use std::rc::Rc;

use genai_architectures::{Attention, Position};

use super::Examination;
use super::small::{Run, Small, Tensor};
use super::trail::Factor;
use crate::graph::{Dimension, Node};
use crate::report::Severity;

/// A mask computed for one token has as many columns at most.
const MAX_COLUMNS: usize = 1 << 17;
/// What is added to hide a key is at least so low in any exporter's graph, and no bias of distance is for near keys.
const HIDDEN: f64 = -1e3;

/// What hides keys from queries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mask<'a> {
    /// Added to the scores.
    Added(&'a str),
    /// Picks the scores where it is that.
    Kept { test: &'a str, is: bool },
    /// Picks or is added, by its type.
    OfEither(&'a str),
}

#[derive(Debug)]
pub(super) struct Scores<'a> {
    /// The product of queries and keys.
    pub(super) node: &'a Node,
    /// On the products, before the tanh where there is one.
    factor: Factor,
    /// Behind the tanh.
    cap: Option<Factor>,
    pub(super) masks: Vec<Mask<'a>>,
}

/// The runs that masks and factors are computed for, as far as the graph takes them.
pub(super) struct Runs<'a> {
    /// The first token of a text.
    first: Option<Small<'a>>,
    /// The last token of a long one, and how many tokens it has.
    last: Option<Small<'a>>,
    columns: usize,
    /// Four at once, of which the first is padding.
    prompt: Option<Small<'a>>,
}

const PROMPT: Run = Run { past: 0, tokens: 4, padding: 1 };

impl<'a> Runs<'a> {
    pub(super) fn new(graph: &'a crate::graph::Graph, names: &super::Names, context: usize) -> Self {
        let cache = names.past.first().and_then(|past| graph.input(&past.name(0)));
        let rows = cache.and_then(|cache| match cache.shape.as_ref()?.get(2)? {
            Dimension::Fixed(rows) => usize::try_from(*rows).ok(),
            _ => None,
        });
        let columns = rows.unwrap_or(context).clamp(1, MAX_COLUMNS);
        let run = |past, tokens| Run { past, tokens, padding: 0 };
        Self {
            first: Small::new(graph, names, run(0, 1)),
            last: Small::new(graph, names, run(columns - 1, 1)),
            columns,
            prompt: Small::new(graph, names, PROMPT),
        }
    }
}

impl<'a> Examination<'a> {
    /// The factor by which a node scales its other input, computed where it is no constant.
    pub(super) fn computed_factor(&mut self, node: &'a Node) -> Option<(&'a str, Factor)> {
        if let Some(known) = self.trail.rounded_factor(node) {
            return Some(known);
        }
        let (a, b) = (node.input(0)?, node.input(1)?);
        let mut one = |name: &'a str| self.first_value(name).filter(|value| value.values.len() == 1)?.uniform();
        match node.op_type.as_str() {
            "Mul" => match (one(a), one(b)) {
                (None, Some(by)) => Some((a, Factor::of(by))),
                (Some(by), None) => Some((b, Factor::of(by))),
                _ => None,
            },
            "Div" => one(b).filter(|by| *by != 0.0).map(|by| (a, Factor::of(1.0 / by))),
            _ => None,
        }
    }

    /// What a value is for the first token of a text, where it is made of no weights.
    pub(super) fn first_value(&mut self, name: &'a str) -> Option<Rc<Tensor>> {
        self.runs.first.as_mut()?.value(name)
    }

    /// Back from the shares of the values to the product of queries and keys; `None` where something on the way is not
    /// known.
    pub(super) fn scores(&mut self, shares: &'a str) -> Option<Scores<'a>> {
        let softmax = self.softmax(shares)?;
        let mut at = softmax.input(0)?;
        let (mut factor, mut cap, mut masks) = (Factor::ONE, None, Vec::new());
        for _ in 0..32 {
            let node = self.trail.maker(at)?;
            match node.op_type.as_str() {
                "MatMul" if self.trail.product(at).is_none() => return Some(Scores { node, factor, cap, masks }),
                "FusedMatMul" if self.trail.product(at).is_none() => {
                    let factor = factor.times(Factor::of(node.float("alpha").unwrap_or(1.0).into()));
                    return Some(Scores { node, factor, cap, masks });
                }
                "Mul" | "Div" => {
                    let (inner, by) = self.computed_factor(node)?;
                    (at, factor) = (inner, factor.times(by));
                }
                "Tanh" if cap.is_none() => {
                    (cap, factor) = (Some(factor), Factor::ONE);
                    at = node.input(0)?;
                }
                // A mask inside of a tanh would hide nothing.
                "Add" if cap.is_none() => {
                    let (a, b) = (node.input(0)?, node.input(1)?);
                    let (inner, mask) = self.towards_product([a, b])?;
                    masks.push(Mask::Added(mask));
                    at = inner;
                }
                "Where" if cap.is_none() => {
                    let (test, a, b) = (node.input(0)?, node.input(1)?, node.input(2)?);
                    let (inner, other) = self.towards_product([a, b])?;
                    let hidden = self.first_value(other)?.uniform()?;
                    if hidden > HIDDEN {
                        return None;
                    }
                    masks.push(Mask::Kept { test, is: inner == a });
                    at = inner;
                }
                _ => return None,
            }
        }
        None
    }

    /// The softmax that shares come from; some exporters replace what is no number behind it.
    fn softmax(&self, shares: &'a str) -> Option<&'a Node> {
        let node = self.trail.maker(shares)?;
        match node.op_type.as_str() {
            "Softmax" => Some(node),
            "Where" => {
                let mut inputs = [node.input(1)?, node.input(2)?].into_iter().filter_map(|name| self.trail.maker(name));
                inputs.find(|node| node.op_type == "Softmax")
            }
            _ => None,
        }
    }

    /// Of two values, the one that is made of a product of queries and keys, then the other.
    fn towards_product(&self, [a, b]: [&'a str; 2]) -> Option<(&'a str, &'a str)> {
        match (self.is_of_product(a), self.is_of_product(b)) {
            (true, false) => Some((a, b)),
            (false, true) => Some((b, a)),
            _ => None,
        }
    }

    fn is_of_product(&self, name: &'a str) -> bool {
        let (mut open, mut seen) = (vec![name], BTreeSet::new());
        while let Some(name) = open.pop() {
            let Some(node) = self.trail.maker(name).filter(|_| seen.insert(name)) else { continue };
            match node.op_type.as_str() {
                "MatMul" | "FusedMatMul" => return true,
                "Mul" | "Div" | "Add" | "Tanh" => open.extend(node.inputs.iter().map(String::as_str)),
                "Where" => open.extend(node.inputs.iter().skip(1).map(String::as_str)),
                _ => {}
            }
        }
        false
    }

    /// Scale and softcap. `heads` is the factor on queries and keys, `None` where it cannot be read.
    pub(super) fn check_scores(&mut self, name: &str, spec: &Attention, scores: &Scores<'a>, heads: Option<Factor>) {
        let at = scores.node.label();
        self.check_softcap(name, at, spec.softcap, scores.cap);
        let Some(heads) = heads else {
            return self.not_compared(name, at, "the scale of the scores");
        };
        let inner = scores.factor.times(heads);
        // What is left of the factors before the tanh is the scale over the cap; the one that is expected, where the cap
        // alone is wrong behind it.
        let caps = [spec.softcap.map(|cap| Factor::of(cap.into())), scores.cap];
        let scale =
            caps.into_iter().map(|cap| inner.times(cap.filter(|_| scores.cap.is_some()).unwrap_or(Factor::ONE)));
        let far = |scale: &Factor| (scale.by - f64::from(spec.scale)).abs();
        let Some(scale) = scale.min_by(|a, b| far(a).total_cmp(&far(b))) else { return };
        let what = format!("{name}: the scale of the scores");
        self.expect_rounded("attention-scale", at, &what, scale, spec.scale.into());
    }

    pub(super) fn check_softcap(&mut self, name: &str, at: &str, expected: Option<f32>, found: Option<Factor>) {
        if let (Some(expected), Some(found)) = (expected, found) {
            let what = format!("{name}: the softcap of the scores");
            self.expect_rounded("attention-softcap", at, &what, found, expected.into());
            return;
        }
        self.expect(expected.is_none() && found.is_none(), "attention-softcap", at, || match (expected, found) {
            (Some(expected), _) => format!("{name}: the scores have no softcap, expected {expected}"),
            (_, found) => {
                let found = found.map_or(0.0, |found| found.by);
                format!("{name}: the scores have a softcap of {found}, the checkpoint has none")
            }
        });
    }

    /// What the masks let a token see; `causal` where the operator itself hides what follows.
    pub(super) fn check_masks(&mut self, name: &str, spec: &Attention, at: &str, masks: &[Mask<'a>], causal: bool) {
        let window = "the window";
        if spec.blocks.is_some() {
            return self.not_compared(name, at, window);
        }
        // A bias for the distance hides nothing.
        let biased = matches!(spec.position, Position::Alibi(_));
        let columns = self.runs.columns;
        let seen = seen(self.runs.last.as_mut(), masks, 1, columns, biased);
        let row = seen.as_deref().and_then(<[Vec<bool>]>::first);
        let count = row.map(|row| row.iter().rev().take_while(|seen| **seen).count());
        let gaps = row.zip(count).is_some_and(|(row, count)| row.iter().filter(|seen| **seen).count() != count);
        let Some(count) = count.filter(|count| *count > 0 && !gaps) else {
            return self.not_compared(name, at, window);
        };
        let hides = |window: usize| Some(window).filter(|window| *window < columns);
        let (found, expected) = (hides(count), spec.window.and_then(hides));
        let same = self.expect(found == expected, "attention-window", at, || {
            let called = |window: Option<usize>| {
                window.map_or("all positions".to_owned(), |window| format!("{window} positions"))
            };
            format!("{name}: the mask lets a token see {}, expected {}", called(found), called(expected))
        });
        if same && !causal {
            self.check_prompt(name, spec, at, masks, biased);
        }
    }

    /// Of several tokens at once, none sees what follows it, or padding.
    fn check_prompt(&mut self, name: &str, spec: &Attention, at: &str, masks: &[Mask<'a>], biased: bool) {
        let Run { tokens, padding, .. } = PROMPT;
        let Some(seen) = seen(self.runs.prompt.as_mut(), masks, tokens, tokens, biased) else { return };
        let takes_mask = self.graph.input(&self.names.attention_mask).is_some();
        let wrong = |(row, column, seen): (usize, usize, bool)| {
            let near = spec.window.is_none_or(|window| row.saturating_sub(column) < window);
            let what = match () {
                () if column > row => "a token that follows it",
                () if column < padding && takes_mask => "padding",
                () if column < padding => return None,
                () if near => return (!seen).then(|| format!("token {row} does not see token {column}")),
                () => return None,
            };
            seen.then(|| format!("token {row} sees token {column}, {what}"))
        };
        let cells = seen
            .iter()
            .enumerate()
            .skip(padding)
            .flat_map(|(row, columns)| columns.iter().enumerate().map(move |(column, seen)| (row, column, *seen)));
        let wrong = cells.map(wrong).find_map(|wrong| wrong);
        let holds = wrong.is_none();
        self.expect(holds, "attention-mask", at, || {
            format!("{name}: of {tokens} tokens at once, {}", wrong.unwrap_or_default())
        });
    }

    /// Told once for all layers.
    pub(super) fn not_compared(&mut self, name: &str, at: &str, what: &str) {
        if self.first_time(format!("not compared: {what}")) {
            let message = format!("{name}: {what} is spelled in a way that is not known here, and not compared");
            self.tell(Severity::Info, "not-recognised", at, message);
        }
    }
}

/// Which columns each row sees, the same for all heads; `None` where that cannot be told.
fn seen<'a>(
    run: Option<&mut Small<'a>>,
    masks: &[Mask<'a>],
    rows: usize,
    columns: usize,
    biased: bool,
) -> Option<Vec<Vec<bool>>> {
    let run = run?;
    let mut all = vec![vec![true; columns]; rows];
    for mask in masks {
        let (value, is) = match *mask {
            Mask::Added(name) => (run.value(name)?, None),
            Mask::Kept { test, is } => (run.value(test)?, Some(is)),
            Mask::OfEither(name) => {
                let value = run.value(name)?;
                let is = value.whole.then_some(true);
                (value, is)
            }
        };
        let sees = |cell: &f64| match is {
            Some(is) => Some((*cell != 0.0) == is),
            None if *cell <= HIDDEN => Some(false),
            None if *cell == 0.0 => Some(true),
            None => None,
        };
        let cells = value.over(rows, columns)?;
        let heads = cells.chunks(rows * columns).map(|head| head.iter().map(sees).collect::<Option<Vec<bool>>>());
        let Some(heads) = heads.collect::<Option<Vec<_>>>() else {
            // Of a bias that hides nothing by itself: it takes off at most its distance.
            let farthest = HIDDEN.min(-2.0 * f64::from(u32::try_from(columns).unwrap_or(u32::MAX)));
            if biased && is.is_none() && cells.iter().all(|cell| *cell > farthest) {
                continue;
            }
            return None;
        };
        let first = heads.first()?;
        if heads.iter().any(|head| head != first) {
            return None;
        }
        for (all, cells) in all.iter_mut().zip(first.chunks(columns)) {
            for (all, cell) in all.iter_mut().zip(cells) {
                *all &= *cell;
            }
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use genai_onnx::tensor_proto::DataType;
    use genai_onnx::{GraphProto, TensorProto};

    use super::*;
    use crate::anatomy::Names;
    use crate::graph::Graph;
    use crate::graph::sample::{floats, node, tensor, value, write};

    fn number(name: &str, value: i64) -> TensorProto {
        tensor(name, DataType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// As transformers writes masks: of a range of the shapes of mask and tokens, and not of positions.
    fn masks() -> (Graph, Names) {
        let column = tensor("column", DataType::Int64, &[1], 1_i64.to_le_bytes().to_vec());
        let graph = GraphProto {
            node: vec![
                node("Shape", &["attention_mask"], &["shape"], vec![]),
                node("Gather", &["shape", "one"], &["total"], vec![]),
                node("Range", &["zero", "total", "one"], &["keys"], vec![]),
                node("Shape", &["input_ids"], &["ids"], vec![]),
                node("Gather", &["ids", "one"], &["tokens"], vec![]),
                node("Sub", &["total", "tokens"], &["past"], vec![]),
                node("Range", &["past", "total", "one"], &["queries"], vec![]),
                node("Unsqueeze", &["queries", "column"], &["rows"], vec![]),
                node("LessOrEqual", &["keys", "rows"], &["causal"], vec![]),
                node("Sub", &["rows", "window"], &["far"], vec![]),
                node("Greater", &["keys", "far"], &["near"], vec![]),
                node("And", &["near", "causal"], &["seen"], vec![]),
                node("Not", &["seen"], &["hidden"], vec![]),
                node("Where", &["seen", "nothing", "low"], &["bias"], vec![]),
                node("Mul", &["keys", "slope"], &["distance"], vec![]),
                node("Where", &["seen", "slope", "low"], &["both"], vec![]),
                node("Mul", &["heads", "bias"], &["by_head"], vec![]),
            ],
            initializer: vec![
                number("zero", 0),
                number("one", 1),
                number("window", 5),
                column,
                floats("nothing", &[], &[0.0]),
                floats("low", &[], &[-1e9]),
                floats("slope", &[], &[-0.5]),
                floats("heads", &[1, 2, 1, 1], &[1.0, 0.0]),
            ],
            input: vec![
                value("input_ids", DataType::Int64, &["batch", "tokens"]),
                value("attention_mask", DataType::Int64, &["batch", "total"]),
            ],
            ..GraphProto::default()
        };
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), graph);
        (Graph::open(folder.path(), "model.onnx").unwrap(), Names::usual())
    }

    #[test]
    fn masks_are_read_however_they_hide() {
        let (graph, names) = masks();
        let mut runs = Runs::new(&graph, &names, 12);
        let mut last = |mask: Mask<'static>| seen(runs.last.as_mut(), &[mask], 1, 12, false);
        let expected = Some(vec![[vec![false; 7], vec![true; 5]].concat()]);
        assert_eq!(last(Mask::Added("bias")), expected);
        assert_eq!(last(Mask::OfEither("bias")), expected);
        assert_eq!(last(Mask::OfEither("seen")), expected);
        assert_eq!(last(Mask::Kept { test: "seen", is: true }), expected);
        assert_eq!(last(Mask::Kept { test: "hidden", is: false }), expected);
        let rows = seen(runs.prompt.as_mut(), &[Mask::Added("bias")], 4, 4, false).unwrap();
        assert_eq!(rows.first().unwrap(), &[true, false, false, false]);
        assert_eq!(rows.last().unwrap(), &[true; 4]);
    }

    #[test]
    fn what_is_no_mask_is_not_taken_for_one() {
        let (graph, names) = masks();
        let mut runs = Runs::new(&graph, &names, 12);
        let mut last = |masks: &[Mask<'static>], biased| seen(runs.last.as_mut(), masks, 1, 12, biased);
        let (bias, distance) = (Mask::Added("bias"), Mask::Added("distance"));
        assert_eq!(last(&[distance, bias], false), None);
        assert_eq!(last(&[distance, bias], true), last(&[bias], false), "biases of distance beside a mask");
        assert_eq!(last(&[Mask::Added("both")], false), None);
        assert_eq!(last(&[Mask::Added("by_head")], false), None, "heads that see different keys");
        assert_eq!(last(&[Mask::Added("gone")], false), None);
    }
}
