//! Weights by value: which are the same bytes under any name, and how far the others are apart as numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::nodes::{Pairs, unmarked};
use super::{Pair, Reason, Sameness};
use crate::Result;
use crate::graph::{ElementType, Graph, Initializer, Use, Weight};

/// Constants of at most as many elements are values; larger ones are weights.
const MOST_VALUES: u64 = 64;

/// Bytes and numbers that are held of one tensor at a time.
const PIECE: usize = 1 << 20;
const NUMBERS: usize = 1 << 22;

/// Which tensor of one graph is which of the other.
pub(super) struct Tensors {
    pairs: Vec<Match>,
    only: (Vec<String>, Vec<String>),
    b_of_a: HashMap<String, String>,
    /// What tensors of each side hold, where it was read; equal for equal bytes of one type and shape.
    contents: (HashMap<String, Content>, HashMap<String, Content>),
}

type Content = [u8; 32];

struct Match {
    a: String,
    b: String,
    /// Whether the bytes are the same, as far as they were read.
    same: bool,
}

impl Tensors {
    /// Tensors of one name and the same bytes; then of any name and the same bytes; then of one name, in which the mark
    /// of codes does not count. Without `read`, names alone count.
    pub(super) fn of(a: &Graph, b: &Graph, read: bool) -> Result<Self> {
        let kinds =
            |graph: &Graph| weights(graph).map(|tensor| (dtype_name(tensor.dtype), tensor.shape.clone())).collect();
        let (of_a, of_b): (BTreeSet<_>, BTreeSet<_>) = (kinds(a), kinds(b));
        let contents = |graph: &Graph| -> Result<HashMap<String, Content>> {
            let comparable = weights(graph).filter(|tensor| {
                let kind = (dtype_name(tensor.dtype), tensor.shape.clone());
                read && of_a.contains(&kind) && of_b.contains(&kind)
            });
            comparable.map(|tensor| Ok((tensor.name.clone(), content(graph, tensor)?))).collect()
        };
        let contents = (contents(a)?, contents(b)?);
        let mut left: Vec<&str> = weights(a).map(|tensor| tensor.name.as_str()).collect();
        let mut right: Vec<&str> = weights(b).map(|tensor| tensor.name.as_str()).collect();
        let mut pairs = Vec::new();
        let key =
            |name: &str, side: &HashMap<String, Content>| side.get(name).map(|content| (name.to_owned(), *content));
        pair(&mut left, &mut right, |name| key(name, &contents.0), |name| key(name, &contents.1), true, &mut pairs);
        pair(&mut left, &mut right, |name| contents.0.get(name), |name| contents.1.get(name), true, &mut pairs);
        pair(&mut left, &mut right, |name| Some(name.to_owned()), |name| Some(name.to_owned()), !read, &mut pairs);
        let stem = |name: &str| Some(unmarked(name).to_owned());
        pair(&mut left, &mut right, stem, stem, false, &mut pairs);
        let names = |left: Vec<&str>| left.into_iter().map(str::to_owned).collect();
        let b_of_a = pairs.iter().map(|pair| (pair.a.clone(), pair.b.clone())).collect();
        Ok(Self { b_of_a, only: (names(left), names(right)), pairs, contents })
    }

    /// Whether a node that works with `a` works with the same where it has `b`. How far the numbers of two that belong
    /// together are apart is told elsewhere, and so is what belongs to no other.
    pub(super) fn belong_together(&self, a: &str, b: &str) -> bool {
        let equal = self.contents.0.get(a).is_some_and(|content| self.contents.1.get(b) == Some(content));
        let alone = self.only.0.iter().any(|name| name == a) && self.only.1.iter().any(|name| name == b);
        equal || alone || self.b_of_a.get(a).is_some_and(|counterpart| counterpart == b)
    }
}

