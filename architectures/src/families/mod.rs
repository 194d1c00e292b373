//! The families: one small file each, and the table that lists them.

mod apertus;
mod arcee;
mod bloom;
mod chatglm;
mod cohere;
mod cohere2;
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
mod gpt_neox;
mod granite;
mod helium;
mod hunyuan_dense;
mod internlm2;
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
mod text_part;
mod vaultgemma;

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
    Family {
        architecture: "GemmaForCausalLM",
        runtime_type: "gemma",
        reference: "transformers 5.23 GemmaForCausalLM",
        describe: gemma::describe,
    },
    Family {
        architecture: "Gemma2ForCausalLM",
        runtime_type: "gemma2",
        reference: "transformers 5.23 Gemma2ForCausalLM",
        describe: gemma2::describe,
    },
    Family {
        architecture: "Gemma3ForCausalLM",
        runtime_type: "gemma3_text",
        reference: "transformers 5.23 Gemma3ForCausalLM",
        describe: gemma3::describe,
    },
    Family {
        architecture: "Gemma3ForConditionalGeneration",
        runtime_type: "gemma3_text",
        reference: "transformers 5.23 Gemma3ForConditionalGeneration",
        describe: gemma3::describe_text_part,
    },
    Family {
        architecture: "Gemma3nForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Gemma3nForCausalLM",
        describe: gemma3n::describe,
    },
    Family {
        architecture: "Gemma3nForConditionalGeneration",
        runtime_type: "decoder",
        reference: "transformers 5.23 Gemma3nForConditionalGeneration",
        describe: gemma3n::describe_text_part,
    },
    Family {
        architecture: "Gemma4ForCausalLM",
        runtime_type: "gemma4_text",
        reference: "transformers 5.23 Gemma4ForCausalLM",
        describe: gemma4::describe,
    },
    Family {
        architecture: "Gemma4ForConditionalGeneration",
        runtime_type: "gemma4_text",
        reference: "transformers 5.23 Gemma4ForConditionalGeneration",
        describe: gemma4::describe_text_part,
    },
    Family {
        architecture: "Gemma4UnifiedForCausalLM",
        runtime_type: "gemma4_text",
        reference: "transformers 5.23 Gemma4UnifiedForCausalLM",
        describe: gemma4::describe_unified,
    },
    Family {
        architecture: "Gemma4UnifiedForConditionalGeneration",
        runtime_type: "gemma4_text",
        reference: "transformers 5.23 Gemma4UnifiedForConditionalGeneration",
        describe: gemma4::describe_unified_text_part,
    },
    Family {
        architecture: "VaultGemmaForCausalLM",
        runtime_type: "gemma2",
        reference: "transformers 5.23 VaultGemmaForCausalLM",
        describe: vaultgemma::describe,
    },
    Family {
        architecture: "GlmForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 GlmForCausalLM",
        describe: glm::describe,
    },
    Family {
        architecture: "Glm4ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Glm4ForCausalLM",
        describe: glm4::describe,
    },
    Family {
        architecture: "Ernie4_5ForCausalLM",
        runtime_type: "ernie4_5",
        reference: "transformers 5.23 Ernie4_5ForCausalLM",
        describe: ernie4_5::describe,
    },
    Family {
        architecture: "CohereForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 CohereForCausalLM",
        describe: cohere::describe,
    },
    Family {
        architecture: "Cohere2ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Cohere2ForCausalLM",
        describe: cohere2::describe,
    },
    Family {
        architecture: "Exaone4ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Exaone4ForCausalLM",
        describe: exaone4::describe,
    },
    Family {
        architecture: "HunYuanDenseV1ForCausalLM",
        runtime_type: "hunyuandensev1",
        reference: "transformers 5.23 HunYuanDenseV1ForCausalLM",
        describe: hunyuan_dense::describe,
    },
    Family {
        architecture: "ApertusForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 ApertusForCausalLM",
        describe: apertus::describe,
    },
    Family {
        architecture: "NanoChatForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 NanoChatForCausalLM",
        describe: nanochat::describe,
    },
    Family {
        architecture: "InternLM2ForCausalLM",
        runtime_type: "internlm2",
        reference: "fixtures/record/remote_code.py, after modeling_internlm2.py",
        describe: internlm2::describe,
    },
    Family {
        architecture: "ExaoneForCausalLM",
        runtime_type: "decoder",
        reference: "fixtures/record/remote_code.py, after modeling_exaone.py",
        describe: exaone::describe,
    },
    Family {
        architecture: "ChatGLMModel",
        runtime_type: "chatglm",
        reference: "fixtures/record/remote_code.py, after modeling_chatglm.py",
        describe: chatglm::describe,
    },
    Family {
        architecture: "ChatGLMForConditionalGeneration",
        runtime_type: "chatglm",
        reference: "fixtures/record/remote_code.py, after modeling_chatglm.py",
        describe: chatglm::describe,
    },
    Family {
        architecture: "ArceeForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 ArceeForCausalLM",
        describe: arcee::describe,
    },
    Family {
        architecture: "GraniteForCausalLM",
        runtime_type: "granite",
        reference: "transformers 5.23 GraniteForCausalLM",
        describe: granite::describe,
    },
    Family {
        architecture: "HeliumForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 HeliumForCausalLM",
        describe: helium::describe,
    },
    Family {
        architecture: "NemotronForCausalLM",
        runtime_type: "nemotron",
        reference: "transformers 5.23 NemotronForCausalLM",
        describe: nemotron::describe,
    },
    Family {
        architecture: "OlmoForCausalLM",
        runtime_type: "olmo",
        reference: "transformers 5.23 OlmoForCausalLM",
        describe: olmo::describe,
    },
    Family {
        architecture: "Olmo2ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Olmo2ForCausalLM",
        describe: olmo2::describe,
    },
    Family {
        architecture: "Olmo3ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Olmo3ForCausalLM",
        describe: olmo3::describe,
    },
    Family {
        architecture: "PhiForCausalLM",
        runtime_type: "phi",
        reference: "transformers 5.23 PhiForCausalLM",
        describe: phi::describe,
    },
    Family {
        architecture: "Phi3ForCausalLM",
        runtime_type: "phi3",
        reference: "transformers 5.23 Phi3ForCausalLM",
        describe: phi3::describe,
    },
    Family {
        architecture: "Phi3SmallForCausalLM",
        runtime_type: "phi3small",
        reference: "fixtures/record/remote_code.py, after modeling_phi3_small.py",
        describe: phi3_small::describe,
    },
    Family {
        architecture: "SeedOssForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 SeedOssForCausalLM",
        describe: seed_oss::describe,
    },
    Family {
        architecture: "SmolLM3ForCausalLM",
        runtime_type: "smollm3",
        reference: "transformers 5.23 SmolLM3ForCausalLM",
        describe: smollm3::describe,
    },
    Family {
        architecture: "StableLmForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 StableLmForCausalLM",
        describe: stablelm::describe,
    },
    Family {
        architecture: "Starcoder2ForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 Starcoder2ForCausalLM",
        describe: starcoder2::describe,
    },
    Family {
        architecture: "GPT2LMHeadModel",
        runtime_type: "decoder",
        reference: "transformers 5.23 GPT2LMHeadModel",
        describe: gpt2::describe,
    },
    Family {
        architecture: "GPTNeoXForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 GPTNeoXForCausalLM",
        describe: gpt_neox::describe,
    },
    Family {
        architecture: "OPTForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 OPTForCausalLM",
        describe: opt::describe,
    },
    Family {
        architecture: "BloomForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 BloomForCausalLM",
        describe: bloom::describe,
    },
    Family {
        architecture: "FalconForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 FalconForCausalLM",
        describe: falcon::describe,
    },
    Family {
        architecture: "MptForCausalLM",
        runtime_type: "decoder",
        reference: "transformers 5.23 MptForCausalLM",
        describe: mpt::describe,
    },
    Family {
        architecture: "MinistralForCausalLM",
        runtime_type: "mistral",
        reference: "transformers 5.23 MinistralForCausalLM",
        describe: ministral::describe,
    },
    Family {
        architecture: "Ministral3ForCausalLM",
        runtime_type: "mistral",
        reference: "transformers 5.23 Ministral3ForCausalLM",
        describe: ministral3::describe,
    },
    Family {
        architecture: "Mistral3ForConditionalGeneration",
        runtime_type: "mistral",
        reference: "transformers 5.23 Mistral3ForConditionalGeneration",
        describe: mistral3::describe,
    },
    Family {
        architecture: "Qwen2VLForConditionalGeneration",
        runtime_type: "qwen2",
        reference: "transformers 5.23 Qwen2VLForConditionalGeneration",
        describe: qwen2_vl::describe,
    },
    Family {
        architecture: "Qwen2_5_VLForConditionalGeneration",
        runtime_type: "qwen2",
        reference: "transformers 5.23 Qwen2_5_VLForConditionalGeneration",
        describe: qwen2_vl::describe,
    },
    Family {
        architecture: "Qwen3VLForConditionalGeneration",
        runtime_type: "qwen3",
        reference: "transformers 5.23 Qwen3VLForConditionalGeneration",
        describe: qwen3_vl::describe,
    },
];

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
