//! Batches, beams and everything else that the peer's generator does.

mod hooks;
mod params;
mod search_options;

pub use hooks::{Constraint, LogitsProcessor};
pub use params::GeneratorParams;
pub use search_options::SearchOptions;
