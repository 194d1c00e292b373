use genai_validate::Integrity;
use serde_json::json;

use crate::{
    args::VerifyArgs,
    console::{note, print, print_json},
    failure::{Failure, code},
    report::bytes,
};

pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let found = genai_validate::verify(&args.package)?;
    if !found.is_intact() || (args.strict && !found.extra.is_empty()) {
        return Err(failure(&found, args.strict));
    }
    for name in &found.extra {
        note(&format!("not of the package: {name}"));
    }
    if args.json {
        return print_json(&found);
    }
    print(&format!("{}: {} files, {}, as they were written\n", args.package.display(), found.files, bytes(found.bytes)))
}

fn failure(found: &Integrity, strict: bool) -> Failure {
    let mut problems: Vec<String> = found.damaged.iter().map(|(name, problem)| format!("{name}: {problem}")).collect();
    problems.extend(found.missing.iter().map(|name| format!("{name}: is missing")));
    if strict {
        problems.extend(found.extra.iter().map(|name| format!("{name}: is not of the package")));
    }
    let mut failure =
        Failure::new(code::CHECKSUM, format!("the package is not as it was written: {}", problems.join("; ")));
    failure.details.problems = problems;
    let lists = [("damaged", json!(found.damaged)), ("missing", json!(found.missing)), ("extra", json!(found.extra))];
    failure
        .with_report(lists.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        .with_hint("build the package again, or copy it again from where it is intact")
}
