//! The same text by other roads. Needs no reference, and finds most faults of an export: positions, masks, caches.

use crate::judge::load::Loaded;
use crate::judge::tolerance::road_limit;
use crate::judge::{GREEDY_STEPS, Text};
use crate::metrics::compare;
use crate::report::{Finding, Road, Severity, Stage, StageReport};
use crate::{CacheMode, Error, ErrorKind, Matrix, Result, Sequence, SequenceOptions, argmax};

/// The longest text by which roads are compared, in tokens: beyond the longest chunk.
const LONGEST: usize = 96;

/// A way to read `ids`. The rows of its logits belong to the last tokens.
type Way = fn(&Loaded, &[u32]) -> Result<Read>;

struct Read {
    logits: Matrix,
    /// Where other tokens than `ids` were read: what reading those at once gives.
    expected: Option<Matrix>,
}

/// What a road is called, the check's stable word, and what a difference there usually comes from.
const ROADS: [(&str, &str, &str, Way); 8] = [
    ("token by token", "stepwise", "positions or the mask of steps behind a cache", |loaded, ids| {
        chunks(loaded, ids, 1)
    }),
    ("chunks of 7", "chunked", "positions or the mask of chunks behind a cache", |loaded, ids| chunks(loaded, ids, 7)),
    ("chunks of 64", "chunked", "positions or the mask of chunks behind a cache", |loaded, ids| {
        chunks(loaded, ids, 64)
    }),
    ("a right-padded batch", "batch", "the mask: a row sees the pads of its own, or another row", batch),
    ("a shared cache", "shared-cache", "attention that does not write its cache in place", shared),
    ("rewound, then appended", "rewind", "attention that reads what lies behind the end of its cache", rewound),
    ("appended behind generated tokens", "continued", "positions that are counted from the wrong end", continued),
    ("the same again", "determinism", "sums in the order in which threads come by", |loaded, ids| {
        Ok(plain(whole(loaded, ids)?))
    }),
];

/// Reads a text by all roads and compares the logits with those of reading it at once.
pub(super) fn check(loaded: &Loaded, texts: &[Text]) -> (StageReport, Vec<Road>) {
    let (mut findings, mut roads, mut checks) = (Vec::new(), Vec::new(), 0);
    let text = end_to_end(texts);
    findings.extend(loaded.words.substitute(&text));
    let base = tokens(loaded, &text).and_then(|ids| steady(loaded, ids));
    let Steady { ids, logits: base, beginning, whole_text } = match base {
        Ok(base) => base,
        Err(error) => return (cannot(&error), roads),
    };
    if let Some(value) = base.data().iter().find(|value| !value.is_finite()) {
        let message = format!("the logits of a plain text hold {value}");
        let finding = Finding::new(Severity::Error, "non-finite", "logits", message)
            .with_hint("a weight that is not a number, or an overflow of fp16");
        return (StageReport::judged(Stage::Consistency, 1, vec![finding]), roads);
    }
    checks += 1;
    if !beginning.within {
        let message = format!(
            "the logits of the beginning of {} tokens differ by {:.2e} of their spread when the rest is not there",
            ids.len(),
            beginning.max_abs
        );
        let finding = Finding::new(Severity::Error, "causality", &beginning.name, message);
        findings.push(finding.with_hint("attention sees tokens to come: its mask, or `unidirectional`"));
    } else if ids.len() < whole_text {
        let message = format!(
            "beyond {} tokens the logits depend on the length of the whole text, so the roads are {} tokens long",
            ids.len(),
            ids.len()
        );
        let finding = Finding::new(Severity::Info, "causality", &beginning.name, message);
        findings.push(finding.with_hint("as with dynamic and long rope"));
    }
    roads.push(beginning);
    for (name, check, hint, way) in ROADS {
        match way(loaded, &ids)
            .and_then(|read| road(loaded, name, read.expected.as_ref().unwrap_or(&base), &read.logits))
        {
            Ok(road) => {
                checks += 1;
                findings.extend(judged(loaded, check, hint, &road));
                roads.push(road);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Argument) => {
                findings.push(Finding::new(Severity::Info, check, name, format!("not tried: {error}")));
            }
            Err(error) => {
                checks += 1;
                let failed = Finding::new(Severity::Error, check, name, format!("the run failed: {error}"));
                findings.push(failed.with_hint(format!("usually {hint}")));
            }
        }
    }
    (StageReport::judged(Stage::Consistency, checks, findings), roads)
}

