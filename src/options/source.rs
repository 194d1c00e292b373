//! Names of files, and how a model on the Hub is had.

use std::path::PathBuf;

use genai_checkpoint::Token;

use super::{Row, Wrong, boolean};
use crate::{failure::Failure, token::TokenChoice};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) filename: Option<String>,
    pub(crate) hf_token: TokenChoice,
    pub(crate) adapter_path: Option<PathBuf>,
}

pub(super) const ROWS: &[Row] = &[
    Row {
        key: "filename",
        values: "a plain name such as model.onnx",
        default: "model.onnx",
        applies: "",
        about: "The name of the graph's file; the weights lie in a file of the same name with `.data` added.",
        set: |options, value| {
            options.source.filename = Some(filename(value).ok_or(Wrong::Value)?);
            Ok(())
        },
    },
    Row {
        key: "adapter_path",
        values: "a folder with adapter_config.json and adapter_model.safetensors",
        default: "none",
        applies: "models whose linears the adapter changes",
        about: "A LoRA adapter as PEFT saves it, to be baked in: each linear that it changes gets the nodes \
                `lora_A/MatMul`, `lora_B/MatMul` and `lora/Add` beside it, in the dtype of activations at every precision. \
                Variants that are more than `W + scale * B * A` (DoRA, biases, embeddings, saved modules) are refused. \
                For adapters that can be changed while the model is loaded there is `--adapter NAME=DIR`, which writes \
                `NAME.onnx_adapter`.",
        set: |options, value| {
            options.source.adapter_path = Some(value).filter(|value| !value.is_empty()).map(PathBuf::from);
            options.source.adapter_path.as_ref().map(drop).ok_or(Wrong::Value)
        },
    },
    Row {
        key: "hf_token",
        values: "true, false or a token",
        default: "true",
        applies: "models on the Hub",
        about: "The token for the Hub: `true` takes the one of the environment, `false` none. A token on the command \
                line can be seen by other users of the machine; HF_TOKEN cannot.",
        set: |options, value| {
            options.source.hf_token = match boolean(value) {
                Ok(true) => TokenChoice::Environment,
                Ok(false) => TokenChoice::None,
                Err(_) => Token::new(value).map_or(TokenChoice::None, TokenChoice::Given),
            };
            Ok(())
        },
    },
    Row {
        key: "hf_remote",
        values: "true or false",
        default: "false",
        applies: "",
        about: "Refused when true: code from a model's repository is never run. Supported families need none.",
        set: |_, value| match boolean(value)? {
            false => Ok(()),
            true => Err(Wrong::Other(Failure::refused(
                "hf_remote=true asks to run code from the model's repository, which this tool never does".to_owned(),
                "leave it out: supported families need no code from the repository",
            ))),
        },
    },
];

/// A name for a file in the output folder: nothing that could lead out of it, or that clients load as another kind.
fn filename(value: &str) -> Option<String> {
    const RESERVED: &[&str] = &["CON", "PRN", "AUX", "NUL"];
    let stem = value.strip_suffix(".onnx")?;
    let plain = !stem.is_empty() && stem.len() <= 200 && !stem.starts_with('.');
    let allowed = stem.chars().all(|c| c.is_alphanumeric() || "-_.+ ".contains(c));
    (plain && allowed && !RESERVED.contains(&stem.to_ascii_uppercase().as_str())).then(|| value.to_owned())
}
