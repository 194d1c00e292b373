//! Batches, beams and everything else that the peer's generator does.

mod hooks;
mod params;

use crate::search_options::SearchOptions;
pub use hooks::{Constraint, LogitsProcessor};
pub use params::GeneratorParams;
