//! The checkpoint: everything about a model folder but the tensor data, and how to read that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde_json::Value;

use crate::adapter::{self, Adapter};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::folder::{Folder, Revision, is_plain_file_name};
use crate::source_file::{Fingerprint, SourceFile};
use crate::weights::{self, Weights};
use crate::{Dtype, Tensor, json_file};

/// The largest file that [`Checkpoint::file`] reads: 256 MiB. The largest published tokenizers are near 40 MB.
const MOST_FILE_BYTES: u64 = 256 << 20;

/// Elements that [`Checkpoint::read_f32`] converts at a time, so that its buffers stay in the cache.
const CHUNK: usize = 16 * 1024;

/// An opened model folder: parsed configs, tensor descriptions, and open weight files. No tensor data is held.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: Folder,
    config: Value,
    generation_config: Option<Value>,
    files: Vec<Arc<SourceFile>>,
    tensors: Vec<Tensor>,
    /// Their files are the last of `files`, one each.
    adapters: Vec<Adapter>,
    warnings: Vec<String>,
    /// Of every file that was read so far.
    seen: Vec<Fingerprint>,
}

impl Checkpoint {
    /// Opens `dir`, which holds `config.json` and `model.safetensors`, or `model.safetensors.index.json` with its shards.
    ///
    /// # Errors
    /// `NotFound` without such a folder; `Incomplete` where files are missing or disagree; `Malformed` where one breaks
    /// its format; `Refused` for pickles and for paths or symlinks that leave the folder.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let folder = Folder::open(dir)?;
        let (config, config_file) = json_file::read_object(&folder, "config.json")?.ok_or_else(|| {
            Error::new(ErrorKind::Incomplete, "holds no config.json")
                .in_file(dir)
                .with_hint("a model folder in Hugging Face layout has config.json beside its weights")
        })?;
        let generation = json_file::read_object(&folder, "generation_config.json")?;
        let (generation_config, generation_file) = generation.unzip();
        let Weights { files, tensors, index, warnings } = weights::open(&folder)?;