/// Takes those of one key out of both lists, in their order.
fn pair<'n, K: std::hash::Hash + Eq>(
    left: &mut Vec<&'n str>,
    right: &mut Vec<&'n str>,
    key_of_a: impl Fn(&'n str) -> Option<K>,
    key_of_b: impl Fn(&'n str) -> Option<K>,
    same: bool,
    pairs: &mut Vec<Match>,
) {
    let mut waiting: HashMap<K, std::collections::VecDeque<&str>> = HashMap::new();
    for &name in right.iter() {
        if let Some(key) = key_of_b(name) {
            waiting.entry(key).or_default().push_back(name);
        }
    }
    let mut taken = BTreeSet::new();
    left.retain(|name| {
        let counterpart = key_of_a(name).and_then(|key| waiting.get_mut(&key)?.pop_front());
        if let Some(counterpart) = counterpart {
            taken.insert(counterpart);
            pairs.push(Match { a: (*name).to_owned(), b: counterpart.to_owned(), same });
        }
        counterpart.is_none()
    });
    right.retain(|name| !taken.contains(name));
}

/// Whether it is more than a mere value, such as the dimensions of a shape.
pub(super) fn is_weight(tensor: &Initializer) -> bool {
    tensor.elements > MOST_VALUES || (!tensor.constant && tensor.elements > 1)
}

fn weights(graph: &Graph) -> impl Iterator<Item = &Initializer> {
    graph.initializers.iter().filter(|tensor| is_weight(tensor))
}

pub(super) fn dtype_name(dtype: ElementType) -> String {
    dtype.as_str_name().to_ascii_lowercase()
}

fn content(graph: &Graph, tensor: &Initializer) -> Result<Content> {
    let mut hash = Sha256::new();
    hash.update(format!("{:?} {:?} ", tensor.dtype, tensor.shape));
    let (mut piece, mut from) = (vec![0; PIECE], 0);
    while from < tensor.bytes {
        let length = usize::try_from(tensor.bytes - from).unwrap_or(PIECE).min(PIECE);
        graph.bytes(tensor, from, &mut piece[..length])?;
        hash.update(&piece[..length]);
        from += length as u64;
    }
    Ok(hash.finalize().into())
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weights {
    /// How many have the same bytes, under one name or another.
    pub same: usize,
    pub renamed: Vec<Renamed>,
    /// Those whose numbers or whose storage differ, in the order of A.
    pub different: Vec<WeightDifference>,
    /// Names of those without a counterpart.
    pub only: Pair<Vec<String>>,
}

/// The same bytes under two names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renamed {
    pub a: String,
    pub b: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightDifference {
    /// The tensor that holds the numbers or codes in A, without the mark of codes.
    pub name: String,
    pub a: Storage,
    pub b: Storage,
    /// `None` where the shapes do not fit together.
    pub error: Option<Apart>,
    /// Whether the numbers are further apart than their storage explains.
    pub beyond: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Storage {
    pub tensor: String,
    /// As it is used: rows and columns of a matrix.
    pub shape: Vec<usize>,
    /// Such as `int4, blocks of 32`, or `fp16`.
    pub stored: String,
    /// Codes, scales and zero points together.
    pub bytes: u64,
}

/// How far B is from A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Apart {
    pub max_abs: f64,
    /// Root of the mean squared difference, over that of A.
    pub relative_rms: f64,
    /// The greatest difference, over the greatest number of its row in A.
    pub relative_max: f64,
}

impl Weights {
    pub(super) fn compare(a: &Graph, b: &Graph, pairs: &Pairs, tensors: &Tensors) -> Result<Self> {
        let same: BTreeMap<&str, &str> =
            tensors.pairs.iter().filter(|pair| pair.same).map(|pair| (pair.a.as_str(), pair.b.as_str())).collect();
        let (left, right) = (a.weights().matrices, b.weights().matrices);
        let (mut seen, mut covered) = (BTreeSet::new(), (BTreeSet::new(), BTreeSet::new()));
        let mut different = Vec::new();
        for (first, second) in matrices(a, b, pairs, &left, &right) {
            covered.0.extend(names(first));
            covered.1.extend(names(second));
            let equal = names(first).count() == names(second).count()
                && names(first).zip(names(second)).all(|(a, b)| same.get(a) == Some(&b));
            if !equal && seen.insert((&first.tensor, &second.tensor, expert(first))) {
                different.push(matrix(a, b, first, second)?);
            }
        }
        for Match { a: first, b: second, .. } in tensors.pairs.iter().filter(|pair| !pair.same) {
            if !covered.0.contains(first.as_str()) && !covered.1.contains(second.as_str()) {
                different.extend(plain(a, b, first, second)?);
            }
        }
        let alone = |names: &[String], covered: &BTreeSet<&str>| {
            let alone: Vec<String> = names.iter().filter(|name| !covered.contains(name.as_str())).cloned().collect();
            Some(alone).filter(|alone| !alone.is_empty())
        };
        let renamed =
            same.iter().filter(|(a, b)| a != b).map(|(a, b)| Renamed { a: (*a).to_owned(), b: (*b).to_owned() });
        let position: HashMap<&str, usize> =
            a.initializers.iter().enumerate().map(|(index, tensor)| (tensor.name.as_str(), index)).collect();
        different.sort_by_key(|weight| position.get(weight.a.tensor.as_str()).copied());
        Ok(Self {
            same: same.len(),
            renamed: renamed.collect(),
            only: Pair { a: alone(&tensors.only.0, &covered.0), b: alone(&tensors.only.1, &covered.1) },
            different,
        })
    }

    /// Tensors in which the two have the same matrix, as far as their storage tells.
    pub(super) fn near(&self) -> HashSet<(&str, &str)> {
        let near = self.different.iter().filter(|weight| !weight.beyond);
        near.map(|weight| (weight.a.tensor.as_str(), weight.b.tensor.as_str())).collect()
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for weight in self.different.iter().filter(|weight| weight.beyond) {
            let WeightDifference { name, a, b, error, .. } = weight;
            let how = match error {
                None => format!("has the shape {:?} and {:?}", a.shape, b.shape),
                Some(apart) => format!(
                    "is {:.2e} apart (relative RMS, max abs {:.2e}), more than {} and {} explain",
                    apart.relative_rms, apart.max_abs, a.stored, b.stored
                ),
            };
            reasons.push(Reason::new(Sameness::Different, format!("weight {name} {how}")));
        }
        for (side, only) in [("B", &self.only.a), ("A", &self.only.b)] {
            for name in only.iter().flatten() {
                reasons.push(Reason::new(Sameness::Different, format!("{side} has no weight {name}, nor its numbers")));
            }
        }
        let is_rounded = |weight: &&WeightDifference| weight.error.is_none_or(|error| error.max_abs != 0.0);
        let exact = self.different.iter().filter(|weight| !is_rounded(weight)).count();
        if exact > 0 {
            let message = format!("weights of other storage with the same numbers: {exact}");
            reasons.push(Reason::new(Sameness::OtherSpelling, message));
        }
        let within = self.different.iter().filter(|weight| !weight.beyond && is_rounded(weight));
        let greatest =
            within.clone().filter_map(|weight| weight.error).map(|error| error.relative_rms).fold(0.0, f64::max);
        let number = within.count();
        if number > 0 {
            let message = format!("weights of other storage: {number}, at most {greatest:.2e} apart (relative RMS)");
            reasons.push(Reason::new(Sameness::OtherQuantization, message));
        }
        if !self.renamed.is_empty() {
            let message = format!("weights of other names: {}", self.renamed.len());
            reasons.push(Reason::new(Sameness::OtherSpelling, message));
        }
        reasons
    }
}

/// Matrices of nodes that are counterparts.
fn matrices<'w>(
    a: &Graph,
    b: &Graph,
    pairs: &Pairs,
    left: &'w [Weight],
    right: &'w [Weight],
) -> Vec<(&'w Weight, &'w Weight)> {
    let mut of_node: HashMap<&str, Vec<&Weight>> = HashMap::new();
    for weight in right {
        of_node.entry(&weight.node).or_default().push(weight);
    }
    let counterpart: HashMap<&str, &str> =
        pairs.pairs.iter().map(|&(i, j)| (a.nodes[i].label(), b.nodes[j].label())).collect();
    let pairs = left.iter().filter_map(|weight| {
        let others = of_node.get(counterpart.get(weight.node.as_str())?)?;
        // A look-up has its table in another place than a product has its matrix, but there is one of each.
        let other = others.iter().find(|other| (other.slot, expert(other)) == (weight.slot, expert(weight)));
        Some((weight, *other.or(others.first().filter(|_| others.len() == 1))?))
    });
    pairs.collect()
}

fn expert(weight: &Weight) -> Option<usize> {
    match weight.used {
        Use::Expert(index) => Some(index),
        Use::Product | Use::Embedding => None,
    }
}

/// The tensors that make up a matrix.
fn names(weight: &Weight) -> impl Iterator<Item = &str> {
    [Some(&weight.tensor), weight.scales.as_ref(), weight.zero_points.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
}

fn matrix(a: &Graph, b: &Graph, first: &Weight, second: &Weight) -> Result<WeightDifference> {
    let storage = |weight: &Weight| Storage {
        tensor: weight.tensor.clone(),
        shape: vec![weight.n, weight.k],
        stored: weight.stored.clone(),
        bytes: weight.bytes,
    };
    // A table of codes is padded to whole blocks; what follows it takes only the columns that count.
    let fits = first.n == second.n && (first.k == second.k || (first.block.is_some() != second.block.is_some()));
    let mut sums = Sums::default();
    if fits {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let step = (NUMBERS / first.k.max(second.k).max(1)).max(1);
        for row in (0..first.n).step_by(step) {
            first.rows(a, row..row + step, &mut left)?;
            second.rows(b, row..row + step, &mut right)?;
            for (left, right) in left.chunks(first.k.max(1)).zip(right.chunks(second.k.max(1))) {
                sums.add(left, right);
            }
        }
    }
    let precision = |weight: &Weight| Precision::of(&weight.stored, weight.bits, weight.block.is_some());
    let error = fits.then(|| sums.apart());
    let limits = Precision::limits(precision(first), precision(second));
    let beyond = error.is_none_or(|error| !error.is_within(limits));
    let name = match expert(first) {
        Some(expert) => format!("{} of expert {expert}", unmarked(&first.tensor)),
        None => unmarked(&first.tensor).to_owned(),
    };
    Ok(WeightDifference { name, a: storage(first), b: storage(second), error, beyond })
}

/// Of tensors that are no matrix of a known operator: norms, biases, caches of sines. `None` where the numbers are the
/// same.
fn plain(a: &Graph, b: &Graph, first: &str, second: &str) -> Result<Option<WeightDifference>> {
    let (Some(left), Some(right)) = (a.initializer(first), b.initializer(second)) else { return Ok(None) };
    let storage = |tensor: &Initializer| Storage {
        tensor: tensor.name.clone(),
        shape: tensor.shape.clone(),
        stored: dtype_name(tensor.dtype),
        bytes: tensor.bytes,
    };
    let fits = left.shape == right.shape;
    let mut sums = Sums::default();
    if fits {
        let row = left.shape.last().copied().unwrap_or(1).clamp(1, NUMBERS);
        let step = NUMBERS / row * row;
        let (mut from, mut numbers, mut others) = (0, Vec::new(), Vec::new());
        while from < left.elements {
            a.numbers(left, from, step, &mut numbers)?;
            b.numbers(right, from, step, &mut others)?;
            for (left, right) in numbers.chunks(row).zip(others.chunks(row)) {
                sums.add(left, right);
            }
            from += step as u64;
        }
    }
    let precision = |tensor: &Initializer| {
        let bits = u32::try_from(8 * tensor.bytes / tensor.elements.max(1)).unwrap_or(u32::MAX);
        Precision::of(&dtype_name(tensor.dtype), bits, !tensor.is_float())
    };
    let error = fits.then(|| sums.apart());
    let beyond = error.is_none_or(|error| !error.is_within(Precision::limits(precision(left), precision(right))));
    let name = unmarked(first).to_owned();
    Ok(Some(WeightDifference { name, a: storage(left), b: storage(right), error, beyond }))
}

#[derive(Default)]
struct Sums {
    difference: f64,
    reference: f64,
    max_abs: f64,
    relative_max: f64,
}

impl Sums {
    /// A row of each. The sums are in the order of the rows, so the same everywhere.
    fn add(&mut self, a: &[f32], b: &[f32]) {
        let mut greatest = 0_f64;
        let mut apart = 0_f64;
        for (&a, &b) in a.iter().zip(b) {
            let (a, b) = (f64::from(a), f64::from(b));
            // The same infinity, or NaN on both sides, is no difference.
            let difference = if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { a - b };
            let size = difference.abs();
            self.difference += difference * difference;
            if a.is_finite() {
                self.reference += a * a;
                greatest = greatest.max(a.abs());
            }
            apart = if size.is_nan() { f64::INFINITY } else { apart.max(size) };
        }
        self.max_abs = self.max_abs.max(apart);
        let relative = if apart == 0.0 { 0.0 } else { apart / greatest };
        self.relative_max = self.relative_max.max(relative);
    }

    fn apart(&self) -> Apart {
        let relative = (self.difference / self.reference).sqrt();
        let relative_rms = if self.difference == 0.0 { 0.0 } else { relative };
        Apart { max_abs: self.max_abs, relative_rms, relative_max: self.relative_max }
    }
}

/// How numbers are stored, as far as it matters for how far they may be from what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precision {
    Single,
    Half,
    Brain,
    /// Integers of so many bits with scales.
    Codes(u32),
}

impl Precision {
    fn of(stored: &str, bits: u32, is_codes: bool) -> Self {
        match bits {
            _ if is_codes => Self::Codes(bits),
            16 if stored.starts_with("bf") => Self::Brain,
            16 => Self::Half,
            0..16 => Self::Codes(bits),
            _ => Self::Single,
        }
    }

    /// What rounding makes of a matrix: of all numbers together (relative RMS), and of one number (against the greatest
    /// of its row).
    ///
    /// Floats: half a unit in the last place, doubled. Codes of `b` bits: a block has `2^b` steps over twice its
    /// greatest number, so a number is off by half of `2^(1-b)` of it, which is doubled for algorithms that clip; the RMS
    /// of a matrix is about three times the RMS of a row below its greatest number, and the error `1/√12` of a step:
    /// `√(1/12) · 2^(1-b) · 3`, doubled.
    fn rounding(self) -> (f64, f64) {
        match self {
            Self::Single => (0.0, 0.0),
            Self::Half => (2_f64.powi(-10), 2_f64.powi(-10)),
            Self::Brain => (2_f64.powi(-7), 2_f64.powi(-7)),
            Self::Codes(bits) => {
                let step = 2_f64.powi(1 - i32::try_from(bits.min(32)).unwrap_or(32));
                (6.0 * (1.0_f64 / 12.0).sqrt() * step, 2.0 * step)
            }
        }
    }

    /// Of two that stand for the same numbers. Floats of one type are the same, but for tables that were computed: the
    /// last places of sines. Codes may be made by another algorithm.
    fn limits(a: Self, b: Self) -> (f64, f64) {
        if a == b && !matches!(a, Self::Codes(_)) {
            let last = if a == Self::Single { 2_f64.powi(-19) } else { a.rounding().1 };
            return (last, last);
        }
        let (left, right) = (a.rounding(), b.rounding());
        (left.0 + right.0, left.1 + right.1)
    }
}

impl Apart {
    fn is_within(&self, (rms, max): (f64, f64)) -> bool {
        // A NaN is within nothing.
        self.relative_rms <= rms && self.relative_max <= max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_rows() {
        let mut sums = Sums::default();
        sums.add(&[3.0, 4.0], &[3.0, 4.5]);
        sums.add(&[0.5, 0.0], &[0.25, 0.0]);
        let apart = sums.apart();
        assert_eq!((apart.max_abs, apart.relative_max), (0.5, 0.5));
        let (difference, reference) = (0.25_f64 + 0.0625, 9.0 + 16.0 + 0.25);
        assert!((apart.relative_rms - (difference / reference).sqrt()).abs() < 1e-12);
        sums.add(&[f32::NAN, f32::INFINITY], &[f32::NAN, f32::INFINITY]);
        assert_eq!(sums.apart(), apart);
        sums.add(&[1.0], &[f32::NAN]);
        assert!(!sums.apart().is_within((f64::MAX, f64::MAX)));
    }

    #[test]
    fn limits_follow_the_coarser_storage() {
        let int4 = Precision::of("int4, blocks of 32", 4, true);
        assert!(Precision::limits(Precision::Single, Precision::Single).0 < 2e-6);
        assert_eq!(Precision::limits(Precision::Half, Precision::Half).0, 2_f64.powi(-10));
        let (rms, max) = Precision::limits(Precision::Single, int4);
        assert!((0.2..0.25).contains(&rms) && max == 0.25, "{rms} {max}");
        assert_eq!(Precision::limits(int4, int4), (2.0 * rms, 2.0 * max));
        assert_eq!(Precision::of("bf16", 16, false), Precision::Brain);
    }
}
