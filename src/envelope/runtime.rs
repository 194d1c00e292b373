//! `--runtime_config` and `--search`: what is added to `genai_config.json`. Keys and bounds are those that
//! onnxruntime-genai 0.18 reads for a decoder; what the package decides, the builder checks.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::schema::{Field, Kind, check, field};
use crate::failure::Failure;

/// Integers of the runtime have 32 bits.
const MOST: i64 = i32::MAX as i64;
/// And bytes the digits of a double.
const MOST_BYTES: i64 = (1 << 53) - 1;

const ROOT: &[Field] = &[
    field("search", Kind::Object(SEARCH)),
    field("speculative", Kind::Object(SPECULATIVE)),
    field("engine", Kind::Object(&[field("dynamic_batching", Kind::Object(BATCHING))])),
    field("model", Kind::Object(&[field("decoder", Kind::Object(COMPONENT))])),
    field("runtime_profiles", Kind::Objects(PROFILE)),
];

const SEARCH: &[Field] = &[
    field("batch_size", Kind::Whole(1, 32)),
    field("chunk_size", Kind::Whole(1, MOST)),
    field("diversity_penalty", Kind::Number(f64::MIN, f64::MAX)),
    field("do_sample", Kind::Flag),
    field("early_stopping", Kind::Flag),
    field("length_penalty", Kind::Number(f64::MIN, f64::MAX)),
    field("max_length", Kind::Whole(1, MOST)),
    field("min_length", Kind::Whole(0, MOST)),
    field("no_repeat_ngram_size", Kind::Whole(0, MOST)),
    field("num_beams", Kind::Whole(1, 32)),
    field("num_return_sequences", Kind::Whole(1, MOST)),
    field("past_present_share_buffer", Kind::Flag),
    field("random_seed", Kind::Whole(-1, MOST)),
    field("repetition_penalty", Kind::Positive),
    field("temperature", Kind::Number(0.0, f64::MAX)),
    field("top_k", Kind::Whole(0, MOST)),
    field("top_p", Kind::Number(0.0, 1.0)),
];

const SPECULATIVE: &[Field] = &[
    field("max_draft_tokens", Kind::Whole(1, 16)),
    field("ngram_size", Kind::Whole(0, 16)),
    field("ngram_chained_lookup", Kind::Flag),
    field("min_adaptive_k", Kind::Whole(0, 16)),
    field("cooldown", Kind::Flag),
];

const BATCHING: &[Field] = &[
    field("max_batch_size", Kind::Whole(1, 256)),
    field("max_scheduled_tokens", Kind::Whole(1, MOST)),
    field("num_blocks", Kind::Whole(1, MOST)),
    field("gpu_utilization_factor", Kind::Number(f64::MIN_POSITIVE, 1.0)),
];

const COMPONENT: &[Field] = &[field("session_options", Kind::Session(SESSION)), field("run_options", Kind::Entries)];

