//! The two ends of the model: token ids to hidden states, hidden states to logits. Either may be left out.
//!
//! Where the head shares the table and both are to be stored alike, the bytes are stored once:
//!
//! ```text
//! float      table [vocab, hidden] ─► Gather ─► …  ─► FusedMatMul (transB) ─► logits
//! quantized  codes as [vocab, bytes] ─► GatherBlockQuantized ─► (Slice) ─► …
//!            the same bytes as [vocab, blocks, block bytes] ─► MatMulNBits ─► logits
//! ```

use genai_architectures::{LearnedPositions, LmHead};
use genai_quantize::IntScheme;

use super::{Lowering, linear::QuantizedMatrix};
use crate::{
    Error, Logits, Result, Role,
    graph::{
        Dtype, Value,
        ops::{Add, Cast, Div, FusedMatMul, Gather, GatherBlockQuantized, MatMul, Min, Mul, Tanh, Transpose},
    },
    plan::{Job, Rows, Segment, Sink, Source},
    target::OperatorForm,
};

const HEAD: &str = "/lm_head";
const EMBEDDING: &str = "/model/embed_tokens";

/// The greatest finite f16.
const F16_MAX: f32 = 65504.0;

/// What the head has of the embedding table.
pub(super) enum Table {
    Float(Value),
    Quantized(QuantizedMatrix),
    /// Nothing: it has a matrix of its own, in this scheme where it is made of the same tensor.
    Apart(Option<IntScheme>),
}

/// How the embedding table is stored.
struct Storage {
    table: Option<IntScheme>,
    head: Option<IntScheme>,
    shared: bool,
}

