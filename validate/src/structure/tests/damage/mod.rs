//! One damage for each check, and what is said of it.

mod graph;
mod text;
mod weights;

use super::findings;
use super::sample::Sample;
use crate::report::Severity;

type Damage = (&'static str, fn(&mut Sample), Severity, &'static str, &'static str);

/// Each is found by the check of this name, where and what says so.
fn assert_found(damages: &[Damage]) {
    for (what, damage, severity, check, says) in damages {
        let mut sample = Sample::new();
        damage(&mut sample);
        let found = findings(&sample);
        let hit = found.iter().any(|finding| {
            let text = format!("{}: {}", finding.at, finding.message);
            finding.severity == *severity && finding.check == *check && text.contains(says)
        });
        assert!(hit, "{what}: expected {severity:?} {check} {says:?}, found {found:#?}");
    }
}

fn set(sample: &mut Sample, path: &str, value: serde_json::Value) {
    *sample.config.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
}
