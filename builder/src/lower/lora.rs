//! Low-rank updates of linears: `x · Wᵀ + scale · (x · Aᵀ) · Bᵀ`.
//!
//! ```text
//! x ─► MatMul, as without ──────────────► lora/Add ─►
//!  └─► lora_A/MatMul ─► lora_B/MatMul ───────┘
//! ```
//!
//! A node that has the weights of several modules gets their A's side by side and their B's as blocks along a diagonal,
//! zeros beside them, so that packed weights stay packed. Modules of one fused tensor have one A between them; where
//! they are nodes of their own, as gate and up, `x · Aᵀ` is computed once. A and B are in the dtype of activations, B
//! with the scale in it; they are not quantized.
//!
//! Where adapters can be swapped, A and B are optional inputs of the graph with zeros of rank 1 as defaults: of rank 0
//! they would do for the CPU, but a tensor without elements is not what every provider takes.

use std::collections::{BTreeMap, BTreeSet};

use genai_architectures::{DecoderSpec, Linear, LmHead, View};
use genai_checkpoint::{Adapter, LowRankUpdate};

use super::{Lowering, linear::dotted};
use crate::{
    Adaptation, Error, Result,
    adapter_file::{AdapterFile, Parameter},
    graph::{
        Dim, Fact, Value,
        ops::{Add, MatMul},
    },
    plan::{Factor, FactorSource, Job, Rows, Segment, Sink, Source},
};

/// What adapters add to the linears of a model.
#[derive(Default)]
pub(super) struct Updates {
    adapters: Vec<Named>,
    applied: BTreeSet<String>,
    /// `x · Aᵀ`, by `x` and the modules whose A's these are.
    inner: BTreeMap<(Value, Vec<String>), Value>,
    /// Slots of zeros, by their length.
    zeros: BTreeMap<usize, usize>,
    ranks: usize,
}

struct Named {
    name: String,
    /// By the path that the spec gives the module.
    updates: BTreeMap<String, LowRankUpdate>,
    /// Of the adapter's own file.
    parameters: Vec<Parameter>,
}

/// The update of one module, in the matrices of a node.
struct Block<'a> {
    path: &'a str,
    update: LowRankUpdate,
    /// Where its ranks begin among those of the node.
    column: usize,
}

impl Updates {
    /// # Errors
    /// Two updates of one module.
    pub(super) fn of(spec: &DecoderSpec, adapters: &[Adapter]) -> Result<Self> {
        let named = adapters.iter().map(|adapter| {
            let mut updates = BTreeMap::new();
            for (module, update) in adapter.updates() {
                let renamed = spec.name_of(&format!("{module}.weight"));
                let renamed = renamed.as_deref().and_then(|name| name.strip_suffix(".weight"));
                if updates.insert(renamed.unwrap_or(module).to_owned(), update.clone()).is_some() {
                    let problem = format!("adapter {:?} changes module {module:?} twice, by two names", adapter.name());
                    return Err(Error::Tensors { problems: vec![problem] });
                }
            }
            Ok(Named { name: adapter.name().to_owned(), updates, parameters: Vec::new() })
        });
        Ok(Self { adapters: named.collect::<Result<_>>()?, ..Self::default() })
    }

