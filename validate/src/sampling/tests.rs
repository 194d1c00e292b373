use super::*;
use crate::ErrorKind;

fn options(temperature: f32, top_k: usize, top_p: f32) -> SamplingOptions {
    SamplingOptions { temperature, top_k, top_p, seed: Some(7) }
}

/// Logits whose softmax is 1/2, 1/4, 1/8, 1/8, at ids 3, 1, 2, 0.
const HALVES: [f32; 4] = [-2.079_441_5, -1.386_294_4, -2.079_441_5, -std::f32::consts::LN_2];

fn kept(candidates: &[Candidate]) -> Vec<usize> {
    candidates.iter().map(|candidate| candidate.token).collect()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(greedy(&[1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
    assert_eq!(greedy(&[f32::NEG_INFINITY, f32::MIN]).unwrap(), 1);
    for settings in [SamplingOptions::GREEDY, options(0.0, 50, 0.9), options(0.8, 1, 0.9), options(0.8, 0, 0.0)] {
        let mut sampler = Sampler::new(settings).unwrap();
        assert!((0..20).all(|_| sampler.pick(&HALVES).unwrap() == 3), "{settings:?}");
    }
}

#[test]
fn rows_without_a_right_answer_are_errors() {
    let rows: [&[f32]; 4] = [&[], &[1.0, f32::NAN], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3]];
    for row in rows {
        assert_eq!(greedy(row).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(Sampler::new(options(1.0, 0, 1.0)).unwrap().pick(row).unwrap_err().kind(), ErrorKind::Argument);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    for settings in [
        options(-1.0, 0, 1.0),
        options(f32::NAN, 0, 1.0),
        options(f32::INFINITY, 0, 1.0),
        options(1.0, 0, 1.5),
        options(1.0, 0, -0.1),
        options(1.0, 0, f32::NAN),
    ] {
        assert!(Sampler::new(settings).is_err(), "{settings:?}");
    }
    assert!(Sampler::new(options(0.0, usize::MAX, 0.0)).is_ok());
}

#[test]
fn top_k_then_top_p_keep_the_shortest_prefix() {
    assert_eq!(kept(&top(&HALVES, 3, 1.0, 1.0)), [3, 1, 0]);
    assert_eq!(kept(&top(&HALVES, 9, 0.0, 1.0)), [3, 1, 0, 2]);
    // Among the first three the shares are 4/7, 2/7, 1/7.
    assert_eq!(kept(&top(&HALVES, 3, 0.57, 1.0)), [3]);
    assert_eq!(kept(&top(&HALVES, 3, 0.58, 1.0)), [3, 1]);
    assert_eq!(kept(&top(&HALVES, 3, 0.86, 1.0)), [3, 1, 0]);
    let shares: Vec<f32> = top(&HALVES, 3, 0.58, 1.0).iter().map(|candidate| candidate.share).collect();
    assert!((shares[0] - 2.0 / 3.0).abs() < 1e-6 && (shares[1] - 1.0 / 3.0).abs() < 1e-6, "{shares:?}");
}

#[test]
fn top_p_alone_cuts_the_whole_vocabulary() {
    assert_eq!(kept(&nucleus(&HALVES, 0.49, 1.0)), [3]);
    assert_eq!(kept(&nucleus(&HALVES, 0.74, 1.0)), [3, 1]);
    assert_eq!(kept(&nucleus(&HALVES, 1.0, 1.0)), [3, 1, 0, 2]);
    // A lower temperature sharpens: the shares become 4/5.5, 1/5.5 and twice 0.25/5.5.
    assert_eq!(kept(&nucleus(&HALVES, 0.72, 2.0)), [3]);
}

#[test]
fn a_large_vocabulary_is_cut_by_the_bound_of_the_peer() {
    // One token of weight 1 and 99 of weight 0.001: the bound counts the rest as if it weighed as much as the last seen.
    let mut logits = vec![0.001f32.ln(); 100];
    logits[42] = 0.0;
    assert_eq!(kept(&nucleus(&logits, 0.009, 1.0)), [42]);
    let by_bound = nucleus(&logits, 0.9, 1.0);
    // After two tokens: 1.001 / (1.001 + 98 * 0.001) = 0.911.
    assert_eq!(kept(&by_bound), [42, 0]);
    // Equal weights reach 16/100 exactly at the end of the first batch, where the peer looks one further.
    assert_eq!(nucleus(&[0.0; 100], 0.155, 1.0).len(), 17);
    assert_eq!(nucleus(&[0.0; 100], 0.145, 1.0).len(), 15);
}

#[test]
fn draws_follow_the_shares_and_the_seed() {
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplingOptions { seed: Some(seed), ..options(1.0, 0, 1.0) }).unwrap();
        (0..4000).map(|_| sampler.pick(&HALVES).unwrap()).collect::<Vec<u32>>()
    };
    let drawn = draw(1);
    assert_eq!(drawn, draw(1));
    assert_ne!(drawn, draw(2));
    for (token, share) in [(3, 0.5), (1, 0.25), (0, 0.125), (2, 0.125)] {
        let seen = drawn.iter().filter(|&&other| other == token).count() as f64 / 4000.0;
        assert!((seen - share).abs() < 0.03, "token {token}: {seen}, expected {share}");
    }
}

#[test]
fn the_first_draw_is_where_two_words_point() {
    // Seed 5489 starts with the words 3499211612 and 581869302, which make u = 581869302.81.. / 2^32 = 0.1354770.
    let first = |top: f32| {
        let shares = [top, 1.0 - top].map(f32::ln);
        Sampler::new(SamplingOptions { seed: Some(5489), ..options(1.0, 2, 1.0) }).unwrap().pick(&shares).unwrap()
    };
    // The larger share comes first, so u falls into it whenever it is above 0.1354770; mirrored, id 1 is the larger.
    assert_eq!(first(0.6), 0);
    assert_eq!(first(0.4), 1);
    let four = [0.135_45f32, 0.135_45, 0.3, 0.429_1].map(f32::ln);
    let mut equal = [0.0f32; 8];
    equal[7] = f32::NEG_INFINITY;
    let mut sampler = Sampler::new(SamplingOptions { seed: Some(5489), ..options(1.0, 8, 1.0) }).unwrap();
    // Seven equal shares of 0.1428: u is in the first. The next words, 3890346734 and 3586334585, give u = 0.8350.
    assert_eq!(sampler.pick(&equal).unwrap(), 0);
    assert_eq!(sampler.pick(&equal).unwrap(), 5);
    // One candidate draws nothing, so the words that follow stay in place.
    let mut sampler = Sampler::new(SamplingOptions { seed: Some(5489), ..options(1.0, 8, 0.01) }).unwrap();
    assert_eq!(sampler.pick(&four).unwrap(), 3);
    assert_eq!(sampler.random.next_word(), 3_499_211_612);
}

/// onnxruntime-genai 0.18 was given these logits by `set_logits` and asked for a token at a time. Twelve tokens each for
/// (temperature, top_k, top_p, random_seed).
#[test]
fn seeded_tokens_are_those_of_the_peer() {
    let recorded = [
        ((1.0, 50, 1.0, 0), [1628, 1314, 1180, 1076, 1137, 1198, 1139, 1170, 916, 647, 273, 409]),
        ((0.7, 40, 0.9, 1), [1508, 1419, 1750, 1151, 1452, 1258, 1139, 870, 586, 527, 708, 469]),
        ((2.0, 0, 0.9, 42), [384, 1164, 416, 379, 1415, 1048, 1087, 1748, 511, 1203, 633, 155]),
        ((4.0, 0, 0.99, 7), [113, 1112, 968, 1272, 875, 1206, 644, 1276, 976, 1571, 824, 1835]),
        ((1.5, 3, 0.0, 123_456_789), [2003, 1914, 1765, 1676, 1527, 1438, 1289, 1170, 1066, 962, 828, 724]),
        ((8.0, 2048, 0.97, 5), [1313, 2001, 311, 1840, 357, 1372, 15, 1337, 390, 1994, 1056, 1306]),
    ];
    for ((temperature, top_k, top_p, seed), expected) in recorded {
        let mut sampler = Sampler::new(SamplingOptions { temperature, top_k, top_p, seed: Some(seed) }).unwrap();
        // Multiples of 1/128 from 0 to 16, all different, in another order at every step.
        let row =
            |step: usize| (0..2048).map(|id| ((id * 7919 + step * 104_729) % 2048) as f32 / 128.0).collect::<Vec<_>>();
        let picked = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map(|step| sampler.pick(&row(step)).unwrap());
        assert_eq!(picked, expected, "temperature {temperature}, top_k {top_k}, top_p {top_p}, seed {seed}");
    }
}
