//! Which LoRA adapters a package is made with: one that is baked in, or some that a session may be given.

use std::path::PathBuf;

use genai_builder::Adaptation;
use genai_checkpoint::{Checkpoint, ErrorKind};

use crate::failure::Failure;

/// What the one adapter is called that is baked in, where files and tensors are named.
const BAKED_IN: &str = "adapter";

#[derive(Debug)]
pub(crate) struct Adapters {
    pub(crate) adaptation: Adaptation,
    /// Names and folders.
    folders: Vec<(String, PathBuf)>,
}

impl Adapters {
    /// `baked_in` is a folder, `swappable` are as typed: `NAME=DIR`.
    pub(crate) fn resolve(baked_in: Option<PathBuf>, swappable: &[String]) -> Result<Self, Failure> {
        match baked_in {
            Some(_) if !swappable.is_empty() => Err(Failure::usage("adapter_path and --adapter are both given")
                .with_hint("an adapter is baked in (adapter_path), or a file that a session can be given (--adapter)")),
            Some(folder) => Ok(Self { adaptation: Adaptation::BakedIn, folders: vec![(BAKED_IN.to_owned(), folder)] }),
            None if swappable.is_empty() => Ok(Self { adaptation: Adaptation::BakedIn, folders: Vec::new() }),
            None => Self::swappable(swappable),
        }
    }

    fn swappable(typed: &[String]) -> Result<Self, Failure> {
        let mut folders: Vec<(String, PathBuf)> = Vec::new();
        for typed in typed {
            let Some((name, folder)) = typed.split_once('=').filter(|(name, dir)| is_plain(name) && !dir.is_empty())
            else {
                return Err(Failure::usage(format!("--adapter is {typed:?}, expected NAME=DIR"))
                    .with_hint("the name is made of letters, digits, - and _; NAME.onnx_adapter will be its file"));
            };
            // Some file systems know no case.
            if folders.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(Failure::usage(format!("--adapter {name}=… is given twice")));
            }
            folders.push((name.to_owned(), folder.into()));
        }
        Ok(Self { adaptation: Adaptation::Swappable, folders })
    }

    /// The checkpoint with the adapters.
    pub(crate) fn open(&self, checkpoint: Checkpoint) -> Result<Checkpoint, Failure> {
        self.folders.iter().try_fold(checkpoint, |checkpoint, (name, folder)| {
            checkpoint.with_adapter(name, folder).map_err(|error| {
                let missing = error.kind() == ErrorKind::NotFound;
                let failure = Failure::from(error);
                if missing {
                    failure.with_hint(
                        "adapters are read from folders; `hf download ORG/NAME` fetches one and says where it is",
                    )
                } else {
                    failure
                }
            })
        })
    }
}

fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !name.is_empty() && name.len() <= 100 && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(baked_in: Option<&str>, swappable: &[&str]) -> Result<Adapters, Failure> {
        let swappable: Vec<_> = swappable.iter().map(|typed| (*typed).to_owned()).collect();
        Adapters::resolve(baked_in.map(PathBuf::from), &swappable)
    }

    #[test]
    fn adapters_are_baked_in_or_have_names() {
        let adapters = resolve(None, &["tales=a/b", "t-2=c=d"]).unwrap();
        assert_eq!(adapters.adaptation, Adaptation::Swappable);
        assert_eq!(adapters.folders, [("tales".to_owned(), "a/b".into()), ("t-2".to_owned(), "c=d".into())]);
        let adapters = resolve(Some("dir"), &[]).unwrap();
        assert_eq!(adapters.adaptation, Adaptation::BakedIn);
        assert_eq!(adapters.folders, [("adapter".to_owned(), "dir".into())]);
        assert!(resolve(None, &[]).unwrap().folders.is_empty());
    }

    #[test]
    fn names_are_names_of_files() {
        for bad in ["tales", "=dir", "tales=", "a/b=dir", "../a=dir", "a.b=dir", "ä=dir"] {
            let failure = resolve(None, &[bad]).unwrap_err();
            assert_eq!(failure.code, 2, "{bad}");
            assert!(failure.message.contains("expected NAME=DIR"), "{}", failure.message);
        }
        assert!(resolve(None, &["a=x", "A=y"]).unwrap_err().message.contains("twice"));
        assert!(resolve(Some("x"), &["a=y"]).unwrap_err().message.contains("both given"));
    }
}
