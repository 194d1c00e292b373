//! Finds the weight files of a folder and joins their headers into one list of tensors.

use crate::error::{Error, ErrorKind, Result, listed, quoted};
use crate::folder::Folder;
use crate::header;
use crate::index::{INDEX, Index};
use crate::source_file::SourceFile;
use crate::tensor::Tensor;

pub(crate) const SINGLE: &str = "model.safetensors";

/// How many names one message lists before it counts the rest.
const MOST_NAMES: usize = 100;

#[derive(Debug)]
pub(crate) struct Weights {
    pub files: Vec<SourceFile>,
    /// Sorted by name, no name twice.
    pub tensors: Vec<Tensor>,
    pub index: Option<SourceFile>,
    pub warnings: Vec<String>,
}

/// Opens `model.safetensors`, or the shards that the index names.
pub(crate) fn open(folder: &Folder) -> Result<Weights> {
    let single = folder.contains(SINGLE)?;
    match Index::read(folder)? {
        None if single => open_files(folder, &[SINGLE]),
        None => Err(no_weights(&folder.names()?).in_file(folder.dir())),
        Some(index) => {
            let shards: Vec<&str> = index.shards().into_iter().collect();
            let weights = open_files(folder, &shards)?;
            if single && !shards.contains(&SINGLE) {
                require_same_tensors(&weights, &open_files(folder, &[SINGLE])?)?;
            }
            join(index, weights)
        }
    }
}

pub(crate) fn open_files(folder: &Folder, names: &[&str]) -> Result<Weights> {
    let mut missing = Vec::new();
    for name in names {
        if !folder.contains(name)? {
            missing.push(*name);
        }
    }
    if !missing.is_empty() {
        let problem =
            format!("{} of {} weight files are missing: {}", missing.len(), names.len(), listed(&missing, MOST_NAMES));
        return Err(Error::new(ErrorKind::Incomplete, problem)
            .in_file(folder.dir())
            .with_hint("the download may be incomplete: run `hf download` again"));
    }

    let mut weights = Weights { files: Vec::new(), tensors: Vec::new(), index: None, warnings: Vec::new() };
    for name in names {
        let file = folder.open_file(name)?.ok_or_else(|| {
            Error::malformed(&folder.dir().join(name), "changed while reading: it was removed after it was listed")
        })?;
        weights.add(file)?;
    }
    // Stable, so that equal names stay in file order.
    weights.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    weights.require_unique_names()?;
    Ok(weights)
}

impl Weights {
    fn add(&mut self, file: SourceFile) -> Result<()> {
        let header = header::read(&file)?;
        if let Some((tensor, field)) = header.unknown_field {
            self.warnings.push(format!(
                "{}: tensor {} has a field {} that the format does not define; it is ignored",
                self.show(&file),
                quoted(&tensor),
                quoted(&field)
            ));
        }
        let index = self.files.len();
        self.tensors.extend(header.entries.into_iter().map(|entry| Tensor {
            name: entry.name,
            renamed_from: None,
            dtype: entry.dtype,
            shape: entry.shape,
            elements: entry.elements,
            file: index,
            // The header was checked against the file's length, so none of this saturates.
            offset: header.data_start.saturating_add(entry.begin),
            byte_len: entry.end.saturating_sub(entry.begin),
        }));
        self.files.push(file);
        Ok(())
    }

