//! Matrices by value: what rounding to the stored type explains, and what it does not.

use std::collections::BTreeMap;

use super::Examination;
use super::expected::{self, Part, Tensor};
use super::suspects::{ALIKE, cosine};
use super::tally::{Limits, Tally};
use crate::Result;
use crate::graph::Weight;
use crate::report::{Module, Severity};

/// Columns that are judged together where no block of the storage says how many.
const BLOCK: usize = 32;

impl<'a> Examination<'a> {
    /// Holds every matrix against the checkpoint, and gives the error of each module.
    pub(super) fn compare_matrices(&mut self) -> Vec<Module> {
        self.assign_by_name();
        let parts: BTreeMap<usize, Part> = self.parts.clone();
        let (mut modules, mut unknown) = (Vec::new(), Vec::new());
        for (index, weight) in self.matrices.iter().enumerate() {
            match parts.get(&index) {
                Some(part) => modules.extend(self.compare_matrix(index, weight, *part)),
                None if self.tables.iter().any(|(cos, sin, _)| *cos == weight.tensor || *sin == weight.tensor) => {}
                None => unknown.push(weight.node.as_str()),
            }
        }
        if let Some(first) = unknown.first() {
            let message = format!(
                "what {} matrices are for is not known here, this one first; they are not compared",
                unknown.len()
            );
            self.tell(Severity::Info, "not-recognised", first, message);
        }
        modules
    }

    /// Where the walk did not come, names tell what a matrix does, as they are written by exporters.
    fn assign_by_name(&mut self) {
        let layers = self.spec.layers.len();
        for (index, weight) in self.matrices.iter().enumerate() {
            if self.parts.contains_key(&index) {
                continue;
            }
            let Some(part) = part_by_name(&weight.node).filter(|part| !self.parts.values().any(|known| known == part))
            else {
                continue;
            };
            let tensors = expected::of(self.spec, part);
            let rows: usize = tensors.iter().map(Tensor::rows).sum();
            let within = layer_of(part).is_none_or(|layer| layer < layers);
            if within && rows == weight.n && tensors.iter().all(|tensor| tensor.columns() <= weight.k) {
                self.parts.insert(index, part);
            }
        }
    }

    fn compare_matrix(&mut self, index: usize, weight: &Weight, part: Part) -> Vec<Module> {
        let tensors = self.tensors(index, part);
        let (rows, columns) =
            (tensors.iter().map(Tensor::rows).sum::<usize>(), tensors.first().map_or(0, Tensor::columns));
        let names = tensors.iter().map(|tensor| tensor.path()).collect::<Vec<_>>().join(", ");
        // Rows of codes are filled up to whole blocks.
        let padded = weight.block.map_or(columns, |block| columns.next_multiple_of(block.max(1)));
        let fits = weight.n == rows && (weight.k == columns || weight.k == padded && weight.scales.is_some());
        let message = || format!("its matrix is [{}, {}], expected [{rows}, {columns}] of {names}", weight.n, weight.k);
        if !self.expect(fits, "weights", &weight.node, message) {
            return Vec::new();
        }
        let tallies = match self.tally(weight, &tensors) {
            Ok(tallies) => tallies,
            Err(error) => {
                self.expect(false, "weights", &weight.tensor, || format!("{names} cannot be compared: {error}"));
                return Vec::new();
            }
        };
        let mut modules = Vec::new();
        for (tensor, tally) in tensors.iter().zip(tallies) {
            let relative = tally.relative();
            self.judge(weight, tensor, &tally);
            #[allow(clippy::as_conversions)] // A share of a size, for people.
            let share = (weight.bytes as f64 * tensor.rows() as f64 / rows.max(1) as f64).round() as u64;
            modules.push(Module {
                name: tensor.path().to_owned(),
                stored: weight.stored.clone(),
                bytes: share,
                relative_error: relative.is_finite().then_some(relative),
            });
        }
        modules
    }