    /// The modules of a node that some adapter changes, each once.
    fn touched<'m>(&self, modules: &[&'m Linear]) -> Vec<&'m str> {
        let mut touched: Vec<&str> = Vec::new();
        for module in modules {
            let changes = self.adapters.iter().any(|adapter| adapter.updates.contains_key(&module.path));
            if changes && !touched.contains(&module.path.as_str()) {
                touched.push(&module.path);
            }
        }
        touched
    }

    /// The updates of an adapter to these modules.
    fn blocks<'m>(&self, adapter: usize, touched: &[&'m str]) -> Vec<Block<'m>> {
        let mut column = 0;
        let mut block = |path: &&'m str| {
            let update = self.adapters[adapter].updates.get(*path)?.clone();
            let start = column;
            column += update.rank;
            Some(Block { path, update, column: start })
        };
        touched.iter().filter_map(&mut block).collect()
    }

    /// The files of swappable adapters.
    ///
    /// # Errors
    /// Every module that an adapter changes and the model lacks.
    pub(super) fn files(self, spec: &DecoderSpec, dtype: crate::graph::Dtype) -> Result<Vec<AdapterFile>> {
        let mut problems = Vec::new();
        for Named { name, updates, .. } in &self.adapters {
            for path in updates.keys().filter(|path| !self.applied.contains(*path)) {
                let tied = matches!(spec.lm_head, LmHead::Tied)
                    && spec.copies.iter().any(|(copy, _)| copy.strip_suffix(".weight") == Some(path));
                problems.push(if tied {
                    format!(
                        "adapter {name:?} changes {path:?}, which is the embedding table of this model: not supported"
                    )
                } else {
                    format!("adapter {name:?} changes {path:?}, which is no linear of this model")
                });
            }
        }
        if !problems.is_empty() {
            return Err(Error::Tensors { problems });
        }
        let files = self.adapters.into_iter().filter(|adapter| !adapter.parameters.is_empty());
        files.map(|adapter| AdapterFile::new(&adapter.name, dtype, adapter.parameters)).collect()
    }
}

