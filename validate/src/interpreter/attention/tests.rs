use genai_architectures::{Alibi, Mixer, Norm, NormKind, NormSpan, NormWeight};

use super::*;
use crate::interpreter::synthetic::{self, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, Synthetic};

type Rows = Vec<Vec<f64>>;

const LENGTH: usize = 7;

/// The attention of the synthetic layer, without head norms.
fn bare() -> Attention {
    let Mixer::Attention(attention) = synthetic::spec(None).layers.remove(0).mixer;
    Attention { q_norm: None, k_norm: None, position: Position::None, ..attention }
}

/// Two sequences of [`LENGTH`] rows: the second must not see the first.
fn hidden() -> Matrix {
    let values = Synthetic::tensor("hidden", &[2 * LENGTH, HIDDEN]).iter().map(|x| *x as f32).collect();
    Matrix::new(2 * LENGTH, HIDDEN, values).unwrap()
}

fn run(attention_spec: &Attention) -> Result<Matrix> {
    let batch = Batch { ids: vec![0; 2 * LENGTH], spans: vec![0..LENGTH, LENGTH..2 * LENGTH] };
    attention(&synthetic::spec(None), &Synthetic, &batch, (0, &mut Keys::new()), attention_spec, &hidden())
}

/// The same attention over one sequence, by full score matrices in f64. What a case changes it says itself:
/// `heads(path, position, row)` for the rows of q, k and v, and `score(head, query, key, dot)` for the scores, `dot`
/// before any factor.
struct Plain<'a> {
    heads: &'a dyn Fn(&str, usize, &mut [f64]),
    score: &'a dyn Fn(usize, usize, usize, f64) -> f64,
}

const AS_THEY_ARE: Plain = Plain { heads: &|_, _, _| {}, score: &|_, _, _, dot| 0.5 * dot };

impl Plain<'_> {
    fn projected(&self, path: &str, heads: usize, hidden: &Rows) -> Rows {
        let width = heads * HEAD_DIM;
        let weight = Synthetic::tensor(&format!("{path}.weight"), &[width, HIDDEN]);
        let bias = Synthetic::tensor(&format!("{path}.bias"), &[width]);
        let row = |x: &Vec<f64>| -> Vec<f64> {
            let product = |out: usize| (0..HIDDEN).map(|i| weight[out * HIDDEN + i] * x[i]).sum::<f64>();
            (0..width).map(|out| bias[out] + product(out)).collect()
        };
        let mut rows: Rows = hidden.iter().map(row).collect();
        rows.iter_mut().enumerate().for_each(|(position, row)| (self.heads)(path, position, row));
        rows
    }

    fn run(&self, hidden: &Rows) -> Rows {
        let q = self.projected("q", HEADS, hidden);
        let k = self.projected("k", KV_HEADS, hidden);
        let v = self.projected("v", KV_HEADS, hidden);
        let o = Synthetic::tensor("o.weight", &[HIDDEN, HEADS * HEAD_DIM]);
        let mut out = vec![vec![0.0; HIDDEN]; hidden.len()];
        for head in 0..HEADS {
            let kv = head * KV_HEADS / HEADS;
            for i in 0..hidden.len() {
                let dot =
                    |j: usize| (0..HEAD_DIM).map(|d| q[i][head * HEAD_DIM + d] * k[j][kv * HEAD_DIM + d]).sum::<f64>();
                let exps: Vec<f64> = (0..=i).map(|j| (self.score)(head, i, j, dot(j)).exp()).collect();
                for d in 0..HEAD_DIM {
                    let mixed: f64 = (0..=i).map(|j| exps[j] * v[j][kv * HEAD_DIM + d]).sum();
                    let mixed = mixed / exps.iter().sum::<f64>();
                    for (to, out) in out[i].iter_mut().enumerate() {
                        *out += o[to * HEADS * HEAD_DIM + head * HEAD_DIM + d] * mixed;
                    }
                }
            }
        }
        out
    }
}

/// Whether both ways agree on both sequences; and whether the case matters, for a spec that is not [`bare`].
fn assert_same(attention_spec: &Attention, plain: &Plain) {
    let (is, hidden) = (run(attention_spec).unwrap(), hidden());
    for sequence in 0..2 {
        let rows = (0..LENGTH).map(|row| hidden.row(sequence * LENGTH + row));
        let rows: Rows = rows.map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
        for (position, expected) in plain.run(&rows).iter().enumerate() {
            for (is, expected) in is.row(sequence * LENGTH + position).iter().zip(expected) {
                assert!((f64::from(*is) - expected).abs() < 1e-5, "{sequence}, {position}: {is} and {expected}");
            }
        }
    }
    if *attention_spec != bare() {
        let unchanged = run(&bare()).unwrap();
        assert!(is.data().iter().zip(unchanged.data()).any(|(a, b)| (a - b).abs() > 1e-3), "nothing changed");
    }
}