    fn require_unique_names(&self) -> Result<()> {
        for pair in self.tensors.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let problem = format!("is in two files, {} and {}", self.file_name(a), self.file_name(b));
                return Err(Error::new(ErrorKind::Incomplete, problem).of_tensor(&a.name));
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// The quoted name of the file that holds `tensor`.
    fn file_name(&self, tensor: &Tensor) -> String {
        self.files.get(tensor.file).map_or_else(String::new, |file| self.show(file))
    }

    fn show(&self, file: &SourceFile) -> String {
        quoted(&file.path().file_name().unwrap_or_default().to_string_lossy())
    }
}

/// Checks the shards against the index that named them.
fn join(index: Index, mut weights: Weights) -> Result<Weights> {
    let mut misplaced = Vec::new();
    for (name, shard) in &index.weight_map {
        let found = weights.find(name).and_then(|tensor| weights.files.get(tensor.file));
        if found.is_none_or(|file| file.path().file_name().is_none_or(|found| found != shard.as_str())) {
            misplaced.push((name, shard));
        }
    }
    if let Some((name, shard)) = misplaced.first() {
        let instead = weights.find(name).map_or_else(String::new, |t| format!(" but in {}", weights.file_name(t)));
        let more = match misplaced.len() {
            1 => String::new(),
            n => {
                let names: Vec<&String> = misplaced.iter().map(|(name, _)| *name).collect();
                format!("; {n} tensors are not where the index says: {}", listed(&names, MOST_NAMES))
            }
        };
        let problem = format!("is not in {}, where the index says it is{instead}{more}", quoted(shard));
        return Err(Error::new(ErrorKind::Incomplete, problem).in_file(index.file.path()).of_tensor(*name));
    }

    let unlisted: Vec<&String> = weights
        .tensors
        .iter()
        .map(|tensor| &tensor.name)
        .filter(|name| !index.weight_map.contains_key(*name))
        .collect();
    if !unlisted.is_empty() {
        let warning =
            format!("{INDEX}: does not list {} tensors of its shards: {}", unlisted.len(), listed(&unlisted, 10));
        weights.warnings.push(warning);
    }
    let actual = total_bytes(&weights.tensors);
    if let Some(declared) = index.total_size.filter(|declared| *declared != actual) {
        weights.warnings.push(format!("{INDEX}: declares total_size {declared}, the shards hold {actual} bytes"));
    }
    weights.index = Some(index.file);
    Ok(weights)
}

/// The bytes of data of all these tensors.
pub(crate) fn total_bytes(tensors: &[Tensor]) -> u64 {
    tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.byte_len))
}

/// A folder may hold the same weights twice, in one file and in shards; which is meant is clear only if they agree.
fn require_same_tensors(shards: &Weights, single: &Weights) -> Result<()> {
    let one_sided = |a: &Weights, b: &Weights| {
        let differs =
            |t: &&Tensor| b.find(&t.name).is_none_or(|other| (other.dtype, &other.shape) != (t.dtype, &t.shape));
        a.tensors.iter().find(differs).map(|tensor| tensor.name.clone())
    };
    match one_sided(shards, single).or_else(|| one_sided(single, shards)) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::Incomplete,
            format!("differs between {} and the shards of {}", quoted(SINGLE), quoted(INDEX)),
        )
        .of_tensor(name)
        .with_hint("the folder holds two models: remove the file or the index that is out of date")),
    }
}

/// Why there is nothing to open, from the files that are there instead.
pub(crate) fn no_weights(names: &[String]) -> Error {
    let with = |endings: &[&str]| -> Vec<&String> {
        names.iter().filter(|name| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending))).collect()
    };
    let absent = format!("holds neither {} nor {}", quoted(SINGLE), quoted(INDEX));

    let safetensors = with(&[".safetensors"]);
    if !safetensors.is_empty() {
        return Error::new(ErrorKind::Incomplete, format!("{absent}, only {}", listed(&safetensors, 5)))
            .with_hint("shards need their index: fetch the whole model with `hf download`");
    }
    let pickles = with(&[".bin", ".bin.index.json", ".pth", ".pt", ".ckpt"]);
    if !pickles.is_empty() {
        let problem = format!("{absent}, only {}: pickle is not read", listed(&pickles, 5));
        return Error::new(ErrorKind::Refused, problem).with_hint(
            "a pickle can run any code: convert the weights to safetensors, or look for a revision with them",
        );
    }
    let gguf = with(&[".gguf"]);
    if !gguf.is_empty() {
        let problem = format!("{absent}, only {}: GGUF is not read yet", listed(&gguf, 5));
        return Error::new(ErrorKind::Unsupported, problem);
    }
    Error::new(ErrorKind::Incomplete, absent)
}