impl Lowering<'_> {
    /// `product`, which these modules made of `input`, with what adapters add to it.
    pub(super) fn updated(&mut self, path: &str, product: Value, input: Value, modules: &[&Linear]) -> Result<Value> {
        let touched = self.updates.touched(modules);
        if touched.is_empty() {
            return Ok(product);
        }
        let k = modules.first().map_or(0, |module| module.in_features);
        let (a, b) = match self.settings.adaptation {
            Adaptation::BakedIn => self.baked_in(path, input, modules, &touched, k)?,
            Adaptation::Swappable => self.swappable(path, input, modules, &touched, k)?,
        };
        self.updates.applied.extend(touched.iter().map(|path| (*path).to_owned()));
        let outer = self.graph.add(&format!("{path}/lora_B/MatMul"), &MatMul { a, b })?;
        self.graph.add(&format!("{path}/lora/Add"), &Add(product, outer))
    }

    /// `x · Aᵀ` and Bᵀ, in the data file.
    fn baked_in(
        &mut self,
        path: &str,
        input: Value,
        modules: &[&Linear],
        touched: &[&str],
        k: usize,
    ) -> Result<(Value, Value)> {
        if self.updates.adapters.len() > 1 {
            return Err(Error::Unsupported {
                what: "several adapters baked into one package".to_owned(),
                hint: "--adapter NAME=DIR, repeated, makes files of them that a session can be given".to_owned(),
            });
        }
        let blocks = self.updates.blocks(0, touched);
        let rank: usize = blocks.iter().map(|block| block.update.rank).sum();
        let key = (input, touched.iter().map(|path| (*path).to_owned()).collect());
        let inner = match self.updates.inner.get(&key) {
            Some(inner) => *inner,
            None => {
                let segments = self.first_factors(&blocks, k);
                let inner = self.float_matmul(&format!("{path}/lora_A"), input, segments, k)?;
                self.updates.inner.insert(key, inner);
                inner
            }
        };
        let n: usize = modules.iter().map(|module| module.out_features).sum();
        let rows = self.second_factors(modules, &blocks);
        let name = format!("{}.lora_B.MatMul.weight", dotted(path));
        let (b, slot) = self.stored(&name, self.dtype, &[rank, n])?;
        self.count(n * rank, n * rank * self.dtype.bytes() as usize);
        self.jobs.push(Job { rows, n, k: rank, sink: Sink::Transposed { slot, dtype: self.dtype } });
        Ok((inner, b))
    }

    /// The same as optional inputs, whose values are noted for the adapters' own files.
    fn swappable(
        &mut self,
        path: &str,
        input: Value,
        modules: &[&Linear],
        touched: &[&str],
        k: usize,
    ) -> Result<(Value, Value)> {
        let n: usize = modules.iter().map(|module| module.out_features).sum();
        let name = |factor: &str| format!("{}.{factor}.MatMul.weight", dotted(path));
        let key = (input, touched.iter().map(|path| (*path).to_owned()).collect());
        let known = self.updates.inner.get(&key).copied();
        for index in 0..self.updates.adapters.len() {
            let blocks = self.updates.blocks(index, touched);
            let rank: usize = blocks.iter().map(|block| block.update.rank).sum();
            if blocks.is_empty() {
                continue;
            }
            if known.is_none() {
                let rows = Rows::Checkpoint { segments: self.first_factors(&blocks, k), plus: 0.0 };
                let parameter = Parameter { name: name("lora_A"), rows, n: rank, k };
                self.updates.adapters[index].parameters.push(parameter);
            }
            let rows = self.second_factors(modules, &blocks);
            let parameter = Parameter { name: name("lora_B"), rows, n, k: rank };
            self.updates.adapters[index].parameters.push(parameter);
        }
        let inner = match known {
            Some(inner) => inner,
            None => {
                let rank = Dim::Numbered("lora_rank", self.updates.ranks);
                self.updates.ranks += 1;
                let a = self.optional(&name("lora_A"), [Dim::Known(k as u64), rank], [k, 1])?;
                let inner = self.graph.add(&format!("{path}/lora_A/MatMul"), &MatMul { a: input, b: a })?;
                self.updates.inner.insert(key, inner);
                inner
            }
        };
        let rank = self.graph.fact(inner).last().cloned().unwrap_or(Dim::Known(0));
        let b = self.optional(&name("lora_B"), [rank, Dim::Known(n as u64)], [1, n])?;
        Ok((inner, b))
    }

    /// An optional input whose default is zeros of the shape `dims`.
    fn optional(&mut self, name: &str, shape: [Dim; 2], dims: [usize; 2]) -> Result<Value> {
        let count = dims[0] * dims[1];
        let slot = match self.updates.zeros.get(&count) {
            Some(slot) => *slot,
            None => {
                let slot = self.layout.reserve(count as u64 * self.dtype.bytes());
                let segments = vec![Segment { source: Source::Constant(0.0), rows: count }];
                let sink = Sink::Dense { slot, dtype: self.dtype };
                self.jobs.push(Job { rows: Rows::Checkpoint { segments, plus: 0.0 }, n: count, k: 1, sink });
                self.updates.zeros.insert(count, slot);
                slot
            }
        };
        let fact = Fact::new(self.dtype, shape.to_vec());
        self.graph.optional_input(name, fact, &dims.map(|dim| dim as u64), slot)
    }

    /// The A's of a node, `[rank, in]` each, noted as taken.
    fn first_factors(&mut self, blocks: &[Block], k: usize) -> Vec<Segment> {
        let segment = |Block { update: LowRankUpdate { a, rank, .. }, .. }: &Block| {
            self.tensors.whole(a, &[*rank, k]);
            Segment { source: Source::Rows { tensor: a.clone(), first: 0 }, rows: *rank }
        };
        blocks.iter().map(segment).collect()
    }

    /// The rows of the B's that these modules take, noted as taken.
    fn second_factors(&mut self, modules: &[&Linear], blocks: &[Block]) -> Rows {
        let mut factors = Vec::new();
        for module in modules {
            let Some(block) = blocks.iter().find(|block| block.path == module.path) else {
                factors.push(Factor { rows: module.out_features, source: None });
                continue;
            };
            let LowRankUpdate { rank, scale, b, .. } = &block.update;
            let outputs = match module.view {
                View::Whole => module.out_features,
                View::Rows { total, .. } | View::Columns { total, .. } => total,
            };
            self.tensors.part(b, &[outputs, *rank], 0, module.ranges());
            factors.extend(module.ranges().into_iter().map(|range| Factor {
                rows: range.len(),
                source: Some(FactorSource {
                    tensor: b.clone(),
                    first: range.start,
                    rank: *rank,
                    column: block.column,
                    scale: *scale,
                }),
            }));
        }
        Rows::Factors(factors)
    }
}
