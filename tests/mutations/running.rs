//! The same damages where there is no checkpoint to hold the graph against: what running a package tells.

use std::path::Path;

use genai_validate::judge::{self, Against, Level, Recording, Request};
use genai_validate::report::Stage;
use genai_validate::{LoadOptions, Provider, Verdict};

use super::{Damage, all, damaged, told, whole};
use crate::support::{Outcome, for_each, runtime};

/// A damage by its name, the check that must tell it, and words of what that says: where, what and the hint. The verdict
/// on the package must be a failure in any case.
type Seen = (&'static str, &'static str, &'static [&'static str]);

/// By a package that is compared with itself.
const ALONE: &[Seen] = &[
    ("a stale cache", "load", &["present.1.key", "shape [1, 2, 0, 16], expected [1, 2, 2, 16]"]),
    ("a stale cache, of standard operators", "load", &["present.1.key", "shape [1, 2, 0, 16]"]),
    ("past not connected", "load", &["/model/layers.1/attn/GroupQueryAttention", "past_sequence_length"]),
    ("past keys and values change places", "chunked", &["chunks of 7"]),
    ("the past of another layer", "rewind", &["rewound"]),
    ("presents of two layers change places", "stepwise", &["token by token"]),
    ("mask ignored", "batch", &["a right-padded batch", "the mask"]),
    ("counts of the cache off by one", "load", &["/model/layers.0/attn/GroupQueryAttention", "seqlens_k"]),
];

/// By logits, keys, values and streams that were recorded of the right package.
const RECORDED: &[Seen] = &[
    ("a softcap on the scores", "first-bad-layer", &["layer 1, residual", "attention", "layer 0"]),
    ("window left out", "first-bad-layer", &["layer 3, residual", "layer 2"]),
    ("scale of the scores 2 % up", "first-bad-layer", &["layer 2, residual", "attention", "layer 1"]),
    ("neighbours rotated", "first-bad-layer", &["key", "rotary embedding of layer 0"]),
    ("cosines and sines change places", "first-bad-layer", &["layer 2, key", "rotary embedding of layer 2"]),
    ("no rotation", "first-bad-layer", &["key", "rotary embedding"]),
    ("another activation", "first-bad-layer", &["residual", "MLP"]),
    ("queries and values change places in the graph", "first-bad-layer", &["layer"]),
    ("rows of the embedding not scaled", "first-bad-layer", &["layer 0, residual", "the embedding, or its scale"]),
    ("a residual skipped", "behind-the-layers", &["layer 1", "attention, o_proj, norms or MLP there"]),
    ("no final norm", "behind-the-layers", &["the logits are not", "the final norm"]),
    ("logits without their softcap", "behind-the-layers", &["the logits are not", "a softcap"]),
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
            let stage = if seen.1 == "load" { Stage::Load } else { Stage::Consistency };
            caught(folder.path(), Level::Consistency, Against::Nothing, stage, seen)
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
        finding.check == *check && says.iter().all(|words| whole.contains(words))
    });
    if report.verdict == Verdict::Fail && named {
        return Ok(());
    }
    Err(format!("{stage} does not say {check}: {says:?}\n{}", told(&report.stages)).into())
}
