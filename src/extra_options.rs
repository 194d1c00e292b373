//! `--extra_options KEY=VALUE …`, typed and checked.

use genai_checkpoint::Token;

use crate::{failure::Failure, token::TokenChoice};

/// Settings of the peer's builder that this tool knows. `None` where not given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtraOptions {
    pub(crate) block_size: Option<usize>,
    pub(crate) is_symmetric: Option<bool>,
    pub(crate) accuracy_level: Option<u8>,
    pub(crate) filename: Option<String>,
    pub(crate) hf_token: TokenChoice,
    /// Lines for people.
    pub(crate) notes: Vec<String>,
}

/// Names that the peer's builder had for options of its int4 precision, and has for all quantized ones now.
const FORMER: [(&str, &str); 4] = [
    ("int4_block_size", "block_size"),
    ("int4_is_symmetric", "is_symmetric"),
    ("int4_accuracy_level", "accuracy_level"),
    ("int4_algo_config", "algo_config"),
];

const KNOWN: &[&str] =
    &["block_size", "is_symmetric", "accuracy_level", "filename", "algo_config", "hf_token", "hf_remote"];

impl ExtraOptions {
    pub(crate) fn parse(options: &[String]) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for option in options {
            let Some((key, value)) = option.split_once('=') else {
                // What follows a forgotten equals sign may be a token.
                let shown =
                    if option.starts_with("hf_") && !KNOWN.contains(&option.as_str()) { "hf_***" } else { option };
                return Err(Failure::usage(format!("extra option {shown:?} is not of the form KEY=VALUE")));
            };
            let typed = key.trim();
            let former = FORMER.iter().find(|(former, _)| *former == typed);
            let key = former.map_or(typed, |(_, now)| now);
            if former.is_some() {
                parsed.notes.push(format!("extra option {typed} is called {key} by now"));
            }
            parsed.set(key, value.trim())?;
        }
        Ok(parsed)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let wrong = |expected: &str| Failure::usage(format!("extra option {key} is {value:?}, expected {expected}"));
        match key {
            "block_size" => {
                let size = value.parse().ok().filter(|size| [16, 32, 64, 128, 256].contains(size));
                self.block_size = Some(size.ok_or_else(|| wrong("16, 32, 64, 128 or 256"))?);
            }
            "is_symmetric" => {
                self.is_symmetric = Some(boolean(value).ok_or_else(|| wrong("true or false"))?);
            }
            "accuracy_level" => {
                let level = value.parse().ok().filter(|level| *level <= 4);
                self.accuracy_level = Some(level.ok_or_else(|| wrong("a number from 0 to 4"))?);
            }
            "filename" => {
                self.filename = Some(filename(value).ok_or_else(|| wrong("a plain name such as model.onnx"))?)
            }
            "algo_config" => {
                if value != "default" {
                    return Err(Failure::unsupported(
                        format!("extra option algo_config is {value:?}, which is not supported"),
                        "algo_config=default rounds to nearest as ONNX Runtime does",
                    ));
                }
            }
            "hf_token" => {
                self.hf_token = match boolean(value) {
                    Some(true) => TokenChoice::Environment,
                    Some(false) => TokenChoice::None,
                    None => Token::new(value).map_or(TokenChoice::None, TokenChoice::Given),
                }
            }
            "hf_remote" => {
                if boolean(value).ok_or_else(|| wrong("true or false"))? {
                    return Err(Failure::refused(
                        "hf_remote=true asks to run code from the model's repository, which this tool never does"
                            .to_owned(),
                        "leave it out: supported families need no code from the repository",
                    ));
                }
            }
            _ => {
                let closest = KNOWN.iter().max_by_key(|known| shared_letters(known, key));
                let hint = closest.filter(|known| 2 * shared_letters(known, key) > key.len());
                let hint = hint.map(|known| format!("did you mean {known}? ")).unwrap_or_default();
                return Err(Failure::usage(format!("unknown extra option {key:?}"))
                    .with_hint(format!("{hint}known: {}", KNOWN.join(", "))));
            }
        }
        Ok(())
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "true" | "True" | "1" => Some(true),
        "false" | "False" | "0" => Some(false),
        _ => None,
    }
}

/// A name for a file in the output folder: nothing that could lead out of it, or that clients load as another kind.
fn filename(value: &str) -> Option<String> {
    const RESERVED: &[&str] = &["CON", "PRN", "AUX", "NUL"];
    let stem = value.strip_suffix(".onnx")?;
    let plain = !stem.is_empty() && stem.len() <= 200 && !stem.starts_with('.');
    let allowed = stem.chars().all(|c| c.is_alphanumeric() || "-_.+ ".contains(c));
    (plain && allowed && !RESERVED.contains(&stem.to_ascii_uppercase().as_str())).then(|| value.to_owned())
}

/// Letters of `typed` that occur in `known` in the same order: how near a mistyped name is.
fn shared_letters(known: &str, typed: &str) -> usize {
    let mut rest = known.chars();
    typed.chars().filter(|letter| rest.any(|candidate| candidate == *letter)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<ExtraOptions, Failure> {
        ExtraOptions::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_peers_spellings_are_read() {
        let options = parse(&["block_size=64", "is_symmetric=False", "accuracy_level=4", "filename=decoder.onnx"]);
        let expected = ExtraOptions {
            block_size: Some(64),
            is_symmetric: Some(false),
            accuracy_level: Some(4),
            filename: Some("decoder.onnx".to_owned()),
            hf_token: TokenChoice::Environment,
            notes: Vec::new(),
        };
        assert_eq!(options.unwrap(), expected);
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
        assert_eq!(options.hf_token, TokenChoice::Given(Token::new("hf_secret").unwrap()));
        assert!(!format!("{options:?}").contains("secret"));
        assert_eq!(parse(&["hf_token=false"]).unwrap().hf_token, TokenChoice::None);
        assert_eq!(parse(&["hf_token=True"]).unwrap().hf_token, TokenChoice::Environment);
        assert!(!parse(&["hf_secret"]).unwrap_err().message.contains("secret"));
    }

    #[test]
    fn a_mistyped_name_is_an_error_with_the_closest_one() {
        let failure = parse(&["blok_size=64"]).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.hint.unwrap().contains("did you mean block_size?"));
    }

    #[test]
    fn values_are_checked() {
        for bad in [
            "block_size=17",
            "block_size=-32",
            "is_symmetric=maybe",
            "accuracy_level=5",
            "filename=../escaped.onnx",
            "filename=a/b.onnx",
            "filename=CON.onnx",
            "filename=model",
            "filename=.onnx",
            "block_size",
        ] {
            assert_eq!(parse(&[bad]).unwrap_err().code, 2, "{bad}");
        }
        assert_eq!(parse(&["hf_remote=true"]).unwrap_err().code, 12);
        assert_eq!(parse(&["algo_config=k_quant"]).unwrap_err().code, 3);
    }
}
