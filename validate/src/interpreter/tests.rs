use genai_architectures::{Attention, Embedding, Layer, Linear, Position, Rope, RopeId, RopeLayout, RopeScaling};

use super::*;
use crate::ErrorKind;

const HIDDEN: usize = 6;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 4;
const INNER: usize = 5;
const VOCAB: usize = 9;
const EPS: f32 = 1e-5;

/// Tensors of every shape that is asked for, filled from their names.
struct Synthetic;

impl Synthetic {
    fn tensor(name: &str, shape: &[usize]) -> Vec<f64> {
        let mut state = name.bytes().fold(17u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // A multiple of 2^-20, exact in f32 too.
            (state >> 44) as f64 / f64::from(1 << 20) * 2.0 - 1.0
        };
        (0..shape.iter().product()).map(|_| next()).collect()
    }
}

impl Weights for Synthetic {
    fn read(&self, name: &str, shape: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
        for (out, value) in out.iter_mut().zip(&Self::tensor(name, shape)[first..]) {
            *out = *value as f32;
        }
        Ok(())
    }
}

fn linear_spec(path: &str, out_features: usize, in_features: usize, bias: bool) -> Linear {
    Linear { path: path.to_owned(), out_features, in_features, bias }
}

fn norm_spec(path: &str) -> Norm {
    Norm { path: path.to_owned(), kind: NormKind::Rms, eps: EPS }
}

fn rope() -> Rope {
    Rope { dim: HEAD_DIM, theta: 100.0, layout: RopeLayout::Half, scaling: RopeScaling::None }
}

/// Biases, head norms, a head width that is not hidden / heads, and a head of its own.
fn spec(window: Option<usize>) -> DecoderSpec {
    let attention = Attention {
        num_heads: HEADS,
        num_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        q: linear_spec("q", HEADS * HEAD_DIM, HIDDEN, true),
        k: linear_spec("k", KV_HEADS * HEAD_DIM, HIDDEN, true),
        v: linear_spec("v", KV_HEADS * HEAD_DIM, HIDDEN, true),
        o: linear_spec("o", HIDDEN, HEADS * HEAD_DIM, false),
        q_norm: Some(norm_spec("q_norm")),
        k_norm: Some(norm_spec("k_norm")),
        position: Position::Rope(RopeId(0)),
        scale: 0.5,
        window,
    };
    let mlp = Mlp::Gated {
        gate: linear_spec("gate", INNER, HIDDEN, false),
        up: linear_spec("up", INNER, HIDDEN, false),
        down: linear_spec("down", HIDDEN, INNER, true),
        activation: Activation::Silu,
    };
    let residual = Residual::PreNorm { mixer_norm: norm_spec("mixer_norm"), mlp_norm: norm_spec("mlp_norm") };
    DecoderSpec {
        architecture: "SyntheticForCausalLM",
        runtime_type: "synthetic",
        hidden_size: HIDDEN,
        vocab_size: VOCAB,
        context_length: 16,
        embedding: Embedding { path: "embedding".to_owned() },
        ropes: vec![rope()],
        layers: vec![Layer { mixer: Mixer::Attention(attention), mlp, residual }],
        final_norm: norm_spec("final_norm"),
        lm_head: LmHead::Own(linear_spec("head", VOCAB, HIDDEN, false)),
        unused_tensors: vec![],
        copies: vec![],
    }
}

fn run(spec: &DecoderSpec, ids: &[u32]) -> Matrix {
    logits(spec, &Synthetic, &[ids]).unwrap().remove(0)
}

/// The same model, written down once more without any of the interpreter's code: f64, a full score matrix with a
/// mask, rope as a product of complex numbers.
mod plain {
    use super::{EPS, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, Synthetic, VOCAB};

    type Rows = Vec<Vec<f64>>;

    fn affine(x: &Rows, path: &str, out: usize, bias: bool) -> Rows {
        let width = x[0].len();
        let w = Synthetic::tensor(&format!("{path}.weight"), &[out, width]);
        let b = if bias { Synthetic::tensor(&format!("{path}.bias"), &[out]) } else { vec![0.0; out] };
        x.iter()
            .map(|x| (0..out).map(|o| b[o] + (0..width).map(|i| w[o * width + i] * x[i]).sum::<f64>()).collect())
            .collect()
    }

