//! Values of weights, each read once: what cannot be computed with, what is not there, what no training gives.

use std::collections::{BTreeMap, HashSet};

use super::package::Part;
use super::{Findings, Package, some_of};
use crate::graph::{ElementType, Graph, Initializer, Stored, Use, Weight};

/// Elements read at once.
const PIECE: usize = 1 << 18;
/// Weights of trained models stay far below; float16 ends at 65504.
const ABSURD: f32 = 1e4;
/// Times the median: no outlier of a trained model comes near.
const ABSURD_SCALE: f32 = 1024.0;
/// Times, against the same matrix of other layers.
const ABSURD_LAYER: f64 = 16.0;
/// Mean over root mean square. A zero point that is one off moves the mean of 4-bit codes by a quarter.
const OFF_CENTRE: f64 = 0.15;

/// What the values of a tensor are like.
#[derive(Default)]
struct Seen {
    count: u64,
    nan: u64,
    infinite: u64,
    first_bad: Option<u64>,
    nonzero: u64,
    /// Zeros at the end.
    trailing: u64,
    largest: f32,
    squares: f64,
    /// How many have which exponent.
    exponents: BTreeMap<u32, u64>,
}

impl Seen {
    fn add(&mut self, values: &[f32], exponents: bool) {
        for &value in values {
            if !value.is_finite() {
                self.nan += u64::from(value.is_nan());
                self.infinite += u64::from(value.is_infinite());
                self.first_bad.get_or_insert(self.count);
            }
            self.count += 1;
            if value == 0.0 {
                self.trailing += 1;
                continue;
            }
            self.trailing = 0;
            self.nonzero += 1;
            let size = value.abs();
            if size.is_finite() {
                self.largest = self.largest.max(size);
                self.squares += f64::from(size) * f64::from(size);
            }
            if exponents {
                *self.exponents.entry(size.to_bits() >> 23).or_default() += 1;
            }
        }
    }

    /// To a factor of two.
    fn median(&self) -> f32 {
        let mut left = self.nonzero / 2;
        for (exponent, count) in &self.exponents {
            if *count > left {
                return f32::from_bits(exponent << 23);
            }
            left -= count;
        }
        0.0
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Matrix,
    Table,
    Scales,
    Norm,
    Other,
}

/// Every tensor, read in pieces.
pub(super) fn values(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        let roles = roles(part);
        let defaults: HashSet<&str> = part.graph.defaults.iter().map(|value| value.name.as_str()).collect();
        let mut sizes: BTreeMap<&str, f64> = BTreeMap::new();
        for tensor in &part.graph.initializers {
            let role = roles.get(tensor.name.as_str()).copied().unwrap_or(Role::Other);
            let small = tensor.constant || tensor.elements < 2;
            if tensor.elements == 0 || matches!(tensor.stored, Stored::Unreadable(_)) || small && role == Role::Other {
                continue;
            }
            match read(&part.graph, tensor, role == Role::Scales) {
                Ok(Some(seen)) => {
                    if role == Role::Matrix && tensor.is_float() {
                        sizes.insert(&tensor.name, (seen.squares / seen.count.max(1) as f64).sqrt());
                    }
                    let at = format!("{}: {}", part.file, tensor.name);
                    // An input that may be left out, such as that of an adapter, has zeros for a default.
                    judge(&seen, tensor, role, &at, defaults.contains(tensor.name.as_str()), findings);
                }
                Ok(None) => {}
                Err(error) => {
                    findings.error("weights", format!("{}: {}", part.file, tensor.name), error.to_string());
                }
            }
        }
        layers(part, &sizes, findings);
    }
}

fn roles(part: &Part) -> BTreeMap<&str, Role> {
    let mut roles = BTreeMap::new();
    for node in &part.graph.nodes {
        if node.op_type.ends_with("LayerNormalization") || node.op_type == "RMSNormalization" {
            let slot = if node.op_type.starts_with("Skip") { 2 } else { 1 };
            roles.extend(node.input(slot).map(|name| (name, Role::Norm)));
        }
    }
    for weight in &part.weights.matrices {
        let role = if weight.used == Use::Embedding { Role::Table } else { Role::Matrix };
        roles.insert(&weight.tensor, role);
        roles.extend(weight.scales.iter().map(|name| (name.as_str(), Role::Scales)));
    }
    roles
}

