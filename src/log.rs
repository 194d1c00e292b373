//! `--log`: events of the libraries on stderr.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What `--log` leaves open.
pub(crate) const VARIABLE: &str = "GENAI_BUILD_LOG";

/// Tells the events that the filter lets through; without one, none.
pub(crate) fn start(filter: Option<&str>) -> Result<(), Failure> {
    let variable = std::env::var(VARIABLE).ok().filter(|filter| !filter.is_empty());
    let Some(text) = filter.or(variable.as_deref()) else { return Ok(()) };
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!("--log {text:?}: {error}"))
            .with_hint("such as `debug`, `genai=trace` or `genai::hit_eos=debug,genai::model=debug`")
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    Ok(())
}
