//! Which packages are wanted, and where: `-p`, `-e` and `-o` for one, `--target PRECISION:EP[=DIR]` for each of several.

use std::path::{Component, Path, PathBuf};

use clap::ValueEnum;
use genai_builder::{Precision, Target};

use crate::{
    args::{PrecisionArg, TargetArgs},
    failure::Failure,
};

/// A package that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) target: &'static Target,
    pub(crate) precision: Precision,
    /// Its folder, where one was named for it alone.
    folder: Option<PathBuf>,
}

impl Wanted {
    pub(crate) fn of(target: &'static Target, precision: Precision) -> Self {
        Self { target, precision, folder: None }
    }

    /// `int4:cpu`, as it is typed.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.precision.name(), self.target.provider)
    }
}

/// The packages that were asked for, at least one. `precision` holds where `-p` is left out.
pub(crate) fn wanted(args: &TargetArgs, precision: Option<Precision>) -> Result<Vec<Wanted>, Failure> {
    if !args.targets.is_empty() {
        return args.targets.iter().map(|typed| parse(typed)).collect();
    }
    let Some(precision) = args.precision.map(Precision::from).or(precision) else {
        return Err(Failure::usage("no precision given").with_hint("-p fp32, fp16, bf16, int8 or int4"));
    };
    let Some(provider) = &args.execution_provider else {
        return Err(Failure::usage("no execution provider given")
            .with_hint("-e cpu, -e cuda, …: `genai-build targets` lists them"));
    };
    Ok(vec![Wanted::of(Target::find(provider)?, precision)])
}

fn parse(typed: &str) -> Result<Wanted, Failure> {
    let wrong = |reason: String| {
        Failure::usage(format!("--target {typed:?} {reason}"))
            .with_hint("--target PRECISION:EP[=DIR], such as --target int4:cpu or --target fp16:cuda=out/gpu")
    };
    let (pair, folder) = typed.split_once('=').map_or((typed, None), |(pair, folder)| (pair, Some(folder)));
    let Some((precision, provider)) = pair.split_once(':') else {
        return Err(wrong("has no precision and provider with a colon between".to_owned()));
    };
    let precision = PrecisionArg::from_str(precision, false).map_err(|_| {
        let known: Vec<_> = Precision::ALL.iter().map(|precision| precision.name()).collect();
        wrong(format!("has the precision {precision:?}, expected {}", known.join(", ")))
    })?;
    if folder == Some("") {
        return Err(wrong("names no folder after the equals sign".to_owned()));
    }
    Ok(Wanted { target: Target::find(provider)?, precision: precision.into(), folder: folder.map(PathBuf::from) })
}

/// The folder of each package: its own, or one in `output` named after what it is. One that is alone and was not asked
/// for with --target is `output` itself.
pub(crate) fn folders(args: &TargetArgs, wanted: &[Wanted], output: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    if args.targets.is_empty() {
        let output = output.ok_or_else(|| Failure::usage("no output given").with_hint("name a folder with -o DIR"))?;
        return Ok(vec![output.to_owned()]);
    }
    if output.is_some() && wanted.iter().all(|wanted| wanted.folder.is_some()) {
        return Err(Failure::usage("every --target names its own folder, and -o another one")
            .with_hint("leave out -o, or =DIR where the package belongs below it"));
    }
    let folder = |wanted: &Wanted| match (&wanted.folder, output) {
        (Some(folder), _) => Ok(folder.clone()),
        (None, Some(output)) => Ok(output.join(format!("{}-{}", wanted.precision.name(), wanted.target.provider))),
        (None, None) => Err(Failure::usage(format!("no output given for --target {}", wanted.name()))
            .with_hint(format!("name a folder with -o DIR, or --target {}=DIR", wanted.name()))),
    };
    let folders = wanted.iter().map(folder).collect::<Result<Vec<_>, _>>()?;
    let resolved: Vec<_> = folders.iter().map(|folder| resolved(folder)).collect();
    for (index, one) in resolved.iter().enumerate() {
        for (before, other) in resolved.iter().enumerate().take(index) {
            if one.starts_with(other) || other.starts_with(one) {
                let how = if one == other { "are the same folder" } else { "lie one in the other" };
                let [one, other] =
                    [index, before].map(|at| format!("--target {} ({})", wanted[at].name(), folders[at].display()));
                return Err(Failure::usage(format!("the outputs of {other} and {one} {how}"))
                    .with_hint("give each target a folder of its own, with =DIR"));
            }
        }
    }
    Ok(folders)
}

/// A path without links, `.` and `..`, as far as it is there; what is not there is taken as it is spelled.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    resolved
}