#[test]
fn heads_without_positions_are_only_masked() {
    assert_same(&bare(), &AS_THEY_ARE);
}

#[test]
fn clipping_bounds_queries_keys_and_values() {
    let clip = |_: &str, _: usize, row: &mut [f64]| row.iter_mut().for_each(|x| *x = x.clamp(-0.75, 0.75));
    assert_same(&Attention { clip_qkv: Some(0.75), ..bare() }, &Plain { heads: &clip, ..AS_THEY_ARE });
}

#[test]
fn soft_caps_bend_scaled_scores() {
    let score = |_, _, _, dot: f64| 0.4 * (0.5 * dot / 0.4).tanh();
    assert_same(&Attention { softcap: Some(0.4), ..bare() }, &Plain { score: &score, ..AS_THEY_ARE });
}

#[test]
fn queries_grow_by_steps() {
    let query_scaling = Some(QueryScaling { beta: 3.0, context: 3 });
    let grow = |path: &str, position: usize, row: &mut [f64]| {
        // Positions 0 to 2, 3 to 5, and 6.
        let factor = 1.0 + 3.0 * [1.0f64, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0][position].ln();
        row.iter_mut().filter(|_| path == "q").for_each(|x| *x *= factor);
    };
    assert_same(&Attention { query_scaling, ..bare() }, &Plain { heads: &grow, ..AS_THEY_ARE });
}

#[test]
fn alibi_lowers_scores_with_the_distance() {
    // Four heads: 2^-2, 2^-4, 2^-6, 2^-8; added after the factor and the cap.
    let fall = |head: usize, i: usize, j: usize| [0.25, 0.0625, 0.015625, 0.00390625][head] * (i - j) as f64;
    let score = |head, i, j, dot: f64| 0.5 * dot - fall(head, i, j);
    let alibi = Attention { position: Position::Alibi(Alibi::PLAIN), ..bare() };
    assert_same(&alibi, &Plain { score: &score, ..AS_THEY_ARE });
    let score = |head, i, j, dot: f64| 2.0 * (0.5 * dot / 2.0).tanh() - fall(head, i, j);
    assert_same(&Attention { softcap: Some(2.0), ..alibi }, &Plain { score: &score, ..AS_THEY_ARE });
}

#[test]
fn alibi_is_scaled_after_it_is_rounded() {
    // Slopes and positions of the sequence are exact, so only the scale is seen here.
    let alibi = Alibi { scale: 0.5, rounding: AlibiRounding::Bfloat16 };
    let fall = |head: usize, i: usize, j: usize| [0.25, 0.0625, 0.015625, 0.00390625][head] * 0.5 * (i - j) as f64;
    let score = |head, i, j, dot: f64| 0.5 * dot - fall(head, i, j);
    assert_same(&Attention { position: Position::Alibi(alibi), ..bare() }, &Plain { score: &score, ..AS_THEY_ARE });
    // 2^-0.5 is 0.70703125 as bfloat16 and 201 is 201; of the product 142.11 eight bits are left, 142. 259 becomes 260.
    let bias = |key| key_bias(Position::Alibi(alibi), 0.5f32.sqrt(), key);
    assert_eq!([bias(0), bias(201), bias(259)], [0.0, 71.0, 92.0]);
}