/// `None` for what holds no numbers that could be wrong by themselves.
fn read(graph: &Graph, tensor: &Initializer, exponents: bool) -> crate::Result<Option<Seen>> {
    let codes = matches!(
        tensor.dtype,
        ElementType::Uint8
            | ElementType::Int8
            | ElementType::Uint4
            | ElementType::Int4
            | ElementType::Uint2
            | ElementType::Int2
    );
    let mut seen = Seen::default();
    if codes {
        let mut buffer = Vec::new();
        let mut from = 0;
        while from < tensor.bytes {
            let length = usize::try_from(tensor.bytes - from).unwrap_or(usize::MAX).min(PIECE * 4);
            buffer.resize(length, 0);
            graph.bytes(tensor, from, &mut buffer)?;
            let zeros = buffer.iter().rev().take_while(|&&byte| byte == 0).count() as u64;
            seen.trailing = if zeros == length as u64 { seen.trailing + zeros } else { zeros };
            seen.nonzero += u64::from(zeros < length as u64);
            seen.count += length as u64;
            from += length as u64;
        }
        return Ok(Some(seen));
    }
    if !tensor.is_float() {
        return Ok(None);
    }
    let (mut values, mut from) = (Vec::new(), 0);
    while from < tensor.elements {
        graph.numbers(tensor, from, PIECE, &mut values)?;
        seen.add(&values, exponents);
        from += values.len().max(1) as u64;
    }
    Ok(Some(seen))
}

fn judge(seen: &Seen, tensor: &Initializer, role: Role, at: &str, default: bool, findings: &mut Findings) {
    let count = seen.count;
    if seen.nan + seen.infinite > 0 && (seen.nan > 0 || count > 16) {
        let first = seen.first_bad.unwrap_or(0);
        findings
            .error(
                "weights",
                at,
                format!(
                    "{} of {count} values are NaN and {} infinite, the first is number {first}",
                    seen.nan, seen.infinite
                ),
            )
            .hint("the file is damaged, or values did not fit the type that they were stored in");
    }
    let truncated = "a file that was cut off and filled up looks so, and so does one that was never written";
    if seen.nonzero == 0 && !default {
        match role {
            Role::Matrix | Role::Table | Role::Scales => {
                findings.error("weights", at, format!("all {count} values are zero")).hint(truncated);
            }
            Role::Norm => {
                findings.doubt("weights", at, "all values of a norm are zero: nothing passes it");
            }
            Role::Other => {}
        }
    } else if seen.trailing * 8 >= count && seen.trailing >= 4096 && !default {
        let message = format!("the last {} of {count} values are zero", seen.trailing);
        match role {
            Role::Matrix | Role::Scales => findings.doubt("weights", at, message).hint(truncated),
            Role::Table => findings
                .warning("weights", at, message)
                .hint(format!("rows past the vocabulary may be empty; else: {truncated}")),
            _ => {}
        }
    }
    let (limit, what) = match role {
        Role::Scales => (ABSURD_SCALE * seen.median(), "times the median of these scales"),
        Role::Matrix | Role::Table if tensor.is_float() => (ABSURD, "as weights of trained models are below"),
        _ => return,
    };
    if seen.largest > limit && limit > 0.0 {
        let message = match role {
            Role::Scales => format!("the largest scale is {}, more than {ABSURD_SCALE} {what}", seen.largest),
            _ => format!("the largest value is {}, above {ABSURD}, {what}", seen.largest),
        };
        findings.doubt("weights", at, message).hint("a damaged exponent looks so: compare with the checkpoint");
    }
}