impl Lowering<'_> {
    /// Hidden states `[batch, sequence, hidden]` of the `tokens`, which are ids or rows of the table with its factor on
    /// them, and what the head has of the table.
    pub(super) fn embed(&mut self, tokens: Value) -> Result<(Value, Table)> {
        let (mut hidden, table) = match self.settings.interface.inputs_embeds {
            true => (tokens, self.table_of_the_head()?),
            false => self.token_rows(tokens)?,
        };
        let embedding = &self.spec.embedding;
        if let (Some(scale), false) = (embedding.scale, self.settings.interface.inputs_embeds) {
            let scale = self.scalar(scale)?;
            hidden = self.graph.add(&format!("{EMBEDDING}/Mul"), &Mul(hidden, scale))?;
        }
        if let Some(positions) = &embedding.positions {
            let rows = self.position_rows(positions)?;
            hidden = self.graph.add(&format!("{EMBEDDING}/Add"), &Add(hidden, rows))?;
        }
        if let Some(norm) = &embedding.norm {
            hidden = self.plain_norm(hidden, norm, "/model/embed_layernorm")?;
        }
        Ok((self.cast(&format!("{EMBEDDING}/residual"), hidden, self.stream_dtype())?, table))
    }

    fn position_rows(&mut self, positions: &LearnedPositions) -> Result<Value> {
        const PATH: &str = "/model/embed_positions";
        let dims = [positions.rows, self.spec.hidden_size];
        let table = self.parameter("model.embed_positions.weight", positions.weight(), &dims, 0.0)?;
        let mut indices = self.positions()?;
        if positions.offset > 0 {
            let offset = self.whole_number(positions.offset as i64, indices)?;
            indices = self.graph.add(&format!("{PATH}/Add"), &Add(indices, offset))?;
        }
        self.graph.add(&format!("{PATH}/Gather"), &Gather { data: table, indices })
    }

    /// The table where nothing looks up rows in it: the head's alone, if it is that.
    fn table_of_the_head(&mut self) -> Result<Table> {
        self.check_sharing("embedding")?;
        if !self.has_tied_head() {
            return Ok(Table::Apart(None));
        }
        self.tensors.whole(&self.spec.embedding.weight(), &[self.spec.vocab_size, self.spec.hidden_size]);
        Ok(Table::Apart(self.scheme(&format!("{HEAD}/MatMul"), Role::LmHead)))
    }

    fn has_tied_head(&self) -> bool {
        matches!(self.spec.lm_head, LmHead::Tied) && self.settings.interface.logits != Logits::None
    }

    /// # Errors
    /// `Unsupported` where the package lacks an end that it is to share a table with.
    fn check_sharing(&self, lacking: &str) -> Result<()> {
        if self.settings.recipe.shared_embeddings() != Some(true) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("shared_embeddings is true, but the package is to have no {lacking}"),
            hint: "leave shared_embeddings out".to_owned(),
        })
    }

    fn token_rows(&mut self, input_ids: Value) -> Result<(Value, Table)> {
        let spec = self.spec;
        let (n, k) = (spec.vocab_size, spec.hidden_size);
        let tensor = spec.embedding.weight();
        self.tensors.whole(&tensor, &[n, k]);
        let segments = vec![Segment { source: Source::Rows { tensor, first: 0 }, rows: n }];
        let Storage { table, head, shared } = self.embedding_storage()?;
        if let Some(scheme) = table {
            if !shared {
                let row = [scheme.code_bytes_per_row(k)];
                let matrix = self.quantized_as("model.embed_tokens.weight", segments, k, scheme, &row)?;
                let embedded = self.gather_quantized(EMBEDDING, input_ids, matrix.codes, &matrix)?;
                return Ok((embedded, Table::Apart(head)));
            }
            let matrix = self.quantized(HEAD, segments, k, scheme)?;
            // The rows are a second view of the head's bytes.
            let dims = [n as u64, scheme.code_bytes_per_row(k) as u64];
            let name = format!("model.embed_tokens.weight_Q{}", scheme.bits());
            let rows = self.graph.initializer(&name, Dtype::U8, &dims, matrix.codes_slot)?;
            let embedded = self.gather_quantized(EMBEDDING, input_ids, rows, &matrix)?;
            return Ok((embedded, Table::Quantized(matrix)));
        }
        let (table, slot) = self.stored("model.embed_tokens.weight", self.dtype, &[n, k])?;
        self.count(n * k, n * k * self.dtype.bytes() as usize);
        let sink = Sink::Dense { slot, dtype: self.dtype };
        self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n, k, sink });
        let embedded = self.graph.add(&format!("{EMBEDDING}/Gather"), &Gather { data: table, indices: input_ids })?;
        Ok((embedded, if shared { Table::Float(table) } else { Table::Apart(head) }))
    }

    /// A table that the head shares is stored as the head is, unless it is excluded by itself. Standard operators have
    /// none that looks up rows of integers, so with them a quantized head is stored apart from the table.
    fn embedding_storage(&mut self) -> Result<Storage> {
        let lookup = format!("{EMBEDDING}/Gather");
        let asked = self.settings.recipe.shared_embeddings();
        let own = self.scheme(&lookup, Role::EmbeddingTable);
        if self.settings.interface.logits == Logits::None {
            self.check_sharing("head")?;
            return Ok(Storage { table: own, head: None, shared: false });
        }
        match &self.spec.lm_head {
            LmHead::Own(_) if asked == Some(true) => Err(Error::Unsupported {
                what: "shared_embeddings is true, but the head of this model has weights of its own".to_owned(),
                hint: "leave shared_embeddings out: it follows the model's tie_word_embeddings".to_owned(),
            }),
            LmHead::Own(_) => Ok(Storage { table: own, head: None, shared: false }),
            LmHead::Tied => {
                let head = self.scheme(&format!("{HEAD}/MatMul"), Role::LmHead);
                if asked == Some(false) {
                    return Ok(Storage { table: own, head, shared: false });
                }
                let follows = head.is_some() && self.looks_up_integers() && !self.keeps(&lookup, Role::EmbeddingTable);
                let table = if follows { head } else { own };
                if asked == Some(true) && table != head {
                    return Err(Error::Unsupported {
                        what: "shared_embeddings is true, but only one of the head and the embedding table is to be \
                               quantized"
                            .to_owned(),
                        hint: if self.looks_up_integers() {
                            format!("exclude both of {HEAD}/MatMul and {lookup}, or none")
                        } else {
                            format!("standard operators look up float rows alone; exclude {HEAD}/MatMul")
                        },
                    });
                }
                Ok(Storage { table, head, shared: table == head })
            }
        }
    }

    /// Rows of a matrix whose codes are `data`, `[n, bytes of a row]`.
    pub(super) fn gather_quantized(
        &mut self,
        path: &str,
        input_ids: Value,
        data: Value,
        matrix: &QuantizedMatrix,
    ) -> Result<Value> {
        let scheme = matrix.scheme;
        let op = GatherBlockQuantized {
            data,
            indices: input_ids,
            scales: matrix.scales,
            zero_points: matrix.zero_points,
            scheme,
        };
        let rows = self.graph.add(&format!("{path}/Gather_Q{}", scheme.bits()), &op)?;
        if matrix.k.is_multiple_of(scheme.block_size()) {
            return Ok(rows);
        }
        // Rows come in whole blocks; the last one is wider than the hidden state.
        self.stretch(&format!("{path}/Slice"), rows, 2, 0..matrix.k)
    }

    /// Logits `[batch, sequence, vocab]`, in f32 where activations are bf16, which clients cannot read.
    pub(super) fn head(&mut self, hidden: Value, table: &Table) -> Result<Value> {
        let spec = self.spec;
        let logits = match (&spec.lm_head, table) {
            (LmHead::Own(linear), _) => self.linear(HEAD, Role::LmHead, hidden, &[linear])?,
            (LmHead::Tied, Table::Apart(scheme)) => {
                let source = Source::Rows { tensor: spec.embedding.weight(), first: 0 };
                let segments = vec![Segment { source, rows: spec.vocab_size }];
                self.product(HEAD, hidden, segments, spec.hidden_size, *scheme)?
            }
            (LmHead::Tied, Table::Quantized(matrix)) => self.quantized_matmul(HEAD, hidden, matrix)?,
            (LmHead::Tied, Table::Float(table)) => self.tied_head(hidden, *table)?,
        };
        let logits = self.transformed(logits)?;
        let logits = match self.dtype {
            Dtype::Bf16 => self.graph.add(&format!("{HEAD}/Cast"), &Cast { input: logits, to: Dtype::F32 })?,
            _ => logits,
        };
        if spec.masked_tokens.is_empty() { Ok(logits) } else { self.masked(logits) }
    }

    /// The product with the table, `[vocab, hidden]`.
    fn tied_head(&mut self, hidden: Value, table: Value) -> Result<Value> {
        match self.settings.form.tied_head {
            OperatorForm::Fused => self.graph.add(&format!("{HEAD}/MatMul"), &FusedMatMul { a: hidden, b: table }),
            OperatorForm::Standard => {
                let weight = Transpose { input: table, order: vec![1, 0] };
                let weight = self.graph.add(&format!("{HEAD}/Transpose"), &weight)?;
                self.graph.add(&format!("{HEAD}/MatMul"), &MatMul { a: hidden, b: weight })
            }
        }
    }

    /// Logits with the lowest finite number for the tokens that the model never gives.
    fn masked(&mut self, logits: Value) -> Result<Value> {
        let dtype = self.graph.fact(logits).dtype;
        let greatest = if dtype == Dtype::F16 { F16_MAX } else { f32::MAX };
        let (mut segments, mut end) = (Vec::new(), 0);
        let mut run = |value: f32, rows: usize| segments.push(Segment { source: Source::Constant(value), rows });
        for tokens in &self.spec.masked_tokens {
            if tokens.start < end || tokens.end > self.spec.vocab_size {
                return Err(Error::graph(
                    HEAD,
                    format!("masked tokens {tokens:?} overlap others or the vocabulary's end"),
                ));
            }
            run(greatest, tokens.start - end);
            run(-greatest, tokens.len());
            end = tokens.end;
        }
        run(greatest, self.spec.vocab_size - end);
        let ceiling = self.filled("lm_head.Min.ceiling", segments, &[self.spec.vocab_size], 0.0, dtype)?;
        self.graph.add(&format!("{HEAD}/Min"), &Min(logits, ceiling))
    }

    /// The factor and the cap on logits.
    fn transformed(&mut self, mut logits: Value) -> Result<Value> {
        if let Some(scale) = self.spec.logit_scale {
            let scale = self.scalar(scale)?;
            logits = self.graph.add(&format!("{HEAD}/Mul"), &Mul(logits, scale))?;
        }
        if let Some(cap) = self.spec.logit_softcap {
            let cap = self.scalar(cap)?;
            let path = format!("{HEAD}/softcap");
            let divided = self.graph.add(&format!("{path}/Div"), &Div(logits, cap))?;
            let bent = self.graph.add(&format!("{path}/Tanh"), &Tanh(divided))?;
            logits = self.graph.add(&format!("{path}/Mul"), &Mul(bent, cap))?;
        }
        Ok(logits)
    }
}
