//! Attention without open sizes: one token of one sequence, over a cache of fixed length.
//!
//! ```text
//! position_ids ─► Unsqueeze ─┬► Equal 0 to T ─► Transpose ─► here [1, 1, T, 1]
//!                            └► Sub 0 to T ─► Greater -1 ─► … visible, as over a growing cache
//!
//! present = here ? new : past          [1, kv heads, T, head_dim]
//! ```
//!
//! A token is written to the column of its position, and what is behind it is not seen. So the columns that hold no token
//! yet may hold anything finite, and past and present may be one buffer: nothing else reads the past.

use genai_architectures::RopeScaling;

use super::{
    Lowering,
    mask::{Caches, Lengths},
    standard_attention::{Columns, Places},
};
use crate::{
    Adaptation, Error, Logits, Result,
    graph::{
        Constant, Dtype, Fact, Value, dims,
        ops::{Equal, Place, Transpose, Unsqueeze, Where},
    },
};

const PATH: &str = "/model/attention_bias";

impl Lowering<'_> {
    /// The inputs of a graph without open sizes.
    pub(super) fn fixed_inputs(&mut self) -> Result<(Value, Caches, Lengths)> {
        self.check_fixed()?;
        let token = Fact::new(Dtype::I32, dims([1, 1]));
        let input_ids = self.graph.input("input_ids", token.clone())?;
        self.position_ids = Some(self.graph.input("position_ids", token)?);
        let caches = self.past()?;
        Ok((input_ids, caches, Lengths::Fixed(self.fixed_places()?)))
    }

    /// Where the token of this run stands, and the columns of the cache.
    fn fixed_places(&mut self) -> Result<Places> {
        let tokens = self.settings.context_length(self.spec);
        let tokens = u32::try_from(tokens).map_err(|_| Error::graph(PATH, format!("{tokens} columns are too many")))?;
        let position_ids = self.positions()?;
        let at = |part: &str| format!("{PATH}/{part}");
        let graph = &mut self.graph;
        let keys = graph.constant(Constant::Counted(tokens))?;
        let axes = graph.constant(Constant::Int64s(vec![1, 3]))?;
        let queries = Unsqueeze { input: position_ids, axes, place: Place::Axes(&[1, 3]) };
        let queries = graph.add(&at("queries/Unsqueeze"), &queries)?;
        let here = graph.add(&at("here/Equal"), &Equal(queries, keys))?;
        let here = graph.add(&at("here/Transpose"), &Transpose { input: here, order: vec![0, 1, 3, 2] })?;
        Ok(Places { keys, queries, columns: Columns::Written(here) })
    }

    /// The cache with the new token in its column.
    pub(super) fn written(&mut self, path: &str, here: Value, past: Value, new: Value) -> Result<Value> {
        self.graph.add(&format!("{path}/Where"), &Where { condition: here, yes: new, no: past })
    }

    /// Fails where the sizes asked for do not go with the model: keys are turned once and stay in the cache, so a rope
    /// must be the same for each length up to that of the cache.
    fn check_fixed(&self) -> Result<()> {
        let target = self.settings.target;
        let (tokens, longest) = (self.settings.context_length(self.spec), self.spec.context_length);
        if !(1..=longest).contains(&tokens) {
            return Err(Error::Unsupported {
                what: format!("static_context_length is {tokens}, and the model has {longest} positions"),
                hint: format!("give a number from 1 to {longest}"),
            });
        }
        let interface = &self.settings.interface;
        for (asked, option) in
            [(interface.inputs_embeds, "exclude_embeds"), (interface.logits == Logits::Last, "prune_lm_head")]
        {
            if asked {
                return Err(Error::Unsupported {
                    what: format!("{option} is not supported for {}, whose graphs take one token", target.provider),
                    hint: format!("leave {option} out"),
                });
            }
        }
        if self.settings.adaptation == Adaptation::Swappable {
            return Err(Error::Unsupported {
                what: format!(
                    "adapters that can be swapped are inputs of open sizes, and {} takes none",
                    target.provider
                ),
                hint: "adapter_path=DIR bakes one in".to_owned(),
            });
        }
        let changes_at = self.spec.ropes.iter().filter_map(|rope| match rope.scaling {
            RopeScaling::Dynamic { original_context, .. } | RopeScaling::LongRope { original_context, .. } => {
                Some(original_context)
            }
            _ => None,
        });
        match changes_at.min() {
            Some(original) if original < tokens => Err(Error::Unsupported {
                what: format!(
                    "the rope of this model is another one for sequences of more than {original} tokens, which {} does \
                     not support: its cache has a fixed size, here {tokens} tokens",
                    target.provider
                ),
                hint: format!("static_context_length={original} makes a package for sequences of up to {original}"),
            }),
            _ => Ok(()),
        }
    }
}
