//! `--extra_options KEY=VALUE …`, typed and checked.
//!
//! One row for each option: what it is called, what may be its value, what it means, and how it is read. The rows are
//! the help, the reference page (`docs/options.md`) and the parser. What an option may be combined with is decided where
//! a request is made of them all, in `request`.

/// A row of an option that is on or off.
macro_rules! switch {
    ($subject:ident.$key:ident, $default:literal, $applies:literal, $about:literal) => {
        Row {
            key: stringify!($key),
            values: "true or false",
            default: $default,
            applies: $applies,
            about: $about,
            set: |options, value| {
                options.$subject.$key = Some(boolean(value)?);
                Ok(())
            },
        }
    };
}

mod absent;
mod cache;
mod graph;
mod quantization;
mod session;
mod sizes;
mod source;

use std::fmt::Write;

use strsim::normalized_damerau_levenshtein;

use crate::failure::Failure;

pub(crate) use cache::{Cache, LARGEST_SCALE_FILE};
pub(crate) use graph::Graph;
pub(crate) use quantization::Quantization;
pub(crate) use session::Session;
pub(crate) use sizes::Sizes;
pub(crate) use source::Source;

/// What was given, by subject. `None` where an option was not.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ExtraOptions {
    pub(crate) quantization: Quantization,
    pub(crate) graph: Graph,
    pub(crate) session: Session,
    pub(crate) cache: Cache,
    pub(crate) sizes: Sizes,
    pub(crate) source: Source,
    /// Lines for people.
    pub(crate) notes: Vec<String>,
}

/// One option.
pub(crate) struct Row {
    pub(crate) key: &'static str,
    /// What may stand behind the equals sign, in words.
    pub(crate) values: &'static str,
    pub(crate) default: &'static str,
    /// The precisions, providers or models that it means something for.
    pub(crate) applies: &'static str,
    /// What it does, in a sentence or two.
    pub(crate) about: &'static str,
    pub(crate) set: fn(&mut ExtraOptions, &str) -> Result<(), Wrong>,
}

/// What is wrong with a value.
pub(crate) enum Wrong {
    /// It is none of the row's values.
    Value,
    Other(Failure),
}

/// The options by subject, as the reference page has them.
const SUBJECTS: &[(&str, &[Row])] = &[
    ("Quantization", quantization::ROWS),
    ("Graph", graph::ROWS),
    ("Cache", cache::ROWS),
    ("Sizes", sizes::ROWS),
    ("Files and sources", source::ROWS),
    ("Session", session::ROWS),
    ("Parts that no supported model has", absent::ROWS),
];

/// Names that the peer's builder had for options of its int4 precision, and has for all quantized ones now.
const FORMER: [(&str, &str); 7] = [
    ("int4_block_size", "block_size"),
    ("int4_is_symmetric", "is_symmetric"),
    ("int4_accuracy_level", "accuracy_level"),
    ("int4_algo_config", "algo_config"),
    ("int4_op_types_to_quantize", "op_types_to_quantize"),
    ("int4_nodes_to_exclude", "nodes_to_exclude"),
    ("int4_tied_embeddings", "shared_embeddings"),
];

impl ExtraOptions {
    pub(crate) fn parse(options: &[String]) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for option in options {
            let Some((key, value)) = option.split_once('=') else {
                // What follows a forgotten equals sign may be a token.
                let known = rows().any(|row| row.key == option);
                let shown = if option.starts_with("hf_") && !known { "hf_***" } else { option };
                return Err(Failure::usage(format!("extra option {shown:?} is not of the form KEY=VALUE")));
            };
            let typed = key.trim();
            let key = present_name(typed);
            if key != typed {
                parsed.notes.push(format!("extra option {typed} is called {key} by now"));
            }
            parsed.set(key, value.trim())?;
        }
        Ok(parsed)
    }

    /// The name of the graph's file.
    pub(crate) fn filename(&self) -> &str {
        self.source.filename.as_deref().unwrap_or("model.onnx")
    }

    /// Sets one option by its present name.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let row = rows().find(|row| row.key == key).ok_or_else(|| unknown(key))?;
        (row.set)(self, value).map_err(|wrong| match wrong {
            Wrong::Value => Failure::usage(format!("extra option {key} is {value:?}, expected {}", row.values)),
            Wrong::Other(failure) => failure,
        })
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    SUBJECTS.iter().flat_map(|(_, rows)| *rows)
}

