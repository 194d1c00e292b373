//! An ONNX file as data: nodes, names, constant tensors, and the matrices among them as f32. ONNX Runtime has no part
//! in it.
//!
//! ```text
//!  model.onnx ──► wire: bounds, depth, no tensor bytes ──► prost ──► Graph ──► nodes, inputs, outputs, who reads what
//!  model.onnx.data ──► files: judged names, bounds ───────────────────┴──► initializers ──► weights: rows as f32
//! ```
//!
//! Nothing in the file is believed: a length is checked before it is followed, a name before it is opened, and what is
//! wrong with a tensor is kept beside it, so that one damaged tensor does not hide the rest. No tensor is held in memory
//! but small ones; all others are read in pieces, wherever they are stored.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::as_conversions,
        clippy::arithmetic_side_effects
    )
)]

pub(crate) mod files;
mod index;
mod node;
#[cfg(test)]
pub(crate) mod sample;
mod tensor;
mod weights;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use genai_onnx::ModelProto;
use genai_onnx::tensor_proto::DataType;
use prost::Message;

use crate::{Error, Result};
use files::PackageFile;

pub use genai_onnx::tensor_proto::DataType as ElementType;
pub use node::{Attribute, Node};
pub use tensor::{Initializer, Stored};
pub use weights::{Use, Weight, Weights};

/// What protobuf can hold, and ONNX Runtime reads.
const MAX_FILE: u64 = (2 << 30) - 1;
/// Elements that are given at once.
const MAX_VALUES: u64 = 1 << 28;

/// An ONNX file, opened.
#[derive(Debug)]
pub struct Graph {
    /// The folder that names of files in the graph are relative to.
    folder: PathBuf,
    path: PathBuf,
    pub producer: String,
    pub ir_version: i64,
    /// Operator domain to version; ONNX's own domain is empty.
    pub opsets: BTreeMap<String, i64>,
    /// Functions that the file brings itself: domain and name.
    pub functions: Vec<(String, String)>,
    pub metadata: BTreeMap<String, String>,
    /// In the order of the file, those of branches behind the node that owns them.
    pub nodes: Vec<Node>,
    /// Without initializers, which old files list here too.
    pub inputs: Vec<Value>,
    /// Inputs that have a default: an initializer of the same name.
    pub defaults: Vec<Value>,
    pub outputs: Vec<Value>,
    /// Shapes of what is computed in between, as far as the file tells.
    pub values: BTreeMap<String, Value>,
    pub branches: Vec<Branch>,
    /// In the order of the file.
    pub initializers: Vec<Initializer>,
    /// What is wrong, besides what stands with a tensor.
    pub problems: Vec<Problem>,
    names: index::Names,
    /// By name, relative to `folder`.
    files: BTreeMap<String, PackageFile>,
    read: AtomicU64,
}

/// A graph inside of a node, such as the branch of an `If`.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Node and attribute.
    pub scope: String,
    pub inputs: Vec<Value>,
    pub outputs: Vec<Value>,
}

/// A named tensor without its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub name: String,
    /// `Undefined` for what is no tensor.
    pub dtype: DataType,
    /// `None` where not even the rank is known.
    pub shape: Option<Vec<Dimension>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dimension {
    Fixed(u64),
    /// One size wherever the name stands.
    Named(String),
    Unknown,
}

/// Something wrong in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it came to light.
    pub found: Found,
    /// A tensor, node or file.
    pub at: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In a file beside the model, or on the way to it.
    ExternalData,
    /// In names: twice the same, or none.
    Name,
    /// In a tensor's type, shape or size.
    Tensor,
    /// In tensors that belong to one quantized matrix.
    Quantized,
}

impl Problem {
    fn new(found: Found, at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { found, at: at.into(), message: message.into() }
    }
}

impl Graph {
    /// Reads the graph; of tensors, only those of at most 1 KiB.
    ///
    /// `file` is relative to `folder` and stays in it. Names of files in the graph are relative to the folder of `file`.
    ///
    /// # Errors
    /// `Package` where the file cannot be opened, is no ONNX model, or more than protobuf may hold. Damage to single
    /// tensors is no error: see [`Stored::Unreadable`] and [`Graph::problems`].
    pub fn open(folder: &Path, file: &str) -> Result<Self> {
        let path = folder.join(file);
        let opened = PackageFile::open(folder, file).map_err(|problem| Error::package(&path, problem))?;
        if opened.length > MAX_FILE {
            let problem = format!("has {} bytes, expected less than 2 GiB: weights belong beside it", opened.length);
            return Err(Error::package(&path, problem));
        }
        let message =
            wire::without_tensors(opened.handle(), opened.length).map_err(|problem| Error::package(&path, problem))?;
        let model = ModelProto::decode(message.as_slice())
            .map_err(|error| Error::package(&path, format!("is not an ONNX model: {error}")))?;
        drop(message);
        let base = path.parent().unwrap_or(folder).to_path_buf();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut graph = index::read(model, &name);
        graph.files.insert(name, opened);
        graph.folder = base;
        graph.path = path;
        graph.open_files();
        Ok(graph)
    }

