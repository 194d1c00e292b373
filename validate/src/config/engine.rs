//! How requests are run together, and how drafts are written: the `engine` and `speculative` objects.

use super::fields::Fields;
use crate::Result;

/// How an engine runs several requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Engine {
    /// Requests join and leave at each step; their caches are pages of one pool.
    Dynamic {
        /// Tokens of a page.
        block_size: usize,
        /// Pages of the pool; where it is open, `gpu_utilization_factor` of the free memory.
        num_blocks: Option<usize>,
        gpu_utilization_factor: Option<f32>,
        max_batch_size: usize,
        /// Tokens of a step.
        max_scheduled_tokens: usize,
    },
    /// A batch is formed once and runs to its end.
    Static { max_batch_size: usize },
}

/// Settings of drafts, where a model has a drafter or looks into its own text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speculative {
    /// 1 to 16
    pub max_draft_tokens: usize,
    /// 2 to 16; 0 is no look-up.
    pub ngram_size: usize,
    pub ngram_chained_lookup: bool,
    /// 0 to 16
    pub min_adaptive_k: usize,
    pub cooldown: bool,
}

impl Engine {
    /// Of both kinds the one that the file has last, as in the peer.
    pub(super) fn read(root: &Fields) -> Result<Option<Self>> {
        let engine = root.object_or_empty("engine")?;
        match engine.keys().last() {
            Some("static_batching") => {
                let batching = engine.object("static_batching")?;
                Ok(Some(Self::Static { max_batch_size: batching.count_or("max_batch_size", 4)? }))
            }
            Some(_) => {
                let batching = engine.object("dynamic_batching")?;
                let share = batching.number("gpu_utilization_factor")?;
                if share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
                    return Err(batching.mismatch("gpu_utilization_factor", "a number above 0 and at most 1"));
                }
                let num_blocks = match batching.optional_integer("num_blocks")? {
                    Some(_) => Some(batching.count("num_blocks")?),
                    None => None,
                };
                Ok(Some(Self::Dynamic {
                    block_size: batching.count_or("block_size", 256)?,
                    num_blocks,
                    gpu_utilization_factor: share,
                    max_batch_size: batching.count_or("max_batch_size", 16)?,
                    max_scheduled_tokens: batching.count_or("max_scheduled_tokens", 2048)?,
                }))
            }
            None => Ok(None),
        }
    }
}

impl Speculative {
    pub(super) fn read(root: &Fields) -> Result<Self> {
        let fields = root.object_or_empty("speculative")?;
        let within = |key: &str, default: usize, holds: fn(usize) -> bool, expected: &str| {
            let value = fields.optional_integer(key)?.unwrap_or(default);
            if holds(value) { Ok(value) } else { Err(fields.mismatch(key, expected)) }
        };
        Ok(Self {
            max_draft_tokens: within("max_draft_tokens", 4, |k| (1..=16).contains(&k), "a whole number from 1 to 16")?,
            ngram_size: within(
                "ngram_size",
                0,
                |n| n == 0 || (2..=16).contains(&n),
                "0 or a whole number from 2 to 16",
            )?,
            ngram_chained_lookup: fields.flag("ngram_chained_lookup")?.unwrap_or(false),
            min_adaptive_k: within("min_adaptive_k", 0, |k| k <= 16, "a whole number from 0 to 16")?,
            cooldown: fields.flag("cooldown")?.unwrap_or(false),
        })
    }
}
