use std::time::{Duration, Instant};

use genai_builder::{Built, Request};
use genai_checkpoint::Checkpoint;
use genai_validate::{ParityReport, Verdict};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{note, print, print_json, validate};
use crate::{
    args::{BuildArgs, RuntimeArgs},
    failure::{Failure, code},
    report::{BuildReport, Continuation, Measured, peak_memory},
    request,
};

pub(crate) fn run(args: &BuildArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let Some(output) = &args.output else {
        return Err(Failure::usage("no output given").with_hint("name a folder with -o DIR"));
    };
    // What was typed is looked at before any file is.
    let resolved = request::resolve(&args.target)?;
    let checkpoint = request::open(&args.source, args.runtime.offline, &resolved.token)?;
    request::check_output(output, &checkpoint)?;
    for warning in checkpoint.warnings() {
        note(&format!("warning: {warning}"));
    }
    let request = resolved.into_request(output.clone());
    let built = build(&checkpoint, &request)?;
    // Of the build alone: the memory of a validation is ONNX Runtime's.
    let measured = Measured { seconds: started.elapsed().as_secs_f64(), peak_memory: peak_memory() };
    let validation = args.validate.then(|| check(&built, &checkpoint, &request, &args.runtime)).transpose()?;
    let report = built.commit()?;
    let report = BuildReport::new(&report, &request.settings, output, measured, validation);
    if args.json { print_json(&report) } else { print(&report.to_text()) }
}

fn build(checkpoint: &Checkpoint, request: &Request) -> Result<Built, Failure> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(200));
    let built = genai_builder::build(checkpoint, request, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(built?)
}

/// Runs the package where it is staged. A package that fails is not put in place.
fn check(
    built: &Built,
    checkpoint: &Checkpoint,
    request: &Request,
    runtime: &RuntimeArgs,
) -> Result<(ParityReport, Continuation), Failure> {
    let precision = validate::precision(request.settings.precision);
    let (parity, continuation) = validate::check(built.folder(), checkpoint, built.spec(), precision, runtime)?;
    if parity.verdict == Verdict::Fail {
        return Err(Failure::new(code::VALIDATION_FAILED, format!("validation failed, nothing was written\n{parity}"))
            .with_hint("without --validate the package is built all the same, to be looked at"));
    }
    Ok((parity, continuation))
}
