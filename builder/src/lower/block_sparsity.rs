//! Attention to some blocks of positions alone: a bias on the scores that leaves no weight to what is not seen.
//!
//! ```text
//! behind[b, 0, s, t] = block(past[b] + s) - block(t)                 past[b] = max(0, tokens of row b - sequence)
//! bias[b, h, s, t]   = (behind >= local) * ((block(t) + h * head_step + 1) % stride > 0) * HIDDEN
//! ```
//!
//! Blocks are counted from the start of each row, so rows of a batch that differ in length have biases of their own. In
//! a prompt that is padded on the right all rows start at position 0, as the attention op has it.

use genai_architectures::{BlockSparsity, Mixer, Position};

use super::{Lowering, mask::Lengths, standard_attention::Places};
use crate::{
    Error, Result,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{Add, Cast, Div, Gather, Greater, Max, Mod, Mul, Place, Range, Reshape, Shape, Sub, Unsqueeze},
    },
};

/// What a score out of sight is raised by: a softmax gives such a position a weight of exactly zero, as long as no
/// score exceeds another by 32000. A number that every float type holds; the lowest of a type could overflow with the
/// score, and an infinity is nothing that an attention kernel need take.
const HIDDEN: f32 = -32768.0;

/// The biases made so far.
pub(super) type BlockBiases = Vec<((BlockSparsity, usize), Value)>;

impl Lowering<'_> {
    /// Makes a bias for each pattern that a layer uses.
    pub(super) fn block_biases(&mut self, input_ids: Value, lengths: &Lengths) -> Result<()> {
        for layer in &self.spec.layers {
            let Mixer::Attention(attention) = &layer.mixer;
            let Some(blocks) = attention.blocks else { continue };
            if matches!(attention.position, Position::Alibi(_)) {
                return Err(Error::graph("/model/blocks", "a layer has blocks and a bias for the distance"));
            }
            let key = (blocks, attention.num_heads);
            if self.block_biases.iter().any(|(made, _)| *made == key) {
                continue;
            }
            let suffix = match self.block_biases.len() {
                0 => String::new(),
                number => format!("_{number}"),
            };
            let bias =
                self.block_bias(&format!("/model/blocks{suffix}"), blocks, attention.num_heads, input_ids, lengths)?;
            self.block_biases.push((key, bias));
        }
        Ok(())
    }

    /// `[batch, heads, sequence, total]`, or one for all heads where they see alike.
    fn block_bias(
        &mut self,
        path: &str,
        blocks: BlockSparsity,
        num_heads: usize,
        input_ids: Value,
        lengths: &Lengths,
    ) -> Result<Value> {
        let BlockSparsity { size, local, stride, head_step } = blocks;
        let dtype = self.dtype;
        let hidden = self.scalar(HIDDEN)?;
        let at = |part: &str| format!("{path}/{part}");
        // Places are counted in the dtype of ids.
        let size = self.whole_number(size as i64, input_ids)?;
        let zero = self.whole_number(0, input_ids)?;

        let (keys, queries) = match lengths.places() {
            Some(Places { keys, queries, .. }) => (keys, queries),
            None => self.row_places(path, input_ids, lengths)?,
        };
        let graph = &mut self.graph;
        let key_blocks = graph.add(&at("keys/Div"), &Div(keys, size))?;
        let query_blocks = graph.add(&at("queries/Div"), &Div(queries, size))?;

        let behind = graph.add(&at("behind/Sub"), &Sub(query_blocks, key_blocks))?;
        let nearest = self.whole_number(local as i64 - 1, input_ids)?;
        let graph = &mut self.graph;
        let far = graph.add(&at("behind/Greater"), &Greater(behind, nearest))?;
        let far = graph.add(&at("behind/Cast"), &Cast { input: far, to: dtype })?;

        let heads = if head_step == 0 { 1 } else { num_heads };
        let offsets = (0..heads).map(|head| ((head * head_step + 1) % stride) as i64).collect();
        let offsets = graph.constant(Constant::Int64s(offsets))?;
        let target = graph.constant(Constant::Int64s(vec![-1, 1, 1]))?;
        let shape = vec![Dim::Known(heads as u64), Dim::Known(1), Dim::Known(1)];
        let offsets = graph.add(&at("heads/Reshape"), &Reshape { input: offsets, target, shape })?;
        let offsets = self.cast(&at("heads/offsets"), offsets, self.graph.fact(input_ids).dtype)?;
        let graph = &mut self.graph;
        let turns = graph.add(&at("heads/Add"), &Add(key_blocks, offsets))?;
        let stride = self.whole_number(stride as i64, input_ids)?;
        let graph = &mut self.graph;
        let rest = graph.add(&at("heads/Mod"), &Mod(turns, stride))?;
        let skipped = graph.add(&at("heads/Greater"), &Greater(rest, zero))?;
        let skipped = graph.add(&at("heads/Cast"), &Cast { input: skipped, to: dtype })?;
        let skipped = graph.add(&at("heads/Mul"), &Mul(skipped, hidden))?;
        graph.add(&at("Mul"), &Mul(far, skipped))
    }

    /// Where keys stand in a row, int64 `[total]`, and queries, `[batch, 1, sequence, 1]`.
    fn row_places(&mut self, path: &str, input_ids: Value, lengths: &Lengths) -> Result<(Value, Value)> {
        let graph = &mut self.graph;
        let at = |part: &str| format!("{path}/{part}");
        let (zero, one) = (graph.constant(Constant::Int64(0))?, graph.constant(Constant::Int64(1))?);
        let total =
            graph.add(&at("total/Cast"), &Cast { input: lengths.rows()?.total_sequence_length, to: Dtype::I64 })?;
        let keys = Range { start: zero, limit: total, delta: one, length: "total_sequence_length" };
        let keys = graph.add(&at("keys/Range"), &keys)?;

        let shape = graph.add(&at("sequence/Shape"), &Shape(input_ids))?;
        let sequence = graph.add(&at("sequence/Gather"), &Gather { data: shape, indices: one })?;
        let steps = Range { start: zero, limit: sequence, delta: one, length: "sequence_length" };
        let steps = graph.add(&at("queries/Range"), &steps)?;
        let tokens = graph.add(&at("past/Cast"), &Cast { input: lengths.rows()?.seqlens_k, to: Dtype::I64 })?;
        let tokens = graph.add(&at("past/Add"), &Add(tokens, one))?;
        let past = graph.add(&at("past/Sub"), &Sub(tokens, sequence))?;
        let past = graph.add(&at("past/Max"), &Max(past, zero))?;
        let target = graph.constant(Constant::Int64s(vec![-1, 1, 1]))?;
        let shape = vec![Dim::Symbol("batch_size"), Dim::Known(1), Dim::Known(1)];
        let past = graph.add(&at("past/Reshape"), &Reshape { input: past, target, shape })?;
        let queries = graph.add(&at("queries/Add"), &Add(past, steps))?;
        let axes = graph.constant(Constant::Int64s(vec![3]))?;
        let queries = Unsqueeze { input: queries, axes, place: Place::End };
        Ok((keys, graph.add(&at("queries/Unsqueeze"), &queries)?))
    }

    /// The bias of a layer with these blocks.
    pub(super) fn block_bias_of(&self, blocks: BlockSparsity, num_heads: usize, path: &str) -> Result<Value> {
        let made = self.block_biases.iter().find(|(key, _)| *key == (blocks, num_heads));
        made.map(|(_, bias)| *bias).ok_or_else(|| Error::graph(path, "the bias of the blocks was not made"))
    }
}