/// One matrix against the same one of other layers. `sizes` are root mean squares by tensor.
fn layers(part: &Part, sizes: &BTreeMap<&str, f64>, findings: &mut Findings) {
    let mut places: BTreeMap<String, Vec<(f64, &Weight)>> = BTreeMap::new();
    for weight in part.weights.matrices.iter().filter(|weight| weight.used == Use::Product) {
        let size = match &weight.scales {
            None => sizes.get(weight.tensor.as_str()).copied(),
            Some(_) => sample(&part.graph, weight).map(|(_, size, _)| size),
        };
        let number = |c: char| c.is_ascii_digit();
        let place = weight.node.split(number).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("#");
        places.entry(place).or_default().extend(size.map(|size| (size, weight)));
    }
    for list in places.values().filter(|list| list.len() >= 3) {
        let mut ordered: Vec<f64> = list.iter().map(|(size, _)| *size).collect();
        ordered.sort_by(f64::total_cmp);
        let median = ordered.get(ordered.len() / 2).copied().unwrap_or(0.0);
        for (size, weight) in list {
            if *size > 0.0 && median > 0.0 && (size / median > ABSURD_LAYER || median / size > ABSURD_LAYER) {
                let message =
                    format!("is of size {size:.3e} on the average, the same matrix of other layers {median:.3e}");
                findings
                    .doubt("weights", format!("{}: {}", part.file, weight.tensor), message)
                    .hint("the scales are off by a factor, or the matrix is of another place");
            }
        }
    }
}

/// Codes, scales and zero points fit together in shape, and their values are such as a quantizer gives.
pub(super) fn quantized(package: &Package, findings: &mut Findings) {
    for part in &package.parts {
        for problem in &part.weights.problems {
            findings
                .error("quantized", format!("{}: {}", part.file, problem.at), problem.message.as_str())
                .hint("the attributes of the node are not those that its tensors were made with");
        }
        let mut off = Vec::new();
        for weight in part.weights.matrices.iter().filter(|weight| weight.scales.is_some()) {
            zero_points(part, weight, findings);
            if let Err(problem) = weight.check_groups(&part.graph) {
                findings.error("quantized", format!("{}: {}", part.file, weight.node), problem);
            }
            if let Some((mean, size, count)) = sample(&part.graph, weight)
                && count >= 1024
                && mean.abs() > OFF_CENTRE * size
                && weight.used != Use::Embedding
            {
                off.push((weight, mean / size));
            }
        }
        // Once for a matrix of several experts.
        off.dedup_by_key(|(weight, _)| weight.tensor.as_str());
        for (weight, share) in off.iter().take(5) {
            let message = format!("has the mean {share:.2} of its size, where weights are about 0 on the average");
            findings.doubt("quantized", format!("{}: {}", part.file, weight.tensor), message).hint(format!(
                "zero points that are one off look so ({}): were they stored minus one, or are they missing?",
                weight.stored
            ));
        }
        if off.len() > 5 {
            let names: Vec<&str> = off.iter().map(|(weight, _)| weight.tensor.as_str()).collect();
            findings.doubt(
                "quantized",
                part.file.as_str(),
                format!("{} matrices have a mean that is not about 0: {}", off.len(), some_of(&names)),
            );
        }
    }
}

/// Float zero points are codes too.
fn zero_points(part: &Part, weight: &Weight, findings: &mut Findings) {
    let Some(tensor) = weight.zero_points.as_ref().and_then(|name| part.graph.initializer(name)) else { return };
    if !tensor.is_float() || weight.bits > 8 {
        return;
    }
    let most = (1_u32 << weight.bits) as f32 - 1.0;
    let mut values = Vec::new();
    if part.graph.numbers(tensor, 0, PIECE, &mut values).is_ok()
        && let Some(value) = values.iter().find(|value| !(**value >= -most && **value <= 2.0 * most))
    {
        let message = format!("holds the zero point {value}, where codes are 0 to {most}");
        findings.doubt("quantized", format!("{}: {}", part.file, tensor.name), message);
    }
}

/// Mean, root mean square and count over some rows: the first, the middle, the last ones.
fn sample(graph: &Graph, weight: &Weight) -> Option<(f64, f64, usize)> {
    const ROWS: usize = 16;
    let (mut values, mut sum, mut squares, mut count) = (Vec::new(), 0.0, 0.0, 0);
    let starts: Vec<usize> = if weight.n <= 3 * ROWS { vec![0] } else { vec![0, weight.n / 2, weight.n - ROWS] };
    let step = if weight.n <= 3 * ROWS { weight.n } else { ROWS };
    for start in starts {
        weight.rows(graph, start..start + step, &mut values).ok()?;
        count += values.len();
        sum += values.iter().map(|&value| f64::from(value)).sum::<f64>();
        squares += values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>();
    }
    let size = (squares / count as f64).sqrt();
    (count > 0 && size.is_finite()).then(|| (sum / count as f64, size, count))
}
