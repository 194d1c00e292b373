//! A report as JUnit XML, for the test pages of CI.
//!
//! A suite is a stage and a case is a check. A check of which an [`Severity::Error`] was found failed. JUnit has no word
//! for a doubt: `skipped` is what its viewers show as neither passed nor failed, as they do a stage that did not run.
//! Warnings and notes stand in `system-out` of a case that passed.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::escape::Xml;
use super::figures::count;
use super::{Finding, Outcome, Report, Severity, StageReport};

pub fn junit(report: &Report) -> String {
    JUnit(report).to_string()
}

struct JUnit<'a>(&'a Report);

impl Display for JUnit<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let suites: Vec<Suite<'_>> = self.0.stages.iter().map(Suite::of).collect();
        writeln!(f, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(f, r#"<testsuites name="{}" {}>"#, Xml(&self.0.package.name), Counts::of(&suites))?;
        suites.iter().try_for_each(|suite| suite.fmt(f))?;
        writeln!(f, "</testsuites>")
    }
}

struct Suite<'a> {
    stage: &'a StageReport,
    /// Checks that found something, with all that they found.
    found: BTreeMap<&'a str, Vec<&'a Finding>>,
}

/// The numbers that a suite, or all of them, begins with.
struct Counts {
    tests: usize,
    failures: usize,
    skipped: usize,
}

impl Counts {
    fn of(suites: &[Suite<'_>]) -> Self {
        Self {
            tests: suites.iter().map(Suite::tests).sum(),
            failures: suites.iter().map(Suite::failures).sum(),
            skipped: suites.iter().map(Suite::skipped).sum(),
        }
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, r#"tests="{}" failures="{}" errors="0" skipped="{}""#, self.tests, self.failures, self.skipped)
    }
}

impl<'a> Suite<'a> {
    fn of(stage: &'a StageReport) -> Self {
        let mut found: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
        for finding in &stage.findings {
            found.entry(finding.check).or_default().push(finding);
        }
        Self { stage, found }
    }

    fn tests(&self) -> usize {
        self.found.len() + usize::from(self.not_run().is_some() || self.quiet() > 0)
    }

    fn failures(&self) -> usize {
        self.worst(Severity::Error)
    }

    fn skipped(&self) -> usize {
        self.worst(Severity::Doubt) + usize::from(self.not_run().is_some())
    }

    /// Checks whose gravest finding is of this severity.
    fn worst(&self, severity: Severity) -> usize {
        self.found.values().filter(|findings| gravest(findings) == Some(severity)).count()
    }

    /// Checks that found nothing. They are one case, since only their number is known.
    fn quiet(&self) -> usize {
        self.stage.checks.saturating_sub(self.found.len())
    }

    fn not_run(&self) -> Option<&'a str> {
        match &self.stage.outcome {
            Outcome::NotRun { why } => Some(why),
            Outcome::Judged { .. } => None,
        }
    }
}

fn gravest(findings: &[&Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

impl Display for Suite<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.stage.stage;
        writeln!(f, r#"  <testsuite name="{name}" {}>"#, Counts::of(std::slice::from_ref(self)))?;
        let case = |check: &str| format!(r#"    <testcase classname="{name}" name="{}""#, Xml(check));
        if let Some(why) = self.not_run() {
            let why = Xml(why);
            writeln!(f, "{}>\n      <skipped message=\"not run: {why}\"/>\n    </testcase>", case("not run"))?;
        }
        for (check, findings) in &self.found {
            writeln!(f, "{}>", case(check))?;
            case_of(f, findings)?;
            writeln!(f, "    </testcase>")?;
        }
        if self.quiet() > 0 && self.not_run().is_none() {
            let others = format!("{} that found nothing", count(self.quiet(), "check"));
            writeln!(f, "{}/>", case(&others))?;
        }
        writeln!(f, "  </testsuite>")
    }
}

fn case_of(f: &mut Formatter<'_>, findings: &[&Finding]) -> fmt::Result {
    let gravest = findings.iter().max_by_key(|finding| finding.severity);
    let first = gravest.map_or(String::new(), |finding| format!("{}: {}", finding.at, finding.message));
    let all: String = findings.iter().map(|finding| lines_of(finding)).collect();
    let (first, all) = (Xml(&first), Xml(&all));
    match gravest.map(|finding| finding.severity) {
        Some(Severity::Error) => writeln!(f, r#"      <failure type="error" message="{first}">{all}</failure>"#),
        Some(Severity::Doubt) => writeln!(f, r#"      <skipped message="doubt: {first}"/>"#)
            .and_then(|()| writeln!(f, "      <system-out>{all}</system-out>")),
        _ => writeln!(f, "      <system-out>{all}</system-out>"),
    }
}

fn lines_of(finding: &Finding) -> String {
    let hint = finding.hint.as_ref().map_or(String::new(), |hint| format!("  hint: {hint}\n"));
    format!("{}: {}: {}\n{hint}", finding.severity.name(), finding.at, finding.message)
}
