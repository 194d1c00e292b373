//! What attention counts and keeps: lengths, positions, caches.

use genai_architectures::{Attention, Mixer};

use super::Examination;
use super::attention::slots;
use crate::graph::Node;

impl<'a> Examination<'a> {
    /// The counts of tokens must come from the mask's values, not from its shape alone.
    pub(super) fn check_lengths(&mut self, name: &str, node: &'a Node, filled: usize, total: usize) {
        let mask = self.names.attention_mask.clone();
        if self.graph.input(&mask).is_none() {
            return;
        }
        let at = node.label();
        for (slot, what) in [(filled, "seqlens_k"), (total, "total_sequence_length")] {
            let Some(value) = node.input(slot).filter(|value| self.first_time(format!("{what} {value}"))) else {
                continue;
            };
            let message = || format!("{name}: {what} does not depend on `{mask}`: padding and past are not told apart");
            if !self.expect(self.trail.depends(value, &mask), "attention-mask", at, message) || slot == total {
                continue;
            }
            let summed =
                self.reaches(value, "ReduceSum") || self.reaches(value, "CumSum") || self.reaches(value, "ReduceMax");
            let message = || {
                format!(
                    "{name}: {what} is made of the shape of `{mask}` and not of its values, so the mask is ignored and padding is read as text"
                )
            };
            if !self.expect(summed, "attention-mask", at, message) {
                continue;
            }
            let made = self.trail.maker(value);
            let offset = match made.map(|made| (made, made.op_type.as_str())) {
                Some((made, "Sub")) => made.input(1).and_then(|name| self.trail.scalar(name)).map(|value| -value),
                Some((made, "Add")) => made.input(1).and_then(|name| self.trail.scalar(name)),
                Some((_, "ReduceSum")) => Some(0.0),
                _ => None,
            };
            if let Some(offset) = offset {
                let message = || {
                    format!(
                        "{name}: seqlens_k is the count of tokens {offset:+}, expected -1: positions and cache are off by {}",
                        offset + 1.0
                    )
                };
                self.expect(offset == -1.0, "position-ids", at, message);
            }
        }
    }

    fn reaches(&self, value: &'a str, op_type: &str) -> bool {
        let (mut open, mut steps) = (vec![value], 0);
        while let Some(name) = open.pop().filter(|_| steps < 256) {
            steps += 1;
            let Some(node) = self.graph.producer(name) else { continue };
            if node.op_type == op_type {
                return true;
            }
            open.extend(node.inputs.iter().map(String::as_str));
        }
        false
    }

    /// Positions must be the input as it is.
    pub(super) fn check_positions(&mut self, name: &str, value: &'a str, at: &str) {
        if !self.first_time(format!("positions {value}")) {
            return;
        }
        let origin = self.trail.origin(value);
        if origin == self.names.position_ids {
            self.checks += 1;
            return;
        }
        let Some(made) = self.graph.producer(origin) else { return };
        let shift = match (made.op_type.as_str(), made.input(0), made.input(1)) {
            ("Add", Some(a), Some(b)) => self.trail.scalar(b).or_else(|| self.trail.scalar(a)),
            ("Sub", _, Some(b)) => self.trail.scalar(b).map(|shift| -shift),
            _ => None,
        };
        if let Some(shift) = shift.filter(|_| self.trail.depends(origin, &self.names.position_ids)) {
            let message = || {
                format!(
                    "{name}: positions are `{}` {shift:+}, expected them as they come: every token is off by {shift}",
                    self.names.position_ids
                )
            };
            let (holds, message) = (shift == 0.0, message());
            self.expect(holds, "position-ids", at, || message);
        }
    }

    /// The past that is read, and the present that is kept, are the layer's own.
    pub(super) fn check_caches(&mut self, index: usize, spec: &Attention, node: &'a Node) {
        if !spec.key_value.is_own() {
            return;
        }
        // Caches are counted by the layers that have one.
        let layers = self.spec.layers.iter().take(index);
        let number = layers
            .filter(|layer| {
                let Mixer::Attention(attention) = &layer.mixer;
                attention.key_value.is_own()
            })
            .count();
        for (which, what) in [(0, "keys"), (1, "values")] {
            let (Some(past), Some(present)) = (self.names.past.get(which), self.names.present.get(which)) else {
                return;
            };
            let (past, present) = (past.name(number), present.name(number));
            if self.graph.output(&present).is_none() || self.graph.input(&past).is_none() {
                // The stage that reads the interface tells about these.
                continue;
            }
            // Some operators take caches that were joined before them.
            let joined = matches!(node.op_type.as_str(), "Attention" | "MultiHeadAttention");
            let slot = slots(node).and_then(|slots| slots.past.get(which).copied());
            let slot = slot.filter(|slot| !joined || node.input(*slot).is_some());
            if let Some(slot) = slot {
                let found = node.input(slot).map(|name| self.trail.origin(name));
                let message = || match found {
                    Some(found) => format!("layer {index}: reads `{found}` as the past {what}, expected `{past}`"),
                    None => {
                        format!("layer {index}: reads no past {what}, expected `{past}`: what came before is forgotten")
                    }
                };
                self.expect(found == Some(past.as_str()), "kv-cache", node.label(), message);
            }
            self.check_present(index, what, &past, &present, node, slot.is_some().then_some(which + 1));
        }
    }

    fn check_present(
        &mut self,
        index: usize,
        what: &str,
        past: &str,
        present: &str,
        node: &'a Node,
        output: Option<usize>,
    ) {
        let Some(value) = self.graph.output(present).map(|value| value.name.as_str()) else { return };
        let origin = self.trail.origin(value);
        if self.graph.input(origin).is_some() {
            let message = || {
                format!(
                    "layer {index}: `{present}` is `{origin}` as it came in: the {what} of new tokens are never kept (a stale cache)"
                )
            };
            self.expect(false, "kv-cache", present, message);
            return;
        }
        let Some(maker) = self.graph.producer(origin) else { return };
        if let Some(output) = output {
            let right = std::ptr::eq(maker, node) && node.output(output) == Some(origin);
            let from = maker.outputs.iter().position(|name| name == origin).unwrap_or(0);
            let message = || {
                format!(
                    "layer {index}: `{present}` is output {from} of `{}`, expected output {output} of `{}`, the {what} of its own \
                     attention",
                    maker.label(),
                    node.label()
                )
            };
            self.expect(right, "kv-cache", present, message);
        } else if maker.op_type == "Concat" {
            let first = self.first_joined(maker).unwrap_or_default();
            let message = || format!("layer {index}: `{present}` continues `{first}`, expected `{past}`");
            self.expect(first == past, "kv-cache", present, message);
            let used = node.inputs.iter().any(|input| self.trail.depends(input, origin));
            let message =
                || format!("layer {index}: attention does not read `{present}`, so what came before is forgotten");
            self.expect(used, "kv-cache", node.label(), message);
        }
    }

    /// What a `Concat` begins with; some exporters put nothing before the past.
    fn first_joined(&self, concat: &'a Node) -> Option<&'a str> {
        let mut concat = concat;
        for _ in 0..4 {
            let mut parts = concat.inputs.iter().map(|name| self.trail.origin(name));
            let first = parts.find(|name| self.graph.initializer(name).is_none_or(|tensor| tensor.elements > 0))?;
            match self.graph.producer(first).filter(|node| node.op_type == "Concat") {
                Some(inner) => concat = inner,
                None => return Some(first),
            }
        }
        None
    }
}
