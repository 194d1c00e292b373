use genai_architectures::{Attention, KeyValue, Linear, LmHead, Mixer, Position, RopeId, RopeScaling};

use super::synthetic::{HIDDEN, Synthetic, VOCAB, spec};
use super::*;
use crate::ErrorKind;

fn run(spec: &DecoderSpec, ids: &[u32]) -> Matrix {
    logits(spec, &Synthetic, &[ids]).unwrap().remove(0)
}

/// The same model, written down once more without any of the interpreter's code: f64, a full score matrix with a
/// mask, rope as a product of complex numbers.
mod plain {
    use crate::interpreter::synthetic::{EPS, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, Synthetic, VOCAB};

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
    assert!(
        broken(|a| a.key_value = KeyValue::Same(Linear::whole("k", 7, HIDDEN, true)))
            .contains("k.out_features is 7, expected 8")
    );
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
