use genai_builder::materialize::peak_tile_bytes;

use crate::console::{note, print, print_json};
use crate::{
    args::PlanArgs,
    failure::Failure,
    report::{PackagePlan, Packages, PlanReport},
    request::{self, Resolved},
};

pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let Resolved { wanted, requests, limits, token, adapters } = request::resolve(&args.target)?;
    let checkpoint = adapters.open(request::open(&args.source, args.offline, &token)?)?;
    for warning in checkpoint.warnings() {
        note(&format!("warning: {warning}"));
    }
    let (spec, plans) = genai_builder::plan(&checkpoint, &requests)?;
    let tile_memory = peak_tile_bytes(&plans.iter().collect::<Vec<_>>(), &limits)?;
    let packages = wanted.iter().zip(&plans).map(|(wanted, plan)| PackagePlan::new(wanted, plan)).collect();
    let report = PlanReport::new(&spec, Packages::of(packages, &args.target), tile_memory);
    if args.json { print_json(&report) } else { print(&report.to_text()) }
}