    fn rms(x: &[f64], path: &str) -> Vec<f64> {
        let w = Synthetic::tensor(&format!("{path}.weight"), &[x.len()]);
        let root = (x.iter().map(|x| x.powi(2)).sum::<f64>() / x.len() as f64 + f64::from(EPS)).sqrt();
        x.iter().zip(w).map(|(x, w)| w * x / root).collect()
    }

    fn heads(row: &[f64], path: &str, position: usize) -> Rows {
        row.chunks(HEAD_DIM)
            .map(|head| {
                let head = rms(head, path);
                let half = HEAD_DIM / 2;
                let mut turned = vec![0.0; HEAD_DIM];
                for pair in 0..half {
                    let angle = position as f64 / 100f64.powf(pair as f64 / half as f64);
                    let (re, im) = (head[pair], head[pair + half]);
                    turned[pair] = re * angle.cos() - im * angle.sin();
                    turned[pair + half] = re * angle.sin() + im * angle.cos();
                }
                turned
            })
            .collect()
    }

    pub(super) fn logits(ids: &[u32], window: usize) -> Rows {
        let table = Synthetic::tensor("embedding.weight", &[VOCAB, HIDDEN]);
        let mut x: Rows = ids.iter().map(|&id| table[id as usize * HIDDEN..][..HIDDEN].to_vec()).collect();

        let normed: Rows = x.iter().map(|x| rms(x, "mixer_norm")).collect();
        let turned = |rows: Rows, norm: &str| -> Vec<Rows> {
            rows.iter().enumerate().map(|(position, row)| heads(row, norm, position)).collect()
        };
        let q = turned(affine(&normed, "q", HEADS * HEAD_DIM, true), "q_norm");
        let k = turned(affine(&normed, "k", KV_HEADS * HEAD_DIM, true), "k_norm");
        let v = affine(&normed, "v", KV_HEADS * HEAD_DIM, true);
        let mut mixed: Rows = vec![vec![0.0; HEADS * HEAD_DIM]; ids.len()];
        for head in 0..HEADS {
            // Heads 0, 1 share key head 0; heads 2, 3 share key head 1.
            let kv = [0, 0, 1, 1][head];
            for i in 0..ids.len() {
                let mask = |j: usize| if j <= i && i < j + window { 0.0 } else { f64::NEG_INFINITY };
                let score = |j: usize| 0.5 * (0..HEAD_DIM).map(|d| q[i][head][d] * k[j][kv][d]).sum::<f64>() + mask(j);
                let exps: Vec<f64> = (0..ids.len()).map(|j| score(j).exp()).collect();
                for d in 0..HEAD_DIM {
                    let weighted: f64 = (0..ids.len()).map(|j| exps[j] * v[j][kv * HEAD_DIM + d]).sum();
                    mixed[i][head * HEAD_DIM + d] = weighted / exps.iter().sum::<f64>();
                }
            }
        }
        for (x, y) in x.iter_mut().flatten().zip(affine(&mixed, "o", HIDDEN, false).concat()) {
            *x += y;
        }

        let normed: Rows = x.iter().map(|x| rms(x, "mlp_norm")).collect();
        let (gate, up) = (affine(&normed, "gate", INNER, false), affine(&normed, "up", INNER, false));
        let inner: Rows = gate
            .iter()
            .zip(&up)
            .map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect())
            .collect();
        for (x, y) in x.iter_mut().flatten().zip(affine(&inner, "down", HIDDEN, true).concat()) {
            *x += y;
        }
        affine(&x.iter().map(|x| rms(x, "final_norm")).collect(), "head", VOCAB, false)
    }
}

#[test]
fn one_layer_equals_the_plain_formulation() {
    let ids = [3, 1, 4, 1, 5, 0, 2, 6];
    for (window, seen) in [(None, ids.len()), (Some(3), 3), (Some(1), 1)] {
        let logits = run(&spec(window), &ids);
        let expected = plain::logits(&ids, seen);
        for (position, expected) in expected.iter().enumerate() {
            for (is, expected) in logits.row(position).iter().zip(expected) {
                assert!((f64::from(*is) - expected).abs() < 1e-5, "{position}: {is} and {expected}");
            }
        }
    }
}

