//! The structured options of onnxruntime-genai's model builder, its configuration version 2: JSON objects, inline or in a
//! file, that say the same as `--extra_options` in another way, and what is added to `genai_config.json`.
//!
//! ```text
//! --target_options ──────┬─► precision, extra options      (what the package is)
//! --speculative_options ─┘
//! --runtime_config ──────┬─► added to genai_config.json    (how it is run)
//! --search ──────────────┘
//! --drafter_options ───────► refused
//! ```

mod runtime;
mod schema;
mod strict;
mod target;

use serde_json::{Map, Value};

use crate::{args::EnvelopeArgs, failure::Failure};

use target::TargetOptions;

use schema::{Field, Kind, check, field};

/// What was given.
#[derive(Debug, Default)]
pub(crate) struct Envelope {
    pub(crate) target: TargetOptions,
    /// What is added to `genai_config.json`.
    pub(crate) runtime_config: Map<String, Value>,
}

/// Larger files are no options.
const MOST_BYTES: u64 = 16 << 20;

const DRAFTER: &[Field] = &[field("drafter_type", Kind::OneOf(&["none"]))];

impl Envelope {
    pub(crate) fn read(args: &EnvelopeArgs) -> Result<Self, Failure> {
        let given = [
            ("--target_options", &args.target_options),
            ("--drafter_options", &args.drafter_options),
            ("--speculative_options", &args.speculative_options),
            ("--runtime_config", &args.runtime_config),
        ];
        match (args.builder_config_version, given.iter().find(|(_, given)| given.is_some())) {
            (None | Some(2), _) | (Some(1), None) => {}
            (Some(1), Some((flag, _))) => {
                return Err(Failure::usage(format!("--builder_config_version is 1, which has no {flag}"))
                    .with_hint("leave the version out, or say 2"));
            }
            (Some(other), _) => {
                return Err(Failure::usage(format!("--builder_config_version is {other}, expected 1 or 2")));
            }
        }
        let [target, drafter, speculative, runtime] = given.map(|(flag, text)| object(flag, text.as_deref()));
        if let Some(drafter) = drafter? {
            refuse_drafter(&drafter)?;
        }
        let search = object("--search", args.search.as_deref())?;
        Ok(Self {
            target: TargetOptions::new(target?.unwrap_or_default(), speculative?.unwrap_or_default())?,
            runtime_config: runtime::merged(runtime?, search)?,
        })
    }

    /// Adds what an extra option says of the runtime.
    pub(crate) fn set_draft_tokens(&mut self, tokens: u8) -> Result<(), Failure> {
        let speculative = self.runtime_config.entry("speculative").or_insert_with(|| Map::new().into());
        match speculative.as_object_mut().and_then(|object| object.insert("max_draft_tokens".to_owned(), tokens.into()))
        {
            None => Ok(()),
            Some(_) => Err(twice("max_draft_tokens", "--runtime_config.speculative.max_draft_tokens")),
        }
    }
}

/// An option that was given in both ways, which may say different things.
fn twice(key: &str, path: &str) -> Failure {
    Failure::usage(format!("extra option {key} and {path} are both given")).with_hint("give one of them")
}

fn refuse_drafter(drafter: &Map<String, Value>) -> Result<(), Failure> {
    let kind = drafter.get("drafter_type");
    if kind.is_none_or(|kind| kind != "none") {
        let what = kind.map_or("--drafter_options".to_owned(), |kind| format!("--drafter_options.drafter_type {kind}"));
        return Err(Failure::unsupported(
            format!("{what} is not supported: no package gets a drafter"),
            "leave it out; max_draft_tokens and speculative.ngram_size need no drafter of their own",
        ));
    }
    check("--drafter_options", &drafter.clone().into(), &Kind::Object(DRAFTER))
}

/// The object that a flag gives: itself, or the file that it is in.
fn object(flag: &str, given: Option<&str>) -> Result<Option<Map<String, Value>>, Failure> {
    let Some(given) = given.map(str::trim) else { return Ok(None) };
    if given.starts_with('{') {
        return match strict::object(given) {
            Ok(object) => Ok(Some(object)),
            Err(error) => Err(Failure::usage(format!("{flag}: {error}"))),
        };
    }
    let unread = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("{flag}: {given}: {error}"))
            .with_hint("give a JSON object, or the path of a file with one")
    };
    let metadata = std::fs::metadata(given).map_err(|error| unread(&error))?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(unread(&format!("not a file of at most {MOST_BYTES} bytes")));
    }
    let text = std::fs::read_to_string(given).map_err(|error| unread(&error))?;
    strict::object(&text).map(Some).map_err(|error| Failure::usage(format!("{flag}: {given}: {error}")))
}