/// What an option is called by now.
fn present_name(typed: &str) -> &str {
    FORMER.iter().find(|(former, _)| *former == typed).map_or(typed, |(_, now)| now)
}

/// The options as typed, without those of this name.
pub(crate) fn without(options: &[String], key: &str) -> Vec<String> {
    let is_other = |option: &&String| option.split_once('=').is_none_or(|(typed, _)| present_name(typed.trim()) != key);
    options.iter().filter(is_other).cloned().collect()
}

/// Takes options of unknown names out of those that were typed. Returns a line about each.
pub(crate) fn take_unknown(options: &mut Vec<String>) -> Vec<String> {
    let is_unknown = |option: &mut String| {
        let key = option.split_once('=').map(|(typed, _)| present_name(typed.trim()));
        key.is_some_and(|key| rows().all(|row| row.key != key))
    };
    let line = |option: String| {
        let key = option.split_once('=').map_or("", |(typed, _)| typed.trim());
        let near = closest_option(key).map(|near| format!("; did you mean {near}?"));
        format!("unknown extra option {key:?} is left out{}", near.unwrap_or_default())
    };
    options.extract_if(.., is_unknown).map(line).collect()
}

fn unknown(key: &str) -> Failure {
    let near = closest_option(key).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    Failure::usage(format!("unknown extra option {key:?}"))
        .with_hint(format!("{near}`genai-build options` lists them all"))
}

/// The page of all options.
pub(crate) fn reference() -> String {
    let mut page = "# Options of a build\n\n\
        `--extra_options KEY=VALUE …`, under the names of onnxruntime-genai's model builder. An unknown name is an error, \
        and so is an option that has no meaning for the precision, the provider or the model.\n\n\
        This page is what `genai-build options` prints.\n"
        .to_owned();
    for (subject, rows) in SUBJECTS {
        let _ = write!(page, "\n## {subject}\n");
        for row in *rows {
            let Row { key, values, default, applies, about, .. } = row;
            let _ = write!(page, "\n### `{key}`\n\n{about}\n\n- Values: {values}\n- Default: {default}\n");
            if !applies.is_empty() {
                let _ = writeln!(page, "- For: {applies}");
            }
        }
    }
    let _ = write!(page, "\n## Former names\n\nAccepted, with a note.\n\n| formerly | now |\n| --- | --- |\n");
    for (former, now) in FORMER {
        let _ = writeln!(page, "| `{former}` | `{now}` |");
    }
    page
}

/// `true` or `false` as the peer spells them.
fn boolean(value: &str) -> Result<bool, Wrong> {
    match value {
        "true" | "True" | "1" => Ok(true),
        "false" | "False" | "0" => Ok(false),
        _ => Err(Wrong::Value),
    }
}

/// The name that was probably meant, where one is near enough.
pub(crate) fn closest<'a>(known: impl Iterator<Item = &'a str>, typed: &str) -> Option<&'a str> {
    /// Of names of a few words, a mistyped one differs from another by less.
    const ENOUGH: f64 = 0.6;
    let near = known.map(|known| (normalized_damerau_levenshtein(known, typed), known));
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).filter(|(near, _)| *near >= ENOUGH).map(|(_, known)| known)
}

