//! A report for people: one row for each prompt, one for all, then the reasons.

use std::fmt;

use super::{Overall, ParityReport, Verdict};

const HEAD: [&str; 8] = ["prompt", "positions", "max abs", "mean abs", "mean KL", "max KL", "top-1", "greedy"];

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Ambiguous => "ambiguous",
            Self::Fail => "fail",
        })
    }
}

impl fmt::Display for ParityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "parity of {} with {}: {}", self.precision, self.reference, self.verdict)?;
        let table = self.table();
        let widths: Vec<usize> = (0..HEAD.len())
            .map(|column| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &table {
            write!(f, "  {:<width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        for reason in &self.reasons {
            writeln!(f, "  - {reason}")?;
        }
        Ok(())
    }
}

impl ParityReport {
    /// The head, a row for each prompt, and one for all where there are several.
    pub(crate) fn table(&self) -> Vec<[String; 8]> {
        let mut table = vec![HEAD.map(str::to_owned)];
        for prompt in &self.prompts {
            table.push(row(&prompt.name, &Overall::of(std::slice::from_ref(prompt))));
        }
        if self.prompts.len() > 1 {
            table.push(row("all", &Overall::of(&self.prompts)));
        }
        table
    }
}

fn row(name: &str, all: &Overall) -> [String; 8] {
    [
        name.to_owned(),
        all.positions.to_string(),
        format!("{:.2e}", all.max_abs),
        format!("{:.2e}", all.mean_abs),
        format!("{:.2e}", all.kl_mean),
        format!("{:.2e}", all.kl_max),
        format!("{}/{}", all.top1_equal, all.positions),
        all.greedy.map_or("-".to_owned(), |(equal, of)| format!("{equal}/{of}")),
    ]
}
