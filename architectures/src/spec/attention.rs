//! Attention: heads, positions, windows.

use super::{Linear, Norm, RopeId};

/// Grouped-query attention; `num_heads == num_kv_heads` is multi-head attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// `[num_heads * head_dim, hidden_size]`
    pub q: Linear,
    pub key_value: KeyValue,
    /// `[hidden_size, num_heads * head_dim]`
    pub o: Linear,
    /// Bound on the absolute values of q, k and v, right after the linears.
    pub clip_qkv: Option<f32>,
    pub q_norm: Option<HeadNorm>,
    /// None where keys are another layer's, as [`Attention::v_norm`] is.
    pub k_norm: Option<HeadNorm>,
    pub v_norm: Option<HeadNorm>,
    /// Whether the norms of q and k come before the rotation or after it.
    pub norm_order: NormOrder,
    pub position: Position,
    /// Factor on q that grows with the position.
    pub query_scaling: Option<QueryScaling>,
    /// Factor on `q · k` before the softmax.
    pub scale: f32,
    /// `cap * tanh(score / cap)` on the scores, before masking.
    pub softcap: Option<f32>,
    /// A position sees itself and the `window - 1` positions before it; `None` sees all that precede.
    pub window: Option<usize>,
    /// Of these positions, those in some blocks alone.
    pub blocks: Option<BlockSparsity>,
}

/// Which blocks of positions a head sees: position `p` stands in block `p / size`, counted from the start of the
/// sequence. A position sees its own block and the `local - 1` blocks before it; of the blocks further back, head `h`
/// sees block `b` where `b + h * head_step + 1` is a multiple of `stride`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockSparsity {
    /// Positions of a block, at least 1.
    pub size: usize,
    /// At least 1.
    pub local: usize,
    /// At least 1, where 1 is to see all blocks.
    pub stride: usize,
    /// By how many blocks the pattern of a head lies before that of the head before it; zero is one pattern for all.
    pub head_step: usize,
}

/// Where keys and values come from; each linear is `[num_kv_heads * head_dim, hidden_size]`.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyValue {
    /// A linear for each.
    Own { k: Linear, v: Linear },
    /// One linear for both: keys are normed and rotated, values are not rotated and have a norm of their own.
    Same(Linear),
    /// They are those of an earlier layer, this one's index, as they stand in its cache: normed and rotated. That layer
    /// has the same `num_kv_heads`, `head_dim` and position, and its own keys and values.
    OfLayer(usize),
}

/// How attention learns where a token stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    Rope(RopeId),
    /// Scores fall linearly with the distance.
    Alibi(Alibi),
    /// Not at all, or from the embedding.
    None,
}

/// Head `h` adds `scale * slope(h) * (key - query)` to a score, with the slopes of [`alibi_slopes`]. Since the softmax
/// sees differences alone, that is `scale * slope(h) * key`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alibi {
    pub scale: f32,
    pub rounding: AlibiRounding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlibiRounding {
    None,
    /// The slope, the position of the key and their product are each rounded to bfloat16, whatever the dtype of the
    /// rest; the position counts from the start of the sequence.
    Bfloat16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    BeforeRotation,
    AfterRotation,
}

/// The norm of queries or keys.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadNorm {
    pub norm: Norm,
    pub span: NormSpan,
}

/// Over what a head norm is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormSpan {
    /// Each head, all with one weight `[head_dim]`.
    Head,
    /// Each head with a weight of its own, `[heads, head_dim]`.
    EachHead,
    /// The same, stored as a tensor `{path}.{head}.weight` of `[head_dim]` for each head.
    EachHeadApart,
    /// All heads together, weight `[heads * head_dim]`.
    Whole,
}

/// q at position `p` is multiplied by `1 + beta * ln(1 + floor(p / context))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScaling {
    pub beta: f32,
    pub context: usize,
}

impl Attention {
    /// Gives the layer linears of its own for queries, keys and values.
    pub(crate) fn set_qkv(&mut self, [q, k, v]: [Linear; 3]) {
        self.q = q;
        self.key_value = KeyValue::Own { k, v };
    }

    pub(super) fn num_parameters(&self) -> u64 {
        let linears = self.key_value.linears().into_iter().chain([&self.q, &self.o]);
        let kv_heads = self.num_kv_heads;
        let norms = [(&self.q_norm, self.num_heads), (&self.k_norm, kv_heads), (&self.v_norm, kv_heads)];
        let norms = norms.into_iter().filter_map(|(norm, heads)| {
            let norm = norm.as_ref()?;
            Some(norm.norm.num_parameters(norm.span.width(heads, self.head_dim)))
        });
        linears.map(Linear::num_parameters).sum::<u64>() + norms.sum::<u64>()
    }
}

impl KeyValue {
    /// Whether the layer makes them itself, and so has a cache of its own.
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::OfLayer(_))
    }

    /// The linears of the layer's own, keys first.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Own { k, v } => vec![k, v],
            Self::Same(linear) => vec![linear],
            Self::OfLayer(_) => Vec::new(),
        }
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Own { k, v } => vec![k, v],
            Self::Same(linear) => vec![linear],
            Self::OfLayer(_) => Vec::new(),
        }
    }
}

impl NormSpan {
    /// Elements of the weight of a norm over `heads` heads.
    pub fn width(self, heads: usize, head_dim: usize) -> usize {
        match self {
            Self::Head => head_dim,
            Self::EachHead | Self::EachHeadApart | Self::Whole => heads * head_dim,
        }
    }
}

impl HeadNorm {
    /// The tensors that make up the weight over `heads` heads, one after another, with their shapes.
    pub fn weights(&self, heads: usize, head_dim: usize) -> Vec<(String, Vec<usize>)> {
        self.tensors("weight", heads, head_dim)
    }

    /// The same for the bias, where [`Norm::bias`] is true.
    pub fn biases(&self, heads: usize, head_dim: usize) -> Vec<(String, Vec<usize>)> {
        self.tensors("bias", heads, head_dim)
    }

    fn tensors(&self, part: &str, heads: usize, head_dim: usize) -> Vec<(String, Vec<usize>)> {
        let path = &self.norm.path;
        let one = |shape| vec![(format!("{path}.{part}"), shape)];
        match self.span {
            NormSpan::Head => one(vec![head_dim]),
            NormSpan::EachHead => one(vec![heads, head_dim]),
            NormSpan::EachHeadApart => {
                (0..heads).map(|head| (format!("{path}.{head}.{part}"), vec![head_dim])).collect()
            }
            NormSpan::Whole => one(vec![heads * head_dim]),
        }
    }
}

/// The slope of each head, by the rule of the ALiBi paper: powers of `2^(-8/n)` for `n` heads, and for a count that is
/// no power of two those of the next lower power, followed by every other one of the next higher.
pub fn alibi_slopes(num_heads: usize) -> Vec<f32> {
    let powers = |count: usize| (1..=count).map(move |i| libm::pow(2.0, -8.0 * i as f64 / count as f64) as f32);
    let lower = if num_heads.is_power_of_two() { num_heads } else { num_heads.next_power_of_two() / 2 };
    powers(lower).chain(powers(2 * lower).step_by(2)).take(num_heads).collect()
}

impl Alibi {
    /// As in the paper.
    pub const PLAIN: Self = Self { scale: 1.0, rounding: AlibiRounding::None };
}