    /// The ONNX file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole message with the tensors that the file itself holds, read again: for altered copies. As large as the
    /// file.
    pub fn model(&self) -> Result<ModelProto> {
        let bytes = std::fs::read(&self.path).map_err(Error::io(&self.path))?;
        ModelProto::decode(bytes.as_slice()).map_err(|error| Error::package(&self.path, error.to_string()))
    }

    /// Files that hold tensors, and their bytes; the ONNX file among them.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|(name, file)| (name.as_str(), file.length))
    }

    /// Whether a file was reached through a symbolic link.
    pub fn is_linked(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|file| file.linked)
    }

    /// Bytes of tensors read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub fn initializer(&self, name: &str) -> Option<&Initializer> {
        self.names.initializer.get(name).and_then(|&index| self.initializers.get(index))
    }

    /// The node that computes a value.
    pub fn producer(&self, name: &str) -> Option<&Node> {
        self.names.producer.get(name).and_then(|&index| self.nodes.get(index))
    }

    /// The nodes that read a value, those in branches among them.
    pub fn consumers(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.names.consumers.get(name).into_iter().flatten().filter_map(|&index| self.nodes.get(index))
    }

    /// Whether a graph output or a branch gives this value.
    pub fn is_output(&self, name: &str) -> bool {
        self.outputs.iter().chain(self.branches.iter().flat_map(|branch| &branch.outputs)).any(|out| out.name == name)
    }

    pub fn input(&self, name: &str) -> Option<&Value> {
        self.inputs.iter().find(|value| value.name == name)
    }

    pub fn output(&self, name: &str) -> Option<&Value> {
        self.outputs.iter().find(|value| value.name == name)
    }

    /// All values of a tensor, such as a norm's; integers of more than 24 bits are rounded.
    ///
    /// # Errors
    /// `Package` where there is no such tensor, it cannot be read, or has more than 2^28 elements.
    pub fn values_of(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.initializer(name).ok_or_else(|| self.error(name, "is no constant of the graph"))?;
        if tensor.elements > MAX_VALUES {
            return Err(self.error(name, format!("has {} elements, too many to hold at once", tensor.elements)));
        }
        let mut values = Vec::new();
        self.numbers(tensor, 0, usize::try_from(tensor.elements).unwrap_or(0), &mut values)?;
        Ok(values)
    }

    /// The values of a tensor of int32 or int64, such as a shape.
    ///
    /// # Errors
    /// As [`Graph::values_of`], and for other element types.
    pub fn integers_of(&self, name: &str) -> Result<Vec<i64>> {
        let tensor = self.initializer(name).ok_or_else(|| self.error(name, "is no constant of the graph"))?;
        let bytes = usize::try_from(tensor.bytes).ok().filter(|_| tensor.elements <= MAX_VALUES);
        let bytes = bytes.ok_or_else(|| self.error(name, "is too large to hold at once"))?;
        let mut buffer = vec![0; bytes];
        self.bytes(tensor, 0, &mut buffer)?;
        match tensor.dtype {
            DataType::Int64 => Ok(buffer.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            DataType::Int32 => Ok(buffer.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
            other => Err(self.error(name, format!("has elements of {}, expected integers", other.as_str_name()))),
        }
    }

    /// Replaces `out` by the elements from `first` on, `count` of them or fewer where the tensor ends.
    ///
    /// # Errors
    /// `Package` where the tensor cannot be read, `Io` if the system fails.
    pub fn numbers(&self, tensor: &Initializer, first: u64, count: usize, out: &mut Vec<f32>) -> Result<()> {
        let Some(bits) = tensor::bits(tensor.dtype) else {
            return Err(self.error(&tensor.name, "holds no numbers"));
        };
        let left = tensor.elements.saturating_sub(first);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(count);
        self.decoded(tensor, bits, first, count, out, |bytes, skipped, out| {
            tensor::decode(tensor.dtype, bytes, skipped, count, out);
        })
    }

    /// The same of codes that are packed into a tensor of bytes. `first` and `count` are in codes.
    fn codes(&self, tensor: &Initializer, bits: u64, first: u64, count: usize, out: &mut Vec<f32>) -> Result<()> {
        self.decoded(tensor, bits, first, count, out, |bytes, skipped, out| match bits {
            2 => tensor::packed::<2>(bytes, skipped, count, out, f32::from),
            4 => tensor::packed::<4>(bytes, skipped, count, out, f32::from),
            _ => tensor::packed::<8>(bytes, skipped, count, out, f32::from),
        })
    }

    fn decoded(
        &self,
        tensor: &Initializer,
        bits: u64,
        first: u64,
        count: usize,
        out: &mut Vec<f32>,
        decode: impl FnOnce(&[u8], usize, &mut Vec<f32>),
    ) -> Result<()> {
        out.clear();
        let range = || {
            let start = first.checked_mul(bits)?;
            let end = start.checked_add(u64::try_from(count).ok()?.checked_mul(bits)?)?;
            let (from, to) = (start / 8, end.div_ceil(8));
            let skipped = usize::try_from((start % 8).checked_div(bits)?).ok()?;
            Some((from, usize::try_from(to.checked_sub(from)?).ok()?, skipped))
        };
        let Some((from, length, skipped)) = range() else {
            return Err(self.error(&tensor.name, "is too large"));
        };
        if let Stored::Here(bytes) = &tensor.stored {
            let end = usize::try_from(from).ok().and_then(|from| Some(from..from.checked_add(length)?));
            let bytes = end.and_then(|range| bytes.get(range));
            decode(bytes.ok_or_else(|| self.error(&tensor.name, "is cut off"))?, skipped, out);
            return Ok(());
        }
        let mut buffer = vec![0; length];
        self.bytes(tensor, from, &mut buffer)?;
        decode(&buffer, skipped, out);
        Ok(())
    }

    /// Fills `buffer` with the tensor's bytes from `from` on.
    ///
    /// # Errors
    /// `Package` where the tensor cannot be read or ends before, `Io` if the system fails.
    pub fn bytes(&self, tensor: &Initializer, from: u64, buffer: &mut [u8]) -> Result<()> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        if from.checked_add(length).is_none_or(|end| end > tensor.bytes) {
            return Err(self.error(&tensor.name, format!("has {} bytes, fewer than were asked for", tensor.bytes)));
        }
        match &tensor.stored {
            Stored::Unreadable(problem) => Err(self.error(&tensor.name, problem.as_str())),
            Stored::Here(bytes) => {
                let bytes = usize::try_from(from).ok().and_then(|from| bytes.get(from..)?.get(..buffer.len()));
                buffer.copy_from_slice(bytes.ok_or_else(|| self.error(&tensor.name, "is cut off"))?);
                Ok(())
            }
            Stored::In { file, offset } => {
                let opened = self.files.get(file).ok_or_else(|| self.error(&tensor.name, "has no file"))?;
                let path = self.folder.join(file);
                opened.read(offset.saturating_add(from), buffer).map_err(Error::io(&path))?;
                self.read.fetch_add(length, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn error(&self, tensor: &str, problem: impl std::fmt::Display) -> Error {
        Error::package(&self.path, format!("tensor `{tensor}` {problem}"))
    }

    /// Opens each file that tensors lie in, once, and holds the tensors against its length and each other.
    fn open_files(&mut self) {
        let mut unopened: BTreeMap<String, String> = BTreeMap::new();
        let mut ranges: BTreeMap<&str, Vec<(u64, u64, &str)>> = BTreeMap::new();
        for tensor in &mut self.initializers {
            let Stored::In { file, offset } = &tensor.stored else { continue };
            if !self.files.contains_key(file) && !unopened.contains_key(file) {
                match PackageFile::open(&self.folder, file) {
                    Ok(opened) => drop(self.files.insert(file.clone(), opened)),
                    Err(problem) => {
                        let problem = format!("lies in {file}, which {problem}");
                        unopened.insert(file.clone(), problem.clone());
                        self.problems.push(Problem::new(Found::ExternalData, file, problem));
                    }
                }
            }
            let length = self.files.get(file).map(|opened| opened.length);
            let end = offset.checked_add(tensor.bytes);
            let problem = match (unopened.get(file), length) {
                (Some(problem), _) => problem.clone(),
                (None, Some(length)) if end.is_none_or(|end| end > length) => {
                    format!("ends past its file: {} bytes from {offset} on, where {file} has {length}", tensor.bytes)
                }
                _ => continue,
            };
            if !unopened.contains_key(file) {
                self.problems.push(Problem::new(Found::ExternalData, &tensor.name, problem.clone()));
            }
            tensor.stored = Stored::Unreadable(problem);
        }
        for tensor in &self.initializers {
            if let (Stored::In { file, offset }, true) = (&tensor.stored, tensor.bytes > 0) {
                ranges.entry(file).or_default().push((*offset, offset.saturating_add(tensor.bytes), &tensor.name));
            }
        }
        for (file, mut ranges) in ranges {
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                let [(start, end, first), (next, next_end, second)] = pair else { continue };
                // Two names for the very same bytes are a way to store a tied matrix once.
                if next < end && (start, end) != (next, next_end) {
                    self.problems.push(Problem::new(
                        Found::ExternalData,
                        *second,
                        format!("overlaps `{first}` in {file}: bytes {next} to {next_end} against {start} to {end}"),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
