//! A difference for people: what the packages are to each other and why, then the details.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::nodes::role;
use super::{Changed, Difference, File, Interface, ModelDifference, Operators, Pair, Renamed, Replaced, Setting};
use super::{Sameness, Structure, WeightDifference, Weights};
use crate::report::figures::{bytes, count, figure, shortened};
use crate::report::layout::{name, table, wrapped};

/// Lines of one list; the rest is counted, and JSON has all.
const MOST: usize = 40;

impl Display for Sameness {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { sameness, reasons, files, settings, models } = self;
        writeln!(f, "the packages are {sameness}")?;
        let grave: Vec<_> = reasons.iter().filter(|reason| reason.at_best == *sameness).collect();
        for reason in grave.iter().take(MOST) {
            wrapped(f, "  - ", &reason.message)?;
        }
        more(f, grave.len(), "reason")?;
        if !files.different.is_empty() {
            writeln!(f, "\nfiles; {} the same", files.same.len())?;
            let size = |file: &Option<File>| file.as_ref().map_or("-".to_owned(), |file| bytes(file.bytes));
            let rows = files.different.iter().take(MOST);
            let rows = rows.map(|file| vec![name(&file.name, 56), size(&file.sides.a), size(&file.sides.b)]);
            table(f, &["", "A", "B"], rows)?;
            more(f, files.different.len(), "file")?;
        }
        if !settings.is_empty() {
            writeln!(f, "\nsettings")?;
        }
        for Setting { file, path, sides } in settings.iter().take(MOST) {
            let value = |value: &Option<Value>| {
                value.as_ref().map_or("nothing".to_owned(), |value| shortened(&value.to_string(), 80))
            };
            wrapped(f, "  ", &format!("{file} {path}: {} and {}", value(&sides.a), value(&sides.b)))?;
        }
        more(f, settings.len(), "setting")?;
        models.iter().try_for_each(|model| model.fmt(f))
    }
}

fn more(f: &mut Formatter<'_>, number: usize, what: &str) -> fmt::Result {
    if number > MOST { writeln!(f, "  and {} more", count(number - MOST, what)) } else { Ok(()) }
}

impl Display for ModelDifference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Pair { a, b } = &self.files;
        let (a, b) = (a.as_deref().unwrap_or_default(), b.as_deref().unwrap_or_default());
        let called = if a == b { a.to_owned() } else { format!("{a} and {b}") };
        writeln!(f)?;
        if self.structure.is_empty() {
            wrapped(f, "graph of ", &format!("{called}: the same"))?;
        } else {
            wrapped(f, "graph of ", &called)?;
            self.structure.fmt(f)?;
        }
        writeln!(f)?;
        match &self.weights {
            Some(weights) => {
                wrapped(f, "weights of ", &format!("{called}: {}", weights.tally()))?;
                weights.fmt(f)
            }
            None => wrapped(f, "weights of ", &format!("{called}: not read")),
        }
    }
}

fn shown(side: &Option<String>) -> &str {
    side.as_deref().unwrap_or("nothing")
}

impl Structure {
    fn is_empty(&self) -> bool {
        let Self { producer, opsets, interface, operators, replaced, attributes, inputs, only, .. } = self;
        let lists = interface.is_empty() && operators.is_empty() && replaced.is_empty();
        let changes = attributes.is_empty() && inputs.is_empty();
        lists && changes && producer.is_none() && opsets.is_empty() && only.a.is_none() && only.b.is_none()
    }
}

