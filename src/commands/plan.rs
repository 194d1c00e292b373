use genai_builder::materialize::peak_tile_bytes;

use crate::console::{note, print, print_json};
use crate::{args::PlanArgs, failure::Failure, report::PlanReport, request, request::Resolved};

pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let Resolved { request, token, adapters } = request::resolve(&args.target)?;
    let checkpoint = adapters.open(request::open(&args.source, args.offline, &token)?)?;
    for warning in checkpoint.warnings() {
        note(&format!("warning: {warning}"));
    }
    let (spec, plan) = genai_builder::plan(&checkpoint, &request)?;
    let report = PlanReport::new(&spec, &plan, peak_tile_bytes(&plan, &request.limits)?);
    if args.json { print_json(&report) } else { print(&report.to_text()) }
}
