//! Batches, beams and everything else that the peer's generator does.

mod search_options;

pub use search_options::SearchOptions;
