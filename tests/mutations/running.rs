//! The same damages where there is no checkpoint to hold the graph against: what running a package tells.

use std::path::Path;

use genai_validate::judge::{self, Against, Level, Recording, Request};
use genai_validate::report::{Severity, Stage};
use genai_validate::{LoadOptions, Provider, Verdict};

use super::{Damage, all, damaged, told, whole};
use crate::support::{Outcome, for_each, runtime};

/// A damage by its name, the check of the stage that must fail, and words of its place and of the hint.
type Seen = (&'static str, &'static str, &'static [&'static str]);

/// By a package that is compared with itself.
const ALONE: &[Seen] = &[
    ("a stale cache", "stepwise", &["token by token", "cache"]),
    ("a stale cache, of standard operators", "stepwise", &["cache"]),
    ("past not connected", "stepwise", &["positions or the mask of steps behind a cache"]),
    ("past keys and values change places", "chunked", &["chunks of 7"]),
    ("the past of another layer", "rewind", &["rewound"]),
    ("presents of two layers change places", "stepwise", &["token by token"]),
    ("mask ignored", "batch", &["a right-padded batch", "the mask"]),
    ("counts of the cache off by one", "stepwise", &["token by token"]),
];

/// By logits, keys, values and streams that were recorded of the right package.
const RECORDED: &[Seen] = &[
    ("scores without their softcap", "first-bad-layer", &["layer 3, residual", "attention", "layer 2"]),
    ("window left out", "first-bad-layer", &["layer 3, residual", "layer 2"]),
    ("scale of the scores 2 % up", "first-bad-layer", &["layer 2, residual", "attention", "layer 1"]),
    ("neighbours rotated", "first-bad-layer", &["key", "rotary embedding of layer 0"]),
    ("cosines and sines change places", "first-bad-layer", &["key", "rotary embedding of layer 0"]),
    ("no rotation", "first-bad-layer", &["key", "rotary embedding"]),
    ("a residual skipped", "first-bad-layer", &["residual"]),
    ("another activation", "first-bad-layer", &["residual", "MLP"]),
    ("queries and values change places in the graph", "first-bad-layer", &["layer"]),
    ("rows of the embedding not scaled", "first-bad-layer", &["layer 0, residual", "the embedding, or its scale"]),
    ("no final norm", "parity", &["a logit differs"]),
    ("logits without their softcap", "parity", &["a logit differs"]),
];

fn damage(what: &str) -> &'static Damage {
    all().into_iter().find(|damage| damage.what == what).unwrap_or_else(|| panic!("no damage is called {what:?}"))
}

fn request(level: Level, against: Against) -> Request {
    Request {
        level,
        against,
        precision: None,
        runtime: Ok(runtime()),
        provider: Provider::Cpu,
        threads: Some(1),
        texts: judge::own_texts(),
        bench: None,
    }
}

#[test]
fn a_package_compared_with_itself_tells_damages_of_cache_and_mask() {
    for_each(
        ALONE,
        |(what, ..)| (*what).to_owned(),
        |seen| {
            let whole = whole(damage(seen.0).to)?;
            let folder = damaged(damage(seen.0), &whole)?;
            caught(folder.path(), Level::Consistency, Against::Nothing, Stage::Consistency, seen)
        },
    );
}

#[test]
fn recorded_logits_and_layers_name_the_layer() {
    for_each(
        RECORDED,
        |(what, ..)| (*what).to_owned(),
        |seen| {
            let whole = whole(damage(seen.0).to)?;
            let right = tempfile::tempdir()?;
            for (name, bytes) in &whole {
                std::fs::write(right.path().join(name), bytes)?;
            }
            let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
            let recording: Recording = judge::record(right.path(), &judge::own_texts(), runtime(), options)?;
            let folder = damaged(damage(seen.0), &whole)?;
            let stage = if seen.1 == "parity" { Stage::Logits } else { Stage::Layers };
            caught(folder.path(), Level::Layers, Against::Recording(recording), stage, seen)
        },
    );
}

fn caught(package: &Path, level: Level, against: Against, stage: Stage, seen: &Seen) -> Outcome {
    let (_, check, says) = seen;
    let request = request(level, against);
    let report = judge::validate(package, &request, &mut |_| ()).report;
    let failed = report.stages.iter().find(|report| report.stage == stage).ok_or("the stage did not run")?;
    let named = failed.findings.iter().any(|finding| {
        let whole = format!("{} {} {}", finding.at, finding.message, finding.hint.as_deref().unwrap_or_default());
        finding.severity == Severity::Error && finding.check == *check && says.iter().all(|words| whole.contains(words))
    });
    if report.verdict == Verdict::Fail && named {
        return Ok(());
    }
    Err(format!("{stage} does not say {check}: {says:?}\n{}", told(&report.stages)).into())
}
