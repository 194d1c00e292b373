//! The two ends of the model: token ids to hidden states, hidden states to logits.
//!
//! Where the head shares the table, the bytes are stored once:
//!
//! ```text
//! float      table [vocab, hidden] ─► Gather ─► …  ─► FusedMatMul (transB) ─► logits
//! quantized  codes as [vocab, bytes] ─► GatherBlockQuantized ─► (Slice) ─► …
//!            the same bytes as [vocab, blocks, block bytes] ─► MatMulNBits ─► logits
//! ```

use genai_architectures::LmHead;

use super::{Lowering, linear::QuantizedMatrix};
use crate::{
    Result, Role,
    graph::{
        Constant, Dtype, Value,
        ops::{Cast, FusedMatMul, Gather, GatherBlockQuantized, Slice},
    },
    plan::{Job, Rows, Segment, Sink},
};

const HEAD: &str = "/lm_head";
const EMBEDDING: &str = "/model/embed_tokens";

/// The embedding table as it stands in the graph.
pub(super) enum Table {
    Float(Value),
    Quantized(QuantizedMatrix),
}

impl Lowering<'_> {
    /// Hidden states `[batch, sequence, hidden]` of the input ids, and the table they came from.
    pub(super) fn embed(&mut self, input_ids: Value) -> Result<(Value, Table)> {
        let spec = self.spec;
        let (n, k) = (spec.vocab_size, spec.hidden_size);
        let tensor = spec.embedding.weight();
        self.require(&tensor, &[n, k])?;
        let segments = vec![Segment { tensor: Some(tensor), rows: n }];
        let shared_scheme = match &spec.lm_head {
            LmHead::Tied => self.settings.recipe.scheme(Role::LmHead),
            LmHead::Own(_) => None,
        };
        if let Some(scheme) = shared_scheme {
            let matrix = self.quantized(HEAD, segments, k, scheme)?;
            let embedded = self.gather_quantized(input_ids, &matrix)?;
            return Ok((embedded, Table::Quantized(matrix)));
        }
        let (table, slot) = self.stored("model.embed_tokens.weight", self.dtype, &[n, k])?;
        self.count(n * k, n * k * self.dtype.bytes() as usize);
        let sink = Sink::Dense { slot, dtype: self.dtype };
        self.jobs.push(Job { rows: Rows::Checkpoint(segments), n, k, sink });
        let embedded = self.graph.add(&format!("{EMBEDDING}/Gather"), &Gather { data: table, indices: input_ids })?;
        Ok((embedded, Table::Float(table)))
    }

    /// Rows of the head's matrix, through a second view of its bytes.
    fn gather_quantized(&mut self, input_ids: Value, matrix: &QuantizedMatrix) -> Result<Value> {
        let scheme = matrix.scheme;
        let dims = [matrix.n as u64, scheme.code_bytes_per_row(matrix.k) as u64];
        let name = format!("model.embed_tokens.weight_Q{}", scheme.bits());
        let data = self.graph.initializer(&name, Dtype::U8, &dims, matrix.codes_slot)?;
        let op = GatherBlockQuantized {
            data,
            indices: input_ids,
            scales: matrix.scales,
            zero_points: matrix.zero_points,
            scheme,
        };
        let rows = self.graph.add(&format!("{EMBEDDING}/Gather_Q{}", scheme.bits()), &op)?;
        if matrix.k.is_multiple_of(scheme.block_size()) {
            return Ok(rows);
        }
        // Rows come in whole blocks; the last one is wider than the hidden state.
        let starts = self.graph.constant(Constant::Int64s(vec![0]))?;
        let ends = self.graph.constant(Constant::Int64s(vec![matrix.k as i64]))?;
        let axes = self.graph.constant(Constant::Int64s(vec![2]))?;
        let slice = Slice { data: rows, starts, ends, axes, size: matrix.k as u64 };
        self.graph.add(&format!("{EMBEDDING}/Slice"), &slice)
    }

    /// Logits `[batch, sequence, vocab]`, in f32 where activations are bf16, which clients cannot read.
    pub(super) fn head(&mut self, hidden: Value, table: &Table) -> Result<Value> {
        let spec = self.spec;
        let logits = match (&spec.lm_head, table) {
            (LmHead::Own(linear), _) => self.linear(HEAD, Role::LmHead, hidden, &[linear])?,
            (LmHead::Tied, Table::Quantized(matrix)) => self.quantized_matmul(HEAD, hidden, matrix)?,
            (LmHead::Tied, Table::Float(table)) => {
                self.graph.add(&format!("{HEAD}/MatMul"), &FusedMatMul { a: hidden, b: *table })?
            }
        };
        match self.dtype {
            Dtype::Bf16 => self.graph.add(&format!("{HEAD}/Cast"), &Cast { input: logits, to: Dtype::F32 }),
            _ => Ok(logits),
        }
    }
}
