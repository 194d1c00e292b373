//! A commit file by file, for an output that holds files of others: all of it is done, or none.
//!
//! ```text
//!  journal written ─► old files moved aside ─► new files moved in ─► journal removed
//!                     genai_config.json first   genai_config.json last    the commit
//! ```
//!
//! Every new file is either staged or in place, every old one either in place or aside, so what a journal that was
//! found undoes is seen from the files themselves, as often as it takes.

use std::{fs, io, path::Path};

use serde_json::{Value, json};

use super::{
    Disk,
    place::{Place, Run},
};
use crate::{Error, Result};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Journal {
    /// Which staging folder the new files come from.
    run: Run,
    /// Plain names of files: those that the package brings, those of the target that make way.
    new: Vec<String>,
    old: Vec<String>,
}

impl Journal {
    /// Moves `new` from the staging folder of a run into the target and `old` out of it, each in the order given. When
    /// this fails, the target is as it was.
    pub(super) fn commit(place: &Place, disk: &Disk, run: &Run, new: Vec<String>, old: Vec<String>) -> Result<()> {
        let journal = Self { run: run.clone(), new, old };
        let path = place.journal();
        disk.create_folder(&place.aside(run))?;
        if let Err(error) = journal.write(place, disk) {
            // Nothing was moved yet.
            journal.remove(place, disk)?;
            return Err(error);
        }
        let moved = journal.move_all(place, disk);
        let committed = moved.and_then(|()| disk.remove_file(&path)).and_then(|()| disk.sync_folder(&place.beside));
        let Err(error) = committed else { return Ok(()) };
        // A rollback that fails too leaves the journal, and the next build tries again.
        if exists(&path) || journal.write(place, disk).is_ok() {
            journal.roll_back(place, disk)?;
            journal.remove(place, disk)?;
        }
        Err(error)
    }

    fn write(&self, place: &Place, disk: &Disk) -> Result<()> {
        let draft = place.helper(".journal.new");
        disk.write_file(&draft, self.to_json().to_string().as_bytes())?;
        disk.rename(&draft, &place.journal())?;
        disk.sync_folder(&place.beside)
    }

    fn remove(&self, place: &Place, disk: &Disk) -> Result<()> {
        for path in [place.journal(), place.helper(".journal.new")] {
            if exists(&path) {
                disk.remove_file(&path)?;
            }
        }
        disk.sync_folder(&place.beside)
    }

    fn move_all(&self, place: &Place, disk: &Disk) -> Result<()> {
        let (staging, aside) = (place.staging(&self.run), place.aside(&self.run));
        for name in &self.old {
            disk.rename(&place.target.join(name), &aside.join(name))?;
        }
        for name in &self.new {
            disk.rename(&staging.join(name), &place.target.join(name))?;
        }
        disk.sync_folder(&place.target)
    }

    /// Undoes what a commit that was cut off had done, if there was one.
    pub(super) fn recover(place: &Place, disk: &Disk) -> Result<()> {
        let path = place.journal();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let journal = Self::from_json(&bytes).ok_or_else(|| Error::Output {
            path: place.named.clone(),
            reason: format!("has a journal of a commit that cannot be read: {}", path.display()),
            hint: Some("remove the journal if the output looks complete, or the output with it".to_owned()),
        })?;
        journal.roll_back(place, disk)?;
        journal.remove(place, disk)
    }

    /// New files back into the staging folder, then old files back into the target; `genai_config.json`, which is the
    /// last of the new and the first of the old, leaves first and comes last.
    fn roll_back(&self, place: &Place, disk: &Disk) -> Result<()> {
        let (staging, aside) = (place.staging(&self.run), place.aside(&self.run));
        for name in self.new.iter().rev() {
            let (staged, placed) = (staging.join(name), place.target.join(name));
            // Where both are there, the one in place is an old one that was not moved yet.
            if !exists(&staged) && exists(&placed) {
                disk.rename(&placed, &staged)?;
            }
        }
        for name in self.old.iter().rev() {
            let moved = aside.join(name);
            if exists(&moved) {
                disk.rename(&moved, &place.target.join(name))?;
            }
        }
        if exists(&place.target) { disk.sync_folder(&place.target) } else { Ok(()) }
    }

    fn to_json(&self) -> Value {
        json!({"format": 1, "run": self.run.as_str(), "new": self.new, "old": self.old})
    }

    /// `None` for anything but a journal whose names are plain.
    fn from_json(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let name = |value: &Value| value.as_str().filter(|name| is_plain(name)).map(str::to_owned);
        let names = |key: &str| value.get(key)?.as_array()?.iter().map(name).collect::<Option<Vec<_>>>();
        let format = value.get("format").and_then(Value::as_u64);
        (format == Some(1)).then_some(())?;
        Some(Self { run: Run::parse(value.get("run")?.as_str()?)?, new: names("new")?, old: names("old")? })
    }
}

/// Whether a name can only mean an entry of the folder at hand.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let run = Run::parse("1f-2e").unwrap();
        let new = names(&["model.onnx", "genai_config.json"]);
        let journal = Journal { run, new, old: names(&["genai_config.json"]) };
        assert_eq!(Journal::from_json(journal.to_json().to_string().as_bytes()), Some(journal));
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_journal() {
        for bad in ["../a", "/a", "a/b", "..", "", "a\\b", "C:a"] {
            let text = json!({"format": 1, "run": "1-2", "new": [bad], "old": []}).to_string();
            assert_eq!(Journal::from_json(text.as_bytes()), None, "{bad}");
            let text = json!({"format": 1, "run": bad, "new": [], "old": []}).to_string();
            assert_eq!(Journal::from_json(text.as_bytes()), None, "{bad}");
        }
        for bad in ["", "{", "[]", "{}", r#"{"format":2,"run":"1-2","new":[],"old":[]}"#] {
            assert_eq!(Journal::from_json(bad.as_bytes()), None, "{bad}");
        }
    }
}
