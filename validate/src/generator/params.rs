//! What a generator is made from.

use std::fmt;

use super::{Constraint, LogitsProcessor};
use crate::Config;
use crate::SearchOptions;

/// Options and hooks of one [`crate::Generator`].
#[derive(Default)]
pub struct GeneratorParams {
    pub search: SearchOptions,
    /// Of each row of the batch, or none at all. Beams have none.
    pub constraints: Vec<Box<dyn Constraint>>,
    /// Appends what a constraint forces without a choice; of one row only.
    pub forced_tokens: bool,
    /// Run in their order, for every row.
    pub processors: Vec<Box<dyn LogitsProcessor>>,
    /// In place of [`crate::Model::rope_switch`], which knows the lengths of published models.
    pub rope_switch: Option<usize>,
}

impl GeneratorParams {
    /// What the package itself asks for.
    pub fn of(package: &Config) -> Self {
        package.search.clone().into()
    }
}

impl From<SearchOptions> for GeneratorParams {
    fn from(search: SearchOptions) -> Self {
        Self { search, ..Self::default() }
    }
}

impl fmt::Debug for GeneratorParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeneratorParams")
            .field("search", &self.search)
            .field("constraints", &self.constraints.len())
            .field("forced_tokens", &self.forced_tokens)
            .field("processors", &self.processors.len())
            .field("rope_switch", &self.rope_switch)
            .finish()
    }
}
