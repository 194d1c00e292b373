use std::fmt::Write;

use genai_architectures::{Config, describe};

use crate::console::print;
use crate::{
    args::InspectArgs,
    failure::Failure,
    hub,
    report::{bytes, grouped},
    token::TokenChoice,
};

pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let token = TokenChoice::Environment;
    // Of any family: its tensors are worth seeing too.
    let checkpoint = hub::open(&args.checkpoint, &args.hub, args.offline, &token, |_| Ok(()))?;
    let described = describe(&Config::from_json(checkpoint.config().clone())?);
    let mut text = String::new();
    // Tensors are worth seeing even where the family is unknown, so a failure waits for the end.
    if let Ok(spec) = &described {
        let parameters = grouped(spec.num_parameters());
        let _ = writeln!(text, "{}, {} layers, {parameters} parameters", spec.architecture, spec.layers.len());
        let _ = writeln!(text, "{spec:#?}");
    }
    let count = checkpoint.tensors().len();
    let _ = writeln!(text, "{count} tensors, {}", bytes(checkpoint.total_bytes()));
    let width = checkpoint.tensors().map(|tensor| tensor.name.escape_debug().count()).max().unwrap_or(0).min(80);
    for tensor in checkpoint.tensors() {
        let name = tensor.name.escape_debug().to_string();
        let _ = writeln!(text, "  {name:<width$}  {:<5} {:?}", tensor.dtype.name(), tensor.shape);
    }
    print(&text)?;
    described?;
    Ok(())
}