const SESSION: &[Field] = &[
    field("log_id", Kind::Text),
    field("enable_profiling", Kind::Text),
    field("intra_op_num_threads", Kind::Whole(0, MOST)),
    field("inter_op_num_threads", Kind::Whole(0, MOST)),
    field("log_severity_level", Kind::Whole(0, 4)),
    field("log_verbosity_level", Kind::Whole(0, MOST)),
    field("enable_cpu_mem_arena", Kind::Flag),
    field("enable_mem_pattern", Kind::Flag),
    field(
        "graph_optimization_level",
        Kind::OneOf(&["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]),
    ),
    field("custom_ops_library", Kind::Refused("a package names no code that is to be loaded; load it in your program")),
    field("provider_options", Kind::Providers),
];

const PROFILE: &[Field] = &[
    field("id", Kind::Text),
    field("eligibility", Kind::Object(ELIGIBILITY)),
    field("overlay", Kind::Object(OVERLAY)),
];

const MINIMUM: &str = "minimum_total_device_memory_bytes";

const ELIGIBILITY: &[Field] = &[
    field(MINIMUM, Kind::Whole(0, MOST_BYTES)),
    field("maximum_total_device_memory_bytes", Kind::Whole(0, MOST_BYTES)),
    field("minimum_free_device_memory_bytes", Kind::Whole(0, MOST_BYTES)),
    field("maximum_free_device_memory_bytes", Kind::Whole(0, MOST_BYTES)),
    field("is_integrated", Kind::Flag),
];

const OVERLAY: &[Field] = &[
    field("engine", Kind::Object(&[field("dynamic_batching", Kind::Object(PROFILE_BATCHING))])),
    field("search", Kind::Object(&[field("chunk_size", Kind::Whole(1, MOST))])),
    field("speculative", Kind::Object(&[field("max_draft_tokens", Kind::Whole(1, 16))])),
    field("model", Kind::Refused("a package has one graph, which no profile can exchange")),
];

const PROFILE_BATCHING: &[Field] = &[
    field("max_batch_size", Kind::Whole(1, 256)),
    field("max_scheduled_tokens", Kind::Whole(1, MOST)),
    field("num_blocks", Kind::Whole(1, MOST)),
];

/// Checks `--runtime_config`, with `--search` merged into its object of that name.
pub(super) fn merged(
    runtime: Option<Map<String, Value>>,
    search: Option<Map<String, Value>>,
) -> Result<Map<String, Value>, Failure> {
    let mut object = runtime.unwrap_or_default();
    check("--runtime_config", &object.clone().into(), &Kind::Object(ROOT))?;
    if let Some(search) = search {
        check("--search", &search.clone().into(), &Kind::Object(SEARCH))?;
        if let Some(there) = object.entry("search").or_insert_with(|| Map::new().into()).as_object_mut() {
            for (key, value) in search {
                if there.insert(key.clone(), value).is_some() {
                    return Err(Failure::usage(format!("{key} is given in --search and in --runtime_config"))
                        .with_hint("give it once"));
                }
            }
        }
    }
    let batching = object.get("engine").and_then(|engine| engine.get("dynamic_batching"));
    if batching.is_some_and(|given| given.get("num_blocks").is_some() && given.get("gpu_utilization_factor").is_some())
    {
        return Err(Failure::usage(
            "--runtime_config.engine.dynamic_batching has num_blocks and gpu_utilization_factor, of which one stands for \
             the other",
        ));
    }
    if object.get("speculative").and_then(|given| given.get("ngram_size")) == Some(&1.into()) {
        return Err(Failure::usage("--runtime_config.speculative.ngram_size is 1, expected 0 or 2 to 16"));
    }
    profiles(object.get("runtime_profiles"))?;
    Ok(object)
}

/// A device must have at most one profile that fits.
fn profiles(list: Option<&Value>) -> Result<(), Failure> {
    let wrong = |at: usize, reason: &str| Failure::usage(format!("--runtime_config.runtime_profiles[{at}] {reason}"));
    let mut ids = BTreeSet::new();
    let mut before: Vec<(&str, Eligible)> = Vec::new();
    for (at, profile) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
        let id = profile.get("id").and_then(Value::as_str).ok_or_else(|| wrong(at, "has no id"))?;
        if !ids.insert(id) {
            return Err(wrong(at, &format!("has the id {id:?}, as another has")));
        }
        let overlay = profile.get("overlay").and_then(Value::as_object);
        let is_empty = |value: &Value| {
            value
                .as_object()
                .is_some_and(|object| object.values().all(|value| value.as_object().is_some_and(Map::is_empty)))
        };
        if overlay.is_none_or(|overlay| overlay.values().all(is_empty)) {
            return Err(wrong(at, "has no overlay, or one that changes nothing"));
        }
        let eligible = Eligible::of(profile).ok_or_else(|| wrong(at, &format!("has no eligibility.{MINIMUM}")))?;
        if eligible.is_nothing() {
            return Err(wrong(at, "has bounds of memory that no device is in"));
        }
        if let Some((other, _)) = before.iter().find(|(_, other)| other.overlaps(&eligible)) {
            return Err(wrong(at, &format!("({id:?}) is for devices that {other:?} is for too"))
                .with_hint("give them bounds of memory that do not overlap"));
        }
        before.push((id, eligible));
    }
    Ok(())
}

/// Devices that a profile is for: bounds of their memory, in bytes, and whether it is the system's own.
struct Eligible {
    total: (u64, u64),
    free: (u64, u64),
    integrated: Option<bool>,
}

impl Eligible {
    fn of(profile: &Value) -> Option<Self> {
        let eligibility = profile.get("eligibility")?;
        let bytes = |key: &str| eligibility.get(key).and_then(Value::as_u64);
        Some(Self {
            total: (bytes(MINIMUM)?, bytes("maximum_total_device_memory_bytes").unwrap_or(u64::MAX)),
            free: (
                bytes("minimum_free_device_memory_bytes").unwrap_or(0),
                bytes("maximum_free_device_memory_bytes").unwrap_or(u64::MAX),
            ),
            integrated: eligibility.get("is_integrated").and_then(Value::as_bool),
        })
    }

    /// Memory is free as far as it is there.
    fn is_nothing(&self) -> bool {
        self.total.0 > self.total.1 || self.free.0 > self.free.1 || self.free.0 > self.total.1
    }

    fn overlaps(&self, other: &Self) -> bool {
        let common = |a: (u64, u64), b: (u64, u64)| (a.0.max(b.0), a.1.min(b.1));
        let both = Self {
            total: common(self.total, other.total),
            free: common(self.free, other.free),
            integrated: self.integrated,
        };
        let same_kind = self.integrated.is_none() || other.integrated.is_none() || self.integrated == other.integrated;
        same_kind && !both.is_nothing()
    }
}