#[test]
fn without_layers_a_tied_model_is_norm_and_table() {
    struct Hand;
    impl Weights for Hand {
        fn read(&self, name: &str, _: &[usize], first: usize, out: &mut [f32]) -> Result<()> {
            let values: &[f32] = match name {
                "embedding.weight" => &[3.0, 4.0, 1.0, 0.0],
                "final_norm.weight" => &[1.0, 2.0],
                _ => return Err(Error::weight(name, "is not in the checkpoint")),
            };
            out.copy_from_slice(&values[first..first + out.len()]);
            Ok(())
        }
    }
    let mut spec = DecoderSpec { hidden_size: 2, vocab_size: 2, layers: vec![], lm_head: LmHead::Tied, ..spec(None) };
    spec.final_norm.eps = 0.0;
    // (3, 4) has the mean square 12.5; normed and weighted it is (3, 8) / sqrt(12.5), times the rows (3, 4), (1, 0).
    let logits = logits(&spec, &Hand, &[&[0]]).unwrap().remove(0);
    assert!((logits.row(0)[0] - 41.0 / 12.5f32.sqrt()).abs() < 1e-5);
    assert!((logits.row(0)[1] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
}

#[test]
fn no_position_sees_a_later_one_or_past_its_window() {
    let ids = [3, 1, 4, 1, 5, 0];
    let (full, narrow) = (spec(None), spec(Some(2)));
    let with = |position: usize| {
        let mut changed = ids;
        changed[position] = 7;
        changed
    };
    let (base, base_narrow) = (run(&full, &ids), run(&narrow, &ids));
    for changed in 0..ids.len() {
        let (other, other_narrow) = (run(&full, &with(changed)), run(&narrow, &with(changed)));
        for position in 0..ids.len() {
            assert_eq!(base.row(position) != other.row(position), changed <= position, "{changed} at {position}");
            let seen = changed <= position && position < changed + 2;
            assert_eq!(base_narrow.row(position) != other_narrow.row(position), seen, "{changed} at {position}");
        }
    }
}

#[test]
fn windows_end_at_the_position_itself() {
    assert_eq!(attention::visible(5, None), 0..6);
    assert_eq!(attention::visible(5, Some(1)), 5..6);
    assert_eq!(attention::visible(5, Some(3)), 3..6);
    assert_eq!(attention::visible(1, Some(3)), 0..2);
}

#[test]
fn rotated_heads_meet_by_their_distance_alone() {
    let length = 12;
    let rotated = |vector: [f32; 6]| {
        // Two heads of 6, of which 4 dimensions turn; two rows stand before the sequence.
        let row = [vector, vector].concat();
        let mut rows = Matrix::new(length + 2, 12, row.repeat(length + 2)).unwrap();
        attention::rotate(&rope(), 6, &(2..length + 2), &mut rows);
        rows
    };
    let (plain_q, plain_k) = ([0.3, -1.2, 0.8, 0.5, 2.0, -3.0], [1.1, 0.4, -0.7, 0.9, 0.25, 1.5]);
    let (q, k) = (rotated(plain_q), rotated(plain_k));
    let dot = |i: usize, j: usize| -> f32 { q.row(i + 2).iter().zip(k.row(j + 2)).take(6).map(|(q, k)| q * k).sum() };
    for distance in 0..length {
        for i in distance..length {
            assert!((dot(i, i - distance) - dot(distance, 0)).abs() < 1e-5);
        }
    }
    assert!((dot(1, 0) - dot(0, 0)).abs() > 0.1);
    for row in 0..length + 2 {
        assert_eq!(q.row(row)[4..6], plain_q[4..], "dimensions past the rope stay");
        assert_eq!(q.row(row)[..6], q.row(row)[6..], "every head turns alike");
    }
    for unturned in 0..3 {
        assert_eq!(q.row(unturned)[..6], plain_q);
    }
    // Position 1 turns the pair (0, 2) by one radian.
    let (sin, cos) = 1f32.sin_cos();
    assert!((q.row(3)[0] - (0.3 * cos - 0.8 * sin)).abs() < 1e-6);
    assert!((q.row(3)[2] - (0.8 * cos + 0.3 * sin)).abs() < 1e-6);
}

#[test]
fn activations_have_their_known_values() {
    // torch 2: silu, gelu, gelu(approximate="tanh"), relu.
    let cases = [
        (Activation::Silu, 1.0, 0.731_058_6),
        (Activation::Silu, -2.0, -0.238_405_85),
        (Activation::Gelu, 1.0, 0.841_344_8),
        (Activation::Gelu, -2.0, -0.045_500_27),
        (Activation::GeluTanh, 1.0, 0.841_191_95),
        (Activation::GeluTanh, -2.0, -0.045_402_348),
        (Activation::Relu, 1.0, 1.0),
        (Activation::Relu, -2.0, 0.0),
    ];
    for (activation, x, expected) in cases {
        assert!((activate(activation, x) - expected).abs() < 2e-7, "{activation:?}({x})");
        assert!(activate(activation, f32::NAN).is_nan());
    }
}

#[test]
fn sequences_together_are_as_sequences_alone() {
    let spec = spec(None);
    let sequences: [&[u32]; 3] = [&[3, 1, 4], &[1], &[5, 0, 2, 6, 5]];
    let together = logits(&spec, &Synthetic, &sequences).unwrap();
    for (sequence, together) in sequences.iter().zip(&together) {
        let alone = run(&spec, sequence);
        assert_eq!((together.rows(), together.cols()), (sequence.len(), VOCAB));
        for (a, b) in alone.data().iter().zip(together.data()) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn greedy_follows_the_greatest_logit() {
    let spec = spec(None);
    let prompts: [&[u32]; 2] = [&[3, 1], &[7]];
    let continuations = greedy(&spec, &Synthetic, &prompts, 4).unwrap();
    for (prompt, continuation) in prompts.iter().zip(&continuations) {
        assert_eq!(continuation.len(), 4);
        let whole = [prompt, &continuation[..]].concat();
        let logits = run(&spec, &whole);
        for (step, token) in continuation.iter().enumerate() {
            let row = logits.row(prompt.len() + step - 1);
            assert_eq!(argmax(row), Some(*token as usize));
        }
    }
    assert_eq!(greedy(&spec, &Synthetic, &prompts, 0).unwrap(), [Vec::<u32>::new(), Vec::new()]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let good = spec(None);
    let message = |spec: &DecoderSpec, ids: &[u32]| {
        let error = logits(spec, &Synthetic, &[ids]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        error.to_string()
    };
    assert_eq!(message(&good, &[]), "the length of a sequence is 0, expected 1 to 16, the model's context");
    assert_eq!(message(&good, &[0; 17]), "the length of a sequence is 17, expected 1 to 16, the model's context");
    assert_eq!(message(&good, &[0, 9]), "a token id is 9, expected less than 9");

    let broken = |change: fn(&mut Attention)| {
        let mut spec = spec(None);
        let Mixer::Attention(attention) = &mut spec.layers[0].mixer;
        change(attention);
        message(&spec, &[0])
    };
    assert!(broken(|a| a.num_kv_heads = 3).contains("a multiple of num_kv_heads, 3"));
    assert!(broken(|a| a.k.out_features = 7).contains("k.out_features is 7, expected 8"));
    assert!(broken(|a| a.q.in_features = 5).contains("is 5, expected 6"));
    assert!(broken(|a| a.position = Position::Rope(RopeId(1))).contains("a rope id is 1, expected less than 1"));
    assert!(broken(|a| a.window = Some(0)).contains("window is 0"));
}

#[test]
fn dynamic_tables_follow_each_sequence() {
    let mut spec = spec(None);
    spec.ropes[0].scaling = RopeScaling::Dynamic { factor: 2.0, original_context: 4 };
    let short: &[u32] = &[3, 1, 4];
    let long: &[u32] = &[3, 1, 4, 1, 5, 0, 2, 6];
    let together = logits(&spec, &Synthetic, &[short, long]).unwrap();
    // Within the original context nothing is stretched; past it early positions turn otherwise too.
    let plain = run(&self::spec(None), long);
    let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-4);
    assert!(!differ(together[0].row(2), plain.row(2)));
    assert!(differ(together[1].row(2), plain.row(2)));
}
