use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use genai_builder::{Built, Disk, Interrupt, Logits, Output, Request};
use genai_validate::{ParityReport, Verdict};
use serde_json::{Map, Value, json};

use super::validate::{self, Subject};
use crate::{
    args::{BuildArgs, RuntimeArgs, TargetArgs},
    console::{Progress, event, note, print, print_json},
    failure::{Failure, code},
    report::{BuildReport, Continuation, Measured, PackageReport, Packages, peak_memory},
    request::{self, Resolved},
    signals,
    targets::{self, Wanted},
};

pub(crate) fn run(args: &BuildArgs) -> Result<(), Failure> {
    let started = Instant::now();
    // What was typed is looked at before any file is, and the places of the outputs before any weight is fetched or read.
    let Resolved { wanted, requests, limits, token, adapters } = request::resolve(&args.target)?;
    if args.validate {
        requests.iter().try_for_each(check_runs)?;
    }
    let folders = targets::folders(&args.target, &wanted, args.output.as_deref())?;
    let interrupt = Interrupt::default();
    signals::interrupt_on_signals(interrupt.clone());
    tell_start(&folders, &args.target);
    let disk = Disk::new(interrupt);
    let places = folders.iter().map(|folder| Output::claim(folder, disk.clone())).collect::<Result<Vec<_>, _>>()?;
    let checkpoint = adapters.open(request::open(&args.source, args.runtime.offline, &token)?)?;
    folders.iter().try_for_each(|folder| request::check_output(folder, &checkpoint))?;
    for warning in checkpoint.warnings() {
        note(&format!("warning: {warning}"));
    }
    let progress = Progress::start("write");
    let jobs = requests.iter().zip(places).collect();
    let (spec, built) = genai_builder::build(&checkpoint, jobs, &limits, &|done, total| progress.at(done, total))?;
    drop(progress);
    // Of the build alone: the memory of a validation is ONNX Runtime's.
    let measured = Measured { seconds: started.elapsed().as_secs_f64(), peak_memory: peak_memory() };
    let mut validations = Vec::new();
    if args.validate {
        event("stage", json!({"stage": "validate"}));
        for ((built, request), (wanted, folder)) in built.iter().zip(&requests).zip(wanted.iter().zip(&folders)) {
            let subject = Subject { checkpoint: &checkpoint, spec: &spec, adaptation: request.settings.adaptation };
            validations.push(check(built, &subject, wanted, folder, &args.runtime)?);
        }
    }
    event("stage", json!({"stage": "commit"}));
    let mut parities = validations.iter().map(|(parity, _)| recorded(parity));
    let packages = built.into_iter().map(|built| (built, parities.next())).collect();
    let (reports, committed) = genai_builder::commit(packages);
    committed.map_err(|error| partly(error.into(), &folders[..reports.len()]))?;
    let files = reports.iter().flat_map(|report| &report.files);
    event("done", json!({"files": files.clone().count(), "bytes": files.map(|(_, bytes)| bytes).sum::<u64>()}));
    let mut validations = validations.into_iter();
    let packages = reports.iter().zip(wanted.iter().zip(&folders));
    let packages = packages
        .map(|(report, (wanted, folder))| PackageReport::new(report, wanted, folder, validations.next()))
        .collect();
    let report = BuildReport::new(&spec, Packages::of(packages, &args.target), &measured);
    if args.json { print_json(&report) } else { print(&report.to_text()) }
}

fn tell_start(folders: &[PathBuf], args: &TargetArgs) {
    let mut outputs: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let mut fields = json!({"command": "build", "version": env!("CARGO_PKG_VERSION")});
    if args.targets.is_empty() {
        fields["output"] = json!(outputs.pop());
    } else {
        fields["outputs"] = json!(outputs);
    }
    event("start", fields);
}

/// A commit that failed after packages were put in place.
fn partly(mut failure: Failure, done: &[PathBuf]) -> Failure {
    if !done.is_empty() {
        let done: Vec<_> = done.iter().map(|folder| folder.display().to_string()).collect();
        failure.message.push_str(&format!("; in place are {}, the other outputs are as they were", done.join(", ")));
    }
    failure
}

/// Refuses to validate what will not run from token ids to logits.
fn check_runs(request: &Request) -> Result<(), Failure> {
    let interface = &request.settings.interface;
    let lacks = [
        ("config_only", request.config_only),
        ("exclude_embeds", interface.inputs_embeds),
        ("exclude_lm_head", interface.logits == Logits::None),
    ];
    match lacks.iter().find(|(_, lacking)| *lacking) {
        Some((key, _)) => {
            Err(Failure::usage(format!("--validate needs a whole model, and extra option {key} is true"))
                .with_hint("leave one of the two out"))
        }
        None => Ok(()),
    }
}

/// Parity as the manifest keeps it. Figures have three digits: the others differ from machine to machine.
fn recorded(parity: &ParityReport) -> Value {
    fn round(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(round),
            Value::Object(values) => values.values_mut().for_each(round),
            Value::Number(number) if !number.is_u64() && !number.is_i64() => {
                let rounded = number.as_f64().and_then(|float| format!("{float:.2e}").parse::<f64>().ok());
                *value = rounded.map_or(Value::Null, Value::from);
            }
            _ => {}
        }
    }
    let mut value = json!(parity);
    round(&mut value);
    value
}

/// Runs a package where it is staged. Nothing is put in place where one fails.
fn check(
    built: &Built,
    subject: &Subject,
    wanted: &Wanted,
    folder: &Path,
    runtime: &RuntimeArgs,
) -> Result<(ParityReport, Continuation), Failure> {
    let precision = validate::precision(wanted.precision);
    let (parity, continuation) = validate::check(built.folder(), subject, precision, runtime)?;
    if parity.verdict == Verdict::Fail {
        let found = [("output".to_owned(), json!(folder.display().to_string())), ("parity".to_owned(), json!(parity))];
        let message =
            format!("validation failed, nothing was written\n{} for {}\n{parity}", folder.display(), wanted.name());
        return Err(Failure::new(code::VALIDATION_FAILED, message)
            .with_hint("without --validate the package is built all the same, to be looked at")
            .with_report(Map::from_iter(found)));
    }
    Ok((parity, continuation))
}
