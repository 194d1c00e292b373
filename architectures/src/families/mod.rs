//! The families: one small file each, and the table that lists them.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::{Config, DecoderSpec, Error, Result};

/// One row: an architecture string and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The `architectures[0]` string of a config.
    pub architecture: &'static str,
    /// A `model.type` that onnxruntime-genai 0.18 runs with these inputs and outputs.
    pub runtime_type: &'static str,
    /// What the maths was taken from and is checked against.
    pub reference: &'static str,
    describe: fn(&Config) -> Result<DecoderSpec>,
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[
    Family {
        architecture: "LlamaForCausalLM",
        runtime_type: "llama",
        reference: "transformers 5.23 LlamaForCausalLM",
        describe: llama::describe,
    },
    Family {
        architecture: "MistralForCausalLM",
        runtime_type: "mistral",
        reference: "transformers 5.23 MistralForCausalLM",
        describe: mistral::describe,
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        runtime_type: "qwen2",
        reference: "transformers 5.23 Qwen2ForCausalLM",
        describe: qwen2::describe,
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        runtime_type: "qwen3",
        reference: "transformers 5.23 Qwen3ForCausalLM",
        describe: qwen3::describe,
    },
];

/// Says what the model of a `config.json` is.
///
/// # Errors
/// An unknown architecture, a missing or contradictory key, a value that is not supported, or a key that changes the
/// maths and that the family does not read.
pub fn describe(config: &Config) -> Result<DecoderSpec> {
    let architectures = config.opt_strings("architectures")?.unwrap_or_default();
    let Some(found) = architectures.first() else {
        return Err(config.missing("architectures", "a list with the name of a model class"));
    };
    let Some(family) = FAMILIES.iter().find(|family| family.architecture == found) else {
        return Err(unknown(found));
    };
    let mut spec = (family.describe)(config)?;
    spec.architecture = family.architecture;
    spec.runtime_type = family.runtime_type;
    config.finish()?;
    Ok(spec)
}

fn unknown(found: &str) -> Error {
    let supported: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
    let mut ranked: Vec<_> = supported.iter().map(|name| (common_prefix(name, found), *name)).collect();
    ranked.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
    // Fewer than three letters in common is a coincidence.
    let closest = ranked.iter().filter(|(shared, _)| *shared >= 3).take(3).map(|(_, name)| *name).collect();
    Error::UnknownArchitecture { found: found.to_owned(), closest, supported }
}

fn common_prefix(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
}
