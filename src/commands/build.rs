use std::time::Instant;

use genai_builder::{Built, Disk, Interrupt, Output, Request};
use genai_checkpoint::Checkpoint;
use genai_validate::{ParityReport, Verdict};
use serde_json::{Map, Value, json};

use super::validate::{self, Subject};
use crate::{
    args::{BuildArgs, RuntimeArgs},
    console::{Progress, event, note, print, print_json},
    failure::{Failure, code},
    report::{BuildReport, Continuation, Measured, peak_memory},
    request::{self, Resolved},
    signals,
};

pub(crate) fn run(args: &BuildArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let Some(output) = &args.output else {
        return Err(Failure::usage("no output given").with_hint("name a folder with -o DIR"));
    };
    // What was typed is looked at before any file is, and the place of the output before any weight is fetched or read.
    let Resolved { request, token, adapters } = request::resolve(&args.target)?;
    let interrupt = Interrupt::default();
    signals::interrupt_on_signals(interrupt.clone());
    event(
        "start",
        json!({"command": "build", "version": env!("CARGO_PKG_VERSION"), "output": output.display().to_string()}),
    );
    let place = Output::claim(output, Disk::new(interrupt))?;
    let checkpoint = adapters.open(request::open(&args.source, args.runtime.offline, &token)?)?;
    request::check_output(output, &checkpoint)?;
    for warning in checkpoint.warnings() {
        note(&format!("warning: {warning}"));
    }
    let progress = Progress::start("write");
    let built = genai_builder::build(&checkpoint, &request, place, &|done, total| progress.at(done, total))?;
    drop(progress);
    // Of the build alone: the memory of a validation is ONNX Runtime's.
    let measured = Measured { seconds: started.elapsed().as_secs_f64(), peak_memory: peak_memory() };
    let validation = if args.validate {
        event("stage", json!({"stage": "validate"}));
        Some(check(&built, &checkpoint, &request, &args.runtime)?)
    } else {
        None
    };
    event("stage", json!({"stage": "commit"}));
    let report = built.commit(validation.as_ref().map(|(parity, _)| recorded(parity)))?;
    event(
        "done",
        json!({"files": report.files.len(), "bytes": report.files.iter().map(|(_, bytes)| bytes).sum::<u64>()}),
    );
    let report = BuildReport::new(&report, &request.settings, output, measured, validation);
    if args.json { print_json(&report) } else { print(&report.to_text()) }
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

/// Runs the package where it is staged. A package that fails is not put in place.
fn check(
    built: &Built,
    checkpoint: &Checkpoint,
    request: &Request,
    runtime: &RuntimeArgs,
) -> Result<(ParityReport, Continuation), Failure> {
    let subject = Subject { checkpoint, spec: built.spec(), adaptation: request.settings.adaptation };
    let precision = validate::precision(request.settings.precision);
    let (parity, continuation) = validate::check(built.folder(), &subject, precision, runtime)?;
    if parity.verdict == Verdict::Fail {
        return Err(Failure::new(code::VALIDATION_FAILED, format!("validation failed, nothing was written\n{parity}"))
            .with_hint("without --validate the package is built all the same, to be looked at")
            .with_report(Map::from_iter([("parity".to_owned(), json!(parity))])));
    }
    Ok((parity, continuation))
}
