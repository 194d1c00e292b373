//! The families: one small file each, and the table that lists them.

mod apertus;
mod arcee;
mod biogpt;
mod bloom;
mod chatglm;
mod codegen;
mod cohere;
mod cohere2;
mod cwm;
mod ernie4_5;
mod exaone;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod glm;
mod glm4;
mod gpt;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod granite;
mod granite_hybrid;
mod helium;
mod hunyuan_dense;
mod hyperclovax;
mod internlm2;
mod internlm3;
mod jais2;
mod layer_inputs;
mod layer_type;
mod llama;
mod ministral;
mod ministral3;
mod mistral;
mod mistral3;
mod mpt;
mod nanochat;
mod nemotron;
mod olmo;
mod olmo2;
mod olmo3;
mod opt;
mod persimmon;
mod phi;
mod phi3;
mod phi3_small;
mod qwen2;
mod qwen2_vl;
mod qwen3;
mod qwen3_vl;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod table;
mod text_part;
mod vaultgemma;

pub use table::FAMILIES;

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

impl Family {
    /// Whether a config with this architecture is of the family. A model that was saved without its head says `LlamaModel`
    /// for `LlamaForCausalLM`; it is whole where the head is the embedding.
    fn is_of(&self, found: &str) -> bool {
        let mut headless =
            ["ForCausalLM", "LMHeadModel"].into_iter().filter_map(|end| self.architecture.strip_suffix(end));
        self.architecture == found || headless.any(|name| found.strip_suffix("Model") == Some(name))
    }
}

/// The length, in tokens, at which a model of a `model.type` of onnxruntime-genai has to see its whole text anew, because
/// its rope has other factors from there on; none for most. The runtime has these numbers by type too (`src/generators.cpp`,
/// 0.18): `genai_config.json` does not tell them.
pub fn rope_switch(runtime_type: &str) -> Option<usize> {
    match runtime_type {
        "phi3" | "phimoe" => Some(4097),
        "phi3small" => Some(8193),
        _ => None,
    }
}

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
    // transformers runs InternLM3 by the class of Llama and saves that name, but the defaults are those of the config.
    let model_type = config.opt_str("model_type")?;
    let found = match (found.as_str(), model_type.as_deref()) {
        ("LlamaForCausalLM", Some("internlm3")) => "InternLM3ForCausalLM",
        (found, _) => found,
    };
    let Some(family) = FAMILIES.iter().find(|family| family.is_of(found)) else {
        return Err(unknown(found));
    };
    causal(config)?;
    let mut spec = (family.describe)(config)?;
    spec.architecture = family.architecture;
    spec.runtime_type = family.runtime_type;
    config.finish()?;
    Ok(spec)
}

/// Fails where positions see those behind them too: transformers asks any config for this, whatever its class.
fn causal(config: &Config) -> Result<()> {
    config.only("is_causal", true)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::describe;
    use crate::{Config, DecoderSpec, Result};

    fn llama(architecture: &str, others: Value) -> Result<DecoderSpec> {
        let mut config = json!({
            "architectures": [architecture], "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 8, "max_position_embeddings": 8,
        });
        if let (Some(config), Value::Object(others)) = (config.as_object_mut(), others) {
            config.extend(others);
        }
        describe(&Config::from_json(config)?)
    }

    #[test]
    fn a_model_saved_without_its_head_is_of_the_same_family() {
        let spec = llama("LlamaModel", json!({ "tie_word_embeddings": true })).unwrap();
        assert_eq!(spec.architecture, "LlamaForCausalLM");
        let named = |stored: &str| spec.name_of(stored);
        for stored in ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"] {
            assert_eq!(named(stored).unwrap(), format!("model.{stored}"));
        }
        for stored in ["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "vision.weight", "norm", ""] {
            assert_eq!(named(stored), None, "{stored}");
        }
        assert!(llama("LlamaModelForCausalLM", json!({})).is_err());
    }

    #[test]
    fn layer_types_that_are_null_are_those_of_the_pattern() {
        let unsaid = llama("Exaone4ForCausalLM", json!({})).unwrap();
        assert_eq!(llama("Exaone4ForCausalLM", json!({ "layer_types": null })).unwrap(), unsaid);
        assert_ne!(llama("Exaone4ForCausalLM", json!({ "layer_types": ["full_attention"] })).unwrap(), unsaid);
    }

    #[test]
    fn a_model_run_by_the_class_of_another_has_its_own_defaults() {
        let spec = llama("LlamaForCausalLM", json!({ "model_type": "internlm3" })).unwrap();
        assert_eq!(spec, llama("InternLM3ForCausalLM", json!({})).unwrap());
        assert_ne!(spec.final_norm, llama("LlamaForCausalLM", json!({})).unwrap().final_norm);
    }

    #[test]
    fn keys_of_other_runtimes_change_nothing() {
        let yarn = |others: Value| {
            let mut rope = json!({ "rope_type": "yarn", "factor": 2.0 });
            rope.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
            llama("LlamaForCausalLM", json!({ "rope_scaling": rope })).unwrap()
        };
        assert_eq!(yarn(json!({ "finetuned": true })), yarn(json!({})));
        let chunks = json!({ "dual_chunk_attention_config": { "chunk_size": 4, "local_size": 2 } });
        assert_eq!(llama("Qwen2ForCausalLM", chunks).unwrap(), llama("Qwen2ForCausalLM", json!({})).unwrap());
        let exact = |name: &str| llama("LlamaForCausalLM", json!({ "hidden_act": name })).unwrap();
        assert_eq!(exact("gelu_python"), exact("gelu"));
        assert_eq!(exact("gelu_accurate"), exact("gelu_pytorch_tanh"));
    }
}