    /// What a matrix should hold. Queries, keys and values of one stored tensor may stand as they do there, head by head.
    pub(super) fn tensors(&self, matrix: usize, part: Part) -> Vec<Tensor<'a>> {
        let apart = expected::of(self.spec, part);
        let (Some(stored), Some(weight)) = (expected::fused(&apart), self.matrices.get(matrix)) else { return apart };
        let (mut found, mut own) = (Vec::new(), Vec::new());
        let rows = stored.rows();
        let like = rows == weight.n
            && [1, rows / 3, rows / 2, 2 * rows / 3, rows.saturating_sub(2)].into_iter().all(|row| {
                weight.rows(self.graph, row..row + 1, &mut found).is_ok()
                    && stored.read(self.weights, row, 1, &mut own).is_ok()
                    && cosine(&found, &own) >= ALIKE
            });
        if like { vec![stored] } else { apart }
    }

    fn tally(&self, weight: &Weight, tensors: &[Tensor<'_>]) -> Result<Vec<Tally>> {
        let limits = Limits::of(weight);
        let block = weight.block.unwrap_or(BLOCK).clamp(1, weight.k.max(1));
        let mut tallies: Vec<Tally> = tensors.iter().map(|_| Tally::default()).collect();
        let mut expected = Vec::new();
        weight.for_each_rows(self.graph, expected::NUMBERS, |first, found| {
            let count = found.len().checked_div(weight.k).unwrap_or(0);
            let mut start = 0;
            for (tensor, tally) in tensors.iter().zip(&mut tallies) {
                let end = start + tensor.rows();
                let (from, to) = (first.max(start), (first + count).min(end));
                if from < to {
                    tensor.read(self.weights, from - start, to - from, &mut expected)?;
                    let columns = tensor.columns().max(1);
                    let rows = found.chunks_exact(weight.k.max(1)).skip(from - first);
                    for (row, (found, expected)) in (from - start..).zip(rows.zip(expected.chunks_exact(columns))) {
                        let found = found.get(..columns).unwrap_or(found);
                        tally.row(row, tensor.rows(), found, expected, block, &limits);
                    }
                }
                start = end;
            }
            Ok(())
        })?;
        Ok(tallies)
    }

    fn judge(&mut self, weight: &Weight, tensor: &Tensor<'_>, tally: &Tally) {
        let (limits, relative) = (Limits::of(weight), tally.relative());
        let (path, stored) = (tensor.path(), &weight.stored);
        if let Some((row, column)) = tally.not_finite {
            let tensor = weight.scales.as_ref().unwrap_or(&weight.tensor);
            let message = || {
                format!(
                    "`{path}` holds what is no number at row {row}, column {column} (NaN or infinite, in `{tensor}`)"
                )
            };
            self.expect(false, "weights", &weight.node, message);
            return;
        }
        if tally.bad_blocks == 0 && relative <= limits.relative {
            self.checks += 1;
            return;
        }
        let cause = self.suspect(weight, tensor, tally);
        let figures = format!("error {relative:.2e} of its size, rounding explains {:.0e}", limits.relative);
        match cause {
            Some(cause) => {
                let message = || format!("`{path}` ({stored}): {cause} ({figures})");
                self.expect(false, "weights", &weight.node, message);
            }
            None if tally.bad_blocks == 0 && relative <= 2.0 * limits.relative => {
                self.checks += 1;
                let message =
                    format!("`{path}` ({stored}) is rounded more coarsely than others of its kind ({figures})");
                self.tell(Severity::Doubt, "weights", &weight.node, message);
            }
            None => {
                let message = || {
                    format!("`{path}` ({stored}): all of it is noise, unlike any tensor of the checkpoint ({figures})")
                };
                self.expect(false, "weights", &weight.node, message);
            }
        }
    }
}

fn layer_of(part: Part) -> Option<usize> {
    match part {
        Part::Embedding | Part::Head => None,
        Part::Qkv(layer)
        | Part::Query(layer)
        | Part::Key(layer)
        | Part::Value(layer)
        | Part::Output(layer)
        | Part::Gate(layer)
        | Part::Up(layer)
        | Part::GateUp(layer)
        | Part::Down(layer) => Some(layer),
    }
}

/// `/model/layers.3/attn/q_proj/MatMul`, with dots or slashes.
fn part_by_name(node: &str) -> Option<Part> {
    let words: Vec<&str> = node.split(['/', '.']).collect();
    let has = |names: &[&str]| words.iter().any(|word| names.contains(word));
    let mut pairs = words.iter().zip(words.iter().skip(1));
    let layer =
        pairs.find(|(word, _)| matches!(**word, "layers" | "h" | "blocks")).and_then(|(_, number)| number.parse().ok());
    let Some(layer) = layer else {
        return match () {
            () if has(&["lm_head", "embed_out"]) => Some(Part::Head),
            () if has(&["embed_tokens", "wte", "word_embeddings"]) => Some(Part::Embedding),
            () => None,
        };
    };
    type Named = (&'static [&'static str], fn(usize) -> Part);
    const NAMES: [Named; 9] = [
        (&["qkv_proj", "query_key_value", "Wqkv"], Part::Qkv),
        (&["q_proj"], Part::Query),
        (&["k_proj"], Part::Key),
        (&["v_proj"], Part::Value),
        (&["o_proj", "out_proj"], Part::Output),
        (&["gate_up_proj"], Part::GateUp),
        (&["gate_proj"], Part::Gate),
        (&["up_proj", "fc1"], Part::Up),
        (&["down_proj", "fc2"], Part::Down),
    ];
    NAMES.iter().find(|(names, _)| has(names)).map(|(_, part)| part(layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_several_exporters_are_known() {
        let cases = [
            ("/model/layers.3/attn/q_proj/MatMul", Some(Part::Query(3))),
            ("model.layers.12.self_attn.v_proj", Some(Part::Value(12))),
            ("/transformer/h.0/attn/Wqkv/MatMul", Some(Part::Qkv(0))),
            ("/model/layers.1/mlp/gate_up_proj/MatMul_Q4", Some(Part::GateUp(1))),
            ("/model/layers.1/mlp/fc2/MatMul", Some(Part::Down(1))),
            ("/lm_head/MatMul", Some(Part::Head)),
            ("/model/embed_tokens/Gather", Some(Part::Embedding)),
            ("/model/layers.x/mlp/fc2/MatMul", None),
            ("/model/layers.1/mlp/router/MatMul", None),
            ("node_linear_3", None),
            ("", None),
        ];
        for (name, part) in cases {
            assert_eq!(part_by_name(name), part, "{name}");
        }
    }
}
