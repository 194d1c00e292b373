//! What the tests share: the fixtures and altered copies of them, runs of the binary, packages in ONNX Runtime.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use genai_architectures::{Config, DecoderSpec, describe};
use genai_validate::{LoadOptions, Model, Network, Runtime, runtime::find_or_install};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value};
use tempfile::TempDir;

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The names of the fixtures that are checkpoints with recorded logits. A new folder is a new case.
pub(crate) fn recorded() -> Vec<String> {
    let entries = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().path());
    let recorded = entries.filter(|path| path.join("config.json").is_file() && path.join("reference.npz").is_file());
    let mut names: Vec<_> = recorded.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    assert!(names.len() >= 20, "{names:?}");
    names
}

pub(crate) fn spec(checkpoint: &Path) -> Outcome<DecoderSpec> {
    let config = serde_json::from_slice(&fs::read(checkpoint.join("config.json"))?)?;
    Ok(describe(&Config::from_json(config)?)?)
}

/// Runs `case` on every item, on all cores, and fails with all problems at once.
pub(crate) fn for_each<T: Sync>(items: &[T], name: impl Fn(&T) -> String + Sync, case: impl Fn(&T) -> Outcome + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let problem = match catch_unwind(AssertUnwindSafe(|| case(item).map_err(|e| e.to_string()))) {
                        Ok(Ok(())) => continue,
                        Ok(Err(problem)) => problem,
                        Err(_) => "a panic, told above".to_owned(),
                    };
                    problems.lock().unwrap().push(format!("{}: {problem}", name(item)));
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {} cases fail\n{}", problems.len(), items.len(), problems.join("\n"));
}

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Run {
    /// -1 where a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the binary with these arguments.
pub(crate) fn genai_build<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    genai_build_with(&[], arguments)
}

/// The same with environment variables set. None of the caller's that say where models are has a part in it, and the
/// Hub is not asked, unless one of these names it.
pub(crate) fn genai_build_with<S: AsRef<OsStr>>(
    variables: &[(&str, &Path)],
    arguments: impl IntoIterator<Item = S>,
) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_genai-build"));
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| ["HF_", "HUGGING", "TRANSFORMERS_"].iter().any(|start| name.starts_with(start)))
        {
            command.env_remove(name);
        }
    }
    if variables.iter().all(|(name, _)| *name != "HF_ENDPOINT") {
        command.env("HF_HUB_OFFLINE", "1");
    }
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Run {
    /// Its stdout, if it succeeded.
    pub(crate) fn success(self) -> Outcome<String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(format!("exit code {}\n{}", self.code, self.stderr).into()) }
    }

    /// It ended with this code, wrote nothing to stdout, and says all of this on stderr.
    pub(crate) fn failed(&self, code: i32, says: &[&str]) -> Outcome {
        let missing = says.iter().find(|part| !self.stderr.contains(**part));
        if self.code == code && self.stdout.is_empty() && missing.is_none() {
            return Ok(());
        }
        let expected = missing.map(|part| format!(" and {part:?}")).unwrap_or_default();
        Err(format!("expected exit code {code}{expected}, got {}\n{}{}", self.code, self.stdout, self.stderr).into())
    }
}

/// The arguments of a build, so that a test need not spell them.
pub(crate) fn build_arguments(input: &Path, precision: &str, provider: &str, output: &Path) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (precision, provider) = (precision.to_owned(), provider.to_owned());
    vec!["-i".into(), path(input), "-p".into(), precision, "-e".into(), provider, "-o".into(), path(output)]
}

/// Builds into a folder of its own; `options` are extra options.
pub(crate) fn build(input: &Path, precision: &str, provider: &str, options: &[&str]) -> Outcome<TempDir> {
    let folder = tempfile::tempdir()?;
    let mut arguments = build_arguments(input, precision, provider, folder.path());
    if !options.is_empty() {
        arguments.push("--extra_options".to_owned());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
    }
    genai_build(arguments).success()?;
    Ok(folder)
}

/// ONNX Runtime, found or fetched once for all tests.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| find_or_install(None, Network::Allowed, &mut |_| ()).unwrap_or_else(|error| panic!("{error}")))
}

/// `--ort-lib FILE --offline`: what a run of the binary needs to use that library and nothing else.
pub(crate) fn runtime_arguments() -> Vec<String> {
    vec!["--ort-lib".to_owned(), runtime().library.to_str().unwrap().to_owned(), "--offline".to_owned()]
}

/// Loads a package on one thread: the tests themselves run side by side.
pub(crate) fn load(package: &Path) -> Outcome<Arc<Model>> {
    let config = genai_validate::Config::open(package)?;
    Ok(Arc::new(Model::load(&config, runtime(), LoadOptions { threads: Some(1), ..LoadOptions::default() })?))
}

/// Every file of a folder and of those in it, by its path there.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            files.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

/// A figure or the reason of a test that was not run, for who reads the log.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The files of a package without those that record how it was made.
pub(crate) fn without_record(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    for record in ["genai-build.json", "SHA256SUMS"] {
        assert!(files.remove(record).is_some(), "the package has no {record}");
    }
    files
}

/// A checkpoint of `fixtures/` in a folder of its own, to be changed.
pub(crate) struct Altered {
    folder: TempDir,
}

/// A tensor as it is stored.
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

pub(crate) type Tensors = BTreeMap<String, Stored>;

impl Altered {
    pub(crate) fn copy_of(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (file, bytes) in contents(&fixture(name)) {
            fs::write(folder.path().join(file), bytes).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn with(self, file: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path().join(file), bytes).unwrap();
        self
    }

    pub(crate) fn without(self, file: &str) -> Self {
        fs::remove_file(self.path().join(file)).unwrap();
        self
    }

    /// Sets a value of `config.json`; a dotted key leads into an object, null removes what is there.
    pub(crate) fn config(self, key: &str, value: Value) -> Self {
        self.json("config.json", |config| set(config, key, value))
    }

    /// Changes a JSON file, which need not exist.
    pub(crate) fn json(self, file: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        let bytes = fs::read(self.path().join(file)).unwrap_or_else(|_| b"{}".to_vec());
        let mut object = serde_json::from_slice(&bytes).unwrap();
        change(&mut object);
        self.with(file, serde_json::to_vec_pretty(&object).unwrap())
    }

    /// Changes the tensors of `model.safetensors`.
    pub(crate) fn tensors(self, change: impl FnOnce(&mut Tensors)) -> Self {
        let mut tensors = read_tensors(&self.path().join("model.safetensors"));
        change(&mut tensors);
        let bytes = safetensors_bytes(tensors.iter());
        self.with("model.safetensors", bytes)
    }
}

/// Sets what a dotted key leads to.
pub(crate) fn set(object: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        Some((outer, inner)) => set(object[outer].as_object_mut().unwrap(), inner, value),
        None if value.is_null() => drop(object.remove(key)),
        None => drop(object.insert(key.to_owned(), value)),
    }
}

pub(crate) fn read_tensors(file: &Path) -> Tensors {
    let bytes = fs::read(file).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let stored =
        |view: TensorView| Stored { dtype: view.dtype(), shape: view.shape().to_vec(), data: view.data().to_vec() };
    parsed.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

pub(crate) fn safetensors_bytes<'a>(tensors: impl Iterator<Item = (&'a String, &'a Stored)>) -> Vec<u8> {
    let views = tensors.map(|(name, stored)| {
        (name.as_str(), TensorView::new(stored.dtype, stored.shape.clone(), &stored.data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}