        let seen = [Some(&config_file), generation_file.as_ref(), index.as_ref()]
            .into_iter()
            .flatten()
            .chain(&files)
            .map(|file| file.fingerprint().clone())
            .collect();
        let files = files.into_iter().map(Arc::new).collect();
        let adapters = Vec::new();
        Ok(Checkpoint { folder, config, generation_config, files, tensors, adapters, warnings, seen })
    }

    /// The same checkpoint with a LoRA adapter as PEFT saves it: `dir` holds `adapter_config.json` and
    /// `adapter_model.safetensors`. Its tensors are among those of the checkpoint, with `name` and a slash before the
    /// names that they have in the file.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] for these files; `Unsupported` where the adapter is more than updates of linears;
    /// `Incomplete` where its tensors do not fit its config, or where there is an adapter of that name.
    pub fn with_adapter(mut self, name: &str, dir: &Path) -> Result<Checkpoint> {
        if self.adapters.iter().any(|adapter| adapter.name() == name) {
            let problem = format!("{} is the name of two adapters", quoted(name));
            return Err(Error::new(ErrorKind::Incomplete, problem).in_file(dir));
        }
        let adapter::Opened { adapter, config, weights } = adapter::open(name, dir)?;
        self.seen.push(config.fingerprint().clone());
        let files = self.files.len();
        self.tensors.extend(weights.tensors.into_iter().map(|mut tensor| {
            tensor.file = tensor.file.saturating_add(files);
            tensor
        }));
        self.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in self.tensors.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let problem = "is there a second time, in the adapter";
                return Err(Error::new(ErrorKind::Incomplete, problem).in_file(dir).of_tensor(&a.name));
            }
        }
        self.seen.extend(weights.files.iter().map(|file| file.fingerprint().clone()));
        self.files.extend(weights.files.into_iter().map(Arc::new));
        self.warnings.extend(weights.warnings);
        self.adapters.push(adapter);
        Ok(self)
    }

    /// The adapters that were added, in that order.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The same checkpoint, over the same open files, with other names for its tensors: `rename` takes the name in the
    /// file and gives the new one, or `None` to keep it.
    ///
    /// # Errors
    /// `Incomplete` if two tensors would get the same name.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Checkpoint> {
        let mut renamed = self.clone();
        for tensor in &mut renamed.tensors {
            let stored = tensor.renamed_from.take().unwrap_or_else(|| std::mem::take(&mut tensor.name));
            match rename(&stored) {
                Some(name) => (tensor.name, tensor.renamed_from) = (name, Some(stored)),
                None => tensor.name = stored,
            }
        }
        // Stable, so that the order in the message is that of the stored names.
        renamed.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for pair in renamed.tensors.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let (first, second) = (a.stored_name(), b.stored_name());
                let problem = format!("is there a second time, as {}", quoted(second));
                return Err(Error::new(ErrorKind::Incomplete, problem).in_file(self.dir()).of_tensor(first));
            }
        }
        Ok(renamed)
    }

    /// The folder, as it was given to [`Checkpoint::open`].
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// The model and commit on the Hub, where the folder is a snapshot in its cache.
    pub fn revision(&self) -> Option<&Revision> {
        self.folder.revision()
    }

    /// `config.json`: a JSON object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `generation_config.json`: a JSON object, where there is one.
    pub fn generation_config(&self) -> Option<&Value> {
        self.generation_config.as_ref()
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensor of that exact name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// The bytes of data of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        weights::total_bytes(&self.tensors)
    }

    /// The weight files, sorted by name, and those of adapters behind them; [`Tensor::file_index`] counts in this order.
    pub fn weight_files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// What was odd but harmless, a line each: tensors that the index omits, a wrong total size, unknown header fields.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads bytes `[offset, offset + buf.len())` of the tensor's data, as they are in the file.
    ///
    /// # Errors
    /// `Incomplete` if the tensor has no such range (or is of another checkpoint), `Malformed` if the file became
    /// shorter since it was opened, `Io` if the system fails the read.
    pub fn read(&self, tensor: &Tensor, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| offset.checked_add(len));
        let start = tensor.offset.checked_add(offset);
        match (self.files.get(tensor.file), start, end) {
            (Some(file), Some(start), Some(end)) if end <= tensor.byte_len => {
                file.read_exact_at(buf, start).map_err(|error| error.of_tensor(tensor.stored_name()))
            }
            _ => {
                let problem =
                    format!("has {} bytes, asked for {} bytes from byte {offset}", tensor.byte_len, buf.len());
                Err(self.about(tensor, ErrorKind::Incomplete, problem))
            }
        }
    }

    /// Reads elements `[first, first + out.len())`, in row-major order, converted to f32 (exactly).
    ///
    /// # Errors
    /// `Unsupported` unless the tensor is `BF16`, `F16` or `F32`, else as [`Checkpoint::read`].
    pub fn read_f32(&self, tensor: &Tensor, first: u64, out: &mut [f32]) -> Result<()> {
        let convert = match tensor.dtype {
            Dtype::Bf16 => f32_from_bf16,
            Dtype::F16 => f32_from_f16,
            Dtype::F32 => f32_from_f32,
            other => {
                let problem = format!("is {other}; only BF16, F16 and F32 are read as f32");
                return Err(self.about(tensor, ErrorKind::Unsupported, problem));
            }
        };
        let width = tensor.dtype.bits() / 8;
        let too_far = || {
            let problem = format!("has {} elements, asked for some from {first}", tensor.elements);
            self.about(tensor, ErrorKind::Incomplete, problem)
        };
        let mut offset = first.checked_mul(width).ok_or_else(too_far)?;
        let chunk_bytes = out.len().min(CHUNK).checked_mul(usize::try_from(width).unwrap_or(8)).ok_or_else(too_far)?;
        let mut scratch = vec![0u8; chunk_bytes];
        for chunk in out.chunks_mut(CHUNK) {
            let len = u64::try_from(chunk.len()).ok().and_then(|len| len.checked_mul(width)).ok_or_else(too_far)?;
            let bytes = usize::try_from(len).ok().and_then(|len| scratch.get_mut(..len)).ok_or_else(too_far)?;
            self.read(tensor, offset, bytes)?;
            convert(bytes, chunk);
            offset = offset.checked_add(len).ok_or_else(too_far)?;
        }
        Ok(())
    }

    /// The bytes of a file beside the weights, such as `tokenizer.json`; `None` where there is none.
    ///
    /// # Errors
    /// `Refused` unless `name` is a plain file name that stays in the folder, `Malformed` above 256 MiB.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.folder.open_file(name)?.map(|file| file.read_all(MOST_FILE_BYTES)).transpose()
    }

    /// The names of what is in the folder, sorted, those that are text.
    ///
    /// # Errors
    /// `Io` if the system fails to list it.
    pub fn file_names(&self) -> Result<Vec<String>> {
        self.folder.names()
    }

    /// The path of a file beside the weights, where [`Checkpoint::file`] would read one.
    pub fn file_path(&self, name: &str) -> Option<PathBuf> {
        let readable = is_plain_file_name(name) && matches!(self.folder.open_file(name), Ok(Some(_)));
        readable.then(|| self.folder.dir().join(name))
    }

    /// Fails if a config, the index or a weight file was replaced or modified since it was opened; for the end of a build.
    ///
    /// Compares device, inode, length and modification time: an edit in place that keeps both latter goes unnoticed.
    pub fn verify_unchanged(&self) -> Result<()> {
        self.seen.iter().try_for_each(Fingerprint::verify)
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The weight files, those of adapters last.
    pub(crate) fn source_files(&self) -> &[Arc<SourceFile>] {
        &self.files
    }

    fn about(&self, tensor: &Tensor, kind: ErrorKind, problem: String) -> Error {
        let error = Error::new(kind, problem).of_tensor(tensor.stored_name());
        match self.files.get(tensor.file) {
            Some(file) => error.in_file(file.path()),
            None => error,
        }
    }
}

/// bf16 is the upper half of f32, so the bits (also of a NaN) pass through.
fn f32_from_bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
    }
}

fn f32_from_f16(bytes: &[u8], out: &mut [f32]) {
    let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|pair| f16::from_le_bytes(*pair)).collect();
    // Both hold `out.len()` elements; the slice form uses the processor's conversion where it has one.
    halves.convert_to_f32_slice(out);
}

fn f32_from_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, quad) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*quad);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Checkpoint>();
    }

    #[test]
    fn every_half_converts_exactly() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let mut out = vec![0.0; 1 << 16];
        f32_from_f16(&all, &mut out);
        for (bits, value) in (0..=u16::MAX).zip(&out) {
            let expected = half::f16::from_bits(bits).to_f64();
            assert!(f64::from(*value) == expected || (value.is_nan() && expected.is_nan()), "{bits:#x}");
        }
        f32_from_bf16(&all, &mut out);
        for (bits, value) in (0..=u16::MAX).zip(&out) {
            let expected = half::bf16::from_bits(bits).to_f64();
            assert!(f64::from(*value) == expected || (value.is_nan() && expected.is_nan()), "{bits:#x}");
        }
    }
}