fn cannot(error: &Error) -> StageReport {
    if error.kind() == ErrorKind::Execution {
        let finding = Finding::new(Severity::Error, "prefill", "the package", error.to_string());
        return StageReport::judged(Stage::Consistency, 1, vec![finding]);
    }
    StageReport::not_run(Stage::Consistency, error.to_string())
}

fn end_to_end(texts: &[Text]) -> String {
    let texts: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
    texts.join("\n")
}

/// The text, as far as the context and patience go.
fn tokens(loaded: &Loaded, text: &str) -> Result<Vec<u32>> {
    let mut ids = loaded.words.encode(text)?;
    ids.truncate(LONGEST.min(loaded.model.context_length().saturating_sub(GREEDY_STEPS)));
    match ids.len() {
        0..3 => Err(Error::argument("the number of tokens to read", ids.len(), "at least 3")),
        _ => Ok(ids),
    }
}

/// A text whose beginning does not depend on its end.
struct Steady {
    ids: Vec<u32>,
    /// Of the text at once.
    logits: Matrix,
    /// Its beginning alone.
    beginning: Road,
    /// Tokens of the text before it was shortened.
    whole_text: usize,
}

/// Shortens the text until its beginning has the same logits with the rest and without. Rope that changes with the
/// length of a text changes them from some length on; a mask that shows what is to come does so at any length.
fn steady(loaded: &Loaded, ids: Vec<u32>) -> Result<Steady> {
    const SHORTEST: usize = 8;
    let whole_text = ids.len();
    let mut longest = None;
    let mut ids = ids;
    loop {
        let logits = whole(loaded, &ids)?;
        let half = ids.len().div_ceil(2);
        // Two beginnings: a rope that changes between them and the whole shows in one at least.
        let mut beginning = alone(loaded, &ids, &logits, half)?;
        if beginning.within {
            beginning = alone(loaded, &ids, &logits, ids.len().div_ceil(8).max(2))?;
        }
        let found = Steady { ids: ids.clone(), logits, beginning, whole_text };
        if found.beginning.within {
            return Ok(found);
        }
        let longest = longest.get_or_insert(found);
        if half < SHORTEST {
            let Steady { ids, logits, beginning, whole_text } = longest;
            return Ok(Steady {
                ids: std::mem::take(ids),
                logits: logits.clone(),
                beginning: beginning.clone(),
                whole_text: *whole_text,
            });
        }
        ids.truncate(half);
    }
}

/// The first tokens alone, against the same ones with all that follows.
fn alone(loaded: &Loaded, ids: &[u32], logits: &Matrix, count: usize) -> Result<Road> {
    let name = "the beginning alone";
    // A graph that gives the last row alone tells nothing of the others.
    if logits.rows() != ids.len() {
        return Ok(Road { name: name.to_owned(), max_abs: 0.0, kl_mean: 0.0, within: true });
    }
    let read = whole(loaded, ids.get(..count).unwrap_or_default())?;
    road(loaded, name, &logits.slice(0..count), &read)
}

fn judged(loaded: &Loaded, check: &'static str, hint: &str, road: &Road) -> Option<Finding> {
    if road.within {
        return None;
    }
    if check == "determinism" {
        let message = format!("two runs of one text differ by {:.2e}", road.max_abs);
        return Some(Finding::new(Severity::Doubt, check, &road.name, message).with_hint(hint.to_owned()));
    }
    let limit = road_limit(loaded.precision);
    let message = format!(
        "logits differ from those of the text at once by {:.2e} of their spread, mean KL {:.2e}; {} allows {limit}",
        road.max_abs, road.kl_mean, loaded.precision
    );
    Some(Finding::new(Severity::Error, check, &road.name, message).with_hint(format!("usually {hint}")))
}

/// Compares the rows that both have, counted from the end.
fn road(loaded: &Loaded, name: &str, base: &Matrix, logits: &Matrix) -> Result<Road> {
    let rows = base.rows().min(logits.rows());
    let last = |matrix: &Matrix| matrix.slice(matrix.rows() - rows..matrix.rows());
    let (base, logits) = (last(base), last(logits));
    let metrics = compare(&base, &logits)?;
    let max_abs = match metrics.first_non_finite {
        Some(_) => f64::NAN,
        None => metrics.max_abs / metrics.reference_std.max(f64::MIN_POSITIVE),
    };
    let same = base.data().iter().zip(logits.data()).all(|(a, b)| a.to_bits() == b.to_bits());
    let within = match name {
        "the same again" => same,
        _ => road_limit(loaded.precision).holds(max_abs, metrics.kl_mean),
    };
    Ok(Road { name: name.to_owned(), max_abs, kl_mean: metrics.kl_mean, within })
}

