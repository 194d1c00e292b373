mod damage;
mod sample;

use std::fs;

use crate::Verdict;
use crate::report::{Finding, Severity};
use sample::Sample;

fn findings(sample: &Sample) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    sample.write(folder.path());
    super::check(folder.path()).findings
}

#[test]
fn a_sound_package_passes_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    Sample::new().write(folder.path());
    let report = super::check(folder.path());
    let told: Vec<_> = report.findings.iter().filter(|finding| finding.severity > Severity::Info).collect();
    assert!(told.is_empty(), "{told:#?}");
    assert_eq!(report.verdict(), Some(Verdict::Pass));
    assert_eq!(report.checks, super::CHECKS.len());
}

#[test]
fn a_folder_that_is_none_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    let report = super::check(&folder.path().join("absent"));
    assert_eq!(report.verdict(), Some(Verdict::Fail));
    let report = super::check(folder.path());
    assert!(report.findings.iter().all(|finding| finding.severity != Severity::Error), "{report:?}");
}

#[test]
fn a_package_of_another_layout_gets_a_configuration() {
    let mut sample = Sample::new();
    sample.config = serde_json::Value::Null;
    let config = r#"{"max_position_embeddings": 64, "eos_token_id": 2, "pad_token_id": 0, "num_attention_heads": 2}"#;
    sample.files.insert("config.json".into(), config.into());
    let found = findings(&sample);
    assert!(found.iter().all(|finding| finding.severity < Severity::Doubt), "{found:#?}");
    let made = found.iter().find(|finding| finding.check == "no-config").unwrap();
    let hint = made.hint.as_deref().unwrap();
    let text = hint.split_once('\n').unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    // What is made is a configuration that can be read, and says what the graph says.
    let config = crate::Config::parse(text.as_bytes(), folder.path()).unwrap();
    assert_eq!((config.vocab_size, config.context_length, config.eos_token_ids), (140, 64, vec![2]));
    assert_eq!((config.decoder.num_hidden_layers, config.decoder.head_size), (3, 16));
    assert_eq!(config.decoder.inputs.past_key.name(2), "past.2.key");
}

#[test]
fn every_damaged_byte_of_the_configuration_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::new();
    sample.write(folder.path());
    let text = sample.config.to_string().into_bytes();
    for at in (0..text.len()).step_by(7) {
        let mut damaged = text.clone();
        damaged[at] = b'9';
        fs::write(folder.path().join("genai_config.json"), &damaged).unwrap();
        super::check(folder.path());
    }
}
