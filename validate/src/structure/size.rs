//! Bytes that need not be there.

use std::collections::{BTreeMap, HashMap};

use super::{Findings, Package, some_of};
use crate::graph::{Graph, Initializer, Stored, Use};
use crate::report::bytes;

/// Less is not worth a word.
const WORTH_TELLING: u64 = 64 << 10;
const PIECE: usize = 1 << 20;

pub(super) fn unused(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let graph = &part.graph;
        let idle: Vec<&Initializer> = graph
            .initializers
            .iter()
            .filter(|tensor| graph.consumers(&tensor.name).next().is_none() && !graph.is_output(&tensor.name))
            .collect();
        if !idle.is_empty() {
            let names: Vec<&str> = idle.iter().map(|tensor| tensor.name.as_str()).collect();
            let total = idle.iter().fold(0_u64, |all, tensor| all.saturating_add(tensor.bytes));
            let message = format!("{} tensors that no node reads, {}: {}", idle.len(), bytes(total), some_of(&names));
            findings.info("unused", part.file.as_str(), message);
        }
    }
}

pub(super) fn duplicates(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let graph = &part.graph;
        // Those that begin alike, and are not the same place of a file.
        let mut alike: HashMap<(i32, u64, Vec<u8>), Vec<&Initializer>> = HashMap::new();
        for tensor in graph.initializers.iter().filter(|tensor| tensor.bytes >= WORTH_TELLING) {
            let mut start = vec![0; 4096];
            if graph.bytes(tensor, 0, &mut start).is_ok() {
                alike.entry((tensor.dtype.into(), tensor.bytes, start)).or_default().push(tensor);
            }
        }
        let mut twice: BTreeMap<&str, &Initializer> = BTreeMap::new();
        for list in alike.values() {
            let Some((first, others)) = list.split_first() else { continue };
            for &other in others.iter().filter(|other| other.stored != first.stored && same(graph, first, other)) {
                twice.insert(&other.name, first);
            }
        }
        for (name, first) in twice {
            let message = format!("holds the same {} as `{}`", bytes(first.bytes), first.name);
            findings.info("duplicates", format!("{}: {name}", part.file), message);
        }
        tied_twice(part, findings);
    }
}

/// A head that is the embedding, stored in another way.
fn tied_twice(part: &super::package::Part, findings: &mut Findings) {
    let matrices = &part.weights.matrices;
    let Some(table) = matrices.iter().find(|weight| weight.used == Use::Embedding && weight.n > 1) else { return };
    let head = matrices.iter().rev().find(|weight| {
        weight.used == Use::Product && (weight.n, weight.k) == (table.n, table.k) && weight.tensor != table.tensor
    });
    let Some(head) = head.filter(|head| head.bits == table.bits && head.block.is_none() && table.block.is_none())
    else {
        return;
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let read = |rows: std::ops::Range<usize>, left: &mut Vec<f32>, right: &mut Vec<f32>| {
        table.rows(&part.graph, rows.clone(), left).is_ok() && head.rows(&part.graph, rows, right).is_ok()
    };
    if read(0..8, &mut left, &mut right) && left == right && left.iter().any(|&value| value != 0.0) {
        let message = format!("begins like the embedding `{}`, turned: a tied matrix stored twice", table.tensor);
        findings.info("duplicates", format!("{}: {}", part.file, head.tensor), message);
    }
}

fn same(graph: &Graph, one: &Initializer, other: &Initializer) -> bool {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    // Where both lie in memory or in one place there is nothing to read.
    if matches!((&one.stored, &other.stored), (Stored::Here(a), Stored::Here(b)) if a == b) {
        return true;
    }
    let mut from = 0;
    while from < one.bytes {
        let length = usize::try_from(one.bytes - from).unwrap_or(usize::MAX).min(PIECE);
        left.resize(length, 0);
        right.resize(length, 0);
        let read = graph.bytes(one, from, &mut left).is_ok() && graph.bytes(other, from, &mut right).is_ok();
        if !read || left != right {
            return false;
        }
        from += length as u64;
    }
    true
}