fn plain(logits: Matrix) -> Read {
    Read { logits, expected: None }
}

fn whole(loaded: &Loaded, ids: &[u32]) -> Result<Matrix> {
    loaded.sequence(ids.len())?.append(ids)
}

fn chunks(loaded: &Loaded, ids: &[u32], size: usize) -> Result<Read> {
    if size >= ids.len() {
        return Err(Error::argument("the length of the text", ids.len(), format!("more than {size} tokens")));
    }
    let mut sequence = loaded.sequence(ids.len())?;
    joined(&mut sequence, ids.chunks(size)).map(plain)
}

/// Logits of all chunks, one behind the other; of a graph that gives the last row only, the last row.
fn joined<'a>(sequence: &mut Sequence, chunks: impl Iterator<Item = &'a [u32]>) -> Result<Matrix> {
    let (mut values, mut columns) = (Vec::new(), 0);
    for chunk in chunks {
        let logits = sequence.append(chunk)?;
        columns = logits.cols();
        if logits.rows() < chunk.len() {
            values.clear();
        }
        values.extend_from_slice(logits.data());
    }
    Matrix::new(values.len().checked_div(columns).unwrap_or(0), columns, values)
}

/// Two thirds of the text between the whole of it and a third.
fn batch(loaded: &Loaded, ids: &[u32]) -> Result<Read> {
    let third = ids.len().div_ceil(3);
    let middle = ids.get(..ids.len().saturating_sub(third)).unwrap_or_default();
    let shorter = ids.get(..third).unwrap_or_default();
    let mut logits = loaded.model.batch_logits(&[ids, middle, shorter], None)?;
    let own = logits.drain(1..2).next();
    let logits = own.ok_or_else(|| Error::execution("reading a batch")("it has fewer rows than were asked for"))?;
    Ok(Read { logits, expected: Some(whole(loaded, middle)?) })
}

fn shared(loaded: &Loaded, ids: &[u32]) -> Result<Read> {
    let model = &loaded.model;
    if CacheMode::of(model) == CacheMode::plainest(model) {
        let what = "another kind of cache than the one that all roads are on";
        return Err(Error::unsupported(what, "packages with search.past_present_share_buffer"));
    }
    let options = SequenceOptions { max_length: ids.len(), cache: CacheMode::of(model), adapter: None };
    let mut sequence = Sequence::new(model, options)?;
    let (prompt, rest) = ids.split_at(ids.len().div_ceil(2));
    joined(&mut sequence, std::iter::once(prompt).chain(rest.chunks(1))).map(plain)
}

/// Other tokens take the place of the second half before it is read.
fn rewound(loaded: &Loaded, ids: &[u32]) -> Result<Read> {
    let mut sequence = loaded.sequence(ids.len())?;
    let half = ids.len().div_ceil(2);
    let (kept, rest) = ids.split_at(half);
    sequence.append(kept)?;
    let others: Vec<u32> = rest.iter().rev().copied().collect();
    sequence.append(&others)?;
    sequence.rewind(half)?;
    sequence.append(rest).map(plain)
}

/// What follows tokens that were chosen one by one, against the whole of it read at once.
fn continued(loaded: &Loaded, ids: &[u32]) -> Result<Read> {
    const GENERATED: usize = 3;
    // No longer than the text: see `steady`.
    let ids = ids.get(..ids.len().saturating_sub(GENERATED)).unwrap_or_default();
    if ids.len() < 2 {
        return Err(Error::argument("the length of the text", ids.len(), "at least 5 tokens"));
    }
    let half = ids.len().div_ceil(2);
    let (prompt, rest) = ids.split_at(half);
    let mut sequence = loaded.sequence(ids.len() + GENERATED)?;
    let mut logits = sequence.append(prompt)?;
    let mut read = prompt.to_vec();
    for _ in 0..GENERATED {
        let chosen = argmax(logits.last_row()).and_then(|token| u32::try_from(token).ok());
        let chosen = chosen.ok_or_else(|| Error::execution("choosing a token")("the logits are not numbers"))?;
        read.push(chosen);
        logits = sequence.append(&[chosen])?;
    }
    let logits = sequence.append(rest)?;
    read.extend_from_slice(rest);
    Ok(Read { logits, expected: Some(whole(loaded, &read)?) })
}
