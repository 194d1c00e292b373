//! Hidden states that leave the graph, and those that the head reads.

use std::collections::BTreeMap;

use super::{Lowering, mask::RowLengths, norm::Stream, standard_attention::Places};
use crate::{
    Error, Result,
    graph::{
        Constant, Dim, Dtype, Value,
        ops::{ArgMax, Cast, Concat, Gather, GatherNd, Max, Min, Reshape, Shape, Sub},
    },
};

const PRUNE: &str = "/lm_head/prune";
const AUX: &str = "/model/aux_hidden_states";

impl Lowering<'_> {
    /// `[batch, 1, hidden]`: the hidden state of each row's last token, which need not be in the last column.
    pub(super) fn last_rows(&mut self, hidden: Value, lengths: &RowLengths) -> Result<Value> {
        let at = |part: &str| format!("{PRUNE}/{part}");
        let graph = &mut self.graph;
        let one = graph.constant(Constant::Int64(1))?;
        let shape = graph.add(&at("Shape"), &Shape(hidden))?;
        let columns = graph.add(&at("Gather"), &Gather { data: shape, indices: one })?;
        let indices = match lengths.places {
            Some(places) => self.last_by_mask(places, columns, lengths)?,
            None => self.last_by_length(columns, lengths)?,
        };
        self.graph.add(&at("GatherND"), &GatherNd { data: hidden, indices })
    }

    /// `[batch, 1, 1]`, where rows are padded on the right, as the fused attention demands.
    ///
    /// A row has `seqlens_k + 1` tokens with its past, and only rows without a past, or of one new token, are run
    /// together: the smaller of that and the new columns is the count of its new tokens. The mask's own columns tell
    /// less, for there may be as many as the cache has room.
    fn last_by_length(&mut self, columns: Value, lengths: &RowLengths) -> Result<Value> {
        let at = |part: &str| format!("{PRUNE}/{part}");
        let graph = &mut self.graph;
        let one = graph.constant(Constant::Int64(1))?;
        let last = graph.add(&at("Cast"), &Cast { input: lengths.seqlens_k, to: Dtype::I64 })?;
        let last_column = graph.add(&at("Sub"), &Sub(columns, one))?;
        let last = graph.add(&at("Min"), &Min(last, last_column))?;
        let target = graph.constant(Constant::Int64s(vec![-1, 1, 1]))?;
        let shape = vec![Dim::Symbol("batch_size"), Dim::Known(1), Dim::Known(1)];
        graph.add(&at("Reshape"), &Reshape { input: last, target, shape })
    }

    /// `[batch, 1, 1]`, wherever rows are padded: the first column at which all tokens of a row are counted.
    fn last_by_mask(&mut self, places: Places, columns: Value, lengths: &RowLengths) -> Result<Value> {
        let at = |part: &str| format!("{PRUNE}/{part}");
        let graph = &mut self.graph;
        let last = graph.add(&at("ArgMax"), &ArgMax(places.keys))?;
        let total = graph.add(&at("Cast"), &Cast { input: lengths.total_sequence_length, to: Dtype::I64 })?;
        let past = graph.add(&at("past/Sub"), &Sub(total, columns))?;
        let last = graph.add(&at("Sub"), &Sub(last, past))?;
        let zero = graph.constant(Constant::Int64(0))?;
        graph.add(&at("Max"), &Max(last, zero))
    }

    /// The residual before a layer, in the dtype of activations. Added up for the output alone: the layer's own norm
    /// reads what it reads without it.
    pub(super) fn entering(&mut self, layer: usize, stream: Stream) -> Result<Value> {
        let path = format!("{AUX}/{layer}");
        let residual = self.sum(stream, &path)?;
        self.in_activation_dtype(&path, residual)
    }

    /// The output of the residuals that were asked for, in the order in which they were.
    pub(super) fn aux_hidden_states(&mut self, entering: &BTreeMap<usize, Value>) -> Result<()> {
        let layers = &self.settings.interface.aux_hidden_states;
        if layers.is_empty() {
            return Ok(());
        }
        let value = |layer: &usize| {
            let value = entering.get(layer).copied();
            value.ok_or_else(|| Error::graph(AUX, format!("no residual enters layer {layer}")))
        };
        let inputs = layers.iter().map(value).collect::<Result<_>>()?;
        let joined = self.graph.add(&format!("{AUX}/Concat"), &Concat { inputs, axis: 2, total: None })?;
        self.graph.output(joined, "aux_hidden_states")
    }
}