#[test]
fn norms_of_every_span_stand_on_either_side_of_the_rotation() {
    let norm = |path: &str| Norm {
        path: path.to_owned(),
        kind: NormKind::Rms,
        weight: NormWeight::Plain,
        bias: false,
        eps: 0.01,
    };
    for span in [NormSpan::Head, NormSpan::EachHead, NormSpan::Whole] {
        let normed = |path: &str, row: &mut [f64]| {
            let (width, weights) = match span {
                NormSpan::Head => (HEAD_DIM, HEAD_DIM),
                NormSpan::EachHead | NormSpan::EachHeadApart => (HEAD_DIM, row.len()),
                NormSpan::Whole => (row.len(), row.len()),
            };
            let weight = Synthetic::tensor(&format!("{path}_norm.weight"), &[weights]);
            let roots =
                row.chunks(width).map(|group| (group.iter().map(|x| x * x).sum::<f64>() / width as f64 + 0.01).sqrt());
            let roots: Vec<f64> = roots.collect();
            for (index, x) in row.iter_mut().enumerate() {
                *x *= weight[index % weights] / roots[index / width];
            }
        };
        // Frequencies 1 and 100^(-1/2), pairs two apart.
        let turned = |position: usize, row: &mut [f64]| {
            for head in row.chunks_mut(HEAD_DIM) {
                for (pair, frequency) in [1.0, 0.1].into_iter().enumerate() {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    let (a, b) = (head[pair], head[pair + 2]);
                    (head[pair], head[pair + 2]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        };
        let before = |path: &str, position: usize, row: &mut [f64]| {
            if path != "v" {
                normed(path, row);
                turned(position, row);
            }
        };
        let after = |path: &str, position: usize, row: &mut [f64]| {
            if path != "v" {
                turned(position, row);
                normed(path, row);
            }
        };
        let position = Position::Rope(genai_architectures::RopeId(0));
        let head_norm = |path| Some(HeadNorm { norm: norm(path), span });
        let spec = Attention { q_norm: head_norm("q_norm"), k_norm: head_norm("k_norm"), position, ..bare() };
        assert_same(&spec, &Plain { heads: &before, ..AS_THEY_ARE });
        let other = Attention { norm_order: NormOrder::AfterRotation, ..spec.clone() };
        assert_same(&other, &Plain { heads: &after, ..AS_THEY_ARE });
        assert_ne!(run(&spec).unwrap(), run(&other).unwrap());
    }
}

#[test]
fn windows_end_at_the_position_itself() {
    assert_eq!(visible(5, None), 0..6);
    assert_eq!(visible(5, Some(1)), 5..6);
    assert_eq!(visible(5, Some(3)), 3..6);
    assert_eq!(visible(1, Some(3)), 0..2);
}

#[test]
fn blocks_are_seen_where_they_are_near_or_the_heads_turn() {
    // Seven positions: blocks 0 0 1 1 2 2 3. Every head sees its own block; of those further back, the first of three
    // patterns that go round the heads.
    let seen = |head: usize, i: usize, j: usize| {
        let further = match head {
            // (block + 1) % 3 == 0
            0 | 3 => [false, false, true, false],
            // (block + 2) % 3 == 0
            1 => [false, true, false, false],
            // (block + 3) % 3 == 0
            _ => [true, false, false, true],
        };
        i / 2 == j / 2 || further[j / 2]
    };
    let masked = |seen: bool, score: f64| if seen { score } else { f64::NEG_INFINITY };
    let blocks = BlockSparsity { size: 2, local: 1, stride: 3, head_step: 1 };
    let score = |head, i, j, dot: f64| masked(seen(head, i, j), 0.5 * dot);
    assert_same(&Attention { blocks: Some(blocks), ..bare() }, &Plain { score: &score, ..AS_THEY_ARE });
    // One pattern for all heads, and the block before one's own.
    let alike = BlockSparsity { local: 2, head_step: 0, ..blocks };
    let score = |_, i: usize, j: usize, dot: f64| masked(i / 2 <= j / 2 + 1 || seen(0, i, j), 0.5 * dot);
    assert_same(&Attention { blocks: Some(alike), ..bare() }, &Plain { score: &score, ..AS_THEY_ARE });
    let message = run(&Attention { blocks: Some(BlockSparsity { stride: 0, ..blocks }), ..bare() }).unwrap_err();
    assert_eq!(message.to_string(), "blocks.stride is 0, expected at least 1");
}

#[test]
fn factors_that_cannot_be_are_errors() {
    let message = |attention: Attention| run(&attention).unwrap_err().to_string();
    assert_eq!(message(Attention { clip_qkv: Some(-1.0), ..bare() }), "clip_qkv is -1, expected a number above 0");
    assert_eq!(message(Attention { clip_qkv: Some(f32::NAN), ..bare() }), "clip_qkv is NaN, expected a number above 0");
    assert_eq!(message(Attention { softcap: Some(0.0), ..bare() }), "softcap is 0, expected a number above 0");
    let query_scaling = Some(QueryScaling { beta: 1.0, context: 0 });
    assert_eq!(message(Attention { query_scaling, ..bare() }), "query_scaling.context is 0, expected at least 1");
}
