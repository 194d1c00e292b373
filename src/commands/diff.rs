use genai_validate::diff::{Difference, Options, Sameness, compare};
use serde_json::json;

use crate::{
    args::DiffArgs,
    console::{print, print_json},
    failure::{Failure, code},
};

pub(crate) fn run(args: &DiffArgs) -> Result<(), Failure> {
    let difference = compare(&args.a, &args.b, Options { weights: !args.no_weights })?;
    if !args.json {
        print(&format!("A  {}\nB  {}\n{difference}", args.a.display(), args.b.display()))?;
    }
    if difference.sameness > Sameness::OtherSpelling {
        return Err(failure(&difference));
    }
    if args.json { print_json(&difference) } else { Ok(()) }
}

fn failure(difference: &Difference) -> Failure {
    let found = json!(difference).as_object().cloned().unwrap_or_default();
    Failure::new(code::DIFFERENT, format!("the packages are {}", difference.sameness)).with_report(found)
}