impl Display for Structure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { producer, opsets, interface, operators, replaced, attributes, inputs, only, .. } = self;
        if let Some(Pair { a, b }) = producer {
            wrapped(f, "  producer: ", &format!("{} and {}", shown(a), shown(b)))?;
        }
        for (domain, Pair { a, b }) in opsets {
            let version = |version: &Option<i64>| version.map_or("nothing".to_owned(), |version| version.to_string());
            let domain = if domain.is_empty() { "ai.onnx" } else { domain };
            wrapped(f, "  operators of ", &format!("{domain}: version {} and {}", version(a), version(b)))?;
        }
        for Interface { kind, role, values, sides, .. } in interface.iter().take(MOST) {
            let values = if *values == 1 { String::new() } else { format!(" ({values})") };
            wrapped(f, "  ", &format!("{kind} {role}: {} and {}{values}", shown(&sides.a), shown(&sides.b)))?;
        }
        more(f, interface.len(), "input or output")?;
        if !operators.is_empty() {
            let rows = operators.iter().take(MOST);
            let rows = rows.map(|Operators { operator, a, b }| vec![name(operator, 60), a.to_string(), b.to_string()]);
            table(f, &["nodes", "A", "B"], rows)?;
            more(f, operators.len(), "operator")?;
        }
        for Replaced { a, b, role, nodes, .. } in replaced.iter().take(MOST) {
            wrapped(f, "  ", &format!("{role}: {a} and {b}, {}", count(*nodes, "node")))?;
        }
        more(f, replaced.len(), "role")?;
        for Changed { operator, role, what, sides, nodes, first } in attributes.iter().chain(inputs).take(MOST) {
            let (a, b) = (shown(&sides.a), shown(&sides.b));
            let nodes =
                if *nodes == 1 { first.clone() } else { format!("{}, the first is {first}", count(*nodes, "node")) };
            wrapped(f, "  ", &format!("{operator} {role}: {what} is {a} and {b} ({nodes})"))?;
        }
        more(f, attributes.len() + inputs.len(), "change")?;
        for (side, names) in [("A", &only.a), ("B", &only.b)] {
            let mut roles: BTreeMap<String, usize> = BTreeMap::new();
            for name in names.iter().flatten() {
                *roles.entry(role(name)).or_insert(0) += 1;
            }
            for (role, nodes) in roles.iter().take(MOST) {
                wrapped(f, "  ", &format!("{side} alone: {role}, {}", count(*nodes, "node")))?;
            }
            more(f, roles.len(), "role")?;
        }
        Ok(())
    }
}

/// The module of a weight, as far as its name tells.
fn module(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    name.strip_suffix(".MatMul").unwrap_or(name)
}

impl Weights {
    fn tally(&self) -> String {
        let only = |names: &Option<Vec<String>>| names.as_ref().map_or(0, Vec::len);
        let parts = [
            (self.same - self.renamed.len(), "the same"),
            (self.renamed.len(), "the same under another name"),
            (self.different.iter().filter(|weight| !weight.beyond).count(), "stored otherwise"),
            (self.different.iter().filter(|weight| weight.beyond).count(), "of other values"),
            (only(&self.only.a), "of A alone"),
            (only(&self.only.b), "of B alone"),
        ];
        let parts = parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
        parts.collect::<Vec<_>>().join(", ")
    }
}

impl Display for Weights {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for Renamed { a, b } in self.renamed.iter().take(MOST) {
            wrapped(f, "  ", &format!("{a} is {b}"))?;
        }
        more(f, self.renamed.len(), "name")?;
        let is_rounded = |weight: &&WeightDifference| weight.error.is_none_or(|error| error.max_abs != 0.0);
        let mut different: Vec<&WeightDifference> = self.different.iter().filter(is_rounded).collect();
        if different.len() < self.different.len() {
            writeln!(f, "  {} of other storage with the same numbers", self.different.len() - different.len())?;
        }
        let apart = |weight: &WeightDifference| weight.error.map_or(f64::INFINITY, |error| error.relative_rms);
        different.sort_by(|a, b| b.beyond.cmp(&a.beyond).then(apart(b).total_cmp(&apart(a))));
        if !different.is_empty() {
            let widest = |of: fn(&WeightDifference) -> &str| {
                different.iter().take(MOST).map(|weight| of(weight).chars().count().min(20)).max().unwrap_or(0)
            };
            // What the columns but the first need, with two blanks between them.
            let rest = widest(|weight| &weight.a.stored) + widest(|weight| &weight.b.stored) + 8 + 8 + 5 + 2 * 6;
            let rows = different.iter().take(MOST).map(|weight| {
                let WeightDifference { name: called, a, b, error, beyond } = weight;
                let mark = if *beyond { "OTHER" } else { "" }.to_owned();
                let numbers = match error {
                    Some(error) => [error.relative_rms, error.max_abs].map(figure).to_vec(),
                    None => vec!["-".to_owned(), "shape".to_owned()],
                };
                let stored = [&a.stored, &b.stored].map(|stored| name(stored, 20));
                [vec![name(module(called), 100 - rest)], stored.into(), numbers, vec![mark]].concat()
            });
            table(f, &["", "A", "B", "relative", "max abs", ""], rows)?;
        }
        more(f, different.len(), "weight")?;
        for (side, names) in [("A", &self.only.a), ("B", &self.only.b)] {
            let Some(names) = names else { continue };
            for name in names.iter().take(MOST) {
                wrapped(f, "  ", &format!("{side} alone: {name}"))?;
            }
            more(f, names.len(), "weight")?;
        }
        Ok(())
    }
}