/// An option's present name, where its present or its former one was probably meant.
fn closest_option(typed: &str) -> Option<&'static str> {
    let former = FORMER.iter().map(|(former, _)| *former);
    closest(rows().map(|row| row.key).chain(former), typed).map(present_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenChoice;
    use genai_checkpoint::Token;

    fn parse(options: &[&str]) -> Result<ExtraOptions, Failure> {
        ExtraOptions::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_peers_spellings_are_read() {
        let options = parse(&["block_size=64", "is_symmetric=False", "accuracy_level=4", "filename=decoder.onnx"]);
        let options = options.unwrap();
        assert_eq!(options.quantization.block_size, Some(64));
        assert_eq!(options.quantization.is_symmetric, Some(false));
        assert_eq!(options.quantization.accuracy_level, Some(4));
        assert_eq!(options.source.filename.as_deref(), Some("decoder.onnx"));
    }

    #[test]
    fn former_names_mean_the_same_and_are_told() {
        let former = parse(&["int4_block_size=64", "int4_is_symmetric=false", "int4_algo_config=default"]).unwrap();
        assert_eq!(former.notes.len(), 3);
        assert!(former.notes[0].contains("int4_block_size is called block_size"));
        let now = parse(&["block_size=64", "is_symmetric=false", "algo_config=default"]).unwrap();
        assert_eq!(ExtraOptions { notes: Vec::new(), ..former }, now);
    }

    #[test]
    fn a_token_is_kept_and_not_shown() {
        let options = parse(&["hf_token=hf_secret"]).unwrap();
        assert_eq!(options.source.hf_token, TokenChoice::Given(Token::new("hf_secret").unwrap()));
        assert!(!format!("{options:?}").contains("secret"));
        assert_eq!(parse(&["hf_token=false"]).unwrap().source.hf_token, TokenChoice::None);
        assert_eq!(parse(&["hf_token=True"]).unwrap().source.hf_token, TokenChoice::Environment);
        assert!(!parse(&["hf_secret"]).unwrap_err().message.contains("secret"));
    }

    #[test]
    fn a_mistyped_name_is_an_error_with_the_closest_one() {
        for (typed, meant) in [("blok_size", "block_size"), ("int4_acuracy_level", "accuracy_level")] {
            let failure = parse(&[&format!("{typed}=64")]).unwrap_err();
            assert_eq!(failure.code, 2);
            assert!(failure.hint.unwrap().contains(&format!("did you mean {meant}?")));
        }
        assert!(!parse(&["zzz=1"]).unwrap_err().hint.unwrap().contains("did you mean"));
    }

    #[test]
    fn values_are_checked() {
        for bad in [
            "block_size=17",
            "block_size=-32",
            "is_symmetric=maybe",
            "accuracy_level=5",
            "static_context_length=0",
            "static_context_length=4k",
            "filename=../escaped.onnx",
            "filename=a/b.onnx",
            "filename=CON.onnx",
            "filename=model",
            "filename=.onnx",
            "block_size",
            "algo_config=gptq",
            "matmul_mixed_precision=last_matmul",
            "matmul_mixed_precision=last_matmul:int5",
            "matmul_mixed_precision=first_matmul:int8",
            "matmul_mixed_precision=last_matmul:int8,last_matmul:int4",
            "nodes_to_exclude=",
            "nodes_to_exclude=/lm_head/MatMul,,",
            "op_types_to_quantize=",
            "op_types_to_quantize=MatMul/Conv",
            "shared_embeddings=tied",
        ] {
            assert_eq!(parse(&[bad]).unwrap_err().code, 2, "{bad}");
        }
        assert_eq!(parse(&["hf_remote=true"]).unwrap_err().code, 12);
        for key in absent::ROWS.iter().map(|row| row.key) {
            let failure = parse(&[&format!("{key}=1")]).unwrap_err();
            assert!(failure.code == 3 && failure.message.contains("no supported model has"), "{key}");
        }
    }

    #[test]
    fn a_former_method_is_a_method_and_selectors_and_is_told() {
        use genai_builder::{Matrices, Selector};
        use genai_quantize::Method;
        let options = parse(&["algo_config=k_quant_mixed", "matmul_mixed_precision=last_matmul:int4"]).unwrap();
        let given = options.quantization;
        assert_eq!(given.method, Some(Method::KQuant));
        assert_eq!(given.mixed_by_method, [(Selector::LastMatmul, 8), (Selector::MixedLayers, 8)]);
        assert_eq!(given.mixed, [(Matrices::Selected(Selector::LastMatmul), 4)]);
        let note = "algo_config=k_quant matmul_mixed_precision=last_matmul:int8,mixed_layers:int8 by now";
        assert!(options.notes[0].contains(note), "{:?}", options.notes);
    }

    #[test]
    fn names_are_unique_and_former_ones_lead_to_present_ones() {
        let keys: Vec<_> = rows().map(|row| row.key).collect();
        let unique: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(unique.len(), keys.len());
        assert!(FORMER.iter().all(|(former, _)| !keys.contains(former)));
    }
}
